//! Expressions: Rust's tree as C++ text with C++'s precedences.
//!
//! Types are followed as far as the text needs them (which function a method is, which suffix a literal has).
//! A call's result has no type that a macro could see; where one is needed the user is asked to write it.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::{BinOp, Error, Expr, ExprCall, ExprIf, ExprMethodCall, Ident, Result, Stmt, UnOp};

use crate::methods;
use crate::ty::{Ty, literal, literal_type};

/// Text with how tightly it binds; 16 is a name, a literal or a call.
pub(crate) struct Text {
    text: String,
    binds: u8,
}

const PRIMARY: u8 = 16;
const UNARY: u8 = 14;
const SHIFT: u8 = 11;
const TERNARY: u8 = 3;

fn primary(text: impl Into<String>) -> Text {
    Text { text: text.into(), binds: PRIMARY }
}

impl Text {
    fn at_least(self, binds: u8) -> String {
        if self.binds < binds { format!("({})", self.text) } else { self.text }
    }
}

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

    /// An expression that stands alone: right of `=`, in a condition, as an argument.
    pub(crate) fn value(&mut self, expr: &Expr, want: Option<&Ty>) -> Result<String> {
        Ok(self.expr(expr, want)?.text)
    }

    /// An expression that stands beside a comparison.
    pub(crate) fn operand(&mut self, expr: &Expr, want: &Ty) -> Result<String> {
        Ok(self.expr(expr, Some(want))?.at_least(SHIFT))
    }

    /// Something that can be assigned to.
    pub(crate) fn place(&mut self, expr: &Expr) -> Result<String> {
        match expr {
            Expr::Path(_) | Expr::Index(_) => self.value(expr, None),
            other => Err(self.unsupported(other.span(), "assigning to this")),
        }
    }

    /// How far to shift: of any integer type, an `int` if nothing says otherwise.
    pub(crate) fn shift_amount(&mut self, expr: &Expr) -> Result<String> {
        let ty = self.infer(expr).unwrap_or(Ty::I32);
        Ok(self.expr(expr, Some(&ty))?.at_least(UNARY))
    }

    /// Whether an `if` with a value is short enough for `?:`: two branches without statements.
    pub(crate) fn is_ternary(&self, branch: &ExprIf) -> bool {
        let plain = |stmts: &[Stmt]| match stmts {
            [Stmt::Expr(Expr::If(inner), None)] => self.is_ternary(inner),
            [Stmt::Expr(Expr::Return(_) | Expr::Assign(_), None)] => false,
            [Stmt::Expr(_, None)] => true,
            _ => false,
        };
        plain(&branch.then_branch.stmts)
            && match branch.else_branch.as_ref().map(|(_, otherwise)| &**otherwise) {
                Some(Expr::Block(block)) => plain(&block.block.stmts),
                Some(Expr::If(next)) => self.is_ternary(next),
                _ => false,
            }
    }

    fn expr(&mut self, expr: &Expr, want: Option<&Ty>) -> Result<Text> {
        match expr {
            Expr::Lit(lit) => Ok(primary(literal(&lit.lit, want)?.0)),
            Expr::Paren(paren) => self.expr(&paren.expr, want),
            Expr::Group(group) => self.expr(&group.expr, want),
            Expr::Path(_) => self.path(expr),
            Expr::Unary(unary) => self.unary(unary, want),
            Expr::Binary(binary) => self.binary(binary, want),
            Expr::Cast(cast) => {
                let to = Ty::parse(&cast.ty)?;
                self.cast(&cast.expr, &to)
            }
            Expr::Call(call) => self.call(call, want),
            Expr::MethodCall(call) => self.method(call, want),
            Expr::Index(index) => self.index(index),
            Expr::If(branch) => self.ternary(branch, want),
            Expr::Block(block) => {
                match &*block.block.stmts {
                    [Stmt::Expr(value, None)] => self.expr(value, want),
                    _ => Err(self
                        .unsupported(block.span(), "a block with statements inside an expression")),
                }
            }
            Expr::Array(array) => {
                let ty = want.cloned().or_else(|| self.infer(expr));
                let Some(Ty::Array(element, len)) = ty else {
                    return Err(unclear(array.span()));
                };
                let elements = array.elems.iter().map(|e| self.value(e, Some(&element)));
                let elements = elements.collect::<Result<Vec<_>>>()?.join(", ");
                Ok(primary(format!("{}{{{{{elements}}}}}", Ty::Array(element, len).cuda())))
            }
            other => Err(self.unsupported(other.span(), "this expression")),
        }
    }

    fn path(&mut self, expr: &Expr) -> Result<Text> {
        let Expr::Path(path) = expr else { return Err(self.unsupported(expr.span(), "this")) };
        let segments: Vec<String> =
            path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            [name] => {
                let name = self.variables.get(name).map_or(name, |(cuda, _)| cuda);
                Ok(primary(name))
            }
            ["u32", "MAX"] => Ok(primary("0xFFFFFFFFu")),
            ["u64", "MAX"] => Ok(primary("0xFFFFFFFFFFFFFFFFull")),
            ["i32", "MAX"] => Ok(primary("2147483647")),
            ["std" | "core" | "f32" | "f64" | "u32" | "u64" | "i32", ..] => Err(Error::new(
                path.span(),
                "name this value in a constant of your own, marked #[device_fn]",
            )),
            [.., name] => Ok(primary(name)),
            [] => Err(self.unsupported(expr.span(), "this")),
        }
    }

    fn unary(&mut self, unary: &syn::ExprUnary, want: Option<&Ty>) -> Result<Text> {
        let ty = self.infer(&unary.expr).or_else(|| want.cloned());
        let operator = match (&unary.op, &ty) {
            (UnOp::Neg(_), _) => "-",
            (UnOp::Not(_), Some(Ty::Bool)) => "!",
            (UnOp::Not(_), Some(_)) => "~",
            (UnOp::Not(_), None) => return Err(unclear(unary.span())),
            _ => return Err(self.unsupported(unary.span(), "this operator")),
        };
        let inner = self.expr(&unary.expr, ty.as_ref())?.at_least(UNARY + 1);
        Ok(Text { text: format!("{operator}{inner}"), binds: UNARY })
    }

    fn binary(&mut self, binary: &syn::ExprBinary, want: Option<&Ty>) -> Result<Text> {
        let Some((operator, binds)) = operator(&binary.op) else {
            return Err(self.unsupported(binary.span(), "an assignment inside an expression"));
        };
        let mut ty = self.infer(&binary.left);
        if binds != SHIFT {
            ty = ty.or_else(|| self.infer(&binary.right));
        }
        if !is_predicate(&binary.op) {
            ty = ty.or_else(|| want.cloned());
        }
        if operator == "%" && ty.as_ref().is_none_or(Ty::is_float) {
            return Err(Error::new(
                binary.span(),
                "`%` is for integers of a known type in a #[device_fn]",
            ));
        }
        let (left, right) = (&*binary.left, &*binary.right);
        let left_text = self.expr(left, ty.as_ref())?.at_least(tightness(left, operator, binds));
        let right_text = if binds == SHIFT {
            self.shift_amount(right)?
        } else {
            self.expr(right, ty.as_ref())?
                .at_least(tightness(right, operator, binds).max(binds + 1))
        };
        Ok(Text { text: format!("{left_text} {operator} {right_text}"), binds })
    }

    fn ternary(&mut self, branch: &ExprIf, want: Option<&Ty>) -> Result<Text> {
        let Some((_, otherwise)) = &branch.else_branch else {
            return Err(self.unsupported(branch.span(), "an `if` without `else` as a value"));
        };
        let [Stmt::Expr(then, None)] = &*branch.then_branch.stmts else {
            let message = "bind this `if` to a variable first (`let name: f32 = if …`): its branches have statements";
            return Err(Error::new(branch.span(), message));
        };
        let ty = want.cloned().or_else(|| self.infer(then)).or_else(|| self.infer(otherwise));
        let condition = self.expr(&branch.cond, Some(&Ty::Bool))?.at_least(TERNARY + 1);
        let then = self.expr(then, ty.as_ref())?.at_least(TERNARY + 1);
        let otherwise = self.expr(otherwise, ty.as_ref())?.at_least(TERNARY);
        Ok(Text { text: format!("{condition} ? {then} : {otherwise}"), binds: TERNARY })
    }

    /// `as`: float to integer saturates as in Rust (the intrinsics do), everything else is C++'s own conversion.
    fn cast(&mut self, value: &Expr, to: &Ty) -> Result<Text> {
        let from = self.infer(value);
        let text = self.value(value, None)?;
        let function = match (&from, to) {
            (None, _) => return Err(unclear(value.span())),
            (Some(Ty::Array(..)), _) | (_, Ty::Array(..) | Ty::Bool) => {
                return Err(self.unsupported(value.span(), "this cast"));
            }
            (Some(Ty::F32), Ty::U32) => "__float2uint_rz".to_string(),
            (Some(Ty::F32), Ty::I32) => "__float2int_rz".to_string(),
            (Some(Ty::F32), Ty::U64) => "__float2ull_rz".to_string(),
            (Some(Ty::F64), Ty::U32) => "__double2uint_rz".to_string(),
            (Some(Ty::F64), Ty::I32) => "__double2int_rz".to_string(),
            (Some(Ty::F64), Ty::U64) => "__double2ull_rz".to_string(),
            _ => format!("static_cast<{}>", to.cuda()),
        };
        Ok(primary(format!("{function}({text})")))
    }

    fn call(&mut self, call: &ExprCall, want: Option<&Ty>) -> Result<Text> {
        let Expr::Path(path) = &*call.func else {
            return Err(self.unsupported(call.func.span(), "calling this"));
        };
        let segments: Vec<String> =
            path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let mut args = call.args.iter();
        if let ([ty, function], Some(arg), None) = (&segments[..], args.next(), args.next())
            && let Some(ty) = Ty::named(ty)
        {
            return match (*function, &ty) {
                ("from_bits", Ty::F32) => {
                    Ok(primary(format!("__uint_as_float({})", self.value(arg, Some(&Ty::U32))?)))
                }
                ("from_bits", Ty::F64) => Ok(primary(format!(
                    "__longlong_as_double(static_cast<long long>({}))",
                    self.value(arg, Some(&Ty::U64))?
                ))),
                ("from", _) => {
                    Ok(primary(format!("static_cast<{}>({})", ty.cuda(), self.value(arg, None)?)))
                }
                _ => Err(self.unsupported(call.span(), "this function")),
            };
        }
        let (Some(name), false) =
            (segments.last(), segments.first().is_some_and(|s| *s == "std" || *s == "core"))
        else {
            return Err(self.unsupported(call.span(), "this function"));
        };
        // A callee's parameter types cannot be seen from here, so literals must say theirs.
        let _ = want;
        let args = call.args.iter().map(|arg| self.value(arg, None)).collect::<Result<Vec<_>>>()?;
        Ok(primary(format!("{name}({})", args.join(", "))))
    }

    fn method(&mut self, call: &ExprMethodCall, want: Option<&Ty>) -> Result<Text> {
        let name = call.method.to_string();
        let known = methods::find(&name);
        let keeps_type = known.is_some() || name == "clamp" || name.starts_with("wrapping_");
        let inferred = self
            .infer(&call.receiver)
            .or_else(|| call.args.iter().find_map(|arg| self.infer(arg)).filter(|_| keeps_type));
        let Some(ty) = inferred.or_else(|| want.cloned().filter(|_| keeps_type)) else {
            return Err(unclear(call.receiver.span()));
        };
        let receiver = self.expr(&call.receiver, Some(&ty))?;
        let args = call.args.iter().map(|arg| self.expr(arg, Some(&ty)));
        let args = args.collect::<Result<Vec<_>>>()?;
        if let Some((_, operator)) =
            methods::WRAPPING.iter().find(|(wrapping, _)| *wrapping == name)
            && matches!(ty, Ty::U32 | Ty::U64)
        {
            let binds = if *operator == "*" { 13 } else { 12 };
            let left = receiver.at_least(binds);
            let right: Vec<String> = args.into_iter().map(|arg| arg.at_least(binds + 1)).collect();
            return Ok(Text { text: format!("{left} {operator} {}", right.concat()), binds });
        }
        let receiver = receiver.text;
        let args: Vec<String> = args.into_iter().map(|arg| arg.text).collect();
        match (&*name, &args[..], &ty) {
            ("clamp", [low, high], Ty::F32) => {
                Ok(primary(format!("fminf(fmaxf({receiver}, {low}), {high})")))
            }
            ("clamp", [low, high], Ty::F64) => {
                Ok(primary(format!("fmin(fmax({receiver}, {low}), {high})")))
            }
            ("clamp", [low, high], Ty::U32 | Ty::I32 | Ty::U64) => {
                Ok(primary(format!("min(max({receiver}, {low}), {high})")))
            }
            ("to_bits", [], Ty::F32) => Ok(primary(format!("__float_as_uint({receiver})"))),
            ("to_bits", [], Ty::F64) => {
                Ok(primary(format!("static_cast<u64>(__double_as_longlong({receiver}))")))
            }
            _ => match known.filter(|m| m.arguments == args.len()).and_then(|m| m.cuda(&ty)) {
                Some(function) => {
                    let all: Vec<String> = std::iter::once(receiver).chain(args).collect();
                    Ok(primary(format!("{function}({})", all.join(", "))))
                }
                None => Err(self
                    .unsupported(call.method.span(), &format!("the method `{name}` of this type"))),
            },
        }
    }

    fn index(&mut self, index: &syn::ExprIndex) -> Result<Text> {
        let Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(at), .. }) = &*index.index else {
            let message =
                "index with a literal: a run-time index would put the array into local memory";
            return Err(Error::new(index.index.span(), message));
        };
        let array = self.expr(&index.expr, None)?.at_least(PRIMARY);
        Ok(primary(format!("{array}.v[{}]", at.base10_digits())))
    }
}

fn unclear(span: Span) -> Error {
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

fn is_predicate(op: &BinOp) -> bool {
    matches!(
        op,
        BinOp::And(_)
            | BinOp::Or(_)
            | BinOp::Eq(_)
            | BinOp::Ne(_)
            | BinOp::Lt(_)
            | BinOp::Le(_)
            | BinOp::Gt(_)
            | BinOp::Ge(_)
    )
}

/// How tightly an operand must bind so that a reader need not know C++'s table: bit operators and shifts keep
/// parentheses around any other operator.
fn tightness(operand: &Expr, parent: &str, binds: u8) -> u8 {
    let mut operand = operand;
    while let Expr::Paren(inner) = operand {
        operand = &inner.expr;
    }
    let same = matches!(operand, Expr::Binary(inner) if operator(&inner.op).is_some_and(|(op, _)| op == parent));
    let shy = matches!(parent, "&" | "|" | "^" | "<<" | ">>" | "||" | "&&");
    let comparison = matches!(operand, Expr::Binary(inner) if is_predicate(&inner.op));
    match (parent, shy && !same) {
        ("&&", true) if comparison => binds,
        (_, true) => UNARY,
        _ => binds,
    }
}

fn operator(op: &BinOp) -> Option<(&'static str, u8)> {
    Some(match op {
        BinOp::Mul(_) => ("*", 13),
        BinOp::Div(_) => ("/", 13),
        BinOp::Rem(_) => ("%", 13),
        BinOp::Add(_) => ("+", 12),
        BinOp::Sub(_) => ("-", 12),
        BinOp::Shl(_) => ("<<", SHIFT),
        BinOp::Shr(_) => (">>", SHIFT),
        BinOp::Lt(_) => ("<", 10),
        BinOp::Le(_) => ("<=", 10),
        BinOp::Gt(_) => (">", 10),
        BinOp::Ge(_) => (">=", 10),
        BinOp::Eq(_) => ("==", 9),
        BinOp::Ne(_) => ("!=", 9),
        BinOp::BitAnd(_) => ("&", 8),
        BinOp::BitXor(_) => ("^", 7),
        BinOp::BitOr(_) => ("|", 6),
        BinOp::And(_) => ("&&", 5),
        BinOp::Or(_) => ("||", 4),
        _ => return None,
    })
}

/// The compound assignments.
pub(crate) fn assignment_operator(op: &BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::AddAssign(_) => "+=",
        BinOp::SubAssign(_) => "-=",
        BinOp::MulAssign(_) => "*=",
        BinOp::DivAssign(_) => "/=",
        BinOp::BitAndAssign(_) => "&=",
        BinOp::BitOrAssign(_) => "|=",
        BinOp::BitXorAssign(_) => "^=",
        BinOp::ShlAssign(_) => "<<=",
        BinOp::ShrAssign(_) => ">>=",
        _ => return None,
    })
}
