//! The methods that have a CUDA twin of the same meaning.

use crate::ty::Ty;

/// A method that is one function call in CUDA; an empty name means that the type has no such twin.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) arguments: usize,
    float: &'static str,
    double: &'static str,
    integer: &'static str,
}

const fn method(
    name: &'static str,
    arguments: usize,
    float: &'static str,
    double: &'static str,
    integer: &'static str,
) -> Method {
    Method { name, arguments, float, double, integer }
}

/// `sin` and `cos` are missing on purpose: CUDA's take a slow path through local memory for large arguments.
const METHODS: &[Method] = &[
    method("min", 1, "fminf", "fmin", "min"),
    method("max", 1, "fmaxf", "fmax", "max"),
    method("abs", 0, "fabsf", "fabs", "abs"),
    method("exp", 0, "expf", "exp", ""),
    method("exp2", 0, "exp2f", "exp2", ""),
    method("ln", 0, "logf", "log", ""),
    method("ln_1p", 0, "log1pf", "log1p", ""),
    method("sqrt", 0, "sqrtf", "sqrt", ""),
    method("floor", 0, "floorf", "floor", ""),
    method("ceil", 0, "ceilf", "ceil", ""),
    method("trunc", 0, "truncf", "trunc", ""),
    method("round", 0, "roundf", "round", ""),
    method("round_ties_even", 0, "rintf", "rint", ""),
    method("mul_add", 2, "fmaf", "fma", ""),
];

/// The wrapping operations, which are plain operators on CUDA's unsigned integers.
pub(crate) const WRAPPING: [(&str, &str); 3] =
    [("wrapping_add", "+"), ("wrapping_sub", "-"), ("wrapping_mul", "*")];

/// What a user may write, for messages.
pub(crate) const NAMES: &str = "min, max, clamp, abs, exp, exp2, ln, ln_1p, sqrt, floor, ceil, trunc, round, \
    round_ties_even, mul_add, to_bits, wrapping_add, wrapping_sub and wrapping_mul";

/// Looks a method up.
pub(crate) fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

impl Method {
    /// The CUDA function for a receiver of this type.
    pub(crate) fn cuda(&self, ty: &Ty) -> Option<&'static str> {
        let name = match ty {
            Ty::F32 => self.float,
            Ty::F64 => self.double,
            Ty::U32 | Ty::U64 if self.name == "abs" => "",
            Ty::U32 | Ty::I32 | Ty::U64 => self.integer,
            Ty::Bool | Ty::Array(..) => "",
        };
        (!name.is_empty()).then_some(name)
    }
}

/// Names that a local variable may not take in CUDA: keywords that Rust lacks, and functions used above.
pub(crate) fn reserved() -> impl Iterator<Item = &'static str> {
    const WORDS: &str = "alignas alignof and asm auto bitand bitor bool case catch char class compl const_cast \
        constexpr consteval constinit decltype default delete double dynamic_cast explicit export float friend goto \
        half inline int long mutable namespace new noexcept not nullptr operator or private protected public \
        register reinterpret_cast short signed sizeof static_assert static_cast switch template this \
        thread_local throw typedef typeid typename union unsigned using void volatile wchar_t xor u32 u64 Array";
    let functions = METHODS.iter().flat_map(|m| [m.float, m.double, m.integer]);
    WORDS.split_whitespace().chain(functions)
}
