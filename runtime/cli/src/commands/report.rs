//! `ossmith report`: recorded results as one page.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ossmith_report::{assemble, history, html, markdown, records};

use crate::failure::fail;
use crate::output;

/// Where results are in a checkout of the repository.
const RESULTS: &str = "benches/results";

/// Make one page of recorded results: rooflines, phases, history, predictions, a step's timeline, servers under load.
///
/// It reads the JSON of `bench decode`, `bench prefill` and `bench sweep`, of `kernels list`, and traces of `bench decode
/// --trace`. The page needs nothing from elsewhere, and is light or dark as the reader's system is. No GPU is needed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Results: files, or folders with what lies below them [default: benches/results, else what is built in].
    #[arg(long, num_args = 1.., value_name = "JSON")]
    from: Vec<PathBuf>,

    /// Page to write: a file that ends with .html, or with .md for Markdown.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Also write each picture as an SVG file to this folder, which is made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        output::check(&self.out)?;
        let ending = self.out.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !["html", "md"].contains(&ending) {
            let message = format!("{} ends neither with .html nor with .md", self.out.display());
            return Err(fail(
                message,
                "name the page report.html, or with the ending .md for Markdown",
            ));
        }
        let (found, origin) = if !self.from.is_empty() {
            let names: Vec<String> =
                self.from.iter().map(|path| path.display().to_string()).collect();
            (records::read(&self.from)?, format!("From {}.", names.join(", ")))
        } else if Path::new(RESULTS).is_dir() {
            (records::read(&[PathBuf::from(RESULTS)])?, format!("From {RESULTS}."))
        } else {
            (
                history::calibration()?,
                "From the results that this program was built with.".to_owned(),
            )
        };
        if found.is_empty() {
            return Err(fail(
                "there are no results to show",
                "give the JSON of `ossmith bench` with --from",
            ));
        }
        let report = assemble::report(&found, &origin)?;
        if let Some(folder) = &self.svg {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            for picture in report.pictures() {
                write(&folder.join(format!("{}.svg", picture.name)), &picture.file())?;
            }
        }
        let text = match ending {
            "md" => markdown::text(&report, self.svg.as_deref().and_then(Path::to_str)),
            _ => html::page(&report),
        };
        write(&self.out, &text)?;
        eprintln!(
            "{} results, {} sections: {}",
            found.len(),
            report.sections.len(),
            self.out.display()
        );
        Ok(())
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
