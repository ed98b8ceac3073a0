//! Expressions: Rust's tree as C++ text with C++'s precedences.
//!
//! Types are followed as far as the text needs them: which function a method is, which suffix a literal has.

use syn::spanned::Spanned;
use syn::{Error, Expr, ExprIf, Result, Stmt, UnOp};

use crate::operators::{
    PRIMARY, SHIFT, TERNARY, Text, UNARY, is_predicate, operator, primary, tightness,
};
use crate::scope::{Scope, unclear};
use crate::ty::{Ty, literal};

impl Scope {
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

    pub(crate) fn expr(&mut self, expr: &Expr, want: Option<&Ty>) -> Result<Text> {
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
            Expr::Call(call) => self.call(call),
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
                let elements = elements.collect::<Result<Vec<_>>>()?;
                let ty = Ty::Array(element, len).cuda();
                Ok(primary(aggregate(&ty, &elements)))
            }
            other => Err(self.unsupported(other.span(), "this expression")),
        }
    }

    pub(crate) fn path(&mut self, expr: &Expr) -> Result<Text> {
        let Expr::Path(path) = expr else { return Err(self.unsupported(expr.span(), "this")) };
        let segments: Vec<String> =
            path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            [name] => {
                let name = self.cuda_name(name).unwrap_or(name);
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

    pub(crate) fn unary(&mut self, unary: &syn::ExprUnary, want: Option<&Ty>) -> Result<Text> {
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

    pub(crate) fn binary(&mut self, binary: &syn::ExprBinary, want: Option<&Ty>) -> Result<Text> {
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

    pub(crate) fn ternary(&mut self, branch: &ExprIf, want: Option<&Ty>) -> Result<Text> {
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
    pub(crate) fn cast(&mut self, value: &Expr, to: &Ty) -> Result<Text> {
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
    pub(crate) fn index(&mut self, index: &syn::ExprIndex) -> Result<Text> {
        let Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(at), .. }) = &*index.index else {
            let message =
                "index with a literal: a run-time index would put the array into local memory";
            return Err(Error::new(index.index.span(), message));
        };
        let array = self.expr(&index.expr, None)?.at_least(PRIMARY);
        Ok(primary(format!("{array}.v[{}]", at.base10_digits())))
    }
}

/// An array's value, on one line if it is short, else an element a line.
fn aggregate(ty: &str, elements: &[String]) -> String {
    if elements.iter().map(String::len).sum::<usize>() <= 60 {
        return format!("{ty}{{{{{}}}}}", elements.join(", "));
    }
    format!("{ty}{{{{\n      {}}}}}", elements.join(",\n      "))
}
