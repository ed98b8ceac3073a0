//! From records to a report: which tables and pictures there are, and what stands in them.

mod card;

use std::collections::BTreeSet;

use ossmith_plan::Arch;
use serde_json::Value;

use card::{phases, steps, trends};

use crate::charts::{self, Point, Series};
use crate::contract;
use crate::error::Result;
use crate::history::{self, Build, rank};
use crate::page::{Item, Report, Table};
use crate::predict::Predictor;
use crate::records::{Content, Record};

/// The report of records. What several builds have is shown of the newest one, and all of it in the history.
///
/// # Errors
/// [`crate::Error::Content`] if an embedded file cannot be read, which tests rule out.
pub fn report(records: &[Record], origin: &str) -> Result<Report> {
    let (builds, peers) = (history::builds()?, history::peers()?);
    let mut report = Report {
        title: "Ossmith: where performance stands".to_owned(),
        origin: origin.to_owned(),
        sections: Vec::new(),
    };
    let newest = newest(records, &builds);
    for profile in profiles(records) {
        let name = profile.name.to_uppercase();
        let of_profile = |record: &&&Record| record.profile() == Some(profile.name);
        let own: Vec<&Record> = newest.iter().filter(of_profile).copied().collect();
        let all: Vec<&Record> =
            records.iter().filter(|record| record.profile() == Some(profile.name)).collect();
        let (id_steps, id_phases, id_history) = ids(profile.name);
        report.section(
            id_steps,
            &format!("{name}: steps and prompts"),
            steps(&profile, &own, &peers)?,
        );
        report.section(id_phases, &format!("{name}: phases"), phases(&profile, &own));
        report.section(
            id_history,
            &format!("{name}: from build to build"),
            trends(&profile, &all, &builds)?,
        );
    }
    report.section("timeline", "A decode step block by block", timelines(records));
    report.section("contract", "Contract", contract_items(records, &builds)?);
    report.section("predictions", "Predictions", predictions()?);
    report.section("load", "Servers under load", sweeps(records));
    report.section("resources", "Resources of kernels", resources(records));
    Ok(report)
}

fn ids(profile: &str) -> (&'static str, &'static str, &'static str) {
    match profile {
        "h100" => ("h100-steps", "h100-phases", "h100-history"),
        "h200" => ("h200-steps", "h200-phases", "h200-history"),
        _ => ("steps", "phases", "history"),
    }
}

/// Profiles that some record is of, fastest memory first.
fn profiles(records: &[Record]) -> Vec<Arch> {
    let names: BTreeSet<&str> = records.iter().filter_map(Record::profile).collect();
    let mut found: Vec<Arch> = names.into_iter().filter_map(Arch::named).collect();
    found.sort_by_key(|arch| std::cmp::Reverse(arch.memory_gb_per_s));
    found
}

/// Of each profile and kind of content, the records of the newest build that has it.
fn newest<'a>(records: &'a [Record], builds: &[Build]) -> Vec<&'a Record> {
    let kind = |record: &Record| (record.profile(), std::mem::discriminant(&record.content));
    let last = |record: &Record| {
        let same = records.iter().filter(|other| kind(other) == kind(record));
        // A build that measured one batch again is not the one to show.
        let large = |other: &&Record| of_build(records, other) >= 3;
        same.filter(large).map(|other| rank(builds, &other.build)).max()
    };
    records
        .iter()
        .filter(|record| last(record).is_none_or(|last| rank(builds, &record.build) == last))
        .collect()
}

/// How many figures a build has of the kind of a record, up to what is needed to stand for it.
fn of_build(records: &[Record], record: &Record) -> usize {
    let kind = std::mem::discriminant(&record.content);
    let same = records.iter().filter(|other| {
        other.build == record.build && std::mem::discriminant(&other.content) == kind
    });
    same.map(|other| match &other.content {
        Content::Decode(runs) => runs.len(),
        // Files of one build may have a prompt each.
        Content::Prefill { .. } | Content::Sweep(_) | Content::Trace(_) | Content::Kernels(_) => 3,
    })
    .sum()
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn timelines(records: &[Record]) -> Vec<Item> {
    let traces = records.iter().filter_map(|record| match &record.content {
        Content::Trace(trace) => Some(trace),
        _ => None,
    });
    let mut items = Vec::new();
    for (index, trace) in traces.enumerate() {
        items.push(Item::Picture(charts::timeline(&format!("timeline-{}", index + 1), trace)));
        let mut table = Table::new(
            "Of each phase: launches, blocks per launch, and microseconds on average from the first block's inputs to the last block's end, and that a block waits for its inputs.",
            &["phase", "launches", "blocks", "µs per launch", "µs of wait per block"],
            1,
        );
        let spans = trace.spans();
        for phase in trace.phases() {
            let of_phase = |launch: usize| trace.launches[launch].phase == phase;
            let own: Vec<f64> = spans
                .iter()
                .enumerate()
                .filter(|(at, _)| of_phase(*at))
                .map(|(_, (from, to))| to - from)
                .collect();
            let blocks: Vec<f64> = trace
                .blocks
                .iter()
                .filter(|block| of_phase(block.launch))
                .map(|block| block.ready_us - block.start_us)
                .collect();
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
            table.row([
                phase.to_owned(),
                own.len().to_string(),
                format!("{:.0}", blocks.len() as f64 / own.len().max(1) as f64),
                format!("{:.2}", mean(&own)),
                format!("{:.2}", mean(&blocks)),
            ]);
        }
        items.push(Item::Table(table));
        let plain = trace
            .plain_us
            .map_or_else(String::new, |us| format!(" Without stamps the step takes {us:.0} µs."));
        items.push(Item::Text(format!(
            "The trace has {} blocks of {} launches on {} SMs, by a clock that counts {:.0} ns.{plain}",
            trace.blocks.len(),
            trace.launches.len(),
            trace.sms(),
            1e3 * trace.clock_us
        )));
    }
    items
}

fn contract_items(records: &[Record], builds: &[Build]) -> Result<Vec<Item>> {
    let mut table = Table::new(
        "The share of the roofline that each headline case must reach (benches/contract.toml), and what the newest build reached.",
        &["card", "model", "case", "", "least %", "reached %", "ms"],
        4,
    );
    for kept in contract::compare(&contract::of_repository()?, records, builds) {
        let Some(newest) = kept.newest() else { continue };
        table.row([
            kept.case.profile.to_uppercase(),
            kept.case.model.clone(),
            kept.case.bench.to_string(),
            if kept.is_kept() { "kept" } else { "missed" }.to_owned(),
            percent(kept.case.min_share),
            percent(newest.share),
            format!("{:.3}", newest.ms),
        ]);
    }
    Ok(vec![Item::Table(table)])
}

fn predictions() -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for profile in Arch::ALL {
        let predictor = Predictor::of(profile)?;
        let mut table = Table::new(
            &format!(
                "{}: recorded results, each predicted from all others.",
                profile.name.to_uppercase()
            ),
            &["result", "regime", "measured ms", "predicted ms", "error %"],
            2,
        );
        for one in &predictor.compared {
            table.row([
                one.name.clone(),
                one.regime.to_owned(),
                format!("{:.3}", one.measured_ms),
                format!("{:.3}", one.predicted_ms),
                format!("{:+.1}", 100.0 * one.error()),
            ]);
        }
        if table.rows.is_empty() {
            continue;
        }
        let regimes = ["decode", "batched", "prefill"].into_iter().filter_map(|regime| {
            let (mean, largest) = predictor.error(regime)?;
            Some(format!(
                "{regime} {:.1} % on average and {:.1} % at worst",
                100.0 * mean,
                100.0 * largest
            ))
        });
        let regimes: Vec<String> = regimes.collect();
        items.push(Item::Text(format!("{}: {}.", profile.name.to_uppercase(), regimes.join("; "))));
        items.push(Item::Table(table));
    }
    Ok(items)
}

fn sweeps(records: &[Record]) -> Vec<Item> {
    let mut series = Vec::new();
    for record in records {
        if let Content::Sweep(points) = &record.content {
            series.extend(sweep_series(&sweep_name(record), points));
        }
    }
    if series.is_empty() {
        return Vec::new();
    }
    let pareto = charts::pareto(
        "pareto",
        "Tokens per second per user against output tokens per second per GPU",
        &series,
    );
    let latencies = charts::latencies(
        "latencies",
        "Latencies: the median, and broken the 99th percentile",
        &series,
    );
    let mut table = Table::new(
        "Points of the sweeps; times in ms.",
        &[
            "server",
            "at once",
            "output tokens/s",
            "per user",
            "TTFT p50",
            "TTFT p99",
            "ITL p50",
            "ITL p99",
        ],
        1,
    );
    for one in &series {
        for point in &one.points {
            table.row([
                one.name.clone(),
                point.concurrency.to_string(),
                format!("{:.0}", point.per_gpu),
                format!("{:.1}", point.per_user),
                format!("{:.1}", point.ttft_ms.0),
                format!("{:.1}", point.ttft_ms.1),
                format!("{:.2}", point.itl_ms.0),
                format!("{:.2}", point.itl_ms.1),
            ]);
        }
    }
    vec![Item::Picture(pareto), Item::Picture(latencies), Item::Table(table)]
}

/// The server of a sweep in a report of several: its label, else the file's name.
fn sweep_name(record: &Record) -> String {
    let file = record.file.rsplit('/').next().unwrap_or(&record.file);
    format!("{} ({})", record.model, file.trim_end_matches(".json"))
}

/// The points of a sweep, one series for each pair of lengths.
#[must_use]
pub fn sweep_series(name: &str, points: &[Value]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for point in points {
        let number = |key: &str| point[key].as_f64().unwrap_or_default();
        let count = |key: &str| point[key].as_u64().unwrap_or_default();
        let tpot = number("mean_tpot_ms");
        let one = Point {
            concurrency: count("max_concurrency"),
            per_user: if tpot > 0.0 { 1e3 / tpot } else { 0.0 },
            per_gpu: number("output_throughput") / number("gpus").max(1.0),
            ttft_ms: (number("median_ttft_ms"), number("p99_ttft_ms")),
            itl_ms: (number("median_itl_ms"), number("p99_itl_ms")),
        };
        let name =
            format!("{name}, {} in, {} out", count("random_input_len"), count("random_output_len"));
        match series.iter_mut().find(|known| known.name == name) {
            Some(known) => known.points.push(one),
            None => series.push(Series { name, points: vec![one] }),
        }
    }
    series
}

fn resources(records: &[Record]) -> Vec<Item> {
    let mut items = Vec::new();
    for record in records {
        let Content::Kernels(kernels) = &record.content else { continue };
        let mut table = Table::new(
            &format!("{}: what ptxas reports of each kernel.", record.model),
            &[
                "kernel",
                "grid",
                "threads",
                "shared bytes",
                "registers",
                "at most",
                "spilled bytes",
                "cubin bytes",
            ],
            2,
        );
        for kernel in kernels {
            let text = |key: &str| match &kernel[key] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            table.row([
                text("kernel"),
                text("grid"),
                text("threads"),
                text("shared_bytes"),
                text("registers"),
                text("max_registers"),
                text("spill_bytes"),
                text("cubin_bytes"),
            ]);
        }
        items.push(Item::Table(table));
    }
    items
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::trace::tests::small;
    use crate::{html, records};

    /// The repository's own results, a trace, a sweep and a list of kernels make every section.
    #[test]
    fn everything_that_was_recorded_has_its_section() {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
        let mut all = records::read(&[results]).expect("results");
        let more = [
            small().to_chrome(),
            json!({"bench": "sweep", "model": "m", "points": [{
                "max_concurrency": 8, "random_input_len": 16, "random_output_len": 4, "mean_tpot_ms": 5.0,
                "output_throughput": 900.0, "gpus": 2, "median_ttft_ms": 10.0, "p99_ttft_ms": 20.0,
                "median_itl_ms": 5.0, "p99_itl_ms": 9.0,
            }]}),
            json!({"bench": "kernels", "model": "gpt-oss-20b", "kernels": [{"kernel": "embed", "registers": 32}]}),
        ];
        for value in more {
            all.push(Record::parse("x.json", &value.to_string()).expect("JSON").expect("a result"));
        }
        let report = report(&all, "the repository's results").expect("a report");
        let ids: Vec<&str> = report.sections.iter().map(|section| section.id).collect();
        assert_eq!(
            ids,
            [
                "h200-steps",
                "h200-phases",
                "h200-history",
                "h100-steps",
                "h100-phases",
                "h100-history",
                "timeline",
                "contract",
                "predictions",
                "load",
                "resources",
            ]
        );
        let names: Vec<&str> = report.pictures().map(|picture| picture.name.as_str()).collect();
        for name in [
            "roofline-h200",
            "phases-h200-gpt-oss-120b",
            "history-h100",
            "timeline-1",
            "pareto",
            "latencies",
        ] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        let distinct: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        let page = html::page(&report);
        // The newest H200 build at batch 1, beside vLLM; 450 tokens/s per GPU of the sweep; a kernel.
        for part in [
            "<td class=\"n\">1.197</td>",
            "vLLM 0.26 2.98",
            "<td class=\"n\">450</td>",
            "<td>embed</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    /// A build that measured one step again is in the history, and does not stand for its card.
    #[test]
    fn the_newest_whole_build_is_shown() {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
        let all = records::read(&[results]).expect("results");
        let builds = history::builds().expect("builds");
        let shown: BTreeSet<&str> =
            newest(&all, &builds).into_iter().map(|record| record.build.as_str()).collect();
        assert_eq!(
            shown,
            BTreeSet::from(["2026-11-22-h100/large-steps", "2026-12-01-h200/batches"])
        );
    }
}
