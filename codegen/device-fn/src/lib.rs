//! `#[device_fn]`: a scalar Rust function as CUDA text, so that one source is both the CPU oracle and GPU code.
//!
//! The function stays as it is; beside it appears `<NAME>_CUDA: &str`, formatted CUDA C++ with the function's
//! documentation as comments. On a `const` item the text is a `constexpr` definition. Who collects the texts must
//! put a definition before its users (`ossmith_scalar::DEVICE` does) and begin with aliases `u32`, `u64` and,
//! where arrays are returned, an aggregate template `Array<T, N>` with one member array.
//!
//! This is no compiler for Rust: it takes scalars and small arrays, `let`, assignment, `if`, `for` over a range,
//! operators, `as`, a table of methods (`methods.rs`) and calls of other device functions, and refuses the rest
//! at its span. What rustc checks (types, names, mutability) is not checked again.
//!
//! # Where the two sides may differ
//! - nvcc and NVRTC may contract `a * b + c` into one rounding; write `mul_add` where both sides must round alike.
//! - `exp`, `ln`, `exp2` agree to a few units in the last place; `sqrt` and division are correctly rounded on both
//!   sides unless the unit is compiled with fast maths.
//! - `min`, `max` and `clamp` agree for numbers; the sign of a zero result and NaN operands are not specified.
//! - Overflow, division by zero and shifts past the width panic in a checked Rust build and are bugs in either.
//!
//! Start reading at `item.rs`, then `stmt.rs` and `expr.rs`.

#![forbid(unsafe_code)]

mod calls;
mod expr;
mod item;
mod methods;
mod operators;
mod scope;
mod stmt;
#[cfg(test)]
mod tests;
mod ty;

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::{format_ident, quote};

/// Keeps a scalar function (or constant) and adds its CUDA text as `<NAME>_CUDA`; see the crate's documentation.
#[proc_macro_attribute]
pub fn device_fn(args: TokenStream, item: TokenStream) -> TokenStream {
    let source = proc_macro2::TokenStream::from(item);
    let text = if args.is_empty() {
        item::translate(source.clone())
    } else {
        Err(syn::Error::new(Span::call_site(), "#[device_fn] takes no arguments"))
    };
    match text {
        Ok(item::Translated { name, visibility, cuda }) => {
            let constant = format_ident!("{}_CUDA", name.to_uppercase());
            let doc = format!("CUDA text of [`{name}`].");
            quote!(#source #[doc = #doc] #visibility const #constant: &str = #cuda;).into()
        }
        // The function is kept so that its callers do not add errors of their own.
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#source #error).into()
        }
    }
}
