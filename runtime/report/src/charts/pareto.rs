//! A server under load: tokens per second per user against tokens per second per GPU, and the latencies behind them.

use super::{Frame, legend};
use crate::svg::{Anchor, COLOURS, Picture, Scale};

/// One load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests at once.
    pub concurrency: u64,
    /// Tokens per second that one user sees, after the first token.
    pub per_user: f64,
    /// Output tokens per second over GPUs.
    pub per_gpu: f64,
    /// Time to the first token in ms: median and 99th percentile.
    pub ttft_ms: (f64, f64),
    /// Time between chunks in ms: median and 99th percentile.
    pub itl_ms: (f64, f64),
}

/// The loads of one server and one pair of lengths.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Server and lengths.
    pub name: String,
    /// Its loads.
    pub points: Vec<Point>,
}

impl Series {
    /// Loads by concurrency.
    fn sorted(&self) -> Vec<Point> {
        let mut points = self.points.clone();
        points.sort_by_key(|point| point.concurrency);
        points
    }
}

/// Whether no other load gives both a user and a GPU more.
fn leads(point: &Point, all: &[&Point]) -> bool {
    !all.iter().any(|other| {
        let (user, gpu) = (other.per_user >= point.per_user, other.per_gpu >= point.per_gpu);
        user && gpu && (other.per_user, other.per_gpu) != (point.per_user, point.per_gpu)
    })
}

/// The Pareto picture: up is more for a GPU, right is more for a user. Loads that no other one beats are filled.
#[must_use]
pub fn pareto(name: &str, title: &str, series: &[Series]) -> Picture {
    const COLUMNS: usize = 2;
    let height = 420.0 + 18.0 * series.len().div_ceil(COLUMNS) as f64;
    let mut picture = Picture::new(name, title, 960.0, height);
    picture.text(64.0, 22.0, Anchor::Start, "title", title);
    let frame = Frame { left: 64.0, top: 56.0, right: 930.0, bottom: 360.0 };
    let all: Vec<&Point> = series.iter().flat_map(|series| &series.points).collect();
    let most =
        |of: fn(&Point) -> f64| all.iter().map(|point| of(point)).fold(1e-9, f64::max) * 1.08;
    let x = Scale::linear((0.0, most(|point| point.per_user)), (frame.left, frame.right));
    let y = Scale::linear((0.0, most(|point| point.per_gpu)), (frame.bottom, frame.top));
    frame.axes(
        &mut picture,
        &x,
        &y,
        ("tokens per second per user", "output tokens per second per GPU"),
    );
    for (index, one) in series.iter().enumerate() {
        let colour = index % COLOURS;
        let points = one.sorted();
        let line: Vec<(f64, f64)> =
            points.iter().map(|p| (x.at(p.per_user), y.at(p.per_gpu))).collect();
        picture.path(&line, &format!("series s{colour}"));
        for (point, (x, y)) in points.iter().zip(line) {
            let faint = if leads(point, &all) { "" } else { " faint" };
            let note = format!(
                "{}, {} at once: {:.1} tokens/s per user, {:.0} per GPU",
                one.name, point.concurrency, point.per_user, point.per_gpu
            );
            picture.point(x, y, 5.0, &format!("f{colour}{faint}"), &note);
            picture.text(x + 8.0, y - 6.0, Anchor::Start, "dim", &point.concurrency.to_string());
        }
    }
    let names: Vec<String> = series.iter().map(|series| series.name.clone()).collect();
    legend(&mut picture, &frame, frame.bottom + 44.0, &names, COLUMNS);
    picture
}

/// TTFT and ITL by concurrency: the line is the median, the broken line the 99th percentile.
#[must_use]
pub fn latencies(name: &str, title: &str, series: &[Series]) -> Picture {
    const COLUMNS: usize = 2;
    let height = 400.0 + 18.0 * series.len().div_ceil(COLUMNS) as f64;
    let mut picture = Picture::new(name, title, 960.0, height);
    picture.text(64.0, 22.0, Anchor::Start, "title", title);
    let all: Vec<&Point> = series.iter().flat_map(|series| &series.points).collect();
    let loads: Vec<f64> = all.iter().map(|point| point.concurrency as f64).collect();
    let (least, most) =
        (loads.iter().copied().fold(f64::MAX, f64::min), loads.iter().copied().fold(1.0, f64::max));
    type Times = fn(&Point) -> (f64, f64);
    let halves: [(f64, f64, &str, Times); 2] = [
        (64.0, 470.0, "TTFT, ms", |point| point.ttft_ms),
        (544.0, 930.0, "ITL, ms", |point| point.itl_ms),
    ];
    for (left, right, what, times) in halves {
        let frame = Frame { left, top: 56.0, right, bottom: 330.0 };
        let x = Scale::logarithmic((least.min(most), most), (left, right));
        let highest =
            all.iter().map(|point| times(point).1.max(times(point).0)).fold(1e-9, f64::max);
        let y = Scale::linear((0.0, highest * 1.08), (frame.bottom, frame.top));
        for value in y.ticks() {
            picture.line((left, y.at(value)), (right, y.at(value)), "rule");
            picture.text(
                left - 6.0,
                y.at(value) + 4.0,
                Anchor::End,
                "dim",
                &crate::svg::label(value),
            );
        }
        let mut marked: Vec<u64> = all.iter().map(|point| point.concurrency).collect();
        marked.sort_unstable();
        marked.dedup();
        for load in marked {
            let at = x.at(load as f64);
            picture.text(at, frame.bottom + 17.0, Anchor::Middle, "dim", &load.to_string());
        }
        frame.base(&mut picture);
        picture.text(left, frame.top - 8.0, Anchor::Start, "dim", what);
        picture.text(right, frame.bottom + 33.0, Anchor::End, "dim", "requests at once");
        for (index, one) in series.iter().enumerate() {
            let colour = index % COLOURS;
            let points = one.sorted();
            let line = |of: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
                points.iter().map(|p| (x.at(p.concurrency as f64), y.at(of(times(p))))).collect()
            };
            picture.path(&line(|times| times.0), &format!("series s{colour}"));
            picture.path(&line(|times| times.1), &format!("series s{colour} dash"));
            for point in &points {
                let (median, p99) = times(point);
                let note = format!(
                    "{}, {} at once: median {median:.1} ms, p99 {p99:.1} ms",
                    one.name, point.concurrency
                );
                picture.point(
                    x.at(point.concurrency as f64),
                    y.at(median),
                    4.0,
                    &format!("f{colour}"),
                    &note,
                );
            }
        }
    }
    let frame = Frame { left: 64.0, top: 56.0, right: 930.0, bottom: 330.0 };
    let names: Vec<String> = series.iter().map(|series| series.name.clone()).collect();
    legend(&mut picture, &frame, frame.bottom + 44.0, &names, COLUMNS);
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(concurrency: u64, per_user: f64, per_gpu: f64) -> Point {
        Point { concurrency, per_user, per_gpu, ttft_ms: (10.0, 20.0), itl_ms: (1.0, 2.0) }
    }

    #[test]
    fn loads_that_another_one_beats_are_faint() {
        let points = vec![point(8, 50.0, 400.0), point(1, 100.0, 100.0), point(32, 40.0, 390.0)];
        let series = [Series { name: "a server".into(), points }];
        let svg = pareto("p", "loads", &series).inline();
        assert_eq!(
            (svg.matches("class=\"f0 faint\"").count(), svg.matches("<circle").count()),
            (1, 3),
            "{svg}"
        );
        assert!(svg.contains("a server, 32 at once: 40.0 tokens/s per user, 390 per GPU"), "{svg}");
        let svg = latencies("l", "times", &series).inline();
        assert!(
            svg.contains("median 10.0 ms, p99 20.0 ms")
                && svg.contains("median 1.0 ms, p99 2.0 ms"),
            "{svg}"
        );
    }
}
