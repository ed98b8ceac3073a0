//! Raw prompts: Completions, and tokens in and out.

use ossmith_harmony::token_bytes;
use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::json;

use crate::common::{Site, config, tokens};

#[tokio::test]
async fn text_offsets_count_the_prompt_s_broken_characters() {
    let site = Site::writing("Hello, world");
    let half = (0..1000).find(|&id| token_bytes(id) == Some(&[0xf0][..])).unwrap();
    let prompt = [tokens("a"), vec![half]].concat();
    let body = json!({"prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 3});
    let (_, answer) = site.post("/v1/completions", &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "a\u{fffd}Hello, world");
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2, 7, 8]));
    // Parts of characters are named by their bytes, so that no two tokens have one name.
    assert_eq!(choice["logprobs"]["tokens"], json!(["a", "bytes:\\xf0", "Hello", ",", " world"]));
}

#[tokio::test]
async fn a_stop_string_may_be_the_name_of_a_special_token() {
    let site = Site::writing("One.<|end|><|start|>Two.<|return|>");
    for (more, text, stop) in [
        (json!({"stop": "<|end|>"}), "One.", json!("<|end|>")),
        (json!({"stop": ["Two", "<|start|>"]}), "One.", json!("<|start|>")),
        (json!({"stop": "<|end|>", "skip_special_tokens": false}), "One.", json!("<|end|>")),
        (
            json!({"stop": "<|end|>", "include_stop_str_in_output": true}),
            "One.<|end|>",
            json!("<|end|>"),
        ),
        (json!({"stop": "<|return|>"}), "One.Two.", json!("<|return|>")),
        (json!({"stop": "<|call|>"}), "One.Two.", json!(null)),
        (json!({}), "One.Two.", json!(null)),
    ] {
        let mut body = json!({"prompt": "Hi", "max_tokens": 50});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, answer) = site.post("/v1/completions", &body).await;
        let choice = &answer["choices"][0];
        assert_eq!((&choice["text"], &choice["stop_reason"]), (&json!(text), &stop), "{more}");
        assert_eq!(choice["finish_reason"], "stop", "{more}");
        let events = site.events("/v1/completions", &body).await;
        let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
        assert_eq!(texts.collect::<String>(), text, "{more}");
    }
}

#[tokio::test]
async fn the_prompt_is_echoed_with_its_special_tokens() {
    let site = Site::writing("Yes.<|return|>");
    let prompt = "<|start|>user<|message|>Hi<|end|>";
    for prompt_as in [json!(prompt), json!(tokens(prompt))] {
        let body = json!({"prompt": prompt_as, "echo": true, "max_tokens": 9});
        let (_, answer) = site.post("/v1/completions", &body).await;
        assert_eq!(answer["choices"][0]["text"], format!("{prompt}Yes."));
    }
}

#[tokio::test]
async fn raw_tokens_come_in_chunks_of_the_requested_interval() {
    let words = tokens(&"word ".repeat(10));
    let site = Site::with(Config { stream_interval: 2, ..config() }, move |_| Script {
        tokens: words.clone(),
        ..Script::default()
    });
    for (interval, sizes) in [
        (json!(null), &[1, 2, 2, 2][..]),
        (json!(1), &[1, 1, 1, 1, 1, 1, 1]),
        (json!(5), &[1, 5, 1]),
    ] {
        let sampling = json!({"max_tokens": 7, "stream_interval": interval});
        let body = json!({"token_ids": [1, 2, 3], "sampling_params": sampling});
        let events = site.events("/inference/v1/generate", &body).await;
        let choices = events.iter().filter_map(|event| event["choices"].get(0));
        let counts: Vec<usize> =
            choices.map(|choice| choice["token_ids"].as_array().unwrap().len()).collect();
        assert_eq!(counts, sizes, "{interval}");
        assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 7);
    }
}

#[tokio::test]
async fn truncate_prompt_tokens_keeps_the_last_tokens() {
    let site = Site::writing("Hello");
    let sampling = json!({"truncate_prompt_tokens": 2});
    for (path, body) in [
        ("/v1/completions", json!({"prompt": [1, 2, 3], "truncate_prompt_tokens": 2})),
        ("/inference/v1/generate", json!({"token_ids": [1, 2, 3], "sampling_params": sampling})),
    ] {
        let (_, answer) = site.post(path, &body).await;
        assert_eq!(answer["usage"]["prompt_tokens"], 2, "{path}: {answer}");
    }
}

#[tokio::test]
async fn seeds_keep_all_64_bits() {
    let site = Site::with(config(), |request| {
        let seed = request.engine_request.params.seed.to_string();
        Script { tokens: tokens(&seed), ..Script::default() }
    });
    for (seed, want) in [
        (json!(5), 5),
        (json!(-1), u64::MAX),
        (json!(u64::MAX - 1), u64::MAX - 1),
        (json!(1_u64 << 63), 1 << 63),
    ] {
        let body = json!({"prompt": "Hi", "seed": seed});
        let (_, answer) = site.post("/v1/completions", &body).await;
        assert_eq!(answer["choices"][0]["text"], want.to_string());
    }
}
