//! Facts that the emitted CUDA and the launch both state, computed once more from the models' numbers.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use ossmith_plan::{Arch, KernelInfo, Model, Unit};

use crate::ALL;

/// The value of a constant in a unit's text, if it has it.
fn constant<'a>(unit: &'a Unit, name: &str) -> Option<&'a str> {
    let line = unit.source.lines().find(|line| {
        line.starts_with("constexpr") && line.split([' ', '[']).any(|word| word == name)
    })?;
    let (_, value) = line.split_once(" = ")?;
    value.split(';').next()
}

fn integer(unit: &Unit, name: &str) -> Option<u32> {
    constant(unit, name).map(|value| value.parse().expect(name))
}

fn float(text: &str) -> f64 {
    text.trim().trim_end_matches('f').parse().expect("a float literal")
}

/// Every unit that a model launches on some device, with how it is launched and the device.
fn launched(model: &Model) -> BTreeMap<&'static str, (&'static Unit, KernelInfo, Arch)> {
    let mut all = BTreeMap::new();
    for arch in [Arch::H100, Arch::H200, Arch::PORTABLE] {
        let on = model.for_arch(&arch);
        let infos = on.schedules.iter().flat_map(|schedule| schedule.infos());
        for info in infos.chain(on.tools.infos()) {
            let unit = on.units.iter().find(|unit| unit.name == info.name).expect(info.name);
            all.insert(info.name, (unit, info, arch));
        }
    }
    all
}

#[test]
fn a_launch_reserves_the_shared_memory_that_the_text_asserts() {
    for model in ALL {
        let mut asserted = 0;
        for (name, (unit, info, arch)) in launched(model) {
            let stated = integer(unit, "kSharedBytes");
            assert_eq!(stated.unwrap_or(0), info.shared_bytes, "{name} of {}", model.spec.name);
            assert_eq!(integer(unit, "kThreads"), Some(info.threads), "{name}");
            let most = Arch::MAX_SHARED_BYTES;
            assert!(info.shared_bytes as usize <= most, "{name} on {}", arch.name);
            // What the kernel lays out there is compared with it by the compiler.
            asserted += usize::from(unit.source.contains("static_assert(reserves<"));
            let uses = unit.source.contains("extern __shared__");
            assert_eq!(uses, stated.is_some(), "{name} of {}", model.spec.name);
        }
        assert!(asserted > 10, "{asserted} kernels of {} assert it", model.spec.name);
    }
}

/// Registers are allocated by warp in units of 256 (CUDA C++ programming guide, technical specifications), and a quarter of
/// an SM has a quarter of them and of the warps.
#[test]
fn registers_are_the_most_that_let_a_number_of_blocks_share_an_sm() {
    for model in ALL {
        for (name, (unit, info, arch)) in launched(model) {
            let most = unit.max_registers;
            let fit = |registers: u32, blocks: u32| {
                let warps = (info.threads.div_ceil(32) * blocks).div_ceil(4);
                warps * (registers * 32).div_ceil(256) <= arch.registers_per_sm / 4 / 256
            };
            let is_bound_of = |&blocks: &u32| {
                fit(most, blocks)
                    && (most == 255 || most.is_multiple_of(8) && !fit(most + 1, blocks))
            };
            let stated = integer(unit, "kBlocksPerSm");
            let bound = stated.filter(is_bound_of).or_else(|| (1..=32).find(is_bound_of));
            assert!(bound.is_some(), "{name}: {most} registers of {} threads", info.threads);
            if let Some(blocks) = stated {
                assert_eq!(bound, Some(blocks), "{name}: {most} registers");
                let launch_bounds = "__launch_bounds__(spec::kThreads, spec::kBlocksPerSm)";
                assert!(unit.source.contains(launch_bounds), "{name}");
            }
        }
    }
}

/// YaRN as in its paper (Peng et al., 2023, sections 3.2 and 3.4), in double precision.
#[test]
fn rotary_constants_are_yarns() {
    let mut units = 0;
    for model in ALL {
        let (rope, dims) = (&model.spec.rope, model.spec.head_dim);
        let turns_at = |turns: f64| {
            let pair = (rope.original_context as f64 / (turns * 2.0 * PI)).ln() / rope.theta.ln();
            pair * dims as f64 / 2.0
        };
        let (low, high) = (turns_at(rope.beta_fast), turns_at(rope.beta_slow));
        assert!(!rope.truncate && rope.factor > 1.0, "{} has another rule", model.spec.name);
        for (name, (unit, ..)) in launched(model) {
            let Some(concentration) = constant(unit, "kConcentration") else { continue };
            units += 1;
            let expected = 0.1 * rope.factor.ln() + 1.0;
            assert!((float(concentration) - expected).abs() < 1e-7, "{name}: {concentration}");
            let table = unit.source.split("kInvFreq[").nth(1).expect("a table beside it");
            let (length, rest) = table.split_once(']').expect("its length");
            let (values, _) = rest.split_once('}').expect("its end");
            let values = values.trim_start_matches([' ', '=', '{', '\n']);
            let values = values.split(',').filter(|value| !value.trim().is_empty());
            let values: Vec<f64> = values.map(float).collect();
            assert_eq!((length.parse(), values.len()), (Ok(dims / 2), dims / 2), "{name}");
            for (pair, value) in values.iter().enumerate() {
                let plain = rope.theta.powf(-2.0 * pair as f64 / dims as f64);
                let share = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let expected = plain * (1.0 - share) + plain / rope.factor * share;
                let error = (value / expected - 1.0).abs();
                assert!(error < 2e-7, "{name}: pair {pair} is {value}, not {expected}");
            }
        }
    }
    assert!(units > 0, "no kernel rotates");
}
