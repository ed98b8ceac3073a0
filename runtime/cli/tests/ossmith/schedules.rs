//! Schedules as files: `kernels space`, `--schedule`, and as much of `tune` and `bench kernel` as needs no GPU.

use serde_json::Value;

use super::common::{Folder, has_nvrtc, ossmith, refuses};

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

fn stdout(args: &[&str]) -> String {
    let output = ossmith(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_space_lists_values_ranges_and_trades_in_every_regime() {
    let json = stdout(&["kernels", "space", "--model", "gpt-oss-20b", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&json).unwrap();
    for (kernel, tunable, regime) in [
        ("rmsnorm_qkv_rope_decode1", "pace", "decode"),
        ("moe_down_residual_decode8", "stages", "decode"),
        ("attention_full", "max_splits", "decode"),
        ("attention_full_decode1", "stages", "decode"),
        ("attn_out_residual_batched", "splits", "batched"),
        ("moe_up_swiglu_batched", "blocks_per_sm", "batched"),
        ("moe_permute_wgmma", "tile_tokens", "prefill"),
        ("qkv_rope_wgmma128", "tile_tokens", "prefill"),
        ("unembed_decode1", "warps", "decode"),
    ] {
        let found = all.iter().find(|it| it["kernel"] == kernel && it["tunable"] == tunable);
        let found = found.unwrap_or_else(|| panic!("no {kernel}.{tunable}"));
        assert!(found["regimes"].as_array().unwrap().contains(&Value::from(regime)), "{found}");
        assert!(found["value"].is_u64() && found["untuned"].is_u64(), "{found}");
        assert!(found["trades"].as_str().unwrap().len() > 20, "{found}");
        let legal = &found["legal"];
        assert!(legal["range"]["max"].is_u64() || legal["one_of"].is_array(), "{found}");
    }
    let folder = Folder::empty();
    let file = folder.write("mine.toml", "[moe_up_swiglu_decode1]\nstages = 2\n");
    let one = ["kernels", "space", "--model", "gpt-oss-20b", "--kernel", "moe_up_swiglu_decode1"];
    let text = stdout(&[&one[..], &["--schedule", &file]].concat());
    assert!(text.starts_with("moe_up_swiglu_decode1 (decode)\n"), "{text}");
    let stages = text.lines().find(|line| line.trim_start().starts_with("stages")).unwrap();
    let words: Vec<&str> = stages.split_whitespace().collect();
    assert_eq!(words[..3], ["stages", "2", "1"], "{stages}");
    refuses(
        &strings(&["kernels", "space", "--model", "nano", "--kernel", "moe"]),
        1,
        &["nano has no kernel moe", "moe_up_swiglu_decode1"],
    );
}

#[test]
fn a_schedule_changes_what_is_planned_shown_and_emitted() {
    let folder = Folder::empty();
    let file = folder.write("mine.json", r#"{"moe_up_swiglu_decode1": {"stages": 2, "warps": 9}}"#);
    let show = ["kernels", "show", "--model", "gpt-oss-20b", "moe_up_swiglu_decode1"];
    let (own, mine) = (stdout(&show), stdout(&[&show[..], &["--schedule", &file]].concat()));
    assert!(own.contains("kStages = 1;") && own.contains("kThreads = 480;"), "{own}");
    assert!(mine.contains("kStages = 2;") && mine.contains("kThreads = 288;"), "{mine}");
    let comment = "// stages: chunks of weights on their way to each warp: more keep memory busy";
    assert!(own.contains(comment), "{own}");
    let plan = ["kernels", "plan", "--model", "gpt-oss-20b", "--gpu", "h200"];
    assert_ne!(stdout(&plan), stdout(&[&plan[..], &["--schedule", &file]].concat()));
    let out = folder.path("emitted");
    let emit = ["kernels", "emit", "--model", "gpt-oss-20b", "--out", &out, "--schedule", &file];
    ossmith(&emit).assert().success();
    let emitted = std::fs::read_to_string(format!("{out}/moe_up_swiglu_decode1.cu")).unwrap();
    assert_eq!(emitted, mine);
}

#[test]
fn a_schedule_that_is_wrong_is_refused_by_name_with_what_is_legal() {
    let folder = Folder::tiny();
    let model = folder.synthetic();
    let file = |name: &str, text: &str| folder.write(name, text);
    let illegal = file("illegal.toml", "moe_up_swiglu_decode1.stages = 9\n");
    let unknown = file("unknown.toml", "moe_up_swiglu_decode1.colour = 1\n");
    let nobody = file("nobody.toml", "moe.stages = 1\n");
    let broken = file("broken.toml", "moe_up_swiglu_decode1: stages\n");
    let large = file("large.toml", "attention_full = { warps = 8, stages = 4 }\n");
    let missing = folder.path("missing.toml");
    let range = "moe_up_swiglu_decode1: stages is 9; legal: 1 to 8";
    let plan = ["kernels", "plan", "--model"];
    for (command, file, want) in [
        (&plan[..], &illegal, range),
        (&["kernels", "list", "--model"], &illegal, range),
        (&["kernels", "space", "--model"], &illegal, range),
        (&["kernels", "compile", "--model"], &illegal, range),
        (&["kernels", "show", "sample", "--model"], &illegal, range),
        (&["check", "--model"], &illegal, range),
        (&["bench", "decode", "--context", "8", "--model"], &illegal, range),
        (&["bench", "prefill", "--tokens", "8", "--model"], &illegal, range),
        (&["bench", "kernel", "sample", "--model"], &illegal, range),
        (&["bench", "throughput", "--num-prompts", "1", "--model"], &illegal, range),
        (&["serve", "--port", "0", "--model"], &illegal, range),
        (&["tune", "--dry-run", "--model"], &illegal, range),
        (&plan, &unknown, "moe_up_swiglu_decode1 has no tunable colour; its tunables are warps"),
        (&plan, &nobody, "no kernel is named moe; there are embed"),
        (&plan, &broken, "broken.toml is no schedule: TOML parse error at line 1"),
        (&plan, &large, "attention_full: with these values it needs"),
        (&plan, &missing, "cannot read the schedule"),
    ] {
        let args = [command, &[&model, "--schedule", file]].concat();
        refuses(&strings(&args), 1, &[want]);
    }
}

#[test]
fn kernels_and_steps_that_do_not_exist_are_refused() {
    let folder = Folder::tiny();
    let model = folder.synthetic();
    for (command, want) in [
        (&["check", "--kernel", "moe"][..], "tiny has no kernel moe"),
        (&["check", "--phase", "attend"], "tiny has no phase attend"),
        (&["bench", "kernel", "moe"], "has no kernel moe"),
        (&["tune", "--dry-run", "--kernel", "moe"], "launches a kernel moe"),
        (&["tune", "--dry-run", "--kernel", "router_batched"], "these steps launch"),
        (&["tune", "--dry-run", "--phase", "moe"], "there is nothing to tune"),
    ] {
        let args = [command, &["--model", &model]].concat();
        let want = want.strip_prefix("tiny ").unwrap_or(want);
        refuses(&strings(&args), 1, &[want]);
    }
}

/// With NVRTC: candidates are compiled and refused by their footprint, and each decision is kept.
#[test]
fn a_dry_run_enumerates_compiles_and_refuses() {
    if !has_nvrtc("a dry run of the tuner") {
        return;
    }
    let folder = Folder::tiny();
    let (model, log) = (folder.synthetic(), folder.path("log.jsonl"));
    let args = ["tune", "--dry-run", "--restarts", "0", "--kernel", "attention_full"];
    let output = ossmith(&args)
        .args(["--model", &model, "--log", &log])
        .env("OSSMITH_CACHE", folder.path("cache"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("none timed"), "{stderr}");
    let text = std::fs::read_to_string(&log).unwrap();
    let decisions: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tunables: Vec<&str> = decisions.iter().map(|it| it["tunable"].as_str().unwrap()).collect();
    assert_eq!(tunables, ["warps", "stages", "max_splits"]);
    for decision in &decisions {
        assert_eq!(decision["chosen"], 0, "{decision}");
        let candidates = decision["candidates"].as_array().unwrap();
        assert!(candidates[0]["refused"].is_null(), "what there is stays: {decision}");
        for candidate in &candidates[1..] {
            let predicted = candidate["predicted_us"].as_array().unwrap();
            let compiled = candidate["registers"].as_u64().is_some_and(|count| count > 0);
            match candidate["refused"].as_str() {
                None => assert!(compiled, "{candidate}"),
                // Only what compiled can be refused for its registers or its spills.
                Some(why) => {
                    let resources = why.contains(" registers") || why.contains("spill");
                    assert_eq!(compiled, resources, "{candidate}");
                }
            }
            assert!(!compiled || predicted.iter().all(|us| us.as_f64().unwrap() > 0.0));
        }
    }
}
