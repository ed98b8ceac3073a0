//! A compiled [`Model`] as a Rust expression that is the same model, all of it constant: what `model!` expands to.
//!
//! Every plan type is listed once, with all its fields or variants: the patterns are exhaustive, so a plan type
//! that grows does not compile here until its line does too. Types are written as `plan::…`, so the caller decides what
//! crate that is.

use ossmith_plan::params::Params;
use ossmith_plan::{Kernel, Model, PhaseKernel};
use proc_macro2::{Literal as Token, TokenStream};
use quote::{format_ident, quote};

/// The expression whose value is `model`; it stands where `plan` is a name of the crate `ossmith-plan`.
#[must_use]
pub fn model(model: &Model) -> TokenStream {
    model.tokens()
}

/// A value that can be written down as a constant expression.
trait Literal {
    fn tokens(&self) -> TokenStream;
}

macro_rules! structs {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Literal for ossmith_plan::$name {
            fn tokens(&self) -> TokenStream {
                let ossmith_plan::$name { $($field),* } = self;
                $(let $field = $field.tokens();)*
                quote!(plan::$name { $($field: #$field),* })
            }
        }
    )*};
}

macro_rules! enums {
    ($($name:ident { $($variant:ident $(($value:ident))? $({ $field:ident })?),* $(,)? })*) => {$(
        impl Literal for ossmith_plan::$name {
            fn tokens(&self) -> TokenStream {
                match self {$(
                    ossmith_plan::$name::$variant $(($value))? $({ $field })? => {
                        $(let $value = $value.tokens();)?
                        $(let $field = $field.tokens();)?
                        quote!(plan::$name::$variant $((#$value))? $({ $field: #$field })?)
                    }
                )*}
            }
        }
    )*};
}

/// Enums whose variants hold nothing are written as `Debug` names them.
macro_rules! names {
    ($($name:ident)*) => {$(
        impl Literal for ossmith_plan::$name {
            fn tokens(&self) -> TokenStream {
                let variant = format_ident!("{self:?}");
                quote!(plan::$name::#variant)
            }
        }
    )*};
}

structs! {
    Model { spec, shard, arch, graph, layouts, schedules, tuned, tools, units, headers, losses }
    Tuned { arch, device, driver, schedules, units, problems }
    Shard { rank, of }
    Arch {
        name, family, compute, sms, shared_bytes_per_block, shared_bytes_per_sm, registers_per_sm, max_cluster, wgmma,
        memory_gb_per_s, bf16_tflops,
    }
    Loss { families, what }
    ModelSpec {
        name, hidden, inter, head_dim, q_heads, kv_heads, vocab, context, layers, rms_eps, swiglu_limit, swiglu_alpha,
        attention_bias, tied_embeddings, rope, stop_tokens, max_new_tokens,
    }
    Layer { window, experts, top_k }
    Rope { theta, factor, beta_fast, beta_slow, original_context, truncate }
    Graph { start, layer, head, shapes, classes }
    Shapes { weights, values }
    Node { op, inputs, weights, outputs }
    WeightInfo { weight, dtype, shape }
    ValueInfo { value, dtype, shape }
    Phase { name, nodes, next, auxiliary, kernels }
    Schedule { regime, max_tokens, family, tile_order, unembed_tile_order, start, layers, head, shadow_head }
    Tools { adapt_qkv, adapt_attn_out, fill_bf16, fill_mxfp4, flat_read, make_shadow, write_history }
    KernelInfo { name, grid, threads, cluster, shared_bytes, dependent_launch }
    Grid { x, y, z }
    Unit { name, source, family, max_registers, ranks }
}

enums! {
    Axis { Fixed(count), Tokens, TokenTiles(tokens), ExpertTiles(routes), QueryTiles(tokens), KvSplits(most), PerSm(blocks) }
    Regime { Decode { max_tokens }, Batched, Prefill }
    RowOrder { Natural, RopePairs { head_dim }, GateUpPairs }
    WeightLayout { RowMajor, Bf16Tiles(order), Mxfp4Tiles(order) }
}

names! { Auxiliary DType Family Op Value Weight }

impl<P: Params> Literal for Kernel<P> {
    fn tokens(&self) -> TokenStream {
        let info = self.info.tokens();
        quote!(plan::Kernel::new(#info))
    }
}

impl Literal for PhaseKernel {
    fn tokens(&self) -> TokenStream {
        let (variant, info) = (format_ident!("{}", self.params()), self.info().tokens());
        quote!(plan::PhaseKernel::#variant(plan::Kernel::new(#info)))
    }
}

macro_rules! numbers {
    ($($name:ident $literal:ident)*) => {$(
        impl Literal for $name {
            fn tokens(&self) -> TokenStream {
                let number = Token::$literal(*self);
                quote!(#number)
            }
        }
    )*};
}

numbers! { i32 i32_unsuffixed u32 u32_unsuffixed f32 f32_unsuffixed f64 f64_unsuffixed }

impl Literal for usize {
    fn tokens(&self) -> TokenStream {
        if *self == usize::MAX {
            return quote!(usize::MAX);
        }
        let number = Token::usize_unsuffixed(*self);
        quote!(#number)
    }
}

impl Literal for bool {
    fn tokens(&self) -> TokenStream {
        quote!(#self)
    }
}

impl Literal for &'static str {
    fn tokens(&self) -> TokenStream {
        quote!(#self)
    }
}

impl<T: Literal> Literal for &'static [T] {
    fn tokens(&self) -> TokenStream {
        let items = self.iter().map(Literal::tokens);
        quote!(&[#(#items),*])
    }
}

impl<T: Literal, const N: usize> Literal for [T; N] {
    fn tokens(&self) -> TokenStream {
        let items = self.iter().map(Literal::tokens);
        quote!([#(#items),*])
    }
}

impl<T: Literal> Literal for Option<T> {
    fn tokens(&self) -> TokenStream {
        match self {
            Some(value) => {
                let value = value.tokens();
                quote!(Some(#value))
            }
            None => quote!(None),
        }
    }
}

impl<A: Literal, B: Literal> Literal for (A, B) {
    fn tokens(&self) -> TokenStream {
        let (first, second) = (self.0.tokens(), self.1.tokens());
        quote!((#first, #second))
    }
}

#[cfg(test)]
mod tests {
    use ossmith_plan::{Axis, Grid, RowOrder, WeightLayout, params};

    use super::*;

    #[test]
    fn values_are_written_as_a_person_would() {
        let kernel: Kernel<params::RmsNorm> = Kernel::new(ossmith_plan::KernelInfo {
            name: "k",
            grid: Grid { x: Axis::Fixed(3), y: Axis::Tokens, z: Axis::PerSm(2) },
            threads: 256,
            cluster: 1,
            shared_bytes: 0,
            dependent_launch: true,
        });
        let text = |tokens: TokenStream| tokens.to_string().replace(' ', "");
        for (tokens, expected) in [
            (
                kernel.tokens(),
                "plan::Kernel::new(plan::KernelInfo{name:\"k\",grid:plan::Grid{\
                 x:plan::Axis::Fixed(3),y:plan::Axis::Tokens,z:plan::Axis::PerSm(2)},\
                 threads:256,cluster:1,shared_bytes:0,dependent_launch:true})",
            ),
            (
                WeightLayout::Bf16Tiles(RowOrder::RopePairs { head_dim: 64 }).tokens(),
                "plan::WeightLayout::Bf16Tiles(plan::RowOrder::RopePairs{head_dim:64})",
            ),
            (usize::MAX.tokens(), "usize::MAX"),
            (1e-5_f32.tokens(), "0.00001"),
            (150_000_f64.tokens(), "150000.0"),
            ([Some(1_u32), None].tokens(), "[Some(1),None]"),
        ] {
            assert_eq!(text(tokens), expected);
        }
    }
}
