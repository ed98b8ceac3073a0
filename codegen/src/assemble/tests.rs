//! What is compiled follows what is fused, what is overridden and what the device has.

use ossmith_plan::{Arch, Auxiliary, Axis, Family, Grid, Layer, Op, Regime, Shard};

use super::*;
use crate::fuse::{Rule, Rules, apply, rules};
use crate::testing::TINY;

fn compiled(spec: ModelSpec) -> Model {
    assemble(spec, &Arch::H100, &Overrides::default()).unwrap_or_else(|why| panic!("{why}"))
}

/// Names of the kernels that a decode step of TINY runs when it is fused by these rules, in launch order.
fn kernels_by(rules: &Rules) -> Result<Vec<&'static str>, ScheduleError> {
    let graph = crate::testing::graph();
    let local = Shard::WHOLE.local(&TINY).expect("one rank");
    let (steps, _) = steps(&local.spec(&TINY), &Arch::H100);
    let is_decode = |step: &&Step| step.regime == Regime::Decode { max_tokens: 8 };
    let step = steps.iter().find(is_decode).expect("a decode step");
    let fused = apply(&graph, rules);
    let planned =
        plan_step(&fused, step, &Dimensions::whole(&TINY), &Arch::H100, &Overrides::default())?;
    let mut names: Vec<&'static str> = Vec::new();
    for kernel in planned.kernels() {
        if !names.contains(&kernel.plan.info.name) {
            names.push(kernel.plan.info.name);
        }
    }
    Ok(names)
}

#[test]
fn a_changed_fusion_rule_changes_the_kernels() {
    let regime = Regime::Decode { max_tokens: 8 };
    let by_rule = kernels_by(rules(regime)).expect("the regime's own rules");
    assert_eq!(
        by_rule,
        [
            "embed",
            "rmsnorm_qkv_rope_decode8",
            "attention_sliding",
            "attn_out_residual_decode8",
            "moe_up_swiglu_decode8",
            "moe_down_residual_decode8",
            "attention_full",
            "unembed_decode8",
            "sample",
            "unembed_shadow_decode8",
            "sample_shadow_decode8",
        ]
    );
    // The norm before the unembedding as a phase of its own: one rule becomes two.
    let own = |name, ops| Rule { name, ops, next: &[], auxiliary: None };
    let head: &'static [Rule] = vec![
        own("rmsnorm", &[Op::RmsNorm]),
        own("unembed", &[Op::Linear]),
        Rule { auxiliary: Some(Auxiliary::Sample), ..own("sample", &[]) },
    ]
    .leak();
    let split = kernels_by(&Rules { head, ..*rules(regime) }).expect("kernels for both");
    let head_kernels = ["rmsnorm", "unembed_decode8", "sample"];
    assert_eq!(split[by_rule.len() - 4..][..3], head_kernels);
    let unfused = compiled_head(head);
    assert!(unfused.contains(&"unembed_gemm.cu"), "a GEMM of normed rows: {unfused:?}");
}

/// Blocks that wait for each other must all be there: per SM no more than registers, threads and shared memory allow.
#[test]
fn a_grid_is_resident_up_to_what_an_sm_holds() {
    let (steps, _) = steps(&TINY, &Arch::H100);
    let fused = apply(&crate::testing::graph(), rules(steps[0].regime));
    let whole = Dimensions::whole(&TINY);
    let planned = plan_step(&fused, &steps[0], &whole, &Arch::H100, &Overrides::default());
    let planned = planned.unwrap_or_else(|why| panic!("{why}"));
    let mut plan = planned.kernels().next().expect("a kernel").plan.clone();
    let mut most_per_sm = |threads, shared_bytes, blocks_per_sm| {
        (plan.info.threads, plan.info.shared_bytes) = (threads, shared_bytes);
        plan.blocks_per_sm = blocks_per_sm;
        let mut fits = |y, z| {
            plan.info.grid = Grid { x: Axis::PerSm(1), y: Axis::Fixed(y), z: Axis::Fixed(z) };
            plan.is_resident(&Arch::H100)
        };
        let most = (1..40).take_while(|&count| fits(count, 1)).count();
        // It does not matter along which axis there are more.
        assert_eq!((1..40).take_while(|&count| fits(1, count)).count(), most);
        assert!(!fits(2, most as u32 / 2 + 1));
        most
    };
    // By registers, by threads, and by shared memory.
    assert_eq!(most_per_sm(256, 0, 4), 4);
    assert_eq!(most_per_sm(1024, 0, 4), 2);
    assert_eq!(most_per_sm(256, 100 << 10, 4), 2);
}

/// Bodies that the head's kernels have when it is fused by these rules.
fn compiled_head(head: &'static [Rule]) -> Vec<&'static str> {
    let (steps, _) = steps(&TINY, &Arch::H100);
    let rules = Rules { head, ..*rules(steps[0].regime) };
    let fused = apply(&crate::testing::graph(), &rules);
    let planned =
        plan_step(&fused, &steps[0], &Dimensions::whole(&TINY), &Arch::H100, &Overrides::default());
    let planned = planned.unwrap_or_else(|why| panic!("{why}"));
    planned.head.iter().flat_map(|(_, kernels)| kernels).map(|it| it.plan.body.file).collect()
}

#[test]
fn a_fusion_that_no_kernel_computes_is_named() {
    let regime = Regime::Decode { max_tokens: 8 };
    let own = |name, ops| Rule { name, ops, next: &[], auxiliary: None };
    let head: &'static [Rule] = vec![own("norm_and_logits", &[Op::RmsNorm, Op::Linear])].leak();
    let layer: Vec<Rule> = rules(regime)
        .layer
        .iter()
        .flat_map(|&rule| match rule.name {
            "moe_up_swiglu" => {
                vec![
                    own("moe_topk_up", &[Op::TopK, Op::ExpertLinear]),
                    own("swiglu", &[Op::SwiGlu]),
                ]
            }
            _ => vec![rule],
        })
        .collect();
    let rules = Rules { layer: layer.leak(), head, ..*rules(regime) };
    let error = kernels_by(&rules).expect_err("no such kernel").to_string();
    let expected =
        "no kernel computes phase moe_topk_up, which fuses TopK + ExpertLinear of GateUp";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn every_launched_kernel_has_a_unit_and_no_unit_is_left_over() {
    let model = compiled(TINY);
    let launched: Vec<&str> =
        model.schedules.iter().flat_map(Schedule::infos).map(|i| i.name).collect();
    for unit in model.units {
        let tool = model.tools.infos().iter().any(|info| info.name == unit.name);
        assert!(tool || launched.contains(&unit.name), "{} is never launched", unit.name);
    }
    assert!(launched.iter().all(|name| model.units.iter().any(|unit| unit.name == *name)));
}

#[test]
fn overrides_change_the_kernel_that_they_name_and_no_other() {
    let own = compiled(TINY);
    let kernel = "moe_down_residual_decode1";
    let overrides = Overrides::one(kernel, "stages", 3);
    let tuned = assemble(TINY, &Arch::H100, &overrides).unwrap_or_else(|why| panic!("{why}"));
    let changed: Vec<&str> = own
        .units
        .iter()
        .zip(tuned.units)
        .filter(|(own, tuned)| own.source != tuned.source)
        .map(|(own, _)| own.name)
        .collect();
    assert_eq!(changed, [kernel]);
    for (overrides, expected) in [
        (
            Overrides::one(kernel, "stages", 99),
            "moe_down_residual_decode1: stages is 99; legal: 1 to 8",
        ),
        (
            Overrides::one(kernel, "colour", 1),
            "moe_down_residual_decode1 has no tunable colour; its tunables are warps",
        ),
        (Overrides::one("moe", "stages", 1), "no kernel is named moe; there are embed"),
    ] {
        let error = assemble(TINY, &Arch::H100, &overrides).expect_err("refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn tunables_name_what_they_trade() {
    let all = tunables(&TINY, &Arch::H100, &Overrides::default()).expect("a schedule");
    let count: usize = all.iter().map(|(_, tunables)| tunables.len()).sum();
    assert!(count > 60, "{count} tunables of {} kernels", all.len());
    for (kernel, tunables) in &all {
        for tunable in tunables {
            assert!(tunable.legal.allows(tunable.value), "{kernel}: {tunable:?}");
            assert!(
                tunable.legal.values().len() > 1 || tunable.name == "splits",
                "{kernel}: {tunable:?}"
            );
            assert!(!tunable.trades.is_empty(), "{kernel}: {tunable:?}");
        }
    }
}

#[test]
fn h100_and_h200_have_the_same_choices() {
    let (h100, h200) = (compiled(TINY), assemble(TINY, &Arch::H200, &Overrides::default()));
    let h200 = h200.unwrap_or_else(|why| panic!("{why}"));
    let texts = |model: &Model| model.units.iter().map(|unit| unit.source).collect::<Vec<_>>();
    assert_eq!(texts(&h100), texts(&h200));
}

#[test]
fn a_portable_model_has_portable_schedules() {
    let model = assemble(TINY, &Arch::PORTABLE, &Overrides::default());
    let model = model.unwrap_or_else(|why| panic!("{why}"));
    assert!(model.schedules.iter().all(|schedule| schedule.family == Family::Portable));
    assert!(model.losses.is_empty() && model.cannot_run().is_none());
}

#[test]
fn what_a_shape_loses_is_said_by_name() {
    let broken = ModelSpec { inter: 1440, hidden: 128, ..TINY };
    let losses: Vec<&str> = compiled(broken).losses.iter().map(|loss| loss.what).collect();
    assert_eq!(losses, ["no wgmma for batches and prompts: inter 1440 is not a multiple of 64"]);

    // A block of the experts' second GEMV keeps two shares of a row tile of 16,384 elements.
    let wide = ModelSpec { inter: 16_384, hidden: 128, ..TINY };
    let model = compiled(wide);
    let losses: Vec<&str> = model.losses.iter().map(|loss| loss.what).collect();
    assert_eq!(losses.len(), 2, "{losses:?}");
    let expected = "no decode schedule for steps of one token: moe_down_residual_decode1 needs";
    assert!(losses[0].starts_with(expected), "{losses:?}");
    assert_eq!(model.on((8, 0)).losses.len(), 2, "on any device");
    // Other schedules take its steps.
    assert_eq!(model.cannot_run(), None);
    assert_eq!(model.on((9, 0)).schedule(1).regime, Regime::Batched);
    assert_eq!(model.on((8, 0)).schedule(1).regime, Regime::Prefill);
    assert!(model.units.iter().all(|unit| !unit.name.ends_with("decode1")));
}

#[test]
fn what_a_device_has_no_room_for_is_lost_there() {
    let model = compiled(ModelSpec { hidden: 8192, ..TINY });
    let lost = |compute| model.on(compute).losses.iter().map(|loss| loss.what).collect::<Vec<_>>();
    assert!(lost((9, 0)).iter().all(|what| what.starts_with("no wgmma")), "{:?}", lost((9, 0)));
    assert!(lost((8, 0)).is_empty(), "{:?}", lost((8, 0)));
    let small = lost((8, 9));
    let expected = "no decode schedule for steps of up to 8 tokens: ";
    assert!(
        small[0].starts_with(expected) && small[0].ends_with("a block has 101376"),
        "{small:?}"
    );
    assert!(matches!(model.on((9, 0)).schedule(8).regime, Regime::Decode { .. }));
    assert_eq!(model.on((8, 9)).schedule(8).regime, Regime::Prefill);
}

#[test]
fn layers_may_have_windows_of_their_own_but_not_experts() {
    const WINDOWS: &[Layer] =
        &[Layer::sliding(20, 5, 2), Layer::full(5, 2), Layer::sliding(40, 5, 2)];
    let model = compiled(ModelSpec { layers: WINDOWS, ..TINY });
    assert_eq!(model.graph.classes, [0, 1, 2]);
    let names: Vec<&str> = model.units.iter().map(|unit| unit.name).collect();
    for name in ["attention_sliding20", "attention_sliding40_tiled", "attention_full"] {
        assert!(names.contains(&name), "{names:?}");
    }
    const EXPERTS: &[Layer] = &[Layer::full(5, 2), Layer::full(6, 2)];
    let spec = ModelSpec { layers: EXPERTS, ..TINY };
    for compute in [(9, 0), (8, 0)] {
        let why = compiled(spec).on(compute).cannot_run().expect("no kernels");
        let numbers = "layer 1 has 6 experts of which it chooses 2, layer 0 has 5 and chooses 2";
        assert!(why.contains(numbers) && why.contains("--backend cpu"), "{why}");
    }
}

/// Two key/value heads and three tiles of inner width.
const DIVISIBLE: ModelSpec = ModelSpec { kv_heads: 2, inter: 160, ..TINY };

#[test]
fn a_rank_has_its_own_widths_and_names_and_leaves_the_rest_as_it_is() {
    let whole = compiled(DIVISIBLE);
    for shard in Shard::all(2) {
        let arch = Arch::H100;
        let rank = assemble_rank(DIVISIBLE, shard, &arch, &Overrides::default());
        let rank = rank.unwrap_or_else(|why| panic!("{why}"));
        let text = |model: &Model, name: &str| {
            model.units.iter().find(|unit| unit.name == name).map(|unit| unit.source)
        };
        for unit in rank.units {
            match unit.name.strip_suffix("_of2") {
                Some("allreduce_rmsnorm" | "join_logits" | "moe_unpermute") => {}
                Some(of_whole) => assert!(text(&whole, of_whole).is_some(), "{}", unit.name),
                None => assert_eq!(Some(unit.source), text(&whole, unit.name), "{}", unit.name),
            }
        }
        let inter = [128, 32][shard.rank];
        let down = text(&rank, "moe_down_residual_decode1_of2").expect("a kernel");
        assert!(down.contains(&format!("kInter = {inter};")), "{down}");
        for adds in ["attn_out_residual_decode1_of2", "moe_down_residual_decode8_of2"] {
            assert!(text(&rank, adds).is_some_and(|it| it.contains("#define RANKS 2")), "{adds}");
        }
        for unit in rank.units {
            let defined = unit.source.contains("#define RANKS 2");
            assert_eq!(defined, unit.ranks == 2, "{}", unit.name);
        }
        let others = rank.units.iter().filter(|unit| unit.source.contains("RANKS"));
        // Two that add over ranks for 1 and for 8 tokens each, one for all other steps, and one that joins logits.
        assert_eq!(others.count(), 6, "kernels that exchange");
        assert_eq!(rank.cannot_run(), None);
        assert_eq!(rank.rank_spec().inter, inter);
        assert_eq!(rank.graph.weight(Weight::Down, 0).shape[2], inter);
        assert_eq!(rank.graph.weight(Weight::Embedding, 0).shape[0], DIVISIBLE.vocab);
    }
    assert!(whole.units.iter().all(|unit| !unit.source.contains("RANKS")));
}

#[test]
fn a_model_that_ranks_cannot_share_is_refused_with_the_numbers() {
    let shard = Shard { rank: 0, of: 4 };
    let refused = assemble_rank(DIVISIBLE, shard, &Arch::H100, &Overrides::default());
    let error = refused.expect_err("two heads").to_string();
    assert!(error.contains("2 key/value heads cannot be shared by 4 ranks"), "{error}");
}

/// The published models' widths.
const WIDE: ModelSpec = ModelSpec {
    hidden: 2880,
    inter: 2880,
    q_heads: 64,
    kv_heads: 8,
    vocab: 201_088,
    layers: &[Layer::sliding(128, 128, 4), Layer::full(128, 4)],
    ..TINY
};

/// A block that waits for another rank's block must not keep one that it waits for from its place: schedules whose
/// kernels could are left out, and the published models lose none.
#[test]
fn all_blocks_that_exchange_run_at_once() {
    let rank = |spec, shard, arch: &Arch| {
        let model = assemble_rank(spec, shard, arch, &Overrides::default());
        model.unwrap_or_else(|why| panic!("{why}"))
    };
    for of in [2, 4, 8] {
        for shard in Shard::all(of) {
            for arch in [Arch::H100, Arch::H200] {
                let model = rank(WIDE, shard, &arch);
                assert!(model.losses.is_empty(), "{:?}", model.losses);
                assert!(matches!(model.schedule(8).regime, Regime::Decode { .. }));
            }
        }
    }
    // 512 row tiles are more than two blocks for each SM.
    let shard = Shard { rank: 1, of: 2 };
    let model = rank(ModelSpec { hidden: 8192, ..WIDE }, shard, &Arch::H100);
    let losses: Vec<&str> = model.losses.iter().map(|loss| loss.what).collect();
    let expected =
        "no decode schedule of several ranks for steps of up to 8 tokens: not all blocks of";
    assert!(losses.iter().any(|what| what.starts_with(expected)), "{losses:?}");
    assert_eq!(model.schedule(1).regime, Regime::Batched);
    assert_eq!(model.cannot_run(), None);
}
