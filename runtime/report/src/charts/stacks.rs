//! Where steps spend their time: a bar per step, its phases beside each other, and the roofline as a mark.

use super::{Frame, legend};
use crate::svg::{Anchor, Picture, Scale, fill};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// What it is: `batch 8`.
    pub name: String,
    /// Phases with their microseconds in the chain, in their order.
    pub parts: Vec<(String, f64)>,
    /// The whole step.
    pub us: f64,
    /// The flat read of its bytes.
    pub roofline_us: f64,
}

/// The picture, each bar as wide as its whole step.
#[must_use]
pub fn stacks(name: &str, title: &str, stacks: &[Stack]) -> Picture {
    const ROW: f64 = 30.0;
    const COLUMNS: usize = 4;
    let mut names: Vec<String> = Vec::new();
    for (part, _) in stacks.iter().flat_map(|stack| &stack.parts) {
        if !names.contains(part) {
            names.push(part.clone());
        }
    }
    let bottom = 52.0 + ROW * stacks.len() as f64;
    let height = bottom + 20.0 + 18.0 * (names.len().div_ceil(COLUMNS) + 1) as f64;
    let mut picture = Picture::new(name, title, 960.0, height);
    picture.text(16.0, 22.0, Anchor::Start, "title", title);
    let frame = Frame { left: 110.0, top: 44.0, right: 838.0, bottom };
    for (row, stack) in stacks.iter().enumerate() {
        let y = frame.top + ROW * row as f64;
        let sum: f64 = stack.parts.iter().map(|(_, us)| us.max(0.0)).sum();
        let whole = stack.us.max(sum);
        let x = Scale::linear((0.0, whole), (frame.left, frame.right));
        picture.text(frame.left - 8.0, y + 15.0, Anchor::End, "", &stack.name);
        let mut from = 0.0;
        for (part, us) in &stack.parts {
            let us = us.max(0.0);
            let colour = names.iter().position(|name| name == part).unwrap_or(0);
            let note = format!("{part}: {us:.0} µs, {:.0} % of the step", 100.0 * us / stack.us);
            picture.rect(x.at(from), y, x.at(from + us) - x.at(from), 20.0, &fill(colour), &note);
            from += us;
        }
        let rest = (whole - sum).max(0.0);
        let note = format!("overlap and what has no line: {rest:.0} µs");
        picture.rect(x.at(from), y, x.at(whole) - x.at(from), 20.0, "f7 faint", &note);
        let roof = x.at(stack.roofline_us);
        picture.line((roof, y - 3.0), (roof, y + 23.0), "roof");
        let text =
            format!("{:.2} ms, {:.0} %", stack.us / 1e3, 100.0 * stack.roofline_us / stack.us);
        picture.text(frame.right + 8.0, y + 15.0, Anchor::Start, "dim", &text);
    }
    let note = "each bar is a whole step; the line is the flat read of its bytes, and its share stands at the end";
    picture.text(frame.left, bottom + 6.0, Anchor::Start, "dim", note);
    legend(
        &mut picture,
        &Frame { left: 16.0, right: 950.0, ..frame },
        bottom + 20.0,
        &names,
        COLUMNS,
    );
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::check_inside;

    #[test]
    fn bars_are_divided_as_the_step_is() {
        let parts = vec![("a".to_owned(), 30.0), ("b".to_owned(), 50.0), ("c".to_owned(), -1.0)];
        let stack = Stack { name: "batch 1".into(), parts, us: 100.0, roofline_us: 75.0 };
        let picture = stacks("s", "steps", &[stack]);
        check_inside(&picture);
        let svg = picture.inline();
        // 728 pixels are 100 µs.
        for width in ["218.40", "364.00", "145.60", "0.00"] {
            assert!(svg.contains(&format!("width=\"{width}\"")), "{width}: {svg}");
        }
        assert!(
            svg.contains("0.10 ms, 75 %") && svg.contains("b: 50 µs, 50 % of the step"),
            "{svg}"
        );
    }
}
