//! What GEMVs and GEMMs cost to run, read from their disassembly. Decode kernels have few enough instructions per weight
//! value, and the instructions that make them fast; wgmma kernels issue one wgmma before the last has ended. A change
//! that makes the compiler spill, move loads, expand addresses or wait is found here, without a GPU.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ossmith::unstable::cuda::{Sources, nvrtc};
use ossmith_plan::{Model, Unit};
use ossmith_tests::not_checked;

/// Weight values of one lane in one `mma.m16n8k16`.
const VALUES_PER_MMA: f64 = 8.0;

/// The largest number of instructions per weight value between the first wait for weights and the last copy of more, by
/// format. MXFP4 pays for its decoding: 1.1 value operations, half a scale and the address arithmetic.
const MAX_BF16: f64 = 2.3;
const MAX_MXFP4: f64 = 2.6;

/// Decode GEMVs: the name without its token count, and the largest number of instructions per value.
const GEMVS: [(&str, f64); 5] = [
    ("rmsnorm_qkv_rope_decode", MAX_BF16),
    ("attn_out_residual_decode", MAX_BF16),
    ("unembed_decode", MAX_BF16),
    ("moe_up_swiglu_decode", MAX_MXFP4),
    ("moe_down_residual_decode", MAX_MXFP4),
];

#[test]
fn decode_gemvs_have_few_instructions() {
    check("instructions per weight value, from the disassembly", |unit, text| {
        let max = ceiling(unit)?;
        let code: Vec<String> = text().lines().filter_map(mnemonic).collect();
        Some(problems(&code, max))
    });
}

/// Every wait lets three wgmma instructions run on. A compiler that cannot follow the registers of asynchronous
/// instructions serializes them instead, and reports it nowhere else.
#[test]
fn wgmma_instructions_overlap() {
    check("that wgmma instructions overlap, from the disassembly", |unit, text| {
        let headers = ["tile/wgmma.cuh", "tile/specialized.cuh"];
        if !headers.iter().any(|header| unit.source.contains(&format!("#include \"{header}\""))) {
            return None;
        }
        let text = text();
        let issued = text.matches(" HGMMA.64x").count();
        let overlapping = text.matches("WARPGROUP.DEPBAR.LE gsb0, 0x3").count();
        let good = issued > 0 && issued == overlapping;
        let problem =
            format!("{issued} wgmma instructions, {overlapping} waits that let others run on");
        Some(if good { Vec::new() } else { vec![problem] })
    });
}

/// Disassembles the published models' units if `problems` reads their text, and fails if it finds any problem.
fn check(what: &str, problems: impl Fn(&Unit, &dyn Fn() -> String) -> Option<Vec<String>>) {
    let Some(disassembler) = disassembler() else {
        return not_checked(what, "OSSMITH_NVRTC names no folder that holds nvdisasm");
    };
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (mut offences, mut looked_at, mut seen) = (Vec::new(), 0, BTreeSet::new());
    for model in ossmith_models::ALL.iter().filter(|model| model.spec.name != "nano") {
        for unit in model.units.iter().filter(|unit| seen.insert(unit.source)) {
            let text = || disassemble(&disassembler, scratch.path(), model, unit);
            let Some(found) = problems(unit, &text) else { continue };
            looked_at += 1;
            let named = |problem| format!("{}, {}: {problem}", model.spec.name, unit.name);
            offences.extend(found.into_iter().map(named));
        }
    }
    assert!(looked_at > 0, "no unit was looked at");
    assert!(offences.is_empty(), "{what}\n  {}", offences.join("\n  "));
}

fn disassembler() -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("OSSMITH_NVRTC")?).join("nvdisasm");
    path.is_file().then_some(path)
}

fn ceiling(unit: &Unit) -> Option<f64> {
    let stem = unit.name.trim_end_matches(|c: char| c.is_ascii_digit());
    GEMVS.iter().find(|(name, _)| *name == stem).map(|&(_, max)| max)
}

fn disassemble(disassembler: &Path, scratch: &Path, model: &Model, unit: &Unit) -> String {
    let sources = Sources::of(model).expect("the model's own text");
    let cubin = nvrtc::compile(&sources, unit, "sm_90a").expect("compiles");
    let path = scratch.join(unit.name);
    std::fs::write(&path, cubin.image).expect("write a cubin");
    let output = Command::new(disassembler).arg("-c").arg(path).output().expect("run nvdisasm");
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The mnemonic, without predicate and operands, of a line such as `/*0120*/  @P0 LDG.E R2, desc[UR4][R2.64] ;`.
fn mnemonic(line: &str) -> Option<String> {
    let code = line.trim_start().strip_prefix("/*")?.split_once("*/")?.1.trim_start();
    let code = if code.starts_with('@') { code.split_once(' ')?.1.trim_start() } else { code };
    let word = code.split([' ', ';']).next()?;
    (!word.is_empty()).then(|| word.to_owned())
}

fn problems(code: &[String], max: f64) -> Vec<String> {
    let is = |prefix: &'static str| move |word: &String| word.starts_with(prefix);
    let mut problems = Vec::new();
    for (prefix, why) in [
        ("HMMA.16816.F32.BF16", "no tensor-core instructions"),
        ("LDGSTS.E.BYPASS.LTC256B.128", "no 16-byte copies of weights past L1"),
        ("ACQBULK", "no wait for its inputs"),
        ("PREEXIT", "does not let the next kernel start"),
    ] {
        if !code.iter().any(is(prefix)) {
            problems.push(format!("{why} ({prefix})"));
        }
    }
    for (prefix, why) in [("LDL", "reads local memory"), ("STL", "writes local memory")] {
        if code.iter().any(is(prefix)) {
            problems.push(why.to_owned());
        }
    }
    match instructions_per_value(code) {
        Some(count) if count <= max => {}
        Some(count) => problems.push(format!("{count:.2} instructions per value, at most {max}")),
        None => problems.push("no stream of weights was found".to_owned()),
    }
    problems
}

/// Instructions per weight value of a lane, from the wait for weights before the first mma to the copy after the last mma
/// (or to that mma, where nothing is left to copy).
fn instructions_per_value(code: &[String]) -> Option<f64> {
    let is_mma = |word: &String| word.starts_with("HMMA");
    let (first, last) = (code.iter().position(is_mma)?, code.iter().rposition(is_mma)?);
    let begin = code[..first].iter().rposition(|word| word.starts_with("DEPBAR"))?;
    let fetch = code[last..].iter().position(|word| word.starts_with("LDGDEPBAR"));
    let end = last + fetch.unwrap_or(1);
    let mmas = code[begin..end].iter().filter(|word| is_mma(word)).count();
    Some((end - begin) as f64 / (VALUES_PER_MMA * mmas as f64))
}

#[test]
fn lines_of_a_disassembly_are_read() {
    let cases = [
        ("        /*0120*/              @!P0 LDG.E R2, desc[UR4][R2.64] ;", Some("LDG.E")),
        (
            "        /*0130*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;",
            Some("BAR.SYNC.DEFER_BLOCKING"),
        ),
        (".L_x_1:", None),
        ("//--------------------- .text.kernel", None),
    ];
    for (line, expected) in cases {
        assert_eq!(mnemonic(line).as_deref(), expected, "{line}");
    }
}
