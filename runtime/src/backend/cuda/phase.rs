//! The phases of a layer by name, in the order in which [`Model::phases`] lists them and [`super::forward`] launches
//! them.

use ossmith_plan::{Model, Phase};

/// A phase of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerPhase {
    Qkv,
    Attention,
    AttnOut,
    Router,
    ExpertUp,
    ExpertDown,
}

impl LayerPhase {
    pub(super) const ALL: [LayerPhase; 6] = [
        LayerPhase::Qkv,
        LayerPhase::Attention,
        LayerPhase::AttnOut,
        LayerPhase::Router,
        LayerPhase::ExpertUp,
        LayerPhase::ExpertDown,
    ];

    /// The nodes that it computes.
    pub(super) fn plan(self, model: &Model) -> &'static Phase {
        &model.phases[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_those_of_the_plan() {
        for model in ossmith_models::ALL {
            let names = LayerPhase::ALL.map(|phase| phase.plan(model).name);
            assert_eq!(
                names,
                [
                    "rmsnorm_qkv_rope",
                    "attention",
                    "attn_out_residual",
                    "rmsnorm_router",
                    "moe_up_swiglu",
                    "moe_down_residual",
                ]
            );
            let (of_layer, head) = model.phases.split_at(LayerPhase::ALL.len());
            assert!(of_layer.iter().all(|phase| !model.is_head(phase)));
            assert!(head.iter().all(|phase| model.is_head(phase)));
        }
    }
}
