//! The names and types in scope of a body, and what an expression's type is without its surroundings.
//!
//! A call's result has no type that a macro could see; where one is needed the user is asked to write it.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use syn::{BinOp, Error, Expr, Stmt};

use crate::methods;
use crate::operators::is_predicate;
use crate::ty::{Ty, literal_type};

type Variables = BTreeMap<String, (String, Option<Ty>)>;

/// The names in scope and their types.
pub(crate) struct Scope {
    variables: Variables,
    taken: BTreeSet<String>,
    /// The function's result.
    pub(crate) returns: Option<Ty>,
}

impl Scope {
    /// A scope for a body, in which no variable may be named like a function that the body calls.
    pub(crate) fn new(body: &TokenStream) -> Scope {
        let mut taken = methods::reserved().map(str::to_string).collect();
        called_names(body, &mut taken);
        Scope { variables: BTreeMap::new(), taken, returns: None }
    }

    pub(crate) fn enter(&self) -> Variables {
        self.variables.clone()
    }

    pub(crate) fn leave(&mut self, outer: Variables) {
        self.variables = outer;
    }

    /// A CUDA name for a new variable: its own, or with a number where that would shadow another.
    pub(crate) fn name_for(&mut self, ident: &Ident) -> String {
        let plain = ident.to_string().trim_start_matches("r#").to_string();
        let mut name = plain.clone();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{plain}_{number}");
            number += 1;
        }
        name
    }

    pub(crate) fn bind(&mut self, ident: &Ident, name: String, ty: Option<Ty>) {
        self.variables.insert(ident.to_string(), (name, ty));
    }

    pub(crate) fn declare(&mut self, ident: &Ident, ty: Option<Ty>) -> String {
        let name = self.name_for(ident);
        self.bind(ident, name.clone(), ty);
        name
    }

    /// What a variable is called in CUDA.
    pub(crate) fn cuda_name(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|(cuda, _)| cuda.as_str())
    }

    /// The refusal of something that has no CUDA twin.
    pub(crate) fn unsupported(&self, span: Span, what: &str) -> Error {
        Error::new(
            span,
            format!(
                "{what} has no CUDA twin; a #[device_fn] may use let, assignment, if/else, `for` over a range, \
                 operators, `as`, literals, arrays, calls of other device functions, and the methods {}",
                methods::NAMES
            ),
        )
    }

    /// The type of an expression, as far as it shows without its surroundings.
    pub(crate) fn infer(&self, expr: &Expr) -> Option<Ty> {
        match expr {
            Expr::Lit(lit) => literal_type(&lit.lit),
            Expr::Paren(paren) => self.infer(&paren.expr),
            Expr::Group(group) => self.infer(&group.expr),
            Expr::Unary(unary) => self.infer(&unary.expr),
            Expr::Cast(cast) => Ty::parse(&cast.ty).ok(),
            Expr::Path(path) => match path.path.get_ident() {
                Some(ident) => self.variables.get(&ident.to_string())?.1.clone(),
                None => Ty::named(&path.path.segments.first()?.ident.to_string()),
            },
            Expr::Binary(binary) => match &binary.op {
                BinOp::Shl(_) | BinOp::Shr(_) => self.infer(&binary.left),
                op if is_predicate(op) => Some(Ty::Bool),
                _ => self.infer(&binary.left).or_else(|| self.infer(&binary.right)),
            },
            Expr::Index(index) => match self.infer(&index.expr)? {
                Ty::Array(element, _) => Some(*element),
                _ => None,
            },
            Expr::If(branch) => {
                let Some(Stmt::Expr(value, None)) = branch.then_branch.stmts.last() else {
                    return None;
                };
                self.infer(value).or_else(|| self.infer(&branch.else_branch.as_ref()?.1))
            }
            Expr::Block(block) => match block.block.stmts.last()? {
                Stmt::Expr(value, None) => self.infer(value),
                _ => None,
            },
            Expr::MethodCall(call) => {
                match (&*call.method.to_string(), self.infer(&call.receiver)?) {
                    ("to_bits", Ty::F32) => Some(Ty::U32),
                    ("to_bits", Ty::F64) => Some(Ty::U64),
                    (_, ty) => Some(ty),
                }
            }
            Expr::Call(call) => match &*call.func {
                Expr::Path(path) if path.path.segments.len() == 2 => {
                    Ty::named(&path.path.segments.first()?.ident.to_string())
                }
                _ => None,
            },
            Expr::Array(array) => {
                let element = array.elems.iter().find_map(|element| self.infer(element))?;
                Some(Ty::Array(Box::new(element), array.elems.len()))
            }
            _ => None,
        }
    }
}

pub(crate) fn unclear(span: Span) -> Error {
    Error::new(span, "the type is not clear here: bind the value first, `let name: f32 = …`")
}

/// Identifiers that stand before an argument list, and constants.
fn called_names(tokens: &TokenStream, names: &mut BTreeSet<String>) {
    let mut previous: Option<Ident> = None;
    for token in tokens.clone() {
        match token {
            TokenTree::Group(group) => {
                if let (Some(name), Delimiter::Parenthesis) = (&previous, group.delimiter()) {
                    names.insert(name.to_string());
                }
                called_names(&group.stream(), names);
                previous = None;
            }
            TokenTree::Ident(ident) => previous = Some(ident),
            _ => previous = None,
        }
    }
}
