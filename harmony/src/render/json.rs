//! Compact JSON for comments in types, with floats written the way models were trained on (`1e20`, not `1e+20`).
//!
//! `serde_json` writes floats in a form of its own that has changed between its versions, so this one is fixed here.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// The value on one line without spaces, keys in their order.
pub(super) fn compact(value: &Value) -> String {
    let mut text = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut text, Compact));
    debug_assert!(written.is_ok(), "a value is always written to memory");
    String::from_utf8(text).unwrap_or_default()
}

struct Compact;

impl Formatter for Compact {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }
}

/// The shortest digits that give the number back; plain from 1e-5 up to 1e16, else with an exponent.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // The decimal point stands after this many digits.
    let point = exponent + 1;
    let text = match point {
        ..=-5 | 17.. => return format!("{sign}{mantissa}e{exponent}"),
        ..=0 => format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
        _ if digits.len() <= point as usize => {
            format!("{digits}{}.0", "0".repeat(point as usize - digits.len()))
        }
        _ => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_short_and_stable() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e17"),
            (1e-5, "0.00001"),
            (1.5e-5, "0.000015"),
            (1e-6, "1e-6"),
            (1e-7, "1e-7"),
            (-1e20, "-1e20"),
            (1.5e300, "1.5e300"),
            (5e-324, "5e-324"),
            (0.1, "0.1"),
            (123.456, "123.456"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn values_are_compact() {
        let value: Value =
            serde_json::from_str(r#"{"b": [1, 2.5, "é\n\u007f"], "a": {}}"#).expect("JSON");
        assert_eq!(compact(&value), "{\"b\":[1,2.5,\"é\\n\u{7f}\"],\"a\":{}}");
    }
}
