//! Values that a request may spell in two ways, and what counts where both are there.

use serde_json::{Value, json};

use crate::common::{Site, TURN, chat};

/// The prompt of a chat in which an assistant said this.
async fn prompt_after(site: &Site, said: &Value) -> String {
    let mut message = json!({"role": "assistant"});
    message.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    let messages = json!([{"role": "user", "content": "Do it."}, message]);
    site.prompt(&json!({"messages": messages})).await
}

#[tokio::test]
async fn a_content_part_may_have_both_text_and_refusal() {
    let site = Site::writing(TURN);
    for (part, want) in [
        (json!({"type": "text", "text": "Yes.", "refusal": null}), "Yes."),
        (json!({"type": "output_text", "text": "Yes.", "refusal": ""}), "Yes."),
        (json!({"type": "text", "text": "Yes.", "refusal": "Yes."}), "Yes."),
        // The type says which of two texts is meant.
        (json!({"type": "text", "text": "Yes.", "refusal": "No."}), "Yes."),
        (json!({"type": "refusal", "text": "Yes.", "refusal": "No."}), "No."),
        (json!({"type": "refusal", "text": null, "refusal": "No."}), "No."),
        (json!({"type": "refusal", "text": "", "refusal": "No."}), "No."),
        // A text under the other name is better than none.
        (json!({"type": "refusal", "text": "No.", "refusal": ""}), "No."),
        (json!({"type": "text", "refusal": "No."}), "No."),
        (json!({"type": "text", "text": ""}), ""),
    ] {
        let prompt = prompt_after(&site, &json!({"content": [part]})).await;
        let end = format!("<|channel|>final<|message|>{want}<|end|><|start|>assistant");
        assert!(prompt.ends_with(&end), "{part}: {prompt}");
        let input = json!([
            {"role": "user", "content": "Do it."},
            {"type": "message", "role": "assistant", "content": [part]},
        ]);
        let (status, answer) = site.post("/v1/responses", &json!({"input": input})).await;
        assert_eq!(status, 200, "{part}: {answer}");
        let (_, tokens) = site
            .post(
                "/tokenize",
                &json!({"messages": [
                    {"role": "user", "content": "Do it."}, {"role": "assistant", "content": want},
                ]}),
            )
            .await;
        assert_eq!(answer["usage"]["input_tokens"], tokens["count"], "{part}");
    }
    for part in [json!({"type": "text"}), json!({"type": "refusal", "text": null})] {
        let messages = json!([{"role": "assistant", "content": [part]}]);
        let (status, answer) =
            site.post("/v1/chat/completions", &json!({"messages": messages})).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("messages")), "{part}");
    }
}

#[tokio::test]
async fn a_message_may_have_both_content_and_refusal() {
    let site = Site::writing(TURN);
    for (said, want) in [
        (json!({"content": "Yes.", "refusal": null}), "Yes."),
        (json!({"content": "Yes.", "refusal": ""}), "Yes."),
        (json!({"content": null, "refusal": "No."}), "No."),
        (json!({"content": "", "refusal": "No."}), "No."),
        (json!({"refusal": "No."}), "No."),
        (json!({"content": "No.", "refusal": "No."}), "No."),
        (json!({"content": "Yes.", "refusal": "No."}), "Yes.\nNo."),
    ] {
        let prompt = prompt_after(&site, &said).await;
        let end = format!("<|channel|>final<|message|>{want}<|end|><|start|>assistant");
        assert!(prompt.ends_with(&end), "{said}: {prompt}");
    }
}

#[tokio::test]
async fn reasoning_counts_under_its_newer_name_first() {
    let site = Site::writing(TURN);
    let call =
        json!([{"id": "a", "type": "function", "function": {"name": "f", "arguments": null}}]);
    for (said, want) in [
        (json!({"reasoning": "New."}), Some("New.")),
        (json!({"reasoning_content": "Old."}), Some("Old.")),
        (json!({"reasoning": "Same.", "reasoning_content": "Same."}), Some("Same.")),
        (json!({"reasoning": "New.", "reasoning_content": "Old."}), Some("New.")),
        (json!({"reasoning": "", "reasoning_content": "Old."}), Some("Old.")),
        (json!({"reasoning": null, "reasoning_content": "Old."}), Some("Old.")),
        (json!({"reasoning": "New.", "reasoning_content": ""}), Some("New.")),
        (json!({"reasoning": "", "reasoning_content": ""}), None),
    ] {
        let mut message = said.clone();
        message["tool_calls"] = call.clone();
        let prompt = prompt_after(&site, &message).await;
        let reasoning = want
            .map(|text| format!("<|start|>assistant<|channel|>analysis<|message|>{text}<|end|>"));
        let end = format!(
            "Do it.<|end|>{}<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{{}}<|call|><|start|>assistant",
            reasoning.unwrap_or_default()
        );
        assert!(prompt.ends_with(&end), "{said}: {prompt}");
    }
}

#[tokio::test]
async fn max_completion_tokens_counts_before_max_tokens() {
    let site = Site::writing(TURN);
    for (fields, want) in [
        (json!({"max_tokens": 3}), 3),
        (json!({"max_completion_tokens": 3}), 3),
        (json!({"max_tokens": 3, "max_completion_tokens": 3}), 3),
        (json!({"max_tokens": 5, "max_completion_tokens": 3}), 3),
        (json!({"max_tokens": 3, "max_completion_tokens": null}), 3),
    ] {
        let (_, answer) = site.post("/v1/chat/completions", &chat(fields.clone())).await;
        assert_eq!(answer["usage"]["completion_tokens"], want, "{fields}: {answer}");
    }
    let wrong = chat(json!({"max_tokens": 0, "max_completion_tokens": 3}));
    let (status, answer) = site.post("/v1/chat/completions", &wrong).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("max_tokens")));
}

#[tokio::test]
async fn an_effort_counts_under_the_api_s_own_name_first() {
    let site = Site::writing(TURN);
    for (fields, want) in [
        (json!({"reasoning": {"effort": "low"}}), "low"),
        (json!({"chat_template_kwargs": {"reasoning_effort": "high"}}), "high"),
        (json!({"reasoning_effort": "low", "reasoning": {"effort": "low"}}), "low"),
        (json!({"reasoning_effort": "low", "reasoning": {"effort": "high"}}), "low"),
        (
            json!({"reasoning": {"effort": "low"}, "chat_template_kwargs": {"reasoning_effort": "high"}}),
            "low",
        ),
        (json!({"reasoning_effort": null, "reasoning": {"effort": "low"}}), "low"),
    ] {
        let prompt = site.prompt(&chat(fields.clone())).await;
        assert!(prompt.contains(&format!("Reasoning: {want}\n")), "{fields}: {prompt}");
    }
    for (path, fields, param) in [
        (
            "/v1/chat/completions",
            json!({"reasoning_effort": "low", "reasoning": {"effort": "extreme"}}),
            "reasoning.effort",
        ),
        (
            "/v1/chat/completions",
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "extreme"}}),
            "chat_template_kwargs.reasoning_effort",
        ),
        (
            "/v1/responses",
            json!({"reasoning_effort": "extreme", "reasoning": {"effort": "low"}, "input": "Hi"}),
            "reasoning_effort",
        ),
    ] {
        let (status, answer) = site.post(path, &chat(fields.clone())).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn a_tool_s_name_may_stand_twice_if_it_is_one_name() {
    let site = Site::writing(TURN);
    let tool = |flat: &str, nested: &str| json!([{"type": "function", "name": flat, "function": {"name": nested}}]);
    let choice = |flat: &str, nested: &str| json!({"type": "function", "name": flat, "function": {"name": nested}});
    for (fields, param) in [
        (json!({"tools": tool("f", "f")}), None),
        (json!({"tools": tool("g", "f")}), Some("tools[0].name")),
        (json!({"tools": tool("f", "f"), "tool_choice": choice("f", "f")}), None),
        (
            json!({"tools": tool("f", "f"), "tool_choice": choice("g", "f")}),
            Some("tool_choice.name"),
        ),
    ] {
        for (path, mut body) in
            [("/v1/chat/completions", chat(json!({}))), ("/v1/responses", json!({"input": "Hi"}))]
        {
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let (status, answer) = site.post(path, &body).await;
            assert_eq!(status, if param.is_some() { 400 } else { 200 }, "{body}: {answer}");
            if let Some(param) = param {
                assert_eq!(answer["error"]["param"], param, "{body}");
            }
        }
    }
}
