//! The roofline: what each phase and each step computes per second, against how much it computes per byte, under the two
//! roofs of the card.

use super::{Frame, legend};
use crate::svg::{Anchor, Picture, Scale, fill};

/// The roofs of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// Bytes per second that were read front to back, in GB/s; the data sheet's where none was measured.
    pub gb_per_s: f64,
    /// Dense bf16 rate of the data sheet in TFLOP/s.
    pub tflops: f64,
}

/// A phase or a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    /// Which group it belongs to: its colour.
    pub group: String,
    /// What it is.
    pub name: String,
    /// Bytes that it must read.
    pub bytes: f64,
    /// Floating-point operations that it must do.
    pub flops: f64,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// The picture; dots that compute or read nothing, or took no time, are left out.
#[must_use]
pub fn roofline(name: &str, title: &str, roofs: Roofs, dots: &[Dot]) -> Picture {
    let dots: Vec<&Dot> =
        dots.iter().filter(|dot| dot.bytes > 0.0 && dot.flops > 0.0 && dot.ms > 0.0).collect();
    let mut groups: Vec<String> = Vec::new();
    for dot in &dots {
        if !groups.contains(&dot.group) {
            groups.push(dot.group.clone());
        }
    }
    const COLUMNS: usize = 3;
    let height = 430.0 + 18.0 * groups.len().div_ceil(COLUMNS) as f64;
    let mut picture = Picture::new(name, title, 960.0, height);
    let frame = Frame { left: 56.0, top: 56.0, right: 940.0, bottom: 370.0 };
    picture.text(frame.left, 22.0, Anchor::Start, "title", title);
    let intensity = |dot: &Dot| dot.flops / dot.bytes;
    let rate = |dot: &Dot| dot.flops / dot.ms / 1e9;
    let lowest =
        |of: &dyn Fn(&Dot) -> f64, least: f64| dots.iter().map(|dot| of(dot)).fold(least, f64::min);
    let most = dots.iter().map(|dot| intensity(dot)).fold(2_000.0, f64::max);
    let x =
        Scale::logarithmic((lowest(&intensity, 1.0) / 1.5, most * 1.5), (frame.left, frame.right));
    let y = Scale::logarithmic(
        (lowest(&rate, 1.0) / 1.5, roofs.tflops * 1.6),
        (frame.bottom, frame.top),
    );
    frame.axes(&mut picture, &x, &y, ("FLOP per byte that must be read", "TFLOP/s"));
    let ridge = roofs.tflops * 1e3 / roofs.gb_per_s;
    // The memory roof from where it enters the frame.
    let enters =
        (lowest(&intensity, 1.0) / 1.5).max(lowest(&rate, 1.0) / 1.5 * 1e3 / roofs.gb_per_s);
    let memory = |intensity: f64| intensity * roofs.gb_per_s / 1e3;
    picture.path(
        &[
            (x.at(enters), y.at(memory(enters))),
            (x.at(ridge), y.at(roofs.tflops)),
            (frame.right, y.at(roofs.tflops)),
        ],
        "roof",
    );
    let memory_name = format!("{:.0} GB/s", roofs.gb_per_s);
    picture.text(
        x.at(enters * 3.0) + 12.0,
        y.at(memory(enters * 3.0)) + 26.0,
        Anchor::Start,
        "dim",
        &memory_name,
    );
    picture.text(
        frame.right,
        y.at(roofs.tflops) - 6.0,
        Anchor::End,
        "dim",
        &format!("{:.0} TFLOP/s", roofs.tflops),
    );
    for dot in &dots {
        let colour = groups.iter().position(|group| *group == dot.group).unwrap_or(0);
        let roof = roofs.tflops.min(memory(intensity(dot)));
        let note = format!(
            "{}: {:.1} TFLOP/s, {:.0} GB/s, {:.0} % of the roof",
            dot.name,
            rate(dot),
            dot.bytes / dot.ms / 1e6,
            100.0 * rate(dot) / roof
        );
        picture.point(x.at(intensity(dot)), y.at(rate(dot)), 5.0, &fill(colour), &note);
    }
    legend(&mut picture, &frame, frame.bottom + 44.0, &groups, COLUMNS);
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::{check_inside, places};

    #[test]
    fn dots_lie_under_the_roof_and_say_their_share() {
        let dot = |name: &str, bytes, flops, ms| Dot {
            group: "g".into(),
            name: name.into(),
            bytes,
            flops,
            ms,
        };
        let roofs = Roofs { gb_per_s: 1000.0, tflops: 100.0 };
        let dots = [
            dot("half", 1e9, 1e9, 2.0),
            dot("nothing", 0.0, 1.0, 1.0),
            dot("no time", 1.0, 1.0, 0.0),
        ];
        let picture = roofline("r", "a card", roofs, &dots);
        check_inside(&picture);
        let svg = picture.file();
        // The memory roof's name stands below it: the roof rises from its first point to its second.
        let (_, points) = svg.split_once("<polyline points=\"").expect("a roof");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        let roof: Vec<f64> = points.split(['"', ' ', ',']).take(4).map(number).collect();
        let label = places(&picture).into_iter().find(|(_, line)| line.contains("1000 GB/s"));
        let ((x, y), _) = label.expect("a name");
        let above = roof[1] + (x - roof[0]) / (roof[2] - roof[0]) * (roof[3] - roof[1]);
        assert!((roof[0]..roof[2]).contains(&x) && above < y, "({x}, {y}), {roof:?}");
        assert!(svg.contains("half: 0.5 TFLOP/s, 500 GB/s, 50 % of the roof"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
    }
}
