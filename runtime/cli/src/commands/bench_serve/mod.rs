//! `ossmith bench serve`: load on a server that speaks OpenAI's API, with the flags and the JSON keys of vLLM's command of
//! the same name. `client` makes one request and takes its times, `stats` turns times into figures.

mod client;
mod replay;
mod stats;
mod sweep;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::commands::random::Random;
use crate::commands::table;
use crate::failure::fail;
use crate::output;
use client::{Target, Timed};
use replay::Planned;
pub(crate) use sweep::SweepArgs;

/// Which API is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    /// /v1/completions with token ids.
    #[value(alias = "openai")]
    Vllm,
    /// /v1/chat/completions with text.
    OpenaiChat,
}

/// Put load on a server and say how it holds up.
///
/// Prompts are random token ids of the given length; each request streams, and every chunk is timed. With --save-result
/// the figures are also written as JSON, under vLLM's keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which API to ask.
    #[arg(long, value_enum, default_value = "vllm")]
    backend: Backend,

    /// Where the server is: http only.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    /// Its host, if no --base-url is given.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    /// Its port.
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// The path asked [default: that of the API].
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,

    /// The model's name [default: the server's first].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Where prompts come from; only random ones are built in.
    #[arg(long, default_value = "random", value_parser = ["random"])]
    dataset_name: String,

    /// Tokens of a prompt.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    random_input_len: u32,

    /// Tokens of an answer.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    random_output_len: u32,

    /// Requests in all.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    num_prompts: u32,

    /// Send the load that a server recorded with --record-arrivals: as many requests, at the same times, with prompts and
    /// answers of the same lengths.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["random_input_len", "random_output_len", "num_prompts", "request_rate", "burstiness", "max_concurrency"])]
    replay: Option<PathBuf>,

    /// Requests per second, from 0.000001; inf sends all at once.
    #[arg(long, default_value_t = f64::INFINITY, value_name = "X")]
    request_rate: f64,

    /// 1 spaces requests as a Poisson process, larger values (to 1000000) more evenly, smaller ones (from 0.001) in
    /// bursts: the gaps are a gamma distribution of this shape.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    burstiness: f64,

    /// Requests in flight at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrency: Option<u32>,

    /// Seed of prompts and of arrival times.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Continue answers to their full length.
    #[arg(long)]
    ignore_eos: bool,

    /// Sampling temperature [default: the server's].
    #[arg(long, value_name = "X")]
    temperature: Option<f64>,

    /// Key to send [default: OPENAI_API_KEY, if set].
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,

    /// Times whose percentiles are given.
    #[arg(
        long,
        default_value = "ttft,tpot,itl",
        value_delimiter = ',',
        value_name = "ttft,tpot,itl,e2el"
    )]
    percentile_metrics: Vec<String>,

    /// Which percentiles.
    #[arg(long, default_value = "99", value_delimiter = ',', value_name = "P,…", value_parser = stats::parse_percentile)]
    metric_percentiles: Vec<f64>,

    /// Bounds in ms that a good request keeps: ttft:200 tpot:20 e2el:5000.
    #[arg(long, num_args = 1.., value_name = "NAME:MS")]
    goodput: Vec<String>,

    /// Write the figures to a file.
    #[arg(long)]
    save_result: bool,

    /// Folder of that file.
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    result_dir: PathBuf,

    /// Its name [default: made of rate, model and time].
    #[arg(long, value_name = "NAME")]
    result_filename: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        for (flag, value, within) in [
            ("--request-rate", self.request_rate, 1e-6..=f64::INFINITY),
            ("--burstiness", self.burstiness, 1e-3..=1e6),
        ] {
            if !within.contains(&value) {
                return Err(fail(
                    format!("{flag} is {value}"),
                    format!("give a number from {} to {}", within.start(), within.end()),
                ));
            }
        }
        if self.save_result {
            output::check_folder(&self.result_dir)?;
        }
        let report = self.measure()?;
        self.print(&report)?;
        if self.save_result {
            let path = self.result_path(report["model_id"].as_str().unwrap_or_default());
            std::fs::write(&path, format!("{report}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(why) = report["errors"][0].as_str().filter(|_| report["completed"] == 0) {
            return Err(fail(
                format!("every request failed: {why}"),
                "check --base-url, --endpoint, --model and the key",
            ));
        }
        Ok(())
    }

    /// Puts the load on the server; gives the figures under vLLM's keys.
    fn measure(&self) -> anyhow::Result<Value> {
        let bounds = stats::bounds(&self.goodput)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let plan = self.plan()?;
        let (model, runs, duration) = runtime.block_on(self.load(&plan))?;
        let (runs, late): (Vec<Timed>, Vec<Duration>) = runs.into_iter().unzip();
        let mut report = stats::report(&runs, duration, &self.metric_percentiles, &bounds);
        self.describe(&model, plan.len(), &mut report);
        if let Some(file) = &self.replay {
            report["replay"] = replay::report(file, &late);
        }
        Ok(report)
    }

    /// The requests of a recording, or random arrivals of requests of one length.
    fn plan(&self) -> anyhow::Result<Vec<Planned>> {
        if let Some(file) = &self.replay {
            return replay::read(file);
        }
        let (input_tokens, output_tokens) = (self.random_input_len, self.random_output_len);
        let mut random = Random(self.seed);
        let mut due = Duration::ZERO;
        let next = |_| {
            let planned = Planned { due, input_tokens, output_tokens };
            if self.request_rate.is_finite() {
                let gap = random.gamma(self.burstiness, 1.0 / self.request_rate);
                due += Duration::from_secs_f64(gap);
            }
            planned
        };
        Ok((0..self.num_prompts).map(next).collect())
    }

    /// Sends all requests, and waits for their answers; also returns how long after its time each was sent.
    async fn load(
        &self,
        plan: &[Planned],
    ) -> anyhow::Result<(String, Vec<(Timed, Duration)>, f64)> {
        let base =
            self.base_url.clone().unwrap_or_else(|| format!("http://{}:{}", self.host, self.port));
        let key = self.api_key.clone().or_else(|| std::env::var("OPENAI_API_KEY").ok());
        let target = Arc::new(Target::new(&base, key)?);
        let model = match &self.model {
            Some(model) => model.clone(),
            None => target.first_model().await?,
        };
        let permits = Arc::new(Semaphore::new(
            self.max_concurrency.map_or(Semaphore::MAX_PERMITS, |max| max as usize),
        ));
        // Arrivals and prompts have numbers of their own, so that the same prompts come at any rate.
        let mut random = Random(self.seed.wrapping_add(1));
        let start = Instant::now();
        let mut tasks = Vec::new();
        for (number, planned) in (0..).zip(plan) {
            let (path, body) = self.request(&model, number, planned, &mut random);
            let wait = planned.due.saturating_sub(start.elapsed());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let late = start.elapsed().saturating_sub(planned.due);
            let (target, permits) = (Arc::clone(&target), Arc::clone(&permits));
            let input = planned.input_tokens as usize;
            tasks.push(tokio::spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                (target.stream(&path, &body, input).await, late)
            }));
        }
        let mut runs = Vec::with_capacity(tasks.len());
        for task in tasks {
            runs.push(task.await.context("a request's task ended badly")?);
        }
        Ok((model, runs, start.elapsed().as_secs_f64()))
    }

    fn request(
        &self,
        model: &str,
        number: u32,
        planned: &Planned,
        random: &mut Random,
    ) -> (String, String) {
        // Ordinary tokens only; the first one tells prompts apart, so that no prefix is shared.
        let mut ids: Vec<u32> =
            (0..planned.input_tokens).map(|_| 1000 + random.below(190_000) as u32).collect();
        ids[0] = 1000 + number % 190_000;
        let mut body = json!({
            "model": model, "stream": true, "stream_options": {"include_usage": true}, "repetition_penalty": 1.0,
        });
        let path = match self.backend {
            Backend::Vllm => {
                body["prompt"] = json!(ids);
                body["max_tokens"] = planned.output_tokens.into();
                "/v1/completions"
            }
            Backend::OpenaiChat => {
                let text = ossmith_harmony::decode_lossy(&ids).unwrap_or_default();
                body["messages"] = json!([{"role": "user", "content": text}]);
                body["max_completion_tokens"] = planned.output_tokens.into();
                "/v1/chat/completions"
            }
        };
        // A recorded answer has the length that it had, whatever this model would say.
        if self.ignore_eos || self.replay.is_some() {
            body["ignore_eos"] = true.into();
        }
        if let Some(temperature) = self.temperature {
            body["temperature"] = temperature.into();
        }
        (self.endpoint.clone().unwrap_or_else(|| path.to_owned()), body.to_string())
    }

    fn describe(&self, model: &str, requests: usize, report: &mut Value) {
        let finite = |value: f64| if value.is_finite() { json!(value) } else { json!("inf") };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let backend = match self.backend {
            Backend::Vllm => "vllm",
            Backend::OpenaiChat => "openai-chat",
        };
        for (key, value) in [
            ("date", json!(now)),
            ("endpoint_type", json!(backend)),
            ("backend", json!(backend)),
            ("label", Value::Null),
            ("model_id", json!(model)),
            ("tokenizer_id", json!("o200k_harmony")),
            ("num_prompts", json!(requests)),
            ("request_rate", finite(self.request_rate)),
            ("burstiness", json!(self.burstiness)),
            ("max_concurrency", json!(self.max_concurrency)),
        ] {
            report[key] = value;
        }
    }

    fn result_path(&self, model: &str) -> PathBuf {
        let name = self.result_filename.clone().unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let rate = self.request_rate;
            PathBuf::from(format!("ossmith-{rate}qps-{}-{now}.json", model.replace('/', "-")))
        });
        self.result_dir.join(name)
    }

    fn print(&self, report: &Value) -> anyhow::Result<()> {
        let figure = |key: &str| {
            report[key].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        let mut rows = Vec::new();
        for (name, key) in [
            ("requests answered", "completed"),
            ("requests failed", "failed"),
            ("seconds", "duration"),
            ("input tokens", "total_input_tokens"),
            ("generated tokens", "total_output_tokens"),
            ("requests/s", "request_throughput"),
            ("good requests/s", "request_goodput"),
            ("generated tokens/s", "output_throughput"),
            ("all tokens/s", "total_token_throughput"),
        ] {
            rows.push(vec![name.to_owned(), figure(key)]);
        }
        for metric in &self.percentile_metrics {
            for part in ["mean".to_owned(), "median".to_owned()]
                .into_iter()
                .chain(self.metric_percentiles.iter().map(|p| stats::percentile_name(*p)))
            {
                rows.push(vec![
                    format!("{part} {metric} (ms)"),
                    figure(&format!("{part}_{metric}_ms")),
                ]);
            }
        }
        let mut out = std::io::stdout().lock();
        for line in table::lines(&["figure", "value"], &rows, &[1]) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}
