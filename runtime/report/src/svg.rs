//! Pictures as SVG text: shapes with classes, and one style sheet for light and dark that every picture carries where it
//! stands alone, and a page has once.

use std::fmt::Write as _;

/// Colours by class. A page includes this once; a picture by itself carries it.
pub const STYLE: &str = "\
svg.chart{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;--ink:#1c2430;--dim:#5a6675;--rule:#d8dee6;\
--paper:#fff;--c0:#2f6fb0;--c1:#c9731f;--c2:#2f8f5b;--c3:#8b57a8;--c4:#c0463c;--c5:#238c99;--c6:#8a7a1f;--c7:#6b7684}
@media (prefers-color-scheme:dark){svg.chart{--ink:#e6ebf2;--dim:#9aa7b6;--rule:#36404d;--paper:#14191f;--c0:#6aa8e8;--c1:#eda15a;\
--c2:#66c795;--c3:#bf92da;--c4:#ee827a;--c5:#5fc3d0;--c6:#cbb94f;--c7:#a0acba}}
svg.chart text{fill:var(--ink)}svg.chart .dim{fill:var(--dim)}svg.chart .title{font-size:14px;font-weight:600}
svg.chart .paper{fill:var(--paper)}svg.chart .rule{stroke:var(--rule);stroke-width:1;fill:none}
svg.chart .axis{stroke:var(--dim);stroke-width:1;fill:none}svg.chart .roof{stroke:var(--ink);stroke-width:1.5;fill:none}
svg.chart .dash{stroke-dasharray:5 4}svg.chart .series{fill:none;stroke-width:2}
svg.chart .f0{fill:var(--c0)}svg.chart .f1{fill:var(--c1)}svg.chart .f2{fill:var(--c2)}svg.chart .f3{fill:var(--c3)}\
svg.chart .f4{fill:var(--c4)}svg.chart .f5{fill:var(--c5)}svg.chart .f6{fill:var(--c6)}svg.chart .f7{fill:var(--c7)}
svg.chart .s0{stroke:var(--c0)}svg.chart .s1{stroke:var(--c1)}svg.chart .s2{stroke:var(--c2)}svg.chart .s3{stroke:var(--c3)}\
svg.chart .s4{stroke:var(--c4)}svg.chart .s5{stroke:var(--c5)}svg.chart .s6{stroke:var(--c6)}svg.chart .s7{stroke:var(--c7)}
svg.chart .faint{opacity:.35}svg.chart .second{opacity:.55}
";

/// Colours that there are.
pub const COLOURS: usize = 8;

/// The class of the `index`th of several things: colours repeat in a second, paler round.
#[must_use]
pub fn fill(index: usize) -> String {
    let round = if index / COLOURS % 2 == 1 { " second" } else { "" };
    format!("f{}{round}", index % COLOURS)
}

/// Where a text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its start.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Name of its file, without an ending.
    pub name: String,
    /// What it shows, for those who do not see it.
    pub title: String,
    width: f64,
    height: f64,
    body: String,
}

impl Picture {
    /// An empty picture of this size in pixels.
    #[must_use]
    pub fn new(name: &str, title: &str, width: f64, height: f64) -> Picture {
        Picture {
            name: name.to_owned(),
            title: title.to_owned(),
            width,
            height,
            body: String::new(),
        }
    }

    fn put(&mut self, shape: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(shape);
        self.body.push('\n');
    }

    /// A text.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.put(format_args!("<polyline points=\"{}\" class=\"{class}\"/>", points.join(" ")));
    }

    /// A box; its note is shown where the pointer rests on it.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str, note: &str) {
        let (note, width) = (title(note), width.max(0.0));
        self.put(format_args!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" class=\"{class}\">{note}</rect>"
        ));
    }

    /// A point with a note.
    pub fn point(&mut self, x: f64, y: f64, radius: f64, class: &str, note: &str) {
        let note = title(note);
        self.put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" class=\"{class}\">{note}</circle>"));
    }

    /// The picture inside a page that has [`STYLE`].
    #[must_use]
    pub fn inline(&self) -> String {
        self.svg("")
    }

    /// The picture as a file.
    #[must_use]
    pub fn file(&self) -> String {
        self.svg(&format!(
            "<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" class=\"paper\"/>\n"
        ))
    }

    fn svg(&self, front: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">\n{front}{}</svg>\n",
            self.width,
            self.height,
            escaped(&self.title),
            self.body
        )
    }
}

fn title(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!("<title>{}</title>", escaped(note)) }
}

/// A text as XML.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A scale from values to pixels, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    from: (f64, f64),
    to: (f64, f64),
    logarithmic: bool,
}

impl Scale {
    /// A linear scale; values from `from.0` to `from.1` come to lie from `to.0` to `to.1`.
    #[must_use]
    pub fn linear(from: (f64, f64), to: (f64, f64)) -> Scale {
        let end = if from.1 > from.0 { from.1 } else { from.0 + 1.0 };
        Scale { from: (from.0, end), to, logarithmic: false }
    }

    /// A logarithmic scale of values above 0.
    #[must_use]
    pub fn logarithmic(from: (f64, f64), to: (f64, f64)) -> Scale {
        let low = from.0.max(f64::MIN_POSITIVE);
        Scale { from: (low.ln(), from.1.max(low * 1.01).ln()), to, logarithmic: true }
    }

    /// Where a value lies; values outside lie at the end.
    #[must_use]
    pub fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let share = ((value - self.from.0) / (self.from.1 - self.from.0)).clamp(0.0, 1.0);
        self.to.0 + share * (self.to.1 - self.to.0)
    }

    /// Round values to mark: powers of ten, or about five steps of 1, 2 or 5.
    #[must_use]
    pub fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let (low, high) =
                (self.from.0 / std::f64::consts::LN_10, self.from.1 / std::f64::consts::LN_10);
            return ((low - 1e-9).ceil() as i32..=(high + 1e-9).floor() as i32)
                .map(|power| 10_f64.powi(power))
                .collect();
        }
        let rough = (self.from.1 - self.from.0) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|digit| digit * power)
            .into_iter()
            .find(|step| *step >= rough);
        let step = step.unwrap_or(power);
        let first = (self.from.0 / step).ceil() as i64;
        (first..)
            .map(|i| i as f64 * step)
            .take_while(|value| *value <= self.from.1 + step * 1e-9)
            .collect()
    }
}

/// A number as a label: no more digits than it needs.
#[must_use]
pub fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.0}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The corners of a picture's boxes and the beginnings of its texts, with each one's element.
    pub(crate) fn places(picture: &Picture) -> Vec<((f64, f64), &str)> {
        let shapes = picture
            .body
            .lines()
            .filter(|line| line.starts_with("<text") || line.starts_with("<rect"));
        let number = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).expect("a coordinate");
            rest.split('"').next().and_then(|text| text.parse().ok()).expect("a number")
        };
        shapes.map(|line| ((number(line, "x"), number(line, "y")), line)).collect()
    }

    /// Panics if a box or a text begins outside the picture.
    pub(crate) fn check_inside(picture: &Picture) {
        for ((x, y), line) in places(picture) {
            let inside = (0.0..=picture.width).contains(&x) && (0.0..=picture.height).contains(&y);
            assert!(inside, "outside {} x {}: {line}", picture.width, picture.height);
        }
    }

    #[test]
    fn scales_mark_round_values() {
        let scale = Scale::linear((0.0, 23.0), (10.0, 110.0));
        assert_eq!(scale.ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert!((scale.at(11.5) - 60.0).abs() < 1e-9 && (scale.at(99.0) - 110.0).abs() < 1e-9);
        let scale = Scale::logarithmic((0.5, 1000.0), (0.0, 1.0));
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::linear((3.0, 3.0), (0.0, 1.0)).at(3.0), 0.0);
        for (value, text) in
            [(0.25, "0.25"), (1.0, "1"), (1234.5, "1234"), (20_000.0, "20k"), (0.0, "0")]
        {
            assert_eq!(label(value), text);
        }
    }

    #[test]
    fn a_file_carries_its_colours_and_a_page_has_them_once() {
        let mut picture = Picture::new("p", "a < b", 10.0, 10.0);
        picture.text(1.0, 2.0, Anchor::End, "dim", "x & \"y\"");
        picture.rect(0.0, 0.0, -1.0, 1.0, "f0", "note");
        assert!(
            picture.file().contains("prefers-color-scheme:dark")
                && !picture.inline().contains("<style>")
        );
        for part in [
            "aria-label=\"a &lt; b\"",
            "x &amp; &quot;y&quot;",
            "width=\"0.00\"",
            "<title>note</title>",
        ] {
            assert!(picture.inline().contains(part), "{part}");
        }
    }
}
