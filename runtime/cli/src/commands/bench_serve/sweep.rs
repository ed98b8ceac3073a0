//! `ossmith bench sweep`: `bench serve` at many loads, each kept as soon as it is measured, so that a sweep that was stopped
//! goes on where it was.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ossmith_report::{assemble, charts};
use serde_json::{Map, Value, json};

use super::{Args, Backend};
use crate::commands::table;
use crate::failure::fail;
use crate::output;

/// Put many loads on a server, one after another: concurrency by lengths.
///
/// Works with any server that speaks OpenAI's API. Each point is one run of `bench serve`, with vLLM's keys. The file of
/// --out is written after every point, and a sweep that is started again goes on with the points that it lacks.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "JSON (--out), one object:
  bench (\"sweep\"), model, gpus, label, settings
  points   one object per load: vLLM's keys, with max_concurrency, random_input_len, random_output_len and gpus
CSV (--csv): one line per point, one column per key that is a number")]
pub(crate) struct SweepArgs {
    /// Where the server is: http only.
    #[arg(long, default_value = "http://127.0.0.1:8000", value_name = "URL")]
    base_url: String,

    /// Which API to ask.
    #[arg(long, value_enum, default_value = "vllm")]
    backend: Backend,

    /// The model's name [default: the server's first].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Requests in flight at once, of each load.
    #[arg(long, default_value = "1,2,4,8,16,32,64", value_delimiter = ',', value_name = "N,…", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Vec<u32>,

    /// Tokens of prompts and answers: IN:OUT, several divided by commas.
    #[arg(long, default_value = "1024:128", value_delimiter = ',', value_name = "IN:OUT,…", value_parser = lengths)]
    lengths: Vec<(u32, u32)>,

    /// Requests of a load: this many for each that is in flight.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// GPUs that the server runs on, by which its output is divided.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    gpus: u32,

    /// What the server is called in pictures [default: the model].
    #[arg(long, value_name = "NAME")]
    label: Option<String>,

    /// End answers where the model does, not at their full length.
    #[arg(long)]
    stop_at_eos: bool,

    /// Sampling temperature [default: the server's].
    #[arg(long, value_name = "X")]
    temperature: Option<f64>,

    /// Seed of the prompts.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Key to send [default: OPENAI_API_KEY, if set].
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,

    /// File for the result; points that it has are not measured again.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Measure every point again.
    #[arg(long)]
    again: bool,

    /// Also write the points as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Also draw a picture: tokens per second per user against per GPU. A second file, with -latencies in its name, has
    /// TTFT and ITL.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn lengths(text: &str) -> Result<(u32, u32), String> {
    let pair = text
        .split_once(':')
        .and_then(|(input, output)| Some((input.parse().ok()?, output.parse().ok()?)));
    pair.filter(|(input, output)| *input > 0 && *output > 0)
        .ok_or_else(|| "write IN:OUT, such as 1024:128".to_owned())
}

impl SweepArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        for file in [&self.out].into_iter().chain(&self.csv).chain(&self.svg) {
            output::check(file)?;
        }
        let settings = self.settings();
        let mut points = if self.again { Vec::new() } else { self.kept(&settings)? };
        let (loads, mut failed) = (self.loads(), 0);
        for (number, (input, output, concurrency)) in loads.iter().enumerate() {
            let is_this = |point: &Value| {
                point["random_input_len"] == *input
                    && point["random_output_len"] == *output
                    && point["max_concurrency"] == *concurrency
            };
            if points.iter().any(is_this) {
                continue;
            }
            eprintln!(
                "point {} of {}: {concurrency} at once, {input} in, {output} out",
                number + 1,
                loads.len()
            );
            let mut point = self.point(*input, *output, *concurrency).measure()?;
            point["random_input_len"] = (*input).into();
            point["random_output_len"] = (*output).into();
            point["gpus"] = self.gpus.into();
            if point["completed"] == 0 {
                return Err(fail(
                    format!(
                        "every request failed at {concurrency} at once: {}",
                        point["errors"][0]
                    ),
                    "mend the server and start the sweep again: it goes on with this point",
                ));
            }
            failed += point["failed"].as_u64().unwrap_or_default();
            points.push(point);
            self.write(&settings, &points)?;
        }
        self.write(&settings, &points)?;
        let mut out = std::io::stdout().lock();
        for line in lines(&points) {
            writeln!(out, "{line}")?;
        }
        if failed > 0 {
            eprintln!("{failed} requests failed; the figures are of the others");
        }
        Ok(())
    }

    /// Every load: lengths, then concurrency.
    fn loads(&self) -> Vec<(u32, u32, u32)> {
        let of_lengths = |&(input, output): &(u32, u32)| {
            self.concurrency
                .iter()
                .map(move |&concurrency| (input, output, concurrency))
                .collect::<Vec<_>>()
        };
        self.lengths.iter().flat_map(of_lengths).collect()
    }

    /// What all points of a file must have in common.
    fn settings(&self) -> Value {
        json!({
            "base_url": self.base_url, "model": self.model, "rounds": self.rounds, "gpus": self.gpus,
            "ignore_eos": !self.stop_at_eos, "temperature": self.temperature, "seed": self.seed,
        })
    }

    /// The points that the file has already.
    fn kept(&self, settings: &Value) -> anyhow::Result<Vec<Value>> {
        if !self.out.exists() {
            return Ok(Vec::new());
        }
        let name = self.out.display();
        let text =
            std::fs::read_to_string(&self.out).with_context(|| format!("cannot read {name}"))?;
        let advice = "name another --out, or give --again to measure everything anew";
        let whole: Value = serde_json::from_str(&text).unwrap_or_default();
        let Some(points) = whole["points"].as_array().filter(|_| whole["bench"] == "sweep") else {
            return Err(fail(format!("{name} is not the result of a sweep"), advice));
        };
        for (key, value) in settings.as_object().into_iter().flatten() {
            if whole["settings"][key] != *value {
                let message = format!(
                    "{name} has points with {key} {}, and this sweep has {value}",
                    whole["settings"][key]
                );
                return Err(fail(message, advice));
            }
        }
        Ok(points.clone())
    }

    /// One load as `bench serve` puts it.
    fn point(&self, input: u32, output: u32, concurrency: u32) -> Args {
        Args {
            backend: self.backend,
            base_url: Some(self.base_url.clone()),
            host: String::new(),
            port: 0,
            endpoint: None,
            model: self.model.clone(),
            dataset_name: "random".to_owned(),
            random_input_len: input,
            random_output_len: output,
            num_prompts: self.rounds.saturating_mul(concurrency),
            replay: None,
            request_rate: f64::INFINITY,
            burstiness: 1.0,
            max_concurrency: Some(concurrency),
            // Other prompts at each load: a server that keeps prefixes must not know them.
            seed: self.seed.wrapping_add(u64::from(concurrency) << 32 | u64::from(input)),
            ignore_eos: !self.stop_at_eos,
            temperature: self.temperature,
            api_key: self.api_key.clone(),
            percentile_metrics: Vec::new(),
            metric_percentiles: vec![50.0, 90.0, 99.0],
            goodput: Vec::new(),
            save_result: false,
            result_dir: PathBuf::new(),
            result_filename: None,
        }
    }

    fn write(&self, settings: &Value, points: &[Value]) -> anyhow::Result<()> {
        let model = points.first().map_or(Value::Null, |point| point["model_id"].clone());
        let label = self.label.clone().map_or_else(|| model.clone(), Value::from);
        let result = json!({
            "bench": "sweep", "model": model, "gpus": self.gpus, "label": label, "settings": settings, "points": points,
        });
        write(&self.out, &(serde_json::to_string_pretty(&result)? + "\n"))?;
        if let Some(file) = &self.csv {
            write(file, &csv(points))?;
        }
        if let Some(file) = &self.svg {
            let series = assemble::sweep_series(label.as_str().unwrap_or("a server"), points);
            let title = "Tokens per second per user against output tokens per second per GPU";
            write(file, &charts::pareto("pareto", title, &series).file())?;
            let title = "Latencies: the median, and broken the 99th percentile";
            write(&beside(file), &charts::latencies("latencies", title, &series).file())?;
        }
        Ok(())
    }
}

/// `pareto.svg`: `pareto-latencies.svg`.
fn beside(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-latencies.svg"))
}

/// Writes a file whole or not at all: a sweep that is stopped must not lose what it has.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Every key of the first point that has a number there, as columns.
fn csv(points: &[Value]) -> String {
    let empty = Map::new();
    let first = points.first().and_then(Value::as_object).unwrap_or(&empty);
    let keys: Vec<&String> =
        first.iter().filter(|(_, value)| value.is_number()).map(|(key, _)| key).collect();
    let mut text = keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(",") + "\n";
    for point in points {
        let cells: Vec<String> = keys
            .iter()
            .map(
                |key| if point[*key].is_number() { point[*key].to_string() } else { String::new() },
            )
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.join(","));
    }
    text
}

fn lines(points: &[Value]) -> Vec<String> {
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|point| {
            let number = |key: &str, digits: usize| {
                point[key].as_f64().map_or_else(String::new, |value| format!("{value:.digits$}"))
            };
            let tpot = point["mean_tpot_ms"].as_f64().filter(|tpot| *tpot > 0.0);
            vec![
                number("random_input_len", 0),
                number("random_output_len", 0),
                number("max_concurrency", 0),
                number("output_throughput", 1),
                tpot.map_or_else(String::new, |tpot| format!("{:.1}", 1e3 / tpot)),
                number("median_ttft_ms", 1),
                number("p99_ttft_ms", 1),
                number("median_itl_ms", 2),
                number("p99_itl_ms", 2),
                number("failed", 0),
            ]
        })
        .collect();
    let header = [
        "in",
        "out",
        "at once",
        "output tokens/s",
        "per user",
        "TTFT p50",
        "p99",
        "ITL p50",
        "p99",
        "failed",
    ];
    table::lines(&header, &rows, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_pairs() {
        assert_eq!(lengths("1024:128"), Ok((1024, 128)));
        for wrong in ["1024", "0:1", "1:0", "a:b", "1:2:3", ""] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_csv_has_the_numbers_of_every_point() {
        let points = [json!({"a": 1, "b": "text", "c": 2.5}), json!({"a": 3, "c": null})];
        assert_eq!(csv(&points), "a,c\n1,2.5\n3,\n");
        assert_eq!(csv(&[]), "\n");
        assert_eq!(beside(Path::new("out/pareto.svg")), Path::new("out/pareto-latencies.svg"));
    }
}
