//! Tools that servers run, over both of MCP's transports: a real server, made with the MCP Python SDK, and a scripted model.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossmith_server::stub::Script;
use ossmith_server::{Config, ToolLimits, ToolServer};
use serde_json::{Value, json};

use crate::common::{Site, config, request, tokens};

const FINAL: &str = "<|channel|>final<|message|>Done.<|return|>";

/// A turn that calls a tool as gpt-oss calls those that it knows.
fn built_in(recipient: &str, text: &str) -> String {
    format!(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis to={recipient} code<|message|>{text}<|call|>"
    )
}

fn call(recipient: &str, arguments: &str) -> String {
    format!(" to={recipient}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>")
}

/// A server over HTTP that ends with the test.
struct Served {
    program: Child,
    url: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The interpreter that has the SDK, and the server's script; none, with a note, if it is not installed.
fn installed() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/clients/py/bin/python3");
    if !python.exists() {
        let note = "NOT CHECKED: tools over MCP; `cargo xtask test` fetches the SDK\n";
        // Not `eprintln!`, which the test runner captures.
        std::io::stderr().write_all(note.as_bytes()).unwrap();
        return None;
    }
    Some((python, root.join("tests/clients/tool_server.py")))
}

fn over_http() -> Option<Served> {
    let (python, script) = installed()?;
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg("http")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut program = command.spawn().unwrap();
    let mut url = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut url).unwrap();
    assert!(url.starts_with("http://"), "{url}");
    Some(Served { program, url: url.trim().to_owned() })
}

fn over_stdio() -> Option<ToolServer> {
    let (python, script) = installed()?;
    Some(format!("box=stdio:{} {} stdio", python.display(), script.display()).parse().unwrap())
}

fn web(served: &Served) -> ToolServer {
    format!("web={}", served.url).parse().unwrap()
}

/// A model that writes these turns, one after each result of a tool, and the prompts that it was given.
fn scripted(config: Config, turns: &[String]) -> (Site, Arc<Mutex<Vec<String>>>) {
    let prompts: Arc<Mutex<Vec<String>>> = Arc::default();
    let (turns, seen) = (turns.to_vec(), Arc::clone(&prompts));
    let site = Site::with(config, move |request| {
        let prompt = ossmith_harmony::decode(&request.engine_request.prompt).unwrap();
        let results = prompt.matches(" to=assistant<|channel|>").count();
        seen.lock().unwrap().push(prompt);
        let turn = turns.get(results).map_or(FINAL, String::as_str);
        Script { tokens: tokens(turn), ..Script::default() }
    });
    (site, prompts)
}

fn with(server: ToolServer, limits: ToolLimits) -> Config {
    Config { tool_servers: vec![server], tool_limits: limits, ..config() }
}

fn body(more: Value) -> Value {
    let mut body = json!({"model": "model", "input": "Hi"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The answer, once the tool server has started: on a busy machine that may take it longer than it is given.
async fn respond(site: &Site, body: &Value) -> Value {
    for _ in 0..20 {
        let (status, answer) = site.post("/v1/responses", body).await;
        match status {
            200 => return answer,
            424 => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => panic!("{status}: {answer}"),
        }
    }
    panic!("the tool server does not start");
}

/// Types of items, or of events about one.
fn types(list: &[Value]) -> Vec<&str> {
    list.iter().map(|one| one["type"].as_str().unwrap()).collect()
}

/// An item without its id, which differs from answer to answer.
fn settled(items: &Value) -> Vec<Value> {
    let mut items = items.as_array().unwrap().clone();
    items.iter_mut().for_each(|item| item["id"] = Value::Null);
    items
}

/// The same request streamed: its output is that of the whole answer. Returns the events about the item of this type.
async fn streamed(site: &Site, body: &Value, whole: &Value, kind: &str) -> Vec<Value> {
    let events = site.events("/v1/responses", body).await;
    let numbers: Vec<u64> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let last = &events.last().unwrap()["response"];
    assert_eq!(settled(&last["output"]), settled(&whole["output"]));
    assert_eq!((&last["status"], &last["usage"]), (&whole["status"], &whole["usage"]));
    // What is done is what the response has.
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    for event in done {
        let index = event["output_index"].as_u64().unwrap() as usize;
        assert_eq!(event["item"], last["output"][index]);
    }
    let index = last["output"].as_array().unwrap().iter().position(|item| item["type"] == kind);
    let index = json!(index.unwrap());
    events.into_iter().filter(|event| event["output_index"] == index).collect()
}

#[tokio::test]
async fn code_is_run_and_its_output_read() {
    let Some(served) = over_http() else { return };
    let servers = [web(&served), over_stdio().unwrap()];
    let turns = [built_in("python", "print(6 * 7)"), FINAL.to_owned()];
    let asked =
        body(json!({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}));
    for server in servers {
        let (site, prompts) = scripted(with(server.clone(), ToolLimits::default()), &turns);
        let answer = respond(&site, &asked).await;
        let output = answer["output"].as_array().unwrap();
        assert_eq!(types(output), ["reasoning", "code_interpreter_call", "message"], "{answer}");
        assert_eq!(
            (&output[1]["code"], &output[1]["status"]),
            (&json!("print(6 * 7)"), &json!("completed"))
        );
        assert_eq!(output[1]["outputs"], json!([{"type": "logs", "logs": "42\n"}]));
        assert_eq!(output[1]["container_id"], server.label);
        {
            let prompts = prompts.lock().unwrap();
            assert!(prompts[0].contains("## python\n\n"), "{}", prompts[0]);
            let went_on = "to=python code<|message|>print(6 * 7)<|call|><|start|>python to=assistant<|channel|>analysis<|message|>42\n<|end|><|start|>assistant";
            assert!(prompts[1].ends_with(went_on), "{}", prompts[1]);
            // Each round counts its prompt.
            let all: usize = prompts.iter().map(|prompt| tokens(prompt).len()).sum();
            assert_eq!(answer["usage"]["input_tokens"], all);
        }
        let events = streamed(&site, &asked, &answer, "code_interpreter_call").await;
        let mut order = types(&events);
        order.dedup();
        let about = |name: &str| format!("response.code_interpreter_call{name}");
        let want = [
            "response.output_item.added".to_owned(),
            about(".in_progress"),
            about("_code.delta"),
            about("_code.done"),
            about(".interpreting"),
            about(".completed"),
            "response.output_item.done".to_owned(),
        ];
        assert_eq!(order, want);
        let code: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(code, "print(6 * 7)");
        // Nobody asks for it here.
        let (_, headers, _) = site
            .send(request(
                "POST",
                "/v1/responses",
                &body(json!({"tools": [{"type": "image_generation"}]})).to_string(),
            ))
            .await;
        assert_eq!(headers["x-ossmith-ignored-tools"], "image_generation");
    }
}

#[tokio::test]
async fn the_browser_searches_opens_and_finds() {
    let Some(served) = over_http() else { return };
    for server in [web(&served), over_stdio().unwrap()] {
        the_browser_is_used(server).await;
    }
}

async fn the_browser_is_used(server: ToolServer) {
    let turns = [
        built_in("browser.search", r#"{"query":"ossmith","topn":3,"source":"web"}"#),
        built_in("browser.open", r#"{"id":0,"cursor":0}"#),
        built_in("browser.find", r#"{"pattern":"fast"}"#),
    ];
    let (site, prompts) = scripted(with(server, ToolLimits::default()), &turns);
    let asked = body(json!({"tools": [{"type": "web_search"}]}));
    let answer = respond(&site, &asked).await;
    let output = answer["output"].as_array().unwrap();
    let calls: Vec<&Value> =
        output.iter().filter(|item| item["type"] == "web_search_call").collect();
    let actions: Vec<&Value> = calls.iter().map(|call| &call["action"]).collect();
    assert_eq!(*actions[0], json!({"type": "search", "query": "ossmith", "queries": ["ossmith"]}));
    assert_eq!((&actions[1]["type"], &actions[1]["url"]), (&json!("open_page"), &json!("0")));
    assert_eq!(
        (&actions[2]["type"], &actions[2]["pattern"]),
        (&json!("find_in_page"), &json!("fast"))
    );
    assert!(calls.iter().all(|call| call["status"] == "completed"), "{answer}");
    let last = prompts.lock().unwrap().last().unwrap().clone();
    for part in [
        "namespace browser {",
        "<|start|>browser.search to=assistant<|channel|>analysis<|message|>[0] A page about ossmith",
        "L0: the page 0 of 0<|end|>",
        "L0: fast<|end|>",
    ] {
        assert!(last.contains(part), "{part} in {last}");
    }
    let events = streamed(&site, &asked, &answer, "web_search_call").await;
    let about = |name: &str| format!("response.web_search_call.{name}");
    let want = [
        "response.output_item.added".to_owned(),
        about("in_progress"),
        about("searching"),
        about("completed"),
        "response.output_item.done".to_owned(),
    ];
    assert_eq!(types(&events), want);
    // The next response reads what was done.
    let next = body(json!({"previous_response_id": answer["id"], "input": "And?"}));
    respond(&site, &next).await;
}

#[tokio::test]
async fn tools_of_an_mcp_server_are_listed_and_called() {
    let Some(served) = over_http() else { return };
    let stdio = over_stdio().unwrap();
    let by_url = json!({"server_label": "any", "server_url": served.url});
    let by_label = json!({"server_label": "box"});
    for (server, named) in [(web(&served), by_url), (stdio, by_label)] {
        let label = named["server_label"].as_str().unwrap().to_owned();
        let turns = [call(&format!("{label}.echo"), r#"{"text":"Hello"}"#)];
        let (site, prompts) = scripted(with(server, ToolLimits::default()), &turns);
        let mut tool =
            json!({"type": "mcp", "require_approval": "never", "allowed_tools": ["echo", "fail"]});
        tool.as_object_mut().unwrap().extend(named.as_object().unwrap().clone());
        let asked = body(json!({"tools": [tool]}));
        let answer = respond(&site, &asked).await;
        let output = answer["output"].as_array().unwrap();
        assert_eq!(types(output), ["mcp_list_tools", "mcp_call", "message"], "{answer}");
        let names: Vec<&Value> =
            output[0]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(names, ["echo", "fail"]);
        assert_eq!(output[1]["server_label"], label);
        assert_eq!((&output[1]["name"], &output[1]["output"]), (&json!("echo"), &json!("Hello")));
        assert_eq!(
            (&output[1]["arguments"], &output[1]["error"]),
            (&json!(r#"{"text":"Hello"}"#), &Value::Null)
        );
        let prompt = prompts.lock().unwrap()[1].clone();
        assert!(prompt.contains(&format!("namespace {label} {{")), "{prompt}");
        assert!(!prompt.contains("type hang ="), "{prompt}");
        assert!(
            prompt.contains(&format!(
                "<|start|>{label}.echo to=assistant<|channel|>commentary<|message|>Hello<|end|>"
            )),
            "{prompt}"
        );
        let events = streamed(&site, &asked, &answer, "mcp_call").await;
        let mut order = types(&events);
        order.dedup();
        let want = [
            "output_item.added",
            "mcp_call.in_progress",
            "mcp_call_arguments.delta",
            "mcp_call_arguments.done",
            "mcp_call.completed",
            "output_item.done",
        ];
        assert_eq!(order, want.map(|name| format!("response.{name}")));
        let events = streamed(&site, &asked, &answer, "mcp_list_tools").await;
        let want = [
            "output_item.added",
            "mcp_list_tools.in_progress",
            "mcp_list_tools.completed",
            "output_item.done",
        ];
        assert_eq!(types(&events), want.map(|name| format!("response.{name}")));
        // A conversation has the list once, and the calls as they were.
        let next =
            body(json!({"previous_response_id": answer["id"], "input": "And?", "tools": [tool]}));
        let next = respond(&site, &next).await;
        assert_eq!(next["output"][0]["type"], "message", "{next}");
    }
}

#[tokio::test]
async fn a_tool_that_fails_hangs_or_floods_is_bounded_and_reported() {
    let Some(served) = over_http() else { return };
    let tool = json!({"type": "mcp", "server_label": "web", "require_approval": "never"});
    let asked = body(json!({"tools": [tool]}));
    let limits = ToolLimits { result_bytes: 1000, ..ToolLimits::default() };
    let short = ToolLimits { time: Duration::from_millis(300), ..limits };
    for (name, arguments, limits, error, read) in [
        ("fail", "{}", limits, Some("Error executing tool fail"), "Error: "),
        ("echo", "[]", limits, Some("not a JSON object"), "Error: the arguments are not"),
        (
            "hang",
            "{}",
            short,
            Some("did not answer within 0.3 s"),
            "Error: the tool did not answer",
        ),
        ("flood", r#"{"bytes":100000}"#, limits, None, "\n[cut off: 1000 of "),
        ("flood", r#"{"bytes":6000000}"#, limits, Some(""), "Error: "),
    ] {
        let turns = [call(&format!("web.{name}"), arguments)];
        let (site, prompts) = scripted(with(web(&served), limits), &turns);
        let answer = respond(&site, &asked).await;
        assert_eq!(answer["status"], "completed", "{name}: {answer}");
        let item = &answer["output"][1];
        match error {
            Some(error) => {
                assert_eq!((&item["status"], &item["output"]), (&json!("failed"), &Value::Null));
                let text = item["error"]["content"][0]["text"].as_str().unwrap();
                assert!(text.contains(error), "{name}: {text}");
            }
            None => assert!(item["output"].as_str().unwrap().len() < 1100, "{name}"),
        }
        assert_eq!(answer["output"][2]["content"][0]["text"], "Done.", "{name}");
        let prompt = prompts.lock().unwrap()[1].clone();
        assert!(prompt.contains(read) && prompt.len() < 10_000, "{name}: {prompt}");
    }
    // The number of calls is bounded, by the operator and by the request.
    let turns = vec![call("web.echo", r#"{"text":"again"}"#); 6];
    for (most, wanted) in [(2, Value::Null), (9, json!(2))] {
        let limits = ToolLimits { calls: most, ..ToolLimits::default() };
        let (site, prompts) = scripted(with(web(&served), limits), &turns);
        let mut asked = asked.clone();
        asked["max_tool_calls"] = wanted;
        let answer = respond(&site, &asked).await;
        let last =
            answer["output"].as_array().unwrap().iter().filter(|item| item["type"] == "mcp_call");
        let outputs: Vec<&Value> = last.map(|item| &item["status"]).collect();
        assert_eq!(outputs[..3], ["completed", "completed", "failed"], "{answer}");
        assert!(prompts.lock().unwrap()[3].contains("no more than 2 calls of tools"));
    }
    // Calls that no server gets to see count as well.
    let turns = vec![call("web.echo", "[]"); 6];
    let (site, prompts) = scripted(with(web(&served), ToolLimits { calls: 2, ..limits }), &turns);
    respond(&site, &asked).await;
    assert!(prompts.lock().unwrap()[3].contains("no more than 2 calls of tools"));
}

#[tokio::test]
async fn a_response_that_is_given_up_ends_its_tools() {
    let Some(served) = over_http() else { return };
    let turns = [call("web.hang", "{}")];
    let (site, _) = scripted(with(web(&served), ToolLimits::default()), &turns);
    let tool = json!({"type": "mcp", "server_label": "web", "require_approval": "never"});
    respond(&site, &body(json!({"tools": [tool], "max_tool_calls": 0}))).await;
    let job = respond(&site, &body(json!({"tools": [tool], "background": true}))).await;
    let path = format!("/v1/responses/{}", job["id"].as_str().unwrap());
    loop {
        let (_, text) = site.get(&path).await;
        if text.contains("mcp_call\"") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, answer) = site.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!((status, &answer["status"]), (200, &json!("cancelled")));
    loop {
        let (_, text) = site.get(&path).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        if !text.contains("in_progress") {
            assert_eq!(answer["status"], "cancelled", "{answer}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.idle().await;
}

#[tokio::test]
async fn only_what_the_operator_allows_is_called() {
    let gone: ToolServer = "gone=stdio:exit 3".parse().unwrap();
    let (site, _) = scripted(with(gone, ToolLimits::default()), &[]);
    let mcp = |more: Value| {
        let mut tool = json!({"type": "mcp", "server_label": "gone", "require_approval": "never"});
        tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tool
    };
    for (tool, status, param, says) in [
        (
            mcp(json!({"server_url": "http://169.254.169.254/"})),
            400,
            "tools[0].server_url",
            "allows",
        ),
        (mcp(json!({"server_label": "other"})), 400, "tools[0].server_label", "gone"),
        (mcp(json!({"require_approval": "always"})), 400, "tools[0].require_approval", "never"),
        (mcp(json!({"require_approval": null})), 400, "tools[0].require_approval", "never"),
        (mcp(json!({"headers": {"x": "y"}})), 400, "headers", "client's"),
        (mcp(json!({"connector_id": "c"})), 400, "connector_id", "server_label"),
        (mcp(json!({})), 424, "tools", "`gone` does not list its tools"),
        (json!({"type": "web_search"}), 424, "tools", "`gone`"),
        (json!({"type": "code_interpreter"}), 424, "tools", "`gone`"),
    ] {
        let (got, answer) = site.post("/v1/responses", &body(json!({"tools": [tool]}))).await;
        assert_eq!(got, status, "{tool}: {answer}");
        let found = answer["error"]["param"].as_str().unwrap();
        assert!(found.ends_with(param), "{tool}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{tool}: {answer}");
    }
    // Other APIs run none.
    let chat = crate::common::chat(json!({"tools": [{"type": "web_search"}]}));
    let (_, headers, _) =
        site.send(request("POST", "/v1/chat/completions", &chat.to_string())).await;
    assert_eq!(headers["x-ossmith-ignored-tools"], "web_search");
}
