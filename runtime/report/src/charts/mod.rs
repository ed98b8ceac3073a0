//! The pictures of a report, one file each.

mod pareto;
mod roofline;
mod stacks;
mod timeline;
mod trend;

pub use pareto::{Point, Series, latencies, pareto};
pub use roofline::{Dot, Roofs, roofline};
pub use stacks::{Stack, stacks};
pub use timeline::timeline;
pub use trend::{Line, trend};

use crate::svg::{Anchor, Picture, Scale, fill, label};

/// The frame that the axes of a picture bound, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    /// Marks both axes with their round values, and names them.
    fn axes(&self, picture: &mut Picture, x: &Scale, y: &Scale, names: (&str, &str)) {
        for value in y.ticks() {
            let at = y.at(value);
            picture.line((self.left, at), (self.right, at), "rule");
            picture.text(self.left - 6.0, at + 4.0, Anchor::End, "dim", &label(value));
        }
        for value in x.ticks() {
            let at = x.at(value);
            picture.line((at, self.bottom), (at, self.bottom + 4.0), "axis");
            picture.text(at, self.bottom + 17.0, Anchor::Middle, "dim", &label(value));
        }
        self.base(picture);
        picture.text(self.right, self.bottom + 33.0, Anchor::End, "dim", names.0);
        picture.text(self.left, self.top - 8.0, Anchor::Start, "dim", names.1);
    }

    fn base(&self, picture: &mut Picture) {
        picture.line((self.left, self.bottom), (self.right, self.bottom), "axis");
    }
}

/// A legend in columns below a picture: a square of each colour class with its name.
fn legend(picture: &mut Picture, frame: &Frame, top: f64, names: &[String], columns: usize) {
    let width = (frame.right - frame.left) / columns as f64;
    for (index, name) in names.iter().enumerate() {
        let x = frame.left + (index % columns) as f64 * width;
        let y = top + (index / columns) as f64 * 18.0;
        picture.rect(x, y, 11.0, 11.0, &fill(index), "");
        picture.text(x + 17.0, y + 10.0, Anchor::Start, "", name);
    }
}
