//! `ossmith run-batch`: a file of requests in, a file of answers out, without a server.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use ossmith::Policy;
use ossmith_server::{BatchCounts, BatchError, run_batch};

use crate::failure::fail;
use crate::load::{DeviceArgs, EngineCountArgs};
use crate::model::ModelArgs;
use crate::model_settings::{EngineLimitArgs, ModelSettings};
use crate::output::note;
use crate::today;

/// Run a file of requests in OpenAI's batch format, without a server.
///
/// Each line of the input is {"custom_id", "method": "POST", "url", "body"} with one of the urls /v1/chat/completions,
/// /v1/completions and /v1/responses; each line of the output is the answer to one, in the order of the input. All lines are checked
/// before any is run. A request that is refused has a line, too, with its status and error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File with a request per line.
    #[arg(long, short, value_name = "FILE")]
    input_file: PathBuf,

    /// File to write the answers to; it is replaced.
    #[arg(long, short, value_name = "FILE")]
    output_file: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    engines: EngineCountArgs,

    /// Name under which the model is served; several may be given [default: the model's own].
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,

    /// The date in the system message [default: SYSTEM_START_DATE, else today].
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = today::parse)]
    date: Option<String>,

    #[command(flatten)]
    limits: EngineLimitArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (input, output) = (self.input_file.as_path(), self.output_file.as_path());
        if same_file(input, output) {
            return Err(fail("the output is the input", "name another file with -o"));
        }
        // A file that cannot be opened shows now, not after the weights are loaded.
        let open = || File::open(input).map(BufReader::new);
        drop(open().with_context(|| format!("cannot read {}", input.display()))?);
        let written = partial(output);
        let file = File::create(&written)
            .with_context(|| format!("cannot write {}", written.display()))?;
        let done = self.run_lines(open, BufWriter::new(file));
        match done {
            Ok(counts) => {
                std::fs::rename(&written, output)
                    .with_context(|| format!("cannot write {}", output.display()))?;
                note!(
                    "{} of {} requests answered, {} refused",
                    counts.completed,
                    counts.total,
                    counts.failed
                );
                Ok(())
            }
            Err(why) => {
                // Answers that are there stay, beside the place of a whole output.
                if std::fs::metadata(&written).is_ok_and(|data| data.len() == 0) {
                    let _ = std::fs::remove_file(&written);
                }
                Err(why)
            }
        }
    }

    fn run_lines(
        &self,
        open: impl Fn() -> std::io::Result<BufReader<File>>,
        output: impl Write,
    ) -> anyhow::Result<BatchCounts> {
        let chosen = self.model.choose()?;
        chosen.warn_if_random();
        let setup = self.device.setup(chosen.model, self.engines.count())?;
        let settings = ModelSettings {
            model: &self.model,
            setup: &setup,
            limits: &self.limits,
            names: &self.served_model_name,
            date: self.date.as_deref(),
        };
        let limits = settings.engine_limits(chosen.model)?;
        let at_a_time = limits.max_sequences * setup.count();
        // No line is refused because others wait, however many choices each has.
        let policy = Policy::default().with_max_waiting(usize::MAX);
        let (backend, _) = self.device.load_backend(&chosen, &setup, limits, policy)?;
        let config = settings.config(chosen.model, limits.pages);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the threads of the requests")?;
        let (start, mut said) = (Instant::now(), Instant::now());
        let progress = |counts: BatchCounts| {
            if said.elapsed().as_secs() >= 10 {
                said = Instant::now();
                let (done, seconds) = (counts.completed + counts.failed, start.elapsed().as_secs());
                note!("{done} of {} requests after {seconds} s", counts.total);
            }
        };
        let run = run_batch(config, backend, open, output, at_a_time, progress);
        runtime.block_on(run).map_err(|why| match why {
            BatchError::Line { .. } => fail(
                format!("{}, {why}", self.input_file.display()),
                "nothing was run; mend the line and start again",
            ),
            BatchError::Io(why) => why.into(),
        })
    }
}

/// Where an output is written until it is whole.
fn partial(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    output.with_file_name(name)
}

fn same_file(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().ok();
    whole(one).is_some_and(|one| whole(other).is_some_and(|other| one == other))
}
