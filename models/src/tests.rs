//! The built-in models against the published numbers, and against the same configurations compiled at run time.

use std::path::{Path, PathBuf};

use ossmith_codegen::{TuningRecord, compile, compile_tuned, spec};
use ossmith_plan::{Family, Gemm, Layer, Op, StepShape};

use crate::{ALL, GPT_OSS_20B, GPT_OSS_120B, NANO, find};

mod text;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str, file: &str) -> String {
    std::fs::read_to_string(folder(name).join(file)).expect("a committed file")
}

/// The committed tuning records.
fn records() -> Vec<TuningRecord> {
    let files = std::fs::read_dir(folder("tuned")).expect("a folder").map(|file| {
        std::fs::read_to_string(file.expect("a file").path()).expect("a committed file")
    });
    let mut records: Vec<TuningRecord> =
        files.map(|text| TuningRecord::parse(&text).expect("a record")).collect();
    records.sort_by(|a, b| a.profile.cmp(&b.profile));
    records
}

#[test]
fn committed_tuning_records_fit_the_kernels() {
    for model in ALL {
        for tuned in model.tuned {
            assert_eq!(tuned.problems, [""; 0], "{} on {}", model.spec.name, tuned.arch.name);
            let on = model.for_arch(&tuned.arch).on(tuned.arch.compute);
            assert_eq!(on.arch, tuned.arch);
            assert_eq!(on.cannot_run(), None);
        }
        let untuned = model.for_arch(&ossmith_plan::Arch::H100);
        assert_eq!(untuned.schedules.len(), model.schedules.len());
    }
}

#[test]
fn built_at_build_time_is_compiled_at_run_time() {
    for model in ALL {
        let name = model.spec.name;
        let generation = read(name, "generation_config.json");
        let spec = spec::parse(name, &read(name, "config.json"), Some(&generation)).expect(name);
        // Models hold floats and kernels' phantom types; their debug text shows every field.
        assert!(
            format!("{model:?}") == format!("{:?}", compile_tuned(spec, &records()).expect(name)),
            "{name} differs"
        );
    }
}

#[test]
fn a_device_needs_the_schedules_that_it_runs_and_their_units() {
    for model in ALL {
        for (compute, expected) in [((9, 0), Family::Sm90), ((8, 0), Family::Portable)] {
            let on = model.on(compute);
            let limits: Vec<usize> = on.schedules.iter().map(|one| one.max_tokens).collect();
            let most: &[usize] = match (compute, model.spec.name) {
                // Its many experts have few routes each at 64 tokens.
                ((9, 0), "gpt-oss-120b") => &[1, 8, 64, 128, 256, 512, usize::MAX],
                ((9, 0), _) => &[1, 8, 32, 64, 128, 256, 512, usize::MAX],
                _ => &[1, 8, usize::MAX],
            };
            assert_eq!(limits, most, "{} on {compute:?}", model.spec.name);
            let last = on.schedule(usize::MAX);
            assert_eq!(last.family, expected, "{} on {compute:?}", model.spec.name);
            assert_eq!(last.tile_order, compute == (9, 0));
            assert!(on.launched().iter().all(|unit| unit.family.runs_on(compute)));
            let has = |name| on.launched().iter().any(|unit| unit.name == name);
            let launched = on.schedules.iter().flat_map(|schedule| schedule.infos());
            assert!(launched.chain(on.tools.infos()).all(|info| has(info.name)));
            assert!(on.launched().len() < model.units.len(), "nothing was left out");
        }
    }
}

#[test]
fn sums_of_broken_tiles_have_no_products_by_warpgroups() {
    let config = read("gpt-oss-20b", "config.json")
        .replace("\"intermediate_size\": 2880", "\"intermediate_size\": 2848");
    let model = compile(spec::parse("broken", &config, None).expect("supported")).expect("kernels");
    let on = model.on((9, 0));
    let limits: Vec<usize> = on.schedules.iter().map(|one| one.max_tokens).collect();
    assert_eq!(limits, [1, 8, 192, usize::MAX]);
    assert!(on.schedules.iter().all(|one| !one.tile_order && !one.unembed_tile_order));
    let lost: Vec<&str> = on.losses.iter().map(|loss| loss.what).collect();
    assert_eq!(lost, ["no wgmma for batches and prompts: inter 2848 is not a multiple of 64"]);
    assert_eq!(on.schedule(usize::MAX).family, Family::Portable);
}

/// Shared memory that a block can have on compute capability 8.6, 8.9 and 12.0 (CUDA programming guide, technical
/// specifications).
#[test]
fn nano_fits_into_the_smallest_shared_memory() {
    const MOST: u32 = 99 * 1024;
    let on = NANO.on((8, 9));
    for info in on.schedules.iter().flat_map(|schedule| schedule.infos()) {
        assert!(info.shared_bytes <= MOST, "{}: {} bytes", info.name, info.shared_bytes);
    }
}

#[test]
fn the_published_models_have_their_published_sizes() {
    // Weight bytes as published: every tensor of the checkpoint, MXFP4 scales included.
    for (model, layers, experts, bytes) in
        [(GPT_OSS_20B, 24, 32, 13_761_264_768), (GPT_OSS_120B, 36, 128, 65_248_815_744_usize)]
    {
        let spec = &model.spec;
        assert_eq!(spec.layers.len(), layers);
        assert_eq!((spec.hidden, spec.inter, spec.head_dim, spec.vocab), (2880, 2880, 64, 201_088));
        assert_eq!((spec.q_heads, spec.kv_heads), (64, 8));
        assert_eq!(spec.stop_tokens, [199_999, 200_002, 200_012]);
        assert!(spec.layers.iter().step_by(2).all(|&it| it == Layer::sliding(128, experts, 4)));
        assert!(spec.layers.iter().skip(1).step_by(2).all(|&it| it == Layer::full(experts, 4)));
        assert_eq!(model.graph.all_weights().map(|(info, _)| info.bytes()).sum::<usize>(), bytes);
    }
    assert_eq!(NANO.spec.vocab, GPT_OSS_20B.spec.vocab, "nano shares the tokenizer");
    assert_eq!(NANO.spec.stop_tokens, GPT_OSS_20B.spec.stop_tokens);
}

#[test]
fn constants_are_the_spec() {
    use crate::gpt_oss_120b::spec;
    let model = &GPT_OSS_120B.spec;
    assert_eq!(
        [spec::HIDDEN, spec::INTER, spec::MAX_EXPERTS, spec::LAYERS, spec::CONTEXT],
        [model.hidden, model.inter, model.max_experts(), model.layers.len(), model.context]
    );
    assert_eq!(
        [
            spec::HEAD_DIM,
            spec::Q_HEADS,
            spec::KV_HEADS,
            spec::MAX_TOP_K,
            spec::VOCAB,
            spec::MAX_WINDOW
        ],
        [
            model.head_dim,
            model.q_heads,
            model.kv_heads,
            model.max_top_k(),
            model.vocab,
            model.max_window()
        ]
    );
}

#[test]
fn models_are_found_by_either_name() {
    for (name, found) in [
        ("gpt-oss-20b", Some("gpt-oss-20b")),
        ("openai/gpt-oss-120b", Some("gpt-oss-120b")),
        ("nano", Some("nano")),
        ("gpt-oss", None),
        ("someone/gpt-oss-20b", None),
    ] {
        assert_eq!(find(name).map(|model| model.spec.name), found, "{name}");
    }
}

#[cfg(feature = "foreign")]
mod foreign {
    use super::*;
    use crate::{Error, from_folder};

    fn checkpoint(config: &str) -> tempfile::TempDir {
        let folder = tempfile::Builder::new().prefix("tuned-").tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("a file");
        let generation = read("gpt-oss-20b", "generation_config.json");
        std::fs::write(folder.path().join("generation_config.json"), generation).expect("a file");
        folder
    }

    #[test]
    fn an_equal_configuration_is_the_built_in_model() {
        let copy = checkpoint(&read("gpt-oss-20b", "config.json"));
        let model = from_folder(copy.path()).expect("a supported model");
        assert!(std::ptr::eq(model, GPT_OSS_20B));
        assert!(std::ptr::eq(from_folder(&folder("nano")).expect("nano"), NANO));
        // Without its second file, a call must still end the turn.
        std::fs::remove_file(copy.path().join("generation_config.json")).expect("removed");
        let model = from_folder(copy.path()).expect("a supported model");
        assert!(std::ptr::eq(model, GPT_OSS_20B), "{:?}", model.spec.stop_tokens);
    }

    #[test]
    fn another_configuration_is_compiled_and_named_like_its_folder() {
        let config = read("gpt-oss-20b", "config.json")
            .replace("\"num_local_experts\": 32", "\"num_local_experts\": 16");
        let other = checkpoint(&config);
        let model = from_folder(other.path()).expect("a supported model");
        assert_eq!(model.spec.max_experts(), 16);
        assert!(model.spec.name.starts_with("tuned-"), "{}", model.spec.name);
        assert!(!model.units.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let empty = tempfile::tempdir().expect("a folder");
        let error = from_folder(empty.path()).expect_err("no config").to_string();
        assert!(error.contains("config.json") && error.contains("checkpoint"), "{error}");
        let config =
            read("gpt-oss-20b", "config.json").replace("\"head_dim\": 64", "\"head_dim\": 80");
        let error = from_folder(checkpoint(&config).path()).expect_err("head_dim 80");
        assert!(matches!(error, Error::Spec { .. }) && error.to_string().contains("head_dim"));
    }
}

#[test]
fn predictions_follow_bytes_flops_and_geometry() {
    use ossmith_plan::{Arch, Rates};
    let model = GPT_OSS_20B.on((9, 0));
    let rates = Rates::of(&Arch::H200);
    let of = |shape: &StepShape, rates: &Rates, phase: &str| {
        let all = model.predictions(model.schedule(shape.tokens), shape, rates);
        all.into_iter().find(|(total, _)| total.phase.name == phase).expect(phase).1
    };
    let decode = StepShape::decode(&model, 1, 1024);
    let cost = model.step_cost(model.schedule(1), &decode);
    let all = model.predictions(model.schedule(1), &decode, &rates);
    let sum: f64 = all.iter().map(|(_, prediction)| prediction.us()).sum();
    let least = cost.bytes() / rates.gb_per_s / 1e3;
    assert!(sum > least && sum < 2.0 * least, "{sum} µs, at least {least}");
    let unembed = of(&decode, &rates, "unembed");
    assert_eq!(unembed.bound(), "bytes");
    let faster = of(&decode, &rates.with_bandwidth(2.0 * rates.gb_per_s), "unembed");
    assert_eq!(faster.bytes_us, unembed.bytes_us / 2.0);
    // 180 row tiles on 132 SMs: the busiest has two, and the mean is 1.36.
    let down = of(&decode, &rates, "moe_down_residual");
    assert_eq!(down.bound(), "busiest SM");
    let prompt = StepShape::prompt(&model, 2048, 0);
    assert_eq!(of(&prompt, &rates, "moe_up_swiglu").bound(), "FLOPs");
    // Attention of a prompt reads each key once, and computes 4 x q_width x keys operations per token and layer.
    let spec = &model.spec;
    let full = prompt.keys * spec.layers.iter().filter(|layer| layer.window.is_none()).count();
    let sliding = 128 * spec.layers.iter().filter(|layer| layer.window.is_some()).count();
    let flops = (4 * spec.q_heads * spec.head_dim * 2048 * (full + sliding)) as f64;
    let attention = of(&prompt, &rates, "attention");
    assert!((attention.flops_us * rates.tflops * 1e6 / flops - 1.0).abs() < 1e-9);
    assert!(attention.bytes_us < attention.flops_us / 10.0);
}

/// Worked out by hand from the published dimensions of gpt-oss-20b: 24 layers, every other with a window of 128; hidden and inner
/// width 2,880; 64 query and 8 key heads of 64; 32 experts, 4 per token; 201,088 tokens; bf16, and MXFP4 of 17 bytes per 32
/// values for the experts.
#[test]
fn the_bytes_of_a_step_are_those_of_the_published_dimensions() {
    let model = GPT_OSS_20B.on((9, 0));
    // Of one layer: a matrix of 5,120 rows, its bias and a norm; then a matrix of 2,880 rows of 4,096, its bias, a norm, and
    // the router's 32 rows and biases; and a sink for each query head.
    let qkv = 5_120 * 2_880 * 2 + 5_120 * 2 + 2_880 * 2;
    let out = 2_880 * 4_096 * 2 + 2_880 * 2 + 2_880 * 2 + 32 * 2_880 * 2 + 32 * 2;
    let sinks = 64 * 2;
    // Of one expert: 5,760 and 2,880 rows of 2,880 values, with their biases.
    let row: usize = 2_880 / 32 * 17;
    let expert = 5_760 * row + 5_760 * 2 + 2_880 * row + 2_880 * 2;
    // A key and a value.
    let of_key = 2 * 8 * 64 * 2;
    let head = 201_088 * 2_880 * 2 + 2_880 * 2;
    let decode = |tokens: usize| StepShape::decode(&model, tokens, 1_024);
    for (regime, shape, experts, full_keys, sliding_keys) in [
        ("decode", decode(1), 4.0, 1_024, 128),
        // Each sequence reads its own keys; 16 tokens miss an expert with (28/32)^16.
        ("batched", decode(16), 32.0 * (1.0 - 0.875_f64.powi(16)), 16 * 1_024, 16 * 128),
        // A prompt's tokens see 256 keys on average and 255 more together.
        ("prefill", StepShape::prompt(&model, 512, 0), 32.0, 256 + 255, 128 + 255),
    ] {
        let schedule = model.schedule(shape.tokens);
        assert_eq!(schedule.regime.name(), regime);
        let experts_bytes = 24.0 * experts * expert as f64;
        let cache = 12 * (full_keys + sliding_keys) * of_key;
        let dense = 24 * (qkv + out + sinks) + head + shape.tokens * 2_880 * 2;
        let want = experts_bytes + cache as f64 + dense as f64;
        let cost = model.step_cost(schedule, &shape);
        assert_eq!(cost.cache_bytes, cache as f64, "{regime}");
        // Where a layer's last kernel applies the norm of the layer after it, that is counted for the last layer too: one
        // norm more than there are.
        let more = if regime == "decode" { 0.0 } else { 2_880.0 * 2.0 };
        let error = (cost.bytes() - want - more).abs();
        assert!(error < 1.0, "{regime}: {} bytes, by hand {want}", cost.bytes());
    }
}

#[test]
fn gemms_have_the_shapes_of_the_weights_and_all_flops_but_those_of_attention() {
    let model = &GPT_OSS_20B;
    let shape = StepShape::decode(model, 64, 1_024);
    let totals = model.phase_totals(model.schedule(64), &shape);
    let mut shapes = Vec::new();
    for total in &totals {
        let gemms = model.gemms(total.phase, 0, &shape);
        if !total.phase.computes(Op::Attention) {
            let cost = model.phase_cost(total.phase, 0, &shape);
            assert_eq!(
                gemms.iter().map(Gemm::flops).sum::<f64>(),
                cost.flops,
                "{}",
                total.phase.name
            );
        }
        shapes.extend(gemms.iter().map(|gemm| (gemm.m, gemm.n, gemm.k)));
    }
    // qkv, attn_out, router, the experts' two over 64 x 4 routes, and the unembedding.
    let layer = [(64, 5_120, 2_880), (64, 2_880, 4_096), (64, 32, 2_880)];
    let experts = [(256, 5_760, 2_880), (256, 2_880, 2_880), (64, 201_088, 2_880)];
    assert_eq!(shapes, [layer, experts].concat());
}
