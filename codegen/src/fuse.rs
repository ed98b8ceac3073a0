//! Fusion: which nodes of the graph one phase computes. Every node of a layer and of the head is in exactly one
//! phase, in graph order.

use ossmith_plan::{Graph, Node, Op, Phase};

/// A fusion rule: the phase's name and the operations that it takes from the front of what is left.
struct Rule {
    name: &'static str,
    ops: &'static [Op],
}

const LAYER_RULES: &[Rule] = &[
    Rule { name: "rmsnorm_qkv_rope", ops: &[Op::RmsNorm, Op::Linear, Op::Rope, Op::CacheWrite] },
    Rule { name: "attention", ops: &[Op::Attention] },
    Rule { name: "attn_out_residual", ops: &[Op::Linear, Op::AllReduce, Op::AddTo] },
    Rule { name: "rmsnorm_router", ops: &[Op::RmsNorm, Op::Linear] },
    Rule { name: "moe_up_swiglu", ops: &[Op::TopK, Op::ExpertLinear, Op::SwiGlu] },
    Rule {
        name: "moe_down_residual",
        ops: &[Op::ExpertLinear, Op::Combine, Op::AllReduce, Op::AddTo],
    },
];

const HEAD_RULES: &[Rule] = &[Rule { name: "rmsnorm_unembed", ops: &[Op::RmsNorm, Op::Linear] }];

/// The phases of one layer, then those of the head.
///
/// # Panics
/// When the rules do not cover the graph: a generator bug, found by the tests of every shipped model.
#[must_use]
pub fn fuse(graph: &Graph) -> Vec<Phase> {
    let mut phases = apply(LAYER_RULES, graph.layer);
    phases.extend(apply(HEAD_RULES, graph.head));
    phases
}

fn apply(rules: &[Rule], mut nodes: &'static [Node]) -> Vec<Phase> {
    let phases = rules
        .iter()
        .map(|rule| {
            let (taken, rest) = nodes.split_at(rule.ops.len());
            assert!(
                taken.iter().map(|node| node.op).eq(rule.ops.iter().copied()),
                "fusion rule {} does not match {taken:?}",
                rule.name
            );
            nodes = rest;
            Phase { name: rule.name, nodes: taken }
        })
        .collect();
    assert!(nodes.is_empty(), "no fusion rule takes {nodes:?}");
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_in_one_phase_in_order() {
        let graph = crate::testing::graph();
        let fused: Vec<Node> =
            fuse(&graph).iter().flat_map(|phase| phase.nodes.iter().copied()).collect();
        let all: Vec<Node> = graph.layer.iter().chain(graph.head).copied().collect();
        assert_eq!(fused, all);
    }
}
