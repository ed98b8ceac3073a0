//! Fusion: which nodes of the graph one phase computes, for each regime. Every node is in exactly one phase, in graph
//! order; what a phase fuses decides which kernels compute it ([`mod@crate::schedule`]), so a rule changed here changes
//! what is emitted, launched, checked and reported.

use ossmith_plan::{Auxiliary, Graph, Node, Op, Regime};

/// A fusion rule: the phase's name and the operations that it takes from the front of what is left.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The phase's name.
    pub name: &'static str,
    /// Operations of its nodes, in graph order.
    pub ops: &'static [Op],
    /// Operations that it takes from the front of the following layer.
    pub next: &'static [Op],
    /// What a phase without nodes does.
    pub auxiliary: Option<Auxiliary>,
}

const fn rule(name: &'static str, ops: &'static [Op]) -> Rule {
    Rule { name, ops, next: &[], auxiliary: None }
}

const fn auxiliary(name: &'static str, what: Auxiliary) -> Rule {
    Rule { name, ops: &[], next: &[], auxiliary: Some(what) }
}

/// The rules of a regime, by part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Before the layers: the graph's start, and the nodes of the first layer that later ones leave to the layer before.
    pub start: &'static [Rule],
    /// In every layer.
    pub layer: &'static [Rule],
    /// After the layers.
    pub head: &'static [Rule],
    /// Instead of that, where the shadow of the unembedding is enough.
    pub shadow_head: &'static [Rule],
}

const SAMPLE: Rule = auxiliary("sample", Auxiliary::Sample);

/// Memory bounds every GEMV of a few tokens, so nothing else is a kernel. The norm before a GEMV is deferred to its end,
/// and the router is folded into the kernels around it.
const DECODE: Rules = Rules {
    start: &[rule("embed", &[Op::Embed])],
    layer: &[
        rule("rmsnorm_qkv_rope", &[Op::RmsNorm, Op::Linear, Op::Rope, Op::CacheWrite]),
        rule("attention", &[Op::Attention]),
        rule("attn_out_residual", &[Op::Linear, Op::AllReduce, Op::AddTo, Op::RmsNorm, Op::Linear]),
        rule("moe_up_swiglu", &[Op::TopK, Op::ExpertLinear, Op::SwiGlu]),
        rule("moe_down_residual", &[Op::ExpertLinear, Op::Combine, Op::AllReduce, Op::AddTo]),
    ],
    head: &[rule("unembed", &[Op::RmsNorm, Op::Linear]), SAMPLE],
    shadow_head: &[auxiliary("shadow_head", Auxiliary::ShadowHead)],
};

/// GEMMs read rows that are normed already, and experts read tiles of tokens that are sorted by expert.
const GEMM: Rules = Rules {
    start: &[rule("embed_rmsnorm", &[Op::Embed, Op::RmsNorm])],
    layer: &[
        rule("qkv_rope", &[Op::Linear, Op::Rope, Op::CacheWrite]),
        rule("attention", &[Op::Attention]),
        rule("attn_out_residual", &[Op::Linear, Op::AllReduce, Op::AddTo]),
        rule("rmsnorm", &[Op::RmsNorm]),
        rule("router", &[Op::Linear]),
        rule("moe_topk", &[Op::TopK]),
        auxiliary("moe_permute", Auxiliary::Permute),
        rule("moe_up_swiglu", &[Op::ExpertLinear, Op::SwiGlu]),
        rule("moe_down", &[Op::ExpertLinear]),
        Rule {
            next: &[Op::RmsNorm],
            ..rule("moe_unpermute_rmsnorm", &[Op::Combine, Op::AllReduce, Op::AddTo])
        },
    ],
    head: &[rule("rmsnorm", &[Op::RmsNorm]), rule("unembed", &[Op::Linear]), SAMPLE],
    shadow_head: &[],
};

const JOIN_LOGITS: Rule = auxiliary("join_logits", Auxiliary::JoinLogits);

/// Of several ranks: the kernels that add to the residual add over ranks in their epilogues.
const RANKED_DECODE: Rules = Rules {
    head: &[rule("unembed", &[Op::RmsNorm, Op::Linear]), JOIN_LOGITS, SAMPLE],
    shadow_head: &[],
    ..DECODE
};

/// Of several ranks: a kernel leaves this rank's part of a sum, and the one after it adds over ranks.
const RANKED_GEMM: Rules = Rules {
    layer: &[
        rule("qkv_rope", &[Op::Linear, Op::Rope, Op::CacheWrite]),
        rule("attention", &[Op::Attention]),
        rule("attn_out", &[Op::Linear]),
        rule("attn_allreduce_rmsnorm", &[Op::AllReduce, Op::AddTo, Op::RmsNorm]),
        rule("router", &[Op::Linear]),
        rule("moe_topk", &[Op::TopK]),
        auxiliary("moe_permute", Auxiliary::Permute),
        rule("moe_up_swiglu", &[Op::ExpertLinear, Op::SwiGlu]),
        rule("moe_down", &[Op::ExpertLinear]),
        rule("moe_unpermute", &[Op::Combine]),
        Rule { next: &[Op::RmsNorm], ..rule("moe_allreduce_rmsnorm", &[Op::AllReduce, Op::AddTo]) },
    ],
    head: &[rule("rmsnorm", &[Op::RmsNorm]), rule("unembed", &[Op::Linear]), JOIN_LOGITS, SAMPLE],
    ..GEMM
};

/// The fusion of each regime where several ranks share a model.
#[must_use]
pub const fn rules_of_ranks(regime: Regime) -> &'static Rules {
    match regime {
        Regime::Decode { .. } => &RANKED_DECODE,
        Regime::Batched | Regime::Prefill => &RANKED_GEMM,
    }
}

/// The fusion of each regime.
#[must_use]
pub const fn rules(regime: Regime) -> &'static Rules {
    match regime {
        Regime::Decode { .. } => &DECODE,
        Regime::Batched | Regime::Prefill => &GEMM,
    }
}

/// A phase before it has kernels: the nodes that it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fused {
    /// The operations fused, in order.
    pub name: &'static str,
    /// The graph's nodes, in order.
    pub nodes: &'static [Node],
    /// Nodes at the front of the following layer that it computes too.
    pub next: &'static [Node],
    /// What a phase without nodes does.
    pub auxiliary: Option<Auxiliary>,
}

/// A fused graph: the phases of each part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedGraph {
    /// Before the layers.
    pub start: Vec<Fused>,
    /// In every layer.
    pub layer: Vec<Fused>,
    /// After the layers.
    pub head: Vec<Fused>,
    /// Instead of that, where the shadow of the unembedding is enough.
    pub shadow_head: Vec<Fused>,
}

/// Fuses a graph by the rules of a regime.
///
/// # Panics
/// When the rules do not cover the graph: a generator bug, found by the tests of every shipped model.
#[must_use]
pub fn fuse(graph: &Graph, regime: Regime) -> FusedGraph {
    apply(graph, rules(regime))
}

/// Fuses a graph by rules.
///
/// # Panics
/// As [`fuse`].
#[must_use]
pub fn apply(graph: &Graph, rules: &Rules) -> FusedGraph {
    // The last phase of a layer may compute the front of the following one; of the first layer, the start does.
    let ahead = rules.layer.last().map_or(0, |rule| rule.next.len());
    let (front, rest) = graph.layer.split_at(ahead);
    let (of_start, of_front): (usize, usize) = (graph.start.len(), front.len());
    let start: &'static [Node] = crate::leak([graph.start, front].concat());
    debug_assert_eq!(start.len(), of_start + of_front);
    FusedGraph {
        start: take(rules.start, start, &[]),
        layer: take(rules.layer, rest, front),
        head: take(rules.head, graph.head, &[]),
        shadow_head: take(rules.shadow_head, &[], &[]),
    }
}

/// Gives each rule its nodes, in order; `front` is what the last one may compute of the following layer.
fn take(rules: &[Rule], mut nodes: &'static [Node], front: &'static [Node]) -> Vec<Fused> {
    let matches = |rule: &Rule, ops: &[Op], taken: &[Node]| {
        assert!(
            taken.iter().map(|node| node.op).eq(ops.iter().copied()),
            "fusion rule {} does not match {taken:?}",
            rule.name
        );
    };
    let phases = rules
        .iter()
        .map(|rule| {
            let (taken, rest) = nodes.split_at(rule.ops.len());
            let next = &front[..rule.next.len()];
            matches(rule, rule.ops, taken);
            matches(rule, rule.next, next);
            assert_eq!(
                taken.is_empty(),
                rule.auxiliary.is_some(),
                "fusion rule {} computes nodes or is auxiliary",
                rule.name
            );
            nodes = rest;
            Fused { name: rule.name, nodes: taken, next, auxiliary: rule.auxiliary }
        })
        .collect();
    assert!(nodes.is_empty(), "no fusion rule takes {nodes:?}");
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIMES: [Regime; 3] =
        [Regime::Decode { max_tokens: 8 }, Regime::Batched, Regime::Prefill];

    /// A step over `layers` layers, node by node, as the graph states it and as its phases compute it.
    #[test]
    fn every_node_is_in_one_phase_in_order() {
        let graph = crate::testing::graph();
        for rules in REGIMES.map(rules).into_iter().chain(REGIMES.map(rules_of_ranks)) {
            let fused = apply(&graph, rules);
            let nodes = |phases: &[Fused]| -> Vec<Node> {
                phases.iter().flat_map(|phase| [phase.nodes, phase.next].concat()).collect()
            };
            let (start, layer, head) =
                (nodes(&fused.start), nodes(&fused.layer), nodes(&fused.head));
            let stated = [graph.start, graph.layer, graph.layer, graph.layer, graph.head].concat();
            let mut computed = [&start[..], &layer, &layer, &layer].concat();
            // What the last layer computes for a layer that does not come, the head computes for its rows.
            computed.truncate(computed.len() - (start.len() - graph.start.len()));
            computed.extend(head);
            assert_eq!(computed, stated, "{rules:?}");
        }
    }

    #[test]
    fn phases_are_named_once_in_each_part() {
        for rules in REGIMES.map(rules).into_iter().chain(REGIMES.map(rules_of_ranks)) {
            for part in [rules.start, rules.layer, rules.head, rules.shadow_head] {
                let mut names: Vec<&str> = part.iter().map(|rule| rule.name).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), part.len(), "{part:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "fusion rule attention does not match")]
    fn rules_that_do_not_fit_the_graph_are_found() {
        const WRONG: Rules = Rules { layer: &[rule("attention", &[Op::Attention])], ..DECODE };
        let _ = apply(&crate::testing::graph(), &WRONG);
    }
}
