//! Shares of the roofline from build to build.

use super::{Frame, legend};
use crate::svg::{Anchor, COLOURS, Picture, Scale};

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Share of the roofline by index of the build, of those that measured it.
    pub points: Vec<(usize, f64)>,
}

/// The picture; builds are named below, oldest first.
#[must_use]
pub fn trend(name: &str, title: &str, builds: &[String], lines: &[Line]) -> Picture {
    const COLUMNS: usize = 3;
    let height = 420.0 + 18.0 * lines.len().div_ceil(COLUMNS) as f64;
    let mut picture = Picture::new(name, title, 960.0, height);
    picture.text(56.0, 22.0, Anchor::Start, "title", title);
    let frame = Frame { left: 56.0, top: 56.0, right: 930.0, bottom: 330.0 };
    let y = Scale::linear((0.0, 100.0), (frame.bottom, frame.top));
    for value in y.ticks() {
        picture.line((frame.left, y.at(value)), (frame.right, y.at(value)), "rule");
        picture.text(
            frame.left - 6.0,
            y.at(value) + 4.0,
            Anchor::End,
            "dim",
            &format!("{value:.0}"),
        );
    }
    picture.text(frame.left, frame.top - 8.0, Anchor::Start, "dim", "% of the roofline");
    frame.base(&mut picture);
    let last = builds.len().saturating_sub(1).max(1) as f64;
    let x = Scale::linear((0.0, last), (frame.left + 60.0, frame.right - 60.0));
    for (index, build) in builds.iter().enumerate() {
        let at = x.at(index as f64);
        picture.line((at, frame.bottom), (at, frame.bottom + 4.0), "axis");
        let (date, what) = build.split_once('/').unwrap_or((build, ""));
        // Names of neighbours stand at two heights, so that long ones do not meet.
        let y = frame.bottom + 18.0 + 28.0 * (index % 2) as f64;
        picture.text(at, y, Anchor::Middle, "", what);
        picture.text(at, y + 13.0, Anchor::Middle, "dim", date);
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = index % COLOURS;
        let points: Vec<(f64, f64)> = line
            .points
            .iter()
            .map(|(build, share)| (x.at(*build as f64), y.at(100.0 * share)))
            .collect();
        let dash = if index >= COLOURS { " dash" } else { "" };
        picture.path(&points, &format!("series s{colour}{dash}"));
        for ((build, share), (x, y)) in line.points.iter().zip(&points) {
            let build = builds.get(*build).map_or("", String::as_str);
            let note = format!("{}, {build}: {:.1} %", line.name, 100.0 * share);
            picture.point(*x, *y, 4.0, &format!("f{colour}"), &note);
        }
    }
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    legend(&mut picture, &frame, frame.bottom + 76.0, &names, COLUMNS);
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_build_that_measured_a_case_has_a_point() {
        let builds = ["d1/a".to_owned(), "d2/b".to_owned(), "d3/c".to_owned()];
        let line = Line { name: "batch 1".into(), points: vec![(0, 0.5), (2, 0.75)] };
        let svg = trend("t", "shares", &builds, &[line]).inline();
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains("batch 1, d3/c: 75.0 %") && svg.contains(">b<"), "{svg}");
    }
}
