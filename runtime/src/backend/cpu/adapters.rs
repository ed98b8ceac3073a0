//! Adapters beside the matrices: after a node has computed `w x` for all rows of a step, what an adapter adds is computed for the
//! rows that have it, adapter by adapter. A row's results depend on its own adapter alone, whatever the others have.

use ossmith_plan::{Node, Value, Weight};
use rayon::prelude::*;

use super::batch::Batch;
use super::values::Values;
use crate::checkpoint::AdapterPart;
use crate::{Error, Result};

/// What is added to one row of a value: the row of the input, and the parts that are applied to it.
type Addition<'a> = Option<(usize, &'a [AdapterPart])>;

/// Adds to the results of a matrix that all tokens share.
pub(super) fn linear(node: &Node, layer: usize, values: &mut Values, batch: &Batch) -> Result<()> {
    let (&[weight, ..], Some(output)) = (node.weights, node.outputs.first().copied()) else {
        return Ok(());
    };
    if !is_adapted(batch, weight, layer) {
        return Ok(());
    }
    let mut additions: Vec<Addition<'_>> = vec![None; values.rows()];
    for (adapter, rows) in &batch.adapters {
        let parts = adapter.parts(weight, layer);
        for &row in rows.iter().filter(|_| !parts.is_empty()) {
            additions[row] = Some((row, parts));
        }
    }
    add(node, output, values.row_elements(output), &additions, values)
}

/// Adds to the results of experts' matrices, one row for each token at each of its chosen experts.
pub(super) fn expert_linear(
    node: &Node,
    layer: usize,
    values: &mut Values,
    batch: &Batch,
) -> Result<()> {
    let (&[weight, ..], &[input, chosen], Some(output)) =
        (node.weights, node.inputs, node.outputs.first().copied())
    else {
        return Ok(());
    };
    if !is_adapted(batch, weight, layer) {
        return Ok(());
    }
    let top_k = values.row_elements(chosen);
    let width = values.row_elements(output) / top_k;
    // The second matrices read a row for each token at each expert, the first one row for each token.
    let per_route = input != Value::MoeInput;
    let experts = values.u32(chosen)?;
    let mut additions: Vec<Addition<'_>> = vec![None; values.rows() * top_k];
    for (adapter, rows) in &batch.adapters {
        for route in rows.iter().flat_map(|row| row * top_k..(row + 1) * top_k) {
            let parts = adapter.parts_of(weight, layer, experts[route] as usize);
            if !parts.is_empty() {
                let row = if per_route { route } else { route / top_k };
                additions[route] = Some((row, parts));
            }
        }
    }
    add(node, output, width, &additions, values)
}

/// Whether any row's adapter changes a weight. The head's nodes have rows of their own, and none of them is adapted.
fn is_adapted(batch: &Batch, weight: Weight, layer: usize) -> bool {
    batch.adapters.iter().any(|(adapter, _)| !adapter.parts(weight, layer).is_empty())
}

fn add(
    node: &Node,
    output: Value,
    width: usize,
    additions: &[Addition<'_>],
    values: &mut Values,
) -> Result<()> {
    let Some(&input) = node.inputs.first() else { return Ok(()) };
    let k = match additions.iter().flatten().next() {
        Some((_, [part, ..])) => part.a.len() / part.rank,
        _ => return Ok(()),
    };
    let mut out = values.take_written_f32(output)?;
    let x = values.f32(input)?;
    if x.len() / k * k != x.len() || out.len() != additions.len() * width {
        return Err(Error::Internal(format!("an adapter does not fit node {node:?}")));
    }
    out.par_chunks_exact_mut(width).zip(additions).for_each(|(out, addition)| {
        if let Some((row, parts)) = *addition {
            let x = &x[row * k..(row + 1) * k];
            parts.iter().for_each(|part| part.apply(x, out));
        }
    });
    values.put_f32(output, out);
    Ok(())
}
