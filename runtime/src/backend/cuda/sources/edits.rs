//! What an edited unit may change: the kernel's body, but not what the launch relies on. `namespace spec`, the parameter
//! structs and the launch geometry are the plan's; text that differs in one of them is refused with both values.

use std::collections::BTreeMap;

use ossmith_plan::{BODY_MARKER, Unit};

const CONSTANTS: &str = "namespace spec";
const LAUNCH: &str = "// Launch:";

/// The part of a generated unit's text that the plan decides: from its launch geometry to its body.
pub(super) fn plan_part(source: &str) -> &str {
    let from = source.find(LAUNCH).unwrap_or(0);
    let to = source.find(BODY_MARKER).unwrap_or(source.len());
    source.get(from..to).unwrap_or(source)
}

/// Refuses a unit's edited text if it does not match the plan of its model, and tells why.
pub(super) fn check(unit: &Unit, model: &str, text: &str) -> Result<(), String> {
    let generated = plan_part(unit.source);
    let planned = constants(generated).ok_or("its model's own text has no `namespace spec`")?;
    let found = constants(text).ok_or_else(|| {
        format!("it must have exactly one `{CONSTANTS}`, that of the emitted {}", unit.name)
    })?;
    for (name, planned) in &planned {
        match found.get(name) {
            Some(found) if found == planned => {}
            Some(found) => {
                return Err(format!(
                    "{name} is {found} in its `{CONSTANTS}`, but the plan of {model} launches {} with {planned}: {GEOMETRY}",
                    unit.name
                ));
            }
            None => {
                return Err(format!(
                    "its `{CONSTANTS}` lacks {name}, which is {planned} in the plan of {model}: restore it"
                ));
            }
        }
    }
    if let Some((name, value)) = found.iter().find(|(name, _)| !planned.contains_key(*name)) {
        return Err(format!(
            "{name} is {value} in its `{CONSTANTS}`, but the plan of {model} does not have it: write your own constants \
             outside of that namespace"
        ));
    }
    let (planned, found) = (launch(generated), launch(text));
    if let Some(found) = found.filter(|found| planned.as_ref() != Some(found)) {
        let planned = planned.unwrap_or_default();
        return Err(format!(
            "it is for a launch of \"{found}\", but the plan of {model} launches {} with \"{planned}\": {GEOMETRY}",
            unit.name
        ));
    }
    for (name, planned) in structs(generated) {
        let found = structs(text).into_iter().find(|(known, _)| *known == name);
        let found = found.map_or_else(|| "missing".to_owned(), |(_, fields)| fields);
        if found != planned {
            return Err(format!(
                "its parameter struct {name} is {found}, but the host passes {planned}: restore it"
            ));
        }
    }
    let entry = format!("{}(", unit.name);
    if !code(text).contains(&entry) {
        return Err(format!("it has no kernel {}", unit.name));
    }
    Ok(())
}

const GEOMETRY: &str = "constants and geometry are changed in the schedule (codegen/src/schedule), not in the emitted text";

/// The launch geometry as a unit's header comment gives it.
fn launch(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(LAUNCH)?;
    let lines = rest.lines().enumerate();
    let comment =
        lines.map_while(|(i, line)| if i == 0 { Some(line) } else { line.strip_prefix("//") });
    let words: Vec<&str> = comment.flat_map(str::split_whitespace).collect();
    Some(words.join(" "))
}

/// The constants of `namespace spec` with their types and values, if there is exactly one such namespace.
fn constants(text: &str) -> Option<BTreeMap<String, String>> {
    let code = code(text);
    let (_, rest) = code.split_once(CONSTANTS)?;
    if rest.contains(CONSTANTS) {
        return None;
    }
    let block = braced(rest)?;
    let statements = block.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    let constant = |statement: &str| {
        let (declared, value) = statement.split_once('=').unwrap_or((statement, ""));
        let declared = declared.split('[').next().unwrap_or(declared);
        let name = declared.split_whitespace().next_back().unwrap_or_default();
        let value: Vec<&str> = value.split_whitespace().collect();
        (name.to_owned(), value.join(" "))
    };
    Some(statements.map(constant).collect())
}

/// Every struct of a text with its fields: `struct Router { const bf16* input; … }`.
fn structs(text: &str) -> Vec<(String, String)> {
    let code = code(text);
    let mut structs = Vec::new();
    for part in code.split("struct ").skip(1) {
        let name =
            part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let rest = part[name.len()..].trim_start();
        if let Some(block) = rest.starts_with('{').then(|| braced(rest)).flatten() {
            let fields: Vec<&str> = block.split_whitespace().collect();
            structs.push((name.to_owned(), format!("{{ {} }}", fields.join(" "))));
        }
    }
    structs
}

/// What stands between the first opening brace and its closing one.
fn braced(text: &str) -> Option<&str> {
    let open = text.find('{')?;
    let mut depth = 0;
    for (i, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[open + 1..open + i]);
        }
    }
    None
}

/// A text without its comments.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        code.push_str(&rest[..start]);
        let end = match rest[start..].starts_with("//") {
            true => rest[start..].find('\n'),
            false => rest[start + 2..].find("*/").map(|end| end + 4),
        };
        code.push(' ');
        rest = end.map_or("", |end| &rest[start + end..]);
    }
    code.push_str(rest);
    code
}

#[cfg(test)]
mod tests {
    use ossmith_plan::Model;

    use super::*;

    fn unit(model: &Model, name: &str) -> Unit {
        *model.units.iter().find(|unit| unit.name == name).expect("a unit of this name")
    }

    /// The check of a unit of gpt-oss-20b after a text in it was replaced by another.
    fn edited(name: &str, from: &str, to: &str) -> Result<(), String> {
        let unit = unit(ossmith_models::GPT_OSS_20B, name);
        assert!(unit.source.contains(from), "{name} has no {from}");
        check(&unit, "gpt-oss-20b", &unit.source.replace(from, to))
    }

    #[test]
    fn every_unit_of_every_model_matches_its_own_plan() {
        for model in ossmith_models::ALL {
            for unit in model.units {
                assert_eq!(check(unit, model.spec.name, unit.source), Ok(()), "{}", unit.name);
                assert!(plan_part(unit.source).starts_with(LAUNCH), "{}", unit.name);
                assert!(constants(unit.source).is_some_and(|all| all.contains_key("kThreads")));
            }
        }
    }

    #[test]
    fn a_body_and_its_comments_may_change() {
        for (from, to) in [
            ("wait_for_inputs();", "wait_for_inputs(); wait_for_inputs();"),
            ("constexpr u32 kThreads = 256;", "constexpr  u32 kThreads\n = 256; // as before"),
            (
                "constexpr u32 kThreads = 256;",
                "/* constexpr u32 kThreads = 64; */constexpr u32 kThreads = 256;",
            ),
            ("// normed[i]", "// y[i]"),
        ] {
            assert_eq!(edited("rmsnorm", from, to), Ok(()), "{to}");
        }
    }

    #[test]
    fn what_the_launch_relies_on_may_not() {
        let cases = [
            ("rmsnorm", "kThreads = 256;", "kThreads = 64;", "kThreads is 64", "with 256"),
            (
                "qkv_rope_prefill",
                "kTileTokens = 64;",
                "kTileTokens = 32;",
                "kTileTokens is 32",
                "with 64",
            ),
            ("rmsnorm", "kRmsEps = 1e-5f;", "kRmsEps = 1e-6f;", "kRmsEps is 1e-6f", "with 1e-5f"),
            ("rmsnorm", "constexpr u32 kHidden = 2880;", "", "lacks kHidden", "2880"),
            (
                "rmsnorm",
                "kHidden = 2880;",
                "kHidden = 2880, kMine = 3;",
                "kHidden is 2880, kMine = 3",
                "with 2880",
            ),
            (
                "rmsnorm",
                "kHidden = 2880;",
                "kHidden = 2880;\nconstexpr u32 kMine = 3;",
                "kMine is 3",
                "outside",
            ),
            (
                "rmsnorm",
                "}  // namespace spec",
                "}\nnamespace spec { constexpr u32 kMine = 3; }",
                "exactly one",
                "rmsnorm",
            ),
            ("rmsnorm", "of 256 threads", "of 64 threads", "of 64 threads", "of 256 threads"),
            (
                "rmsnorm",
                "  const u32* rows;\n  const bf16* scale;",
                "  const bf16* scale;\n  const u32* rows;",
                "const bf16* scale; const u32* rows;",
                "const u32* rows; const bf16* scale;",
            ),
            ("rmsnorm", "rmsnorm(const", "norm(const", "no kernel rmsnorm", ""),
        ];
        for (name, from, to, found, planned) in cases {
            let error = edited(name, from, to).expect_err(to);
            assert!(error.contains(found) && error.contains(planned), "{to}: {error}");
        }
    }

    #[test]
    fn a_unit_of_another_model_or_kernel_is_refused() {
        let (small, large) = (ossmith_models::GPT_OSS_20B, ossmith_models::GPT_OSS_120B);
        let error = check(&unit(large, "moe_topk"), "gpt-oss-120b", unit(small, "moe_topk").source);
        let error = error.expect_err("32 experts under 128");
        assert!(error.contains("kExperts is 32") && error.contains("with 128"), "{error}");
        let error = check(
            &unit(small, "attention_full"),
            "gpt-oss-20b",
            unit(small, "attention_sliding").source,
        );
        assert!(error.expect_err("another kernel").contains("attention_full"));
    }
}
