//! The scalar types that both languages share, and how literals are spelled.

use syn::spanned::Spanned;
use syn::{Error, Expr, Lit, Result, Type};

/// A type of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ty {
    F32,
    F64,
    U32,
    I32,
    U64,
    Bool,
    Array(Box<Ty>, usize),
}

impl Ty {
    /// The CUDA spelling.
    pub(crate) fn cuda(&self) -> String {
        match self {
            Ty::F32 => "float".into(),
            Ty::F64 => "double".into(),
            Ty::U32 => "u32".into(),
            Ty::I32 => "int".into(),
            Ty::U64 => "u64".into(),
            Ty::Bool => "bool".into(),
            Ty::Array(element, len) => format!("Array<{}, {len}>", element.cuda()),
        }
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self, Ty::F32 | Ty::F64)
    }

    /// A scalar by its Rust name.
    pub(crate) fn named(name: &str) -> Option<Ty> {
        Some(match name {
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "u32" => Ty::U32,
            "i32" => Ty::I32,
            "u64" => Ty::U64,
            "bool" => Ty::Bool,
            _ => return None,
        })
    }

    /// A type as written.
    pub(crate) fn parse(ty: &Type) -> Result<Ty> {
        let found = match ty {
            Type::Path(path) => {
                path.path.get_ident().and_then(|ident| Ty::named(&ident.to_string()))
            }
            Type::Paren(inner) => Some(Ty::parse(&inner.elem)?),
            Type::Array(array) => match &array.len {
                Expr::Lit(len) => match &len.lit {
                    Lit::Int(len) => Some(Ty::Array(
                        Box::new(Ty::parse(&array.elem)?),
                        len.base10_parse::<usize>()?,
                    )),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        found.ok_or_else(|| {
            Error::new(
                ty.span(),
                "a #[device_fn] knows the types f32, f64, u32, i32, u64, bool and arrays of them with a literal length",
            )
        })
    }
}

/// A literal's own type, from its suffix (or because only one type fits).
pub(crate) fn literal_type(lit: &Lit) -> Option<Ty> {
    match lit {
        Lit::Bool(_) => Some(Ty::Bool),
        Lit::Int(int) => Ty::named(int.suffix()),
        Lit::Float(float) => Ty::named(float.suffix()),
        _ => None,
    }
}

/// A literal in CUDA spelling, of its own type or else of the type `want` that its surroundings ask for.
pub(crate) fn literal(lit: &Lit, want: Option<&Ty>) -> Result<(String, Ty)> {
    let own = literal_type(lit);
    let unclear = || {
        Error::new(lit.span(), "the literal's type is not clear here: add a suffix such as _f32")
    };
    let ty = own.as_ref().or(want).ok_or_else(unclear)?.clone();
    let text = match (lit, &ty) {
        (Lit::Bool(value), Ty::Bool) => value.value.to_string(),
        (Lit::Float(float), Ty::F32) => format!("{:?}f", float.base10_parse::<f32>()?),
        (Lit::Float(float), Ty::F64) => format!("{:?}", float.base10_parse::<f64>()?),
        // An integer literal with a float suffix, `1_f32`.
        (Lit::Int(int), Ty::F32) if own.is_some() => format!("{:?}f", int.base10_parse::<f32>()?),
        (Lit::Int(int), Ty::F64) if own.is_some() => format!("{:?}", int.base10_parse::<f64>()?),
        (Lit::Int(int), Ty::U32) => {
            int.base10_parse::<u32>()?;
            format!("{}u", digits(int))
        }
        (Lit::Int(int), Ty::U64) => {
            int.base10_parse::<u64>()?;
            format!("{}ull", digits(int))
        }
        (Lit::Int(int), Ty::I32) => int.base10_parse::<i32>()?.to_string(),
        _ => {
            return Err(Error::new(
                lit.span(),
                "this literal has no CUDA spelling in a #[device_fn]: use a bool, an integer or a float literal",
            ));
        }
    };
    Ok((text, ty))
}

/// An integer literal's digits: hexadecimal and binary stay as they were written.
fn digits(int: &syn::LitInt) -> String {
    let written: String = int.to_string().chars().filter(|&c| c != '_').collect();
    let bare = written.strip_suffix(int.suffix()).unwrap_or(&written);
    let keeps_base = bare.starts_with("0x") || bare.starts_with("0b");
    if keeps_base { bare.to_string() } else { int.base10_digits().to_string() }
}
