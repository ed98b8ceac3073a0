//! What a report shows of one kind of card: steps and prompts beside predictions and other programs, the roofline, phases,
//! and the history over builds.

use std::collections::BTreeSet;

use ossmith_plan::{Arch, StepShape};

use super::percent;
use crate::charts::{self, Dot, Line, Roofs, Stack};
use crate::contract::{self, Bench};
use crate::error::Result;
use crate::history::{Build, Peer, rank};
use crate::page::{Item, Table};
use crate::predict::{Load, Predictor};
use crate::records::{Content, DecodeRun, Record};

/// The decode runs of records: of one model, batch and context the first.
fn decode_runs<'a>(records: &[&'a Record]) -> Vec<(&'a str, &'a DecodeRun)> {
    let mut found: Vec<(&str, &DecodeRun)> = Vec::new();
    for record in records {
        let Content::Decode(runs) = &record.content else { continue };
        for run in runs {
            let same = |(model, other): &(&str, &DecodeRun)| {
                (*model, other.batch, other.context)
                    == (record.model.as_str(), run.batch, run.context)
            };
            if !found.iter().any(same) {
                found.push((&record.model, run));
            }
        }
    }
    found.sort_by_key(|(model, run)| (std::cmp::Reverse(*model), run.context, run.batch));
    found
}

pub(super) fn steps(profile: &Arch, records: &[&Record], peers: &[Peer]) -> Result<Vec<Item>> {
    let predictor = Predictor::of(*profile)?;
    let runs = decode_runs(records);
    let mut decode = Table::new(
        "Decode steps. The roofline is a flat read of the step's bytes in the same run.",
        &[
            "model",
            "batch",
            "keys",
            "ms",
            "tokens/s",
            "GB/s",
            "% of roofline",
            "predicted ms",
            "other programs, ms",
        ],
        1,
    );
    let mut notes: BTreeSet<String> = BTreeSet::new();
    for (model, run) in &runs {
        let beside = peers.iter().filter(|peer| {
            (peer.profile.as_str(), peer.model.as_str(), peer.batch, run.context)
                == (profile.name, *model, Some(run.batch), 1024)
        });
        let beside: Vec<String> = beside
            .filter_map(|peer| {
                notes.insert(format!("{}: {}.", peer.program, peer.note));
                Some(format!("{} {:.2}", peer.program, peer.step_ms?))
            })
            .collect();
        let plan = ossmith_models::find(model).map(|model| model.on(profile.compute));
        let predicted =
            plan.map(|plan| predictor.ms(&Load::decode(&plan, profile, run.batch, run.context)));
        decode.row([
            (*model).to_owned(),
            run.batch.to_string(),
            run.context.to_string(),
            format!("{:.3}", run.step.median_ms),
            format!("{:.0}", run.batch as f64 * 1e3 / run.step.median_ms),
            format!("{:.0}", run.bytes / run.step.median_ms / 1e6),
            percent(run.roofline_share),
            predicted.map_or_else(String::new, |ms| format!("{ms:.3}")),
            beside.join(", "),
        ]);
    }
    let mut prompts = Table::new(
        "Prompts to their first token. The share is of what the data sheet's rates allow.",
        &[
            "model",
            "tokens",
            "chunk",
            "ms",
            "tokens/s",
            "% of data sheet",
            "predicted ms",
            "other programs, tokens/s",
        ],
        1,
    );
    for record in records {
        let Content::Prefill { chunk, runs } = &record.content else { continue };
        for run in runs {
            let Some(plan) =
                ossmith_models::find(&record.model).map(|model| model.on(profile.compute))
            else {
                continue;
            };
            let beside = peers.iter().filter(|peer| {
                (peer.profile.as_str(), peer.model.as_str(), peer.prompt)
                    == (profile.name, record.model.as_str(), Some(run.tokens))
            });
            let beside: Vec<String> = beside
                .filter_map(|peer| {
                    notes.insert(format!("{}: {}.", peer.program, peer.note));
                    Some(format!("{} {:.0}", peer.program, peer.prompt_tokens_per_s?))
                })
                .collect();
            prompts.row([
                record.model.clone(),
                run.tokens.to_string(),
                (*chunk).min(run.tokens).to_string(),
                format!("{:.2}", run.median_ms),
                format!("{:.0}", run.tokens as f64 * 1e3 / run.median_ms),
                percent(contract::prompt_share(&plan, profile, run.tokens, *chunk, run.median_ms)),
                format!("{:.2}", predictor.ms(&Load::prompt(&plan, profile, run.tokens, *chunk))),
                beside.join(", "),
            ]);
        }
    }
    let mut items = vec![Item::Table(decode), Item::Table(prompts)];
    if let Some(picture) = whole_roofline(profile, &runs) {
        items.push(Item::Picture(picture));
    }
    items.extend(notes.into_iter().map(Item::Text));
    Ok(items)
}

/// The rate of the flat reads of some runs in GB/s.
fn flat_read(runs: &[(&str, &DecodeRun)]) -> Option<f64> {
    let rates = runs.iter().map(|(_, run)| run.bytes / run.roofline.median_ms / 1e6);
    let most = rates.fold(0.0, f64::max);
    (most > 0.0).then_some(most)
}

/// Steps and their phases under the roofs.
fn whole_roofline(profile: &Arch, runs: &[(&str, &DecodeRun)]) -> Option<crate::svg::Picture> {
    let gb_per_s = flat_read(runs)?;
    let mut dots = Vec::new();
    for (model, run) in runs {
        let Some(plan) = ossmith_models::find(model).map(|model| model.on(profile.compute)) else {
            continue;
        };
        let schedule = plan.schedule(run.batch);
        let shape = StepShape {
            distinct_experts: run.distinct_experts,
            ..StepShape::decode(&plan, run.batch, run.context)
        };
        let cost = plan.step_cost(schedule, &shape);
        let name = format!("{model}, batch {}, {} keys", run.batch, run.context);
        let group = format!("whole steps of {model}");
        dots.push(Dot {
            group,
            name: name.clone(),
            bytes: run.bytes,
            flops: cost.flops,
            ms: run.step.median_ms,
        });
        if *model != "gpt-oss-20b" || run.context != 1024 {
            continue;
        }
        for phase in &run.phases {
            let (Some(flops), Some(ms)) = (phase.flops, phase.in_chain_ms) else { continue };
            let group = phase.name.clone();
            dots.push(Dot {
                group,
                name: format!("{}, {name}", phase.name),
                bytes: phase.bytes,
                flops,
                ms,
            });
        }
    }
    let roofs = Roofs { gb_per_s, tflops: f64::from(profile.bf16_tflops) };
    let title = format!(
        "{}: steps, and phases of gpt-oss-20b in the chain, under the flat read and the tensor cores",
        profile.name.to_uppercase()
    );
    Some(charts::roofline(&format!("roofline-{}", profile.name), &title, roofs, &dots))
}

pub(super) fn phases(profile: &Arch, records: &[&Record]) -> Vec<Item> {
    let runs = decode_runs(records);
    let mut models: Vec<&str> = Vec::new();
    for (model, run) in &runs {
        if !run.phases.is_empty() && !models.contains(model) {
            models.push(model);
        }
    }
    let mut items = Vec::new();
    for model in models {
        let of_model: Vec<&DecodeRun> =
            runs.iter().filter(|(name, _)| *name == model).map(|(_, run)| *run).collect();
        let stack = |run: &&DecodeRun| Stack {
            name: format!("{} × {}", run.batch, run.context),
            parts: run
                .phases
                .iter()
                .filter_map(|phase| Some((phase.name.clone(), phase.in_chain_ms? * 1e3)))
                .collect(),
            us: run.step.median_ms * 1e3,
            roofline_us: run.roofline.median_ms * 1e3,
        };
        let title = format!(
            "{model} on {}: where decode steps spend their time (batch × keys)",
            profile.name.to_uppercase()
        );
        let name = format!("phases-{}-{model}", profile.name);
        items.push(Item::Picture(charts::stacks(
            &name,
            &title,
            &of_model.iter().map(stack).collect::<Vec<_>>(),
        )));
        let mut table = Table::new(
            &format!(
                "{model}. Alone: the phase over all layers with nothing between. In the chain: by how much a step without it is shorter. The share is of the flat read."
            ),
            &[
                "phase",
                "batch",
                "keys",
                "MB",
                "GFLOP",
                "alone, µs",
                "in the chain, µs",
                "GB/s",
                "TFLOP/s",
                "% of roofline",
            ],
            1,
        );
        for run in of_model {
            for phase in &run.phases {
                let chain = phase.in_chain_ms.filter(|ms| *ms > 0.0);
                let of_chain = |value: &dyn Fn(f64) -> f64, digits: usize| {
                    chain.map_or_else(String::new, |ms| format!("{:.digits$}", value(ms)))
                };
                table.row([
                    phase.name.clone(),
                    run.batch.to_string(),
                    run.context.to_string(),
                    format!("{:.1}", phase.bytes / 1e6),
                    phase.flops.map_or_else(String::new, |flops| format!("{:.2}", flops / 1e9)),
                    format!("{:.1}", phase.alone.median_ms * 1e3),
                    phase.in_chain_ms.map_or_else(String::new, |ms| format!("{:.1}", ms * 1e3)),
                    of_chain(&|ms| phase.bytes / ms / 1e6, 0),
                    phase
                        .flops
                        .map_or_else(String::new, |flops| of_chain(&|ms| flops / ms / 1e9, 1)),
                    of_chain(
                        &|ms| 100.0 * run.roofline.median_ms * phase.bytes / run.bytes / ms,
                        0,
                    ),
                ]);
            }
        }
        items.push(Item::Table(table));
    }
    items
}

pub(super) fn trends(profile: &Arch, records: &[&Record], builds: &[Build]) -> Result<Vec<Item>> {
    let owned: Vec<Record> = records.iter().map(|record| (*record).clone()).collect();
    let cases: Vec<contract::Case> = contract::of_repository()?
        .into_iter()
        .filter(|case| case.profile == profile.name)
        .collect();
    let kept = contract::compare(&cases, &owned, builds);
    let mut order: Vec<String> = Vec::new();
    for (build, _) in kept.iter().flat_map(|kept| &kept.reached) {
        if !order.contains(build) {
            order.push(build.clone());
        }
    }
    order.sort_by_key(|build| rank(builds, build));
    if order.len() < 2 {
        return Ok(Vec::new());
    }
    let mut lines = Vec::new();
    let mut table = Table::new("Milliseconds by build.", &["model", "case"], 2);
    table
        .header
        .extend(order.iter().map(|build| build.split('/').next_back().unwrap_or(build).to_owned()));
    for kept in &kept {
        let place = |build: &String| order.iter().position(|known| known == build).unwrap_or(0);
        if kept.reached.len() > 1 && matches!(kept.case.bench, Bench::Decode { .. }) {
            let points =
                kept.reached.iter().map(|(build, reached)| (place(build), reached.share)).collect();
            let name =
                format!("{}, {}", kept.case.model.trim_start_matches("gpt-oss-"), kept.case.bench);
            lines.push(Line { name, points });
        }
        let mut row = vec![kept.case.model.clone(), kept.case.bench.to_string()];
        row.extend(order.iter().map(|build| {
            let found = kept.reached.iter().find(|(known, _)| known == build);
            found.map_or_else(String::new, |(_, reached)| format!("{:.3}", reached.ms))
        }));
        table.rows.push(row);
    }
    let mut items = Vec::new();
    if !lines.is_empty() {
        let title =
            format!("{}: share of the roofline, build by build", profile.name.to_uppercase());
        items.push(Item::Picture(charts::trend(
            &format!("history-{}", profile.name),
            &title,
            &order,
            &lines,
        )));
    }
    items.push(Item::Table(table));
    let what = |build: &String| {
        let known = builds.iter().find(|known| known.folder == *build)?;
        Some(format!("{build} ({}): {}", known.commit, known.what))
    };
    let what: Vec<String> = order.iter().filter_map(what).collect();
    items.push(Item::Text(what.join("; ")));
    Ok(items)
}
