//! A progress bar for each stage of loading, shown on standard error if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use ossmith::Progress;

/// The bar of the current stage.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    stage: &'static str,
    bar: Option<ProgressBar>,
}

impl Bars {
    /// No bar is shown yet.
    pub(crate) fn new() -> Bars {
        Bars::default()
    }

    /// Shows how far a stage is; a new stage gets a new bar.
    pub(crate) fn show(&mut self, at: Progress) {
        if self.stage != at.stage {
            self.finish();
            self.stage = at.stage;
            self.bar =
                Some(ProgressBar::new(at.total).with_style(style(at)).with_message(at.stage));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(at.total);
            bar.set_position(at.done);
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(at: Progress) -> ProgressStyle {
    // Weights are counted in bytes, kernels in pieces, of which there are never a million.
    let count =
        if at.total >= 1 << 20 { "{bytes}/{total_bytes} {bytes_per_sec}" } else { "{pos}/{len}" };
    let template = format!("{{msg}} [{{bar:40}}] {count} {{elapsed}}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
