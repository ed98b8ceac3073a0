//! What the decode products cost to run, read from their disassembly: instructions for each weight value, and that
//! the instructions which make them fast are there. A change that makes the compiler spill, move loads or expand
//! addresses shows here, with no GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use ossmith::backend::cuda::{Sources, nvrtc};
use ossmith_plan::Unit;
use ossmith_tests::not_checked;

/// Weight values of one lane in one `mma.m16n8k16`.
const VALUES_PER_PRODUCT: f64 = 8.0;

/// Most instructions a weight value between the first wait for weights and the last fetch of more, by format. MXFP4
/// pays for its decoding: 1.1 value operations, half a scale and the address arithmetic.
const MOST_BF16: f64 = 2.3;
const MOST_MXFP4: f64 = 2.6;

/// Decode products: name without its token count, most instructions a value.
const PRODUCTS: [(&str, f64); 5] = [
    ("rmsnorm_qkv_rope_decode", MOST_BF16),
    ("attn_out_residual_decode", MOST_BF16),
    ("unembed_decode", MOST_BF16),
    ("moe_up_swiglu_decode", MOST_MXFP4),
    ("moe_down_residual_decode", MOST_MXFP4),
];

#[test]
fn products_stay_lean() {
    const WHAT: &str = "instructions a weight value, from the disassembly";
    let Some(disassembler) = disassembler() else {
        return not_checked(WHAT, "OSSMITH_NVRTC names no folder that holds nvdisasm");
    };
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let mut offences = Vec::new();
    for model in ossmith_models::ALL.iter().filter(|model| model.spec.name != "nano") {
        let sources = Sources::of(model).expect("the model's own text");
        for unit in model.units {
            let Some(most) = ceiling(unit) else { continue };
            let cubin = nvrtc::compile(&sources, unit, "sm_90a").expect("compiles");
            let path = scratch.path().join(unit.name);
            std::fs::write(&path, cubin.image).expect("write a cubin");
            let code = disassemble(&disassembler, &path);
            offences.extend(
                problems(&code, most)
                    .into_iter()
                    .map(|problem| format!("{}, {}: {problem}", model.spec.name, unit.name)),
            );
        }
    }
    assert!(offences.is_empty(), "products grew\n  {}", offences.join("\n  "));
}

fn disassembler() -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("OSSMITH_NVRTC")?).join("nvdisasm");
    path.is_file().then_some(path)
}

fn ceiling(unit: &Unit) -> Option<f64> {
    let stem = unit.name.trim_end_matches(|c: char| c.is_ascii_digit());
    PRODUCTS.iter().find(|(name, _)| *name == stem).map(|&(_, most)| most)
}

/// Mnemonics in order, without predicates and operands.
fn disassemble(disassembler: &Path, cubin: &Path) -> Vec<String> {
    let output = Command::new(disassembler).arg("-c").arg(cubin).output().expect("run nvdisasm");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(mnemonic).collect()
}

/// The mnemonic of a line such as `/*0120*/  @P0 LDG.E R2, desc[UR4][R2.64] ;`.
fn mnemonic(line: &str) -> Option<String> {
    let code = line.trim_start().strip_prefix("/*")?.split_once("*/")?.1.trim_start();
    let code = if code.starts_with('@') { code.split_once(' ')?.1.trim_start() } else { code };
    let word = code.split([' ', ';']).next()?;
    (!word.is_empty()).then(|| word.to_owned())
}

fn problems(code: &[String], most: f64) -> Vec<String> {
    let is = |prefix: &'static str| move |word: &String| word.starts_with(prefix);
    let mut problems = Vec::new();
    for (prefix, why) in [
        ("HMMA.16816.F32.BF16", "no tensor-core products"),
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
        Some(count) if count <= most => {}
        Some(count) => problems.push(format!("{count:.2} instructions a value, at most {most}")),
        None => problems.push("no stream of weights was found".to_owned()),
    }
    problems
}

/// Instructions from the wait for weights before the first product to the fetch after the last one (or to that
/// product, where nothing is left to fetch), for each weight value of a lane.
fn instructions_per_value(code: &[String]) -> Option<f64> {
    let product = |word: &String| word.starts_with("HMMA");
    let (first, last) = (code.iter().position(product)?, code.iter().rposition(product)?);
    let begin = code[..first].iter().rposition(|word| word.starts_with("DEPBAR"))?;
    let fetch = code[last..].iter().position(|word| word.starts_with("LDGDEPBAR"));
    let end = last + fetch.unwrap_or(1);
    let products = code[begin..end].iter().filter(|word| product(word)).count();
    Some((end - begin) as f64 / (VALUES_PER_PRODUCT * products as f64))
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
