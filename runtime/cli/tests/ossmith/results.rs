//! What is made of results: the contract of speeds, reports, and sweeps of a server that is not ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::common::{Folder, has_nvrtc, ossmith, refuses};

fn results() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
    root.display().to_string()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{path}: {why}"))
}

#[test]
fn recorded_results_are_held_against_the_contract_build_by_build() {
    let args = ["bench", "contract", "--from", &results(), "--json"];
    let output = ossmith(&args).assert().success();
    let object: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(object["missed"], 0, "{object}");
    let of = |case: &&Value| {
        (
            case["profile"] == "h100",
            case["model"] == "gpt-oss-20b",
            case["case"] == "decode, batch 1, 1024 keys",
        )
    };
    let cases = object["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| of(case) == (true, true, true)).unwrap();
    let reached = case["reached"].as_array().unwrap();
    assert!(reached.len() > 3 && case["change"].is_number(), "{case}");
    assert_eq!(reached[0]["build"], "2026-11-21-h100/first-light", "{case}");

    let folder = Folder::empty();
    let harder = folder.write(
        "contract.toml",
        "[[case]]\nprofile = \"h200\"\nmodel = \"gpt-oss-20b\"\nmin_share = 0.99\nbench.decode = { batch = 1, context = 1024 }\n",
    );
    let args = ["bench", "contract", "--from", &results(), "--contract", &harder];
    let output = ossmith(&args).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(
        stdout.contains("MISSED") && stderr.contains("1 of 1 cases miss their share"),
        "{stdout}{stderr}"
    );
}

#[test]
fn what_is_no_contract_or_no_result_is_refused() {
    let folder = Folder::empty();
    let bad = folder.write("bad.toml", "case = 1\n");
    let nothing = folder.write("nothing.json", "{\"elapsed_time\": 1}");
    let out = folder.path("report.pdf");
    let page = folder.path("report.html");
    let results = results();
    for (args, want) in [
        (&["bench", "contract", "--from", &results, "--contract", &bad][..], "bad.toml"),
        (&["bench", "contract", "--from", &nothing], "it is no result"),
        (&["bench", "contract", "--from", &results, "--model", "nano"], "no case of the contract"),
        (&["report", "--from", &nothing, "--out", &page], "it is no result"),
        (
            &["report", "--from", "/nonexistent.json", "--out", &page],
            "cannot read /nonexistent.json",
        ),
        (&["report", "--out", &out], "neither with .html nor with .md"),
        (&["report", "--out", "/nonexistent/report.html"], "no folder /nonexistent"),
    ] {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        refuses(&args, 1, &[want]);
    }
}

#[test]
fn a_report_is_one_page_or_markdown_with_pictures_beside_it() {
    let folder = Folder::empty();
    let (page, text, pictures) =
        (folder.path("report.html"), folder.path("README.md"), folder.path("pictures"));
    ossmith(&["report", "--from", &results(), "--out", &page]).assert().success();
    let html = read(&page);
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    assert!(
        html.contains("H200: steps and prompts") && !html.contains("<script"),
        "{}",
        &html[..2000]
    );
    ossmith(&["report", "--from", &results(), "--out", &text, "--svg", &pictures])
        .assert()
        .success();
    let text = read(&text);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&pictures).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(text.contains(&format!("/{name})")), "{name} is not linked");
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"), "{name}");
    }
}

/// A server that names one model and streams three tokens, and counts the streams.
fn stub() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, streams) =
        (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&streams);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, counted) = (socket.unwrap(), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(socket.try_clone().unwrap());
                let (mut line, mut length, mut first) = (String::new(), 0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    if first.is_empty() {
                        first.clone_from(&line);
                    }
                    if let Some(count) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = count.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let answer = if first.starts_with("GET") {
                    json!({"data": [{"id": "theirs"}]}).to_string()
                } else {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let token = json!({"choices": [{"index": 0, "text": "a"}]});
                    let usage = json!({"choices": [], "usage": {"completion_tokens": 3}});
                    format!(
                        "data: {token}\n\ndata: {token}\n\ndata: {token}\n\ndata: {usage}\n\ndata: [DONE]\n\n"
                    )
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    answer.len()
                );
                // A client may have gone away.
                let _ = socket.write_all((head + &answer).as_bytes());
            });
        }
    });
    (url, streams)
}

#[test]
fn a_sweep_goes_on_where_it_was() {
    let folder = Folder::empty();
    let (url, streams) = stub();
    let (out, csv, svg) =
        (folder.path("sweep.json"), folder.path("sweep.csv"), folder.path("sweep.svg"));
    let sweep = |concurrency: &str, more: &[&str]| {
        let args = [
            "bench",
            "sweep",
            "--base-url",
            &url,
            "--lengths",
            "8:3,16:3",
            "--rounds",
            "2",
            "--out",
            &out,
        ];
        let mut command = ossmith(&args);
        command.args(["--csv", &csv, "--svg", &svg, "--concurrency", concurrency]).args(more);
        command.output().unwrap()
    };
    let output = sweep("1,2", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Two lengths, at 1 and 2 in flight two requests for each of these.
    assert_eq!(streams.load(Ordering::SeqCst), 2 * (2 + 4));
    let output = sweep("1,2,3", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        streams.load(Ordering::SeqCst),
        2 * (2 + 4) + 2 * 6,
        "only the new load was measured"
    );

    let result: Value = serde_json::from_str(&read(&out)).unwrap();
    let points = result["points"].as_array().unwrap();
    assert_eq!(
        (points.len(), &result["model"], &result["bench"]),
        (6, &json!("theirs"), &json!("sweep"))
    );
    for point in points {
        assert_eq!(point["completed"], point["num_prompts"], "{point}");
        assert_eq!(
            point["total_output_tokens"],
            3 * point["completed"].as_u64().unwrap(),
            "{point}"
        );
        for key in [
            "request_throughput",
            "output_throughput",
            "mean_ttft_ms",
            "p99_ttft_ms",
            "median_itl_ms",
            "p99_itl_ms",
        ] {
            assert!(point[key].is_number(), "{key}: {point}");
        }
    }
    let lines: Vec<String> = read(&csv).lines().map(str::to_owned).collect();
    assert!(lines.len() == 7 && lines[0].contains("max_concurrency"), "{lines:?}");
    assert!(read(&svg).contains("theirs, 16 in, 3 out"), "{}", read(&svg));
    assert!(read(&folder.path("sweep-latencies.svg")).contains("TTFT"));

    // Points that were measured otherwise do not come to stand beside new ones.
    let output = sweep("4", &["--seed", "7"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && stderr.contains("has points with seed 0, and this sweep has 7"),
        "{stderr}"
    );
    // And the report shows them.
    let page = folder.path("report.html");
    ossmith(&["report", "--from", &out, "--out", &page]).assert().success();
    assert!(read(&page).contains("Servers under load"));
}

#[test]
fn a_server_that_answers_nothing_ends_a_sweep_and_loses_no_point() {
    let folder = Folder::empty();
    let out = folder.write("other.json", "{}");
    let sweep = |url: &str, out: &str| {
        let args = [
            "bench",
            "sweep",
            "--base-url",
            url,
            "--model",
            "m",
            "--concurrency",
            "1",
            "--out",
            out,
        ];
        args.map(str::to_owned).to_vec()
    };
    refuses(
        &sweep("http://127.0.0.1:9", &folder.path("new.json")),
        1,
        &["every request failed at 1 at once", "goes on with this point"],
    );
    refuses(&sweep("http://127.0.0.1:9", &out), 1, &["is not the result of a sweep", "--again"]);
}

/// With NVRTC: resources as JSON, which the report shows, and a cubin as the bytes of an ELF file.
#[test]
fn kernels_are_listed_as_json_and_written_as_cubins() {
    if !has_nvrtc("kernels as JSON and as cubins") {
        return;
    }
    let folder = Folder::empty();
    let output = ossmith(&["kernels", "show", "rmsnorm", "--cubin"]).assert().success();
    assert!(output.get_output().stdout.starts_with(b"\x7fELF"));
    let cache = folder.path("cache");
    let output = ossmith(&["kernels", "list", "--arch", "sm_80", "--json"])
        .env("OSSMITH_CACHE", &cache)
        .assert()
        .success();
    let list: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let kernels = list["kernels"].as_array().unwrap();
    let embed = kernels.iter().find(|kernel| kernel["kernel"] == "embed").unwrap();
    assert!(embed["registers"].as_u64().unwrap() > 8 && embed["spill_bytes"] == 0, "{embed}");
    let (file, page) =
        (folder.write("kernels.json", &list.to_string()), folder.path("report.html"));
    ossmith(&["report", "--from", &file, "--out", &page]).assert().success();
    assert!(read(&page).contains("Resources of kernels"));
}

#[test]
fn a_bundle_of_kernels_needs_no_nvrtc_where_it_is_read() {
    if !has_nvrtc("kernels in a bundle") {
        return;
    }
    let folder = Folder::tiny();
    let (model, cache) = (folder.path(""), folder.path("cache"));
    let bundle = folder.path("kernels.bundle");
    let compile =
        ["kernels", "compile", "--model", &model, "--bundle", &bundle, "--profiles", "h200"];
    ossmith(&compile).env("OSSMITH_CACHE", &cache).assert().success();
    let list = |bundle: &str, model: &str| {
        ossmith(&["kernels", "list", "--model", model, "--gpu", "h200"])
            .env("OSSMITH_NVRTC", "/nonexistent")
            .env("OSSMITH_CACHE", "/nonexistent")
            .env("OSSMITH_BUNDLE", bundle)
            .output()
            .unwrap()
    };
    let read = list(&bundle, &model);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let compiled = ossmith(&["kernels", "list", "--model", &model, "--gpu", "h200"])
        .env("OSSMITH_CACHE", &cache)
        .output()
        .unwrap();
    assert_eq!(read.stdout, compiled.stdout);
    // Another model's kernels have other constants.
    let other = Folder::with(&json!({"vocab_size": 640}));
    for (bundle, model, want) in [
        (&bundle, &other.path(""), "does not have this text of the kernel"),
        (&folder.path("config.json"), &model, "no bundle of kernels"),
    ] {
        let refused = list(bundle, model);
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(want), "{stderr}");
    }
}
