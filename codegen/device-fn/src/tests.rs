//! The translation, case by case: Rust in, CUDA out.

use crate::item::translate;

fn cuda(rust: &str) -> Result<String, String> {
    let tokens = rust.parse().map_err(|e| format!("not Rust: {e}"))?;
    translate(tokens).map(|done| done.cuda).map_err(|e| e.to_string())
}

/// Checks the one line that a function body of one expression returns.
fn returns(signature: &str, body: &str, expected: &str) {
    let rust = format!("fn f({signature} {{ {body} }}");
    let text = cuda(&rust).unwrap_or_else(|e| panic!("{rust}: {e}"));
    let line = text.lines().nth(1).unwrap_or_default().trim();
    assert_eq!(line, format!("return {expected};"), "{rust}");
}

#[test]
fn literals_keep_their_value_and_take_their_type() {
    for (ty, literal, expected) in [
        ("f32", "0.1", "0.1f"),
        ("f32", "1e-9", "1e-9f"),
        ("f32", "16777217.0", "16777216.0f"),
        ("f32", "3.4028235e38", "3.4028235e38f"),
        ("f32", "2_f32", "2.0f"),
        ("f64", "0.1", "0.1"),
        ("u32", "0xFF_FF", "0xFFFFu"),
        ("u32", "0o17", "15u"),
        ("u32", "0b101", "0b101u"),
        ("u64", "1_000", "1000ull"),
        ("i32", "7", "7"),
        ("bool", "true", "true"),
        ("u32", "u32::MAX", "0xFFFFFFFFu"),
    ] {
        returns(&format!(") -> {ty}"), literal, expected);
    }
}

#[test]
fn parentheses_follow_the_tree() {
    for (body, expected) in [
        ("a + b * c", "a + b * c"),
        ("(a + b) * c", "(a + b) * c"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("a / (b * c)", "a / (b * c)"),
        ("a & b | c", "(a & b) | c"),
        ("a ^ b ^ c", "a ^ b ^ c"),
        ("a << 3 | b >> 2", "(a << 3) | (b >> 2)"),
        ("a << (b + 1)", "a << (b + 1u)"),
        ("(a + b) << 1", "(a + b) << 1"),
        ("a + (b & 7)", "a + (b & 7u)"),
        ("!(a | b)", "~(a | b)"),
        ("a.wrapping_mul(b + c).wrapping_add(1)", "a * (b + c) + 1u"),
        ("a ^ b.wrapping_sub(c)", "a ^ (b - c)"),
        ("if a & 1 == 0 { b } else { c }", "(a & 1u) == 0u ? b : c"),
        (
            "if a < b && b < c || c == 0 { 1 } else if a == b { 2 } else { 3 }",
            "(a < b && b < c) || (c == 0u) ? 1u : a == b ? 2u : 3u",
        ),
        ("(if a < b { a } else { b }) + c", "(a < b ? a : b) + c"),
    ] {
        returns("a: u32, b: u32, c: u32) -> u32", body, expected);
    }
}

#[test]
fn methods_and_conversions_have_their_twins() {
    for (body, expected) in [
        ("x.max(0.0)", "fmaxf(x, 0.0f)"),
        ("x.clamp(-y, 1.0)", "fminf(fmaxf(x, -y), 1.0f)"),
        ("(-x).exp().ln()", "logf(expf(-x))"),
        ("x.mul_add(y, 1.5)", "fmaf(x, y, 1.5f)"),
        ("-(x * y).sqrt()", "-sqrtf(x * y)"),
        (
            "f32::from_bits(x.to_bits() & 0x7FFF_FFFF)",
            "__uint_as_float(__float_as_uint(x) & 0x7FFFFFFFu)",
        ),
        (
            "(x as f64 * 2.0).floor() as f32",
            "static_cast<float>(floor(static_cast<double>(x) * 2.0))",
        ),
        ("x as i32 as f32", "static_cast<float>(__float2int_rz(x))"),
        ("f32::from(x)", "static_cast<float>(x)"),
        ("other(x, 1.0_f32)", "other(x, 1.0f)"),
        ("crate::maths::other(x)", "other(x)"),
        ("1.0 / (1.0 + y)", "1.0f / (1.0f + y)"),
        ("0.5 * ALPHA", "0.5f * ALPHA"),
    ] {
        returns("x: f32, y: f32) -> f32", body, expected);
    }
    returns("x: f64) -> u64", "x.to_bits()", "static_cast<u64>(__double_as_longlong(x))");
    returns("x: f64) -> u32", "x as u32", "__double2uint_rz(x)");
    returns("x: u64) -> u32", "(x >> 32) as u32", "static_cast<u32>(x >> 32)");
    returns("x: i32) -> i32", "x.abs().min(3)", "min(abs(x), 3)");
    returns("p: [f32; 2]) -> [f32; 2]", "[p[1], -p[0]]", "Array<float, 2>{{p.v[1], -p.v[0]}}");
}

#[test]
fn statements_read_as_a_person_would_write_them() {
    let rust = "
        /// Adds.
        ///
        /// Twice.
        #[must_use]
        pub const fn sum(n: u32, mut x: f32) -> f32 {
            const STEP: f32 = 0.25;
            let mut total: f32 = 0.0;
            for i in 0..n {
                if i & 1 == 1 { continue_here(i) } else { 0.0 };
            }
            total
        }";
    // A value that nobody takes is not a statement here.
    assert!(cuda(rust).is_err());

    let rust = "
        /// Adds.
        ///
        /// Twice.
        #[must_use]
        pub fn sum(n: u32, x: f32) -> f32 {
            const STEP: f32 = 0.25;
            let mut total: f32 = 0.0;
            for i in 0..n {
                if i & 1 == 1 {
                    total += STEP * i as f32;
                } else if i == 6 {
                    return -1.0;
                }
            }
            let x = x + 1.0;
            let scale: f32 = if n > 3 {
                let y = x * 2.0;
                y * y
            } else {
                1.0
            };
            if n == 0 {
                let double = total;
                double
            } else {
                total *= scale;
                total.abs()
            }
        }";
    let expected = "\
// Adds.
//
// Twice.
__device__ __forceinline__ float sum(u32 n, float x) {
  constexpr float STEP = 0.25f;
  float total = 0.0f;
  for (u32 i = 0u; i < n; ++i) {
    if ((i & 1u) == 1u) {
      total += STEP * static_cast<float>(i);
    } else if (i == 6u) {
      return -1.0f;
    }
  }
  const float x_2 = x + 1.0f;
  float scale;
  if (n > 3u) {
    const float y = x_2 * 2.0f;
    scale = y * y;
  } else {
    scale = 1.0f;
  }
  if (n == 0u) {
    const float double_2 = total;
    return double_2;
  } else {
    total *= scale;
    return fabsf(total);
  }
}
";
    assert_eq!(cuda(rust).as_deref(), Ok(expected));
}

#[test]
fn constants_become_constexpr() {
    let text = cuda("/// Ratio.\npub const ALPHA: f32 = 1.702;");
    assert_eq!(text.as_deref(), Ok("// Ratio.\nconstexpr float ALPHA = 1.702f;\n"));
}

#[test]
fn a_variable_never_hides_a_function_that_the_body_calls() {
    let text = cuda("fn f(x: f32) -> f32 { let g: f32 = g(x); g + h(g) }").unwrap_or_default();
    assert!(text.contains("const float g_2 = g(x);\n  return g_2 + h(g_2);"), "{text}");
}

#[test]
fn long_array_results_are_broken_into_lines() {
    let value = "a_rather_long_function_name(word >> 16)";
    let rust = format!("fn f(word: u32) -> [u32; 4] {{ [{value}, {value}, {value}, {value}] }}");
    let text = cuda(&rust).unwrap_or_default();
    assert!(text.lines().all(|line| line.len() <= 110), "{text}");
    assert!(text.contains("  return Array<u32, 4>{{\n      a_rather"), "{text}");
}

#[test]
fn what_has_no_twin_is_refused() {
    for (rust, message) in [
        ("fn f(x: u8) -> u32 { 1 }", "knows the types"),
        ("fn f(x: f32) { }", "returns a value"),
        ("fn f<T>(x: f32) -> f32 { x }", "generic"),
        ("async fn f(x: f32) -> f32 { x }", "async"),
        ("fn f(&self) -> f32 { 1.0 }", "no self"),
        ("fn float(x: f32) -> f32 { x }", "keyword"),
        ("fn f(x: f32) -> f32 { x.sin() }", "`sin`"),
        ("fn f(x: f32) -> f32 { x.powi(2) }", "`powi`"),
        ("fn f(x: f32) -> f32 { x % 2.0 }", "`%`"),
        ("fn f(x: f32) -> f32 { let y = 1.0; x + y }", "add a suffix"),
        ("fn f(x: f32) -> u32 { g(x) as u32 }", "bind the value first"),
        ("fn f(x: f32) -> bool { g(x).exp() > h(x) }", "bind the value first"),
        ("fn f(x: u32) -> u32 { match x { _ => 1 } }", "no CUDA twin"),
        ("fn f(x: u32) -> u32 { loop { } }", "no CUDA twin"),
        ("fn f(x: u32) -> u32 { let (a, b) = (x, x); a }", "patterns"),
        ("fn f(p: [f32; 2], i: u32) -> f32 { p[i as usize] }", "index with a literal"),
        ("fn f(x: u32) -> u32 { let g = |y| y; g(x) }", "no CUDA twin"),
        ("fn f(x: f32) -> f32 { x * std::f32::consts::PI }", "a constant of your own"),
        ("fn f(x: u32) -> f32 { 1 + (if x == 0 { let y = x; y } else { x }) }", "bind this `if`"),
        ("fn f(x: i32) -> i32 { x.wrapping_add(1) }", "`wrapping_add`"),
        ("static X: f32 = 1.0;", "belongs on"),
    ] {
        match cuda(rust) {
            Ok(text) => panic!("{rust} became\n{text}"),
            Err(error) => assert!(error.contains(message), "{rust}: {error}"),
        }
    }
}
