//! A traced step: every phase over time, and below it the SMs block by block for two layers in the middle.

use super::{Frame, legend};
use crate::svg::{Anchor, Picture, Scale, fill};
use crate::trace::StepTrace;

/// Height of one SM's line.
const SM_HEIGHT: f64 = 3.0;
/// Height of one phase's line in the overview.
const PHASE_HEIGHT: f64 = 18.0;

/// The picture.
#[must_use]
pub fn timeline(name: &str, trace: &StepTrace) -> Picture {
    const COLUMNS: usize = 4;
    let phases = trace.phases();
    let colour = |phase: &str| phases.iter().position(|known| *known == phase).unwrap_or(0);
    let overview = Frame {
        left: 170.0,
        top: 66.0,
        right: 940.0,
        bottom: 66.0 + PHASE_HEIGHT * phases.len() as f64,
    };
    let sms = trace.sms();
    let top = overview.bottom + 84.0;
    let detail = Frame { top, bottom: top + SM_HEIGHT * sms as f64, ..overview };
    let height = detail.bottom + 60.0 + 18.0 * phases.len().div_ceil(COLUMNS) as f64;
    let title = format!(
        "{} on {}: one decode step, batch {}, {} keys, {:.0} µs",
        trace.model,
        trace.device,
        trace.batch,
        trace.context,
        trace.length_us()
    );
    let mut picture = Picture::new(name, &title, 960.0, height);
    picture.text(16.0, 22.0, Anchor::Start, "title", &title);
    let spans = trace.spans();

    let x = Scale::linear((0.0, trace.length_us()), (overview.left, overview.right));
    time_axis(&mut picture, &overview, &x, "µs from the first block");
    picture.text(
        overview.left,
        overview.top - 10.0,
        Anchor::Start,
        "dim",
        "each launch, from its first block's inputs to its last block's end",
    );
    for (row, phase) in phases.iter().enumerate() {
        let y = overview.top + PHASE_HEIGHT * row as f64;
        picture.text(overview.left - 8.0, y + 13.0, Anchor::End, "", phase);
        for (launch, (from, to)) in trace.launches.iter().zip(&spans) {
            if launch.phase == **phase {
                let at = launch.layer.map_or(String::new(), |layer| format!(", layer {layer}"));
                let note = format!("{}{at}: {from:.1} to {to:.1} µs", launch.kernel);
                let width = (x.at(*to) - x.at(*from)).max(0.6);
                picture.rect(
                    x.at(*from),
                    y + 3.0,
                    width,
                    PHASE_HEIGHT - 6.0,
                    &fill(colour(phase)),
                    &note,
                );
            }
        }
    }

    let Some((from, to)) = middle(trace, &spans) else {
        legend(&mut picture, &overview, overview.bottom + 44.0, &owned(&phases), COLUMNS);
        return picture;
    };
    let x = Scale::linear((from, to), (detail.left, detail.right));
    let text =
        "two layers in the middle, by SM: blocks, faint while they wait for the kernel before";
    picture.text(detail.left, detail.top - 10.0, Anchor::Start, "dim", text);
    time_axis(&mut picture, &detail, &x, "µs");
    for sm in (0..sms).step_by(16) {
        let y = detail.top + SM_HEIGHT * sm as f64;
        picture.text(detail.left - 8.0, y + 8.0, Anchor::End, "dim", &format!("SM {sm}"));
    }
    let threads = lanes(trace);
    for (block, (lane, of)) in trace.blocks.iter().zip(threads) {
        if block.end_us < from || block.start_us > to {
            continue;
        }
        let launch = &trace.launches[block.launch];
        // Blocks that share an SM share its line.
        let height = SM_HEIGHT * 0.9 / of as f64;
        let y = detail.top + SM_HEIGHT * f64::from(block.sm) + height * lane as f64;
        let class = fill(colour(&launch.phase));
        let (start, ready, end) = (x.at(block.start_us), x.at(block.ready_us), x.at(block.end_us));
        if ready > start {
            picture.rect(start, y, ready - start, height, &format!("{class} faint"), "");
        }
        picture.rect(ready, y, end - ready, height, &class, "");
    }
    legend(
        &mut picture,
        &Frame { left: 16.0, ..detail },
        detail.bottom + 44.0,
        &owned(&phases),
        COLUMNS,
    );
    picture
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn time_axis(picture: &mut Picture, frame: &Frame, x: &Scale, name: &str) {
    frame.base(picture);
    for value in x.ticks() {
        let at = x.at(value);
        picture.line((at, frame.top), (at, frame.bottom + 4.0), "rule");
        picture.text(at, frame.bottom + 17.0, Anchor::Middle, "dim", &crate::svg::label(value));
    }
    picture.text(frame.right, frame.bottom + 33.0, Anchor::End, "dim", name);
}

/// From the start of the middle layer's first launch to the end of the next layer's last.
fn middle(trace: &StepTrace, spans: &[(f64, f64)]) -> Option<(f64, f64)> {
    let layers = trace.launches.iter().filter_map(|launch| launch.layer).max()? + 1;
    let first = if layers > 1 { layers / 2 - 1 } else { 0 };
    let chosen = trace.launches.iter().zip(spans);
    let chosen =
        chosen.filter(|(launch, _)| launch.layer.is_some_and(|at| at == first || at == first + 1));
    let (mut from, mut to) = (f64::INFINITY, 0.0_f64);
    for (_, span) in chosen {
        (from, to) = (from.min(span.0), to.max(span.1));
    }
    (from < to).then_some((from, to))
}

/// Of each block: which of the lines of its SM it has, and how many lines that SM has.
fn lanes(trace: &StepTrace) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..trace.blocks.len()).collect();
    order.sort_by(|&a, &b| trace.blocks[a].start_us.total_cmp(&trace.blocks[b].start_us));
    let mut ends: Vec<Vec<f64>> = vec![Vec::new(); trace.sms()];
    let mut lane_of = vec![0; trace.blocks.len()];
    for index in order {
        let block = &trace.blocks[index];
        let lanes = &mut ends[block.sm as usize];
        let free = lanes.iter().position(|end| *end <= block.start_us);
        let lane = free.unwrap_or_else(|| {
            lanes.push(0.0);
            lanes.len() - 1
        });
        lanes[lane] = block.end_us;
        lane_of[index] = lane;
    }
    let most = ends.iter().map(Vec::len).max().unwrap_or(1);
    lane_of.into_iter().map(|lane| (lane, most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Launch;
    use crate::trace::tests::small;

    #[test]
    fn every_block_of_the_middle_layers_is_shown_with_its_wait() {
        let svg = timeline("t", &small()).inline();
        // Two launches above; two blocks of layer 0 with their waits, and the part of `embed` that overlaps them.
        assert!(svg.contains("qkv_decode1, layer 0: 5.2 to 9.5 µs"), "{svg}");
        // One block's wait ends before what is shown begins.
        assert_eq!(svg.matches("class=\"f1 faint\"").count(), 1, "{svg}");
        // Of five layers, those before and after the two in the middle are left out.
        let mut trace = small();
        let launches =
            (0..5).map(|layer| Launch { layer: Some(layer), ..trace.launches[1].clone() });
        trace.launches = launches.collect();
        let spans: Vec<(f64, f64)> =
            (0..5).map(|at| (f64::from(at), f64::from(at) + 0.5)).collect();
        assert_eq!(middle(&trace, &spans), Some((1.0, 2.5)));
        let none = StepTrace::default();
        assert!(timeline("t", &none).inline().contains("</svg>"));
    }
}
