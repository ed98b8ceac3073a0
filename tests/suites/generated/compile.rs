//! Every generated unit compiles, with no GPU, within the limits that its kernel is launched with.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ossmith::unstable::cuda::{Sources, nvrtc};
use ossmith_codegen::spec;
use ossmith_plan::{Arch, Axis, Family, Grid, KernelInfo, Model, Shard, Unit};
use ossmith_tests::{not_checked, root};

/// The architecture that kernels are tuned for, on which they must keep their limits.
const TUNED: &str = "sm_90a";
/// The architectures that units for any device must compile for too, without limits.
const PORTABLE: [&str; 3] = ["sm_80", "sm_89", "sm_120"];

/// Fixtures whose kernels must compile, without limits.
const OTHER_SHAPES: [&str; 4] = ["tiny", "window", "deep-rope", "odd"];

/// Whether a unit must keep registers and shared memory within what its launch has, and not spill.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limits {
    Held,
    Free,
}

#[test]
fn every_unit_compiles_within_its_limits() {
    match nvrtc::version() {
        Ok(_) => {}
        // A compiler that was named and cannot be used is a failure, one that nobody has is not.
        Err(why) if std::env::var_os("OSSMITH_NVRTC").is_some() => panic!("{why}"),
        Err(why) => return not_checked("that generated kernels compile", &why.to_string()),
    }
    let (mut work, mut seen) = (Vec::new(), BTreeSet::new());
    // The schedules of each profile that was tuned are variants of their model.
    let variants = ossmith_models::ALL.into_iter().flat_map(|model| {
        let tuned = model.tuned.iter().map(|tuned| {
            let variant: &'static Model = Box::leak(Box::new(model.for_arch(&tuned.arch)));
            variant
        });
        std::iter::once(model).chain(tuned)
    });
    for model in variants {
        // A unit that another model has too is compiled once.
        for unit in model.units.iter().filter(|unit| seen.insert(unit.source)) {
            work.push((model, unit, TUNED, Limits::Held));
            if unit.family == Family::Portable {
                work.extend(PORTABLE.map(|target| (model, unit, target, Limits::Free)));
            }
        }
    }
    // What each of two ranks computes of a published model.
    for model in [ossmith_models::GPT_OSS_20B, ossmith_models::GPT_OSS_120B] {
        for shard in Shard::all(2) {
            let rank = ossmith_codegen::compile_rank(model.spec, shard, &Arch::BUILT_IN);
            let rank = rank.unwrap_or_else(|why| panic!("{why}"));
            let own = rank.units.iter().filter(|unit| seen.insert(unit.source));
            work.extend(own.map(|unit| (rank, unit, TUNED, Limits::Held)));
        }
    }
    // Small and odd shapes, which the schedules were not chosen for.
    for name in OTHER_SHAPES {
        let config = root().join("tests/fixtures").join(name).join("config.json");
        let config = std::fs::read_to_string(config).expect("a committed fixture");
        let spec = spec::parse(name, &config, None).unwrap_or_else(|why| panic!("{name}: {why}"));
        let model = ossmith_codegen::compile(spec).unwrap_or_else(|why| panic!("{name}: {why}"));
        let model: &'static Model = Box::leak(Box::new(model));
        let own = model.units.iter().filter(|unit| seen.insert(unit.source));
        work.extend(own.map(|unit| (model, unit, TUNED, Limits::Free)));
    }
    let (next, offences) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((model, unit, target, limits)) =
                    work.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let found = problems(model, unit, target, *limits);
                    offences.lock().expect("no thread panicked").extend(found);
                }
            });
        }
    });
    let mut offences = offences.into_inner().expect("no thread panicked");
    offences.sort();
    assert!(offences.is_empty(), "units break their limits\n  {}", offences.join("\n  "));
}

/// What is wrong with a unit on a target, a line each.
fn problems(model: &Model, unit: &Unit, target: &str, limits: Limits) -> Vec<String> {
    let name = format!("{}, {} for {target}", model.spec.name, unit.name);
    let sources = match Sources::of(model) {
        Ok(sources) => sources,
        Err(why) => return vec![format!("{name}: {why}")],
    };
    let used = match nvrtc::compile(&sources, unit, target) {
        Ok(cubin) => cubin.resources,
        Err(why) => return vec![format!("{name}: {why}")],
    };
    if limits == Limits::Free {
        return Vec::new();
    }
    let launches: Vec<KernelInfo> = launches(model).filter(|k| k.name == unit.name).collect();
    let mut problems = Vec::new();
    let mut expect = |good: bool, problem: String| {
        if !good {
            problems.push(format!("{name}: {problem}"));
        }
    };
    expect(used.registers > 0, "ptxas reported no registers".into());
    expect(
        used.registers <= unit.max_registers,
        format!("{} registers, at most {} are allowed", used.registers, unit.max_registers),
    );
    expect(used.spill_bytes == 0, format!("spills {} bytes", used.spill_bytes));
    expect(used.stack_bytes == 0, format!("{} bytes of stack", used.stack_bytes));
    expect(!launches.is_empty(), "no schedule launches it".into());
    for launch in launches {
        let shared = (used.shared_bytes + launch.shared_bytes) as usize;
        let limit = Arch::block_shared_bytes((9, 0));
        expect(
            shared <= limit,
            format!("{shared} bytes of shared memory, a block can have {limit}"),
        );
        let registers = used.registers.next_multiple_of(8) * launch.threads;
        expect(
            registers <= Arch::H100.registers_per_sm,
            format!("{registers} registers for a block of {} threads", launch.threads),
        );
        if unit.ranks > 1 {
            // A block may wait for any block of another rank.
            let per_sm = (model.arch.shared_bytes_per_sm / (shared + 1024))
                .min((model.arch.registers_per_sm / registers) as usize);
            let (blocks, places) = (fixed_blocks(&launch), per_sm * model.arch.sms);
            expect(
                blocks.is_some_and(|blocks| blocks <= places),
                format!("{blocks:?} blocks wait for each other and {places} run at once"),
            );
        }
    }
    problems
}

/// How many blocks a launch has, if that depends on nothing.
fn fixed_blocks(launch: &KernelInfo) -> Option<usize> {
    let Grid { x, y, z } = launch.grid;
    [x, y, z].into_iter().try_fold(1, |blocks, axis| match axis {
        Axis::Fixed(count) => Some(blocks * count as usize),
        _ => None,
    })
}

/// Every launch of every schedule, and of the tools beside them.
fn launches(model: &Model) -> impl Iterator<Item = KernelInfo> {
    model.schedules.iter().flat_map(|schedule| schedule.infos()).chain(model.tools.infos())
}
