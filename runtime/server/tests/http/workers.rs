//! What routers and harnesses of other servers ask: SGLang's `/generate`, and the routes about a worker.

use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, chat, config, tokens};

/// A server that writes the prompt's number of tokens and a full stop.
fn counting() -> Site {
    Site::with(config(), |request| {
        let length = request.engine_request.prompt.len();
        Script { tokens: tokens(&format!("{length} tokens.<|return|>")), ..Script::default() }
    })
}

#[tokio::test]
async fn a_native_request_is_answered_with_ids_text_and_counts() {
    let site = counting();
    let ids = tokens("3 tokens.<|return|>");
    let params = json!({"max_new_tokens": 50, "temperature": 0.001, "top_k": 1, "top_p": 1.0});
    let body = json!({"input_ids": [1, 2, 3], "sampling_params": params});
    let (status, answer) = site.post("/generate", &body).await;
    assert_eq!((status, &answer["text"]), (200, &json!("3 tokens.")), "{answer}");
    assert_eq!(answer["output_ids"], json!(ids));
    let about = &answer["meta_info"];
    assert_eq!(about["finish_reason"], json!({"type": "stop", "matched": 200_002}));
    assert_eq!(
        (&about["prompt_tokens"], &about["completion_tokens"]),
        (&json!(3), &json!(ids.len()))
    );

    // A limit, and none: SGLang's default is 128.
    let short = json!({"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2}});
    let (_, cut) = site.post("/generate", &short).await;
    assert_eq!(cut["meta_info"]["finish_reason"], json!({"type": "length", "length": 2}));
    assert_eq!(cut["output_ids"], json!(ids[..2]));
    let (_, text) = site.post("/generate", &json!({"text": "<|start|>user"})).await;
    assert_eq!(text["text"], "2 tokens.", "{text}");
}

#[tokio::test]
async fn lists_of_prompts_are_answered_in_their_order() {
    let site = counting();
    let prompts: Vec<Vec<u32>> = (1..40).map(|length| vec![7; length]).collect();
    let (_, answers) = site.post("/generate", &json!({"input_ids": prompts, "rid": "mine"})).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), prompts.len());
    for (index, (answer, prompt)) in answers.iter().zip(&prompts).enumerate() {
        assert_eq!(answer["text"], format!("{} tokens.", prompt.len()));
        let about = &answer["meta_info"];
        assert_eq!(
            (&answer["index"], &about["prompt_tokens"]),
            (&json!(index), &json!(prompt.len()))
        );
        assert_eq!(about["id"], "mine");
    }
    // MLPerf's other client: the same ids as the prompts of /v1/completions.
    let body = json!({"prompt": prompts, "max_tokens": 50, "temperature": 1.0, "top_k": -1, "top_p": 1.0, "stop": []});
    let (_, completions) = site.post("/v1/completions", &body).await;
    for (answer, choice) in answers.iter().zip(completions["choices"].as_array().unwrap()) {
        assert_eq!(answer["text"], choice["text"]);
    }
}

#[tokio::test]
async fn a_native_stream_has_what_is_new_and_counts_of_all() {
    let site = counting();
    let body = json!({"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 50}});
    let events = site.events("/generate", &body).await;
    let (mut ids, mut text) = (Vec::new(), String::new());
    for (index, event) in events.iter().enumerate() {
        ids.extend(event["output_ids"].as_array().unwrap().iter().cloned());
        text.push_str(event["text"].as_str().unwrap());
        assert_eq!(event["meta_info"]["completion_tokens"], ids.len());
        let ended = index + 1 == events.len();
        assert_eq!(event["meta_info"]["finish_reason"].is_null(), !ended);
    }
    assert_eq!(
        (Value::from(ids), text.as_str()),
        (json!(tokens("3 tokens.<|return|>")), "3 tokens.")
    );
}

#[tokio::test]
async fn native_requests_that_cannot_be_served_are_refused_by_name() {
    let site = counting();
    for (body, param) in [
        (json!({}), "input_ids"),
        (json!({"input_ids": []}), "input_ids"),
        (json!({"input_ids": [1], "text": "x"}), "text"),
        (json!({"input_ids": [[1], "x", [999_999]]}), "input_ids[2]"),
        (json!({"input_ids": 3}), "input_ids"),
        (json!({"input_ids": [1], "sampling_params": {"max_new_tokens": 0}}), "max_tokens"),
        (json!({"input_ids": [1], "sampling_params": {"temperature": -1}}), "temperature"),
        (json!({"input_ids": [1], "sampling_params": {"regex": "a"}}), "regex"),
        (json!({"input_ids": [1], "sampling_params": {"model": "a"}}), "model"),
        (json!({"input_ids": [1], "sampling_params": [1]}), "sampling_params"),
        (json!({"input_ids": [1], "return_logprob": true}), "return_logprob"),
        (json!({"input_ids": vec![1; 5000]}), "input_ids"),
    ] {
        let (status, refused) = site.post("/generate", &body).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(param)), "{refused}");
    }
}

#[tokio::test]
async fn routers_learn_what_they_ask() {
    let site = Site::with(Config { ranks: 2, ..config() }, |_| Script::default());
    let get = async |path: &str| -> Value {
        let (status, text) = site.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    };
    for path in ["/model_info", "/get_model_info"] {
        let info = get(path).await;
        assert_eq!((&info["model_path"], &info["is_generation"]), (&json!("model"), &json!(true)));
        assert_eq!(info["max_context_length"], 4096);
    }
    for path in ["/server_info", "/get_server_info"] {
        let info = get(path).await;
        assert_eq!((&info["served_model_name"], &info["tp_size"]), (&json!("model"), &json!(2)));
        assert_eq!(info["vllm_config"]["parallel_config"]["tensor_parallel_size"], 2);
        assert_eq!(info["vllm_config"]["cache_config"]["block_size"], info["block_size"]);
    }
    assert_eq!(get("/get_load").await["load"], 0);
    assert_eq!(get("/kv_event_sources").await, json!([]));
    assert_eq!(get("/tokenizer_info").await["eos_token"], "<|return|>");
}

#[tokio::test]
async fn a_rendered_prompt_is_the_one_that_would_be_run() {
    let site = counting();
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let body = chat(json!({"tools": tools, "reasoning_effort": "low"}));
    let (_, rendered) = site.post("/v1/chat/completions/render", &body).await;
    let (_, tokenized) = site.post("/tokenize", &body).await;
    assert_eq!(
        (&rendered["token_ids"], &rendered["model"]),
        (&tokenized["tokens"], &json!("model"))
    );
    let body = json!({"prompt": ["Hi", [1, 2]]});
    let (_, rendered) = site.post("/v1/completions/render", &body).await;
    assert_eq!(rendered[0]["token_ids"], json!(tokens("Hi")));
    assert_eq!(rendered[1]["token_ids"], json!([1, 2]));
    let body = json!({"input": "Hi", "reasoning": {"effort": "low"}});
    let (_, rendered) = site.post("/v1/responses/render", &body).await;
    let (_, counted) = site.post("/v1/responses/input_tokens", &body).await;
    assert_eq!(json!(rendered["token_ids"].as_array().unwrap().len()), counted["input_tokens"]);
    for path in ["chat/completions", "completions", "responses"] {
        let body = json!({"model": "other"});
        assert_eq!(site.post(&format!("/v1/{path}/render"), &body).await.0, 404);
    }
}
