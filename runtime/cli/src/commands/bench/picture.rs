//! A decode step as a picture: one box per phase, as wide as the time that the step spends on it and as high as the rate
//! at which it reads, under the line of the flat read. The white area under the line is what could still be gained.

use std::fmt::Write as _;

use ossmith::unstable::cuda::bench::{PhaseTime, StepTimes};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 56.0;
/// Room above the roofline.
const HEADROOM: f64 = 1.12;
/// Height of a line of the legend, and how many stand below each other.
const LINE: f64 = 20.0;
const LEGEND_LINES: usize = 4;
const COLOURS: [&str; 8] =
    ["#2f6f9f", "#c0792a", "#3d8a57", "#8a5aa0", "#b2483f", "#4f8f8f", "#6a6f2f", "#777777"];

/// The picture of a step.
pub(super) fn roofline(title: &str, times: &StepTimes) -> String {
    let rate = |bytes: f64, ms: f64| bytes / ms / 1e6;
    let flat = rate(times.bytes, times.roofline.median_ms);
    let shown: f64 = times.phases.iter().map(|phase| phase.in_chain_ms.max(0.0)).sum();
    let (x_scale, y_scale) = (WIDTH / shown.max(1e-9), HEIGHT / (flat * HEADROOM));
    let y = |gb_per_s: f64| MARGIN + HEIGHT - (gb_per_s * y_scale).min(HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{}: batch {}, context {}: {:.3} ms, {:.1} % of the roofline</text>\n",
        WIDTH + 2.0 * MARGIN,
        HEIGHT + 2.0 * MARGIN + LINE * LEGEND_LINES as f64,
        escaped(title),
        times.shape.tokens,
        times.shape.keys,
        times.step.median_ms,
        100.0 * times.roofline.median_ms / times.step.median_ms,
    );
    let mut x = MARGIN;
    for (index, (phase, colour)) in times.phases.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let width = phase.in_chain_ms.max(0.0) * x_scale;
        svg.push_str(&phase_box(colour, x, width, y(rate(phase.cost.bytes(), phase.in_chain_ms))));
        svg.push_str(&legend(index, phase, colour));
        x += width;
    }
    let (left, right, line) = (MARGIN, MARGIN + WIDTH, y(flat));
    let base = MARGIN + HEIGHT;
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<line x1=\"{left}\" y1=\"{line:.1}\" x2=\"{right}\" y2=\"{line:.1}\" stroke=\"black\" stroke-dasharray=\"6 4\"/>\n\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">flat read: {flat:.0} GB/s</text>\n\
         <line x1=\"{left}\" y1=\"{base}\" x2=\"{right}\" y2=\"{base}\" stroke=\"black\"/>\n\
         <text x=\"{left}\" y=\"42\" fill=\"#555\">width: time in the chain, {:.0} µs in all; height: GB/s</text>\n</svg>\n",
        line - 6.0,
        shown * 1e3,
    );
    svg
}

fn phase_box(colour: &str, x: f64, width: f64, top: f64) -> String {
    let height = MARGIN + HEIGHT - top;
    format!(
        "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\" stroke=\"white\"/>\n"
    )
}

/// A phase's line below the picture, in columns.
fn legend(index: usize, phase: &PhaseTime, colour: &str) -> String {
    let (column, line) = (index / LEGEND_LINES, index % LEGEND_LINES);
    let x = MARGIN + column as f64 * WIDTH / 2.0;
    let y = MARGIN + HEIGHT + LINE * (line + 1) as f64;
    format!(
        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{}: {:.0} µs in the chain, {:.1} MB</text>\n",
        y,
        x + 18.0,
        y + 10.0,
        phase.name,
        phase.in_chain_ms * 1e3,
        phase.cost.bytes() / 1e6,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use ossmith::unstable::cuda::bench::TimingStats;
    use ossmith_plan::{Cost, Prediction, StepShape};

    use super::*;

    #[test]
    fn boxes_are_as_high_as_the_rate_at_which_a_phase_reads() {
        let stats = |ms| TimingStats { median_ms: ms, min_ms: ms, max_ms: ms };
        let phase = |name: &str, bytes, in_chain_ms| PhaseTime {
            name: name.to_owned(),
            cost: Cost { weight_bytes: bytes, ..Cost::default() },
            predicted: Prediction::default(),
            alone: stats(1.0),
            in_chain_ms,
        };
        let times = StepTimes {
            shape: StepShape { tokens: 1, rows: 1, sequences: 1, keys: 8, distinct_experts: 4.0 },
            regime: "decode",
            bytes: 2e6,
            flops: 0.0,
            step: stats(3.0),
            roofline: stats(2.0),
            phases: vec![phase("fast", 1e6, 1.0), phase("slow", 1e6, 2.0)],
        };
        let svg = roofline("a <b> & c", &times);
        assert!(
            svg.contains("a &lt;b> &amp; c: batch 1, context 8: 3.000 ms, 66.7 % of the roofline")
        );
        let (full, half) = (HEIGHT / HEADROOM, HEIGHT / HEADROOM / 2.0);
        assert!(
            svg.contains(&format!("width=\"{:.1}\" height=\"{full:.1}\"", WIDTH / 3.0)),
            "{svg}"
        );
        assert!(
            svg.contains(&format!("width=\"{:.1}\" height=\"{half:.1}\"", WIDTH * 2.0 / 3.0)),
            "{svg}"
        );
    }
}
