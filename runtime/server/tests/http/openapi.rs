//! `/openapi.json` against the code: every route of the router, and every field that the readers of requests name. What the code
//! reads is taken from its source, so there is no second list to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Site, TURN};

/// Where an API's requests are described.
enum Body {
    Schema(&'static str),
    Path(&'static str),
}

use Body::{Path as Of, Schema};

/// Files that read requests, and the requests that they read: a field must be in all of these.
const ALL: &[(&str, &[Body])] = &[
    ("chat/request.rs", &[Schema("ChatRequest")]),
    ("completions/request.rs", &[Schema("CompletionRequest")]),
    ("completions/raw_tokens.rs", &[Of("/inference/v1/generate")]),
    ("completions/native.rs", &[Of("/generate")]),
    ("responses/request.rs", &[Schema("ResponsesRequest")]),
    ("messages/request.rs", &[Schema("MessagesRequest")]),
    ("messages/history.rs", &[Schema("MessagesRequest"), Schema("CountTokensRequest")]),
    ("messages/tools.rs", &[Schema("MessagesRequest"), Schema("CountTokensRequest")]),
    ("responses/prompt.rs", &[Schema("ResponsesRequest"), Schema("InputTokensRequest")]),
    ("responses/compact.rs", &[Schema("CompactRequest")]),
    ("conversations.rs", &[Of("/v1/conversations")]),
    ("options/generation.rs", &[Schema("ChatRequest"), Schema("CompletionRequest")]),
    ("options/stream.rs", &[Schema("ChatRequest"), Schema("CompletionRequest")]),
];

/// The same for files that read different things for different APIs: a field must be in one of these.
const ANY: &[(&str, &[Body])] = &[
    ("options/structured_output.rs", &[Schema("ChatRequest"), Schema("ResponsesRequest")]),
    ("options/tools.rs", &[Schema("ChatRequest"), Schema("ResponsesRequest")]),
    ("options/hosted_tools.rs", &[Schema("ResponsesRequest")]),
    ("options/tool.rs", &[Schema("ChatRequest"), Schema("ResponsesRequest")]),
    ("ollama/request.rs", &[Schema("OllamaChatRequest"), Schema("OllamaGenerateRequest")]),
    ("ollama/models.rs", &[Schema("OllamaModelRequest"), Schema("OllamaPullRequest")]),
    ("batch/routes.rs", &[Of("/v1/batches")]),
    ("routes/weights.rs", &[Of("/update_weights")]),
    ("routes/adapters.rs", &[Of("/v1/load_lora_adapter"), Of("/v1/unload_lora_adapter")]),
    ("routes/tokenize.rs", &[Of("/tokenize"), Of("/detokenize")]),
];

/// Files that read parameters of the address, and the routes that take them: each must list them all.
const QUERIES: &[(&str, &[&str])] = &[
    (
        "page.rs",
        &[
            "/v1/conversations/{id}/items",
            "/v1/responses/{id}/input_items",
            "/v1/files",
            "/v1/batches",
        ],
    ),
    ("batch/file_routes.rs", &["/v1/files"]),
    ("responses/mod.rs", &["/v1/responses/{id}"]),
    ("routes/status.rs", &["/debug/steps"]),
    ("routes/control.rs", &["/sleep"]),
];

/// Files that look into objects which are described elsewhere: items of a history, lines of a batch, and the one field
/// `model` of every request.
const OTHERS: [&str; 3] = ["responses/hosted.rs", "batch/line.rs", "routes/worker.rs"];

/// Ways in which a field is read, up to its name.
const READS: [&str; 16] = [
    ".get(\"",
    ".read(\"",
    ".string(\"",
    ".bool(\"",
    ".number(\"",
    ".integer(\"",
    ".bits(\"",
    ".count(\"",
    ".object(\"",
    ".objects(\"",
    ".required_string(\"",
    ".token_ids(\"",
    "f32_in(\"",
    "owned(\"",
    "read(fields,\"",
    "read(&fields,\"",
];

/// Words of JSON schemas, which the code looks at within a tool's parameters.
const OF_SCHEMAS: [&str; 2] = ["properties", "required"];

/// Fields that only some of a file's requests have; the others refuse them by name.
const REFUSED: [&str; 2] = ["thread", "thinking_token_budget"];

/// A field that has no reader is described by one of these.
const WITHOUT_READER: [&str; 2] = ["Accepted, and changes nothing.", "Repeated in the response."];

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// The fields that a source reads.
fn fields(source: &str) -> BTreeSet<String> {
    let dense: String = source.split_whitespace().collect();
    let after = |read: &&str| -> Vec<String> {
        let names = dense.split(*read).skip(1).filter_map(|rest| rest.split('"').next());
        names.map(str::to_owned).collect()
    };
    let names = READS.iter().flat_map(after);
    names.filter(|name| !OF_SCHEMAS.contains(&name.as_str())).collect()
}

/// The fields of the structs into which serde reads the messages of a chat.
fn fields_of_messages() -> BTreeSet<String> {
    let text = source("../../../harmony/src/convert/chat.rs");
    let mut names = BTreeSet::new();
    for part in text.split("#[derive(").skip(1) {
        let Some((derives, rest)) = part.split_once(")]") else { continue };
        if derives.contains("Deserialize") {
            let body = rest.split("\n}").next().unwrap_or_default();
            let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
            names.extend(lines.filter_map(|line| Some(line.split_once(": ")?.0.to_owned())));
        }
    }
    names
}

/// The properties of a schema and of all that it holds, with their descriptions.
fn properties(document: &Value, schema: &Value, found: &mut BTreeMap<String, String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return properties(document, &document["components"]["schemas"][name], found);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let text = inner["description"].as_str().unwrap_or_default();
        found.entry(name.clone()).or_insert_with(|| text.to_owned());
        properties(document, inner, found);
    }
    properties_of_parts(document, schema, found);
}

fn properties_of_parts(document: &Value, schema: &Value, found: &mut BTreeMap<String, String>) {
    for key in ["anyOf", "oneOf", "allOf"] {
        for part in schema[key].as_array().into_iter().flatten() {
            properties(document, part, found);
        }
    }
    if schema["items"].is_object() {
        properties(document, &schema["items"], found);
    }
}

fn documented(document: &Value, body: &Body) -> BTreeMap<String, String> {
    let schema = match body {
        Schema(name) => &document["components"]["schemas"][name],
        Of(path) => {
            &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        }
    };
    let mut found = BTreeMap::new();
    properties(document, schema, &mut found);
    assert!(!found.is_empty(), "the document has no such request");
    found
}

async fn document() -> Value {
    let (status, text) = Site::writing(TURN).get("/openapi.json").await;
    assert_eq!(status, 200);
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn every_route_is_documented() {
    let dense: String = source("router.rs").split_whitespace().collect();
    let mut routes = BTreeSet::new();
    for route in dense.split(".route(\"").skip(1) {
        let (path, handlers) = route.split_once("\",").unwrap();
        // A path may end with a parameter that takes the rest of it.
        let path = path.replace("{*", "{");
        let handlers = handlers.split(".route(").next().unwrap();
        for method in ["get", "post", "delete"] {
            let first = handlers.starts_with(&format!("{method}("));
            if first || handlers.contains(&format!(").{method}(")) {
                routes.insert(format!("{method} {path}"));
            }
        }
    }
    let document = document().await;
    let mut listed = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        listed.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    assert!(routes.len() > 25, "{routes:?}");
    assert_eq!(routes, listed);
}

#[tokio::test]
async fn every_field_that_is_read_is_documented() {
    let document = document().await;
    let mut lacks = Vec::new();
    let mut check = |file: &str, names: BTreeSet<String>, bodies: &[Body], all: bool| {
        let known: Vec<_> = bodies.iter().map(|body| documented(&document, body)).collect();
        for name in names {
            let has = |fields: &BTreeMap<String, String>| fields.contains_key(&name);
            let found = if all { known.iter().all(has) } else { known.iter().any(has) };
            if !found {
                lacks.push(format!("{file}: {name}"));
            }
        }
    };
    for (table, all) in [(ALL, true), (ANY, false)] {
        for (file, bodies) in table {
            let mut names = fields(&source(file));
            names.retain(|name| !REFUSED.contains(&name.as_str()));
            assert!(!names.is_empty(), "{file} reads no field; take it out of the table");
            check(file, names, bodies, all);
        }
    }
    check("chat messages", fields_of_messages(), &[Schema("ChatRequest")], true);
    assert!(lacks.is_empty(), "/openapi.json lacks these fields: {lacks:#?}");

    for (file, routes) in QUERIES {
        let dense: String = source(file).split_whitespace().collect();
        let names = dense.split("query.get(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let names: BTreeSet<&str> = names.collect();
        assert!(!names.is_empty(), "{file} reads no parameter; take it out of the table");
        for route in *routes {
            let methods = &document["paths"][route];
            let method = methods.get("get").unwrap_or(&methods["post"]);
            let parameters = method["parameters"].as_array().unwrap();
            let listed = |name: &str| parameters.iter().any(|listed| listed["name"] == name);
            let lacks: Vec<_> = names.iter().filter(|name| !listed(name)).collect();
            assert!(lacks.is_empty(), "/openapi.json lacks parameters of {route}: {lacks:?}");
        }
    }
}

#[test]
fn every_file_that_reads_fields_is_compared() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named: BTreeSet<&str> = [ALL, ANY]
        .iter()
        .flat_map(|table| table.iter().map(|(file, _)| *file))
        .chain(QUERIES.iter().map(|(file, _)| *file))
        .chain(OTHERS)
        .collect();
    let (mut folders, mut read) = (vec![root.clone()], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if file.ends_with(".rs") && !fields(&source(&file)).is_empty() {
                read.insert(file);
            }
        }
    }
    let unnamed: Vec<&String> = read.iter().filter(|file| !named.contains(file.as_str())).collect();
    assert!(unnamed.is_empty(), "add these files to a table: {unnamed:?}");
}

#[tokio::test]
async fn every_documented_field_is_read() {
    let document = document().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = String::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src"), root.join("../../harmony/src/convert")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                texts.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut unread = BTreeSet::new();
    for table in [ALL, ANY] {
        for body in table.iter().flat_map(|(_, bodies)| *bodies) {
            for (name, text) in documented(&document, body) {
                let named = [format!("\"{name}\""), format!("{name}: ")];
                let read = named.iter().any(|spelling| texts.contains(spelling));
                if !read && !WITHOUT_READER.contains(&text.as_str()) {
                    unread.insert(name);
                }
            }
        }
    }
    assert!(unread.is_empty(), "no code reads these fields of /openapi.json: {unread:?}");
}
