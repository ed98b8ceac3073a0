//! Statements: blocks, `let`, assignment, `if`, `for`, `return`.

use syn::spanned::Spanned;
use syn::{Block, Error, Expr, ExprForLoop, ExprIf, Local, Pat, RangeLimits, Result, Stmt};

use crate::operators::assignment_operator;
use crate::scope::Scope;
use crate::ty::Ty;

/// Lines of text at a depth of indentation.
pub(crate) struct Writer {
    pub(crate) text: String,
    depth: usize,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer { text: String::new(), depth: 0 }
    }

    /// Writes a line; one that starts with `}` closes a level, one that ends with `{` opens one.
    pub(crate) fn line(&mut self, line: &str) {
        if line.starts_with('}') {
            self.depth -= 1;
        }
        self.text += &format!("{}{line}\n", "  ".repeat(self.depth));
        if line.ends_with('{') {
            self.depth += 1;
        }
    }
}

/// Where a block's value goes.
pub(crate) enum Target {
    /// It is the function's result.
    Return,
    /// A variable of this CUDA name and type.
    Assign(String, Option<Ty>),
    /// There is none.
    Nothing,
}

/// Writes a block's statements, without braces, in a scope of their own.
pub(crate) fn block(
    scope: &mut Scope,
    out: &mut Writer,
    block: &Block,
    target: &Target,
) -> Result<()> {
    let outer = scope.enter();
    let last = block.stmts.len().saturating_sub(1);
    for (i, stmt) in block.stmts.iter().enumerate() {
        match stmt {
            Stmt::Local(local) => let_statement(scope, out, local)?,
            Stmt::Expr(expr, None) if i == last => tail(scope, out, expr, target)?,
            Stmt::Expr(expr, _) => effect(scope, out, expr)?,
            Stmt::Item(syn::Item::Const(item)) => {
                let ty = Ty::parse(&item.ty)?;
                let value = scope.value(&item.expr, Some(&ty))?;
                let spelled = ty.cuda();
                let name = scope.declare(&item.ident, Some(ty));
                out.line(&format!("constexpr {spelled} {name} = {value};"));
            }
            other => return Err(scope.unsupported(other.span(), "this statement")),
        }
    }
    scope.leave(outer);
    Ok(())
}

/// The value of a block: what its last expression leaves.
fn tail(scope: &mut Scope, out: &mut Writer, expr: &Expr, target: &Target) -> Result<()> {
    if let Expr::If(branch) = expr
        && !scope.is_ternary(branch)
    {
        return if_statement(scope, out, branch, target);
    }
    match target {
        Target::Nothing => effect(scope, out, expr),
        Target::Return if matches!(expr, Expr::Return(_)) => effect(scope, out, expr),
        Target::Return => {
            let returns = scope.returns.clone();
            let value = scope.value(expr, returns.as_ref())?;
            out.line(&format!("return {value};"));
            Ok(())
        }
        Target::Assign(name, ty) => {
            let value = scope.value(expr, ty.as_ref())?;
            out.line(&format!("{name} = {value};"));
            Ok(())
        }
    }
}

fn let_statement(scope: &mut Scope, out: &mut Writer, local: &Local) -> Result<()> {
    let (pat, written) = match &local.pat {
        Pat::Type(typed) => (&*typed.pat, Some(Ty::parse(&typed.ty)?)),
        pat => (pat, None),
    };
    let Pat::Ident(pat) = pat else {
        return Err(Error::new(pat.span(), "bind one name at a time: patterns have no CUDA twin"));
    };
    let init = match &local.init {
        Some(init) if init.diverge.is_none() => &*init.expr,
        _ => return Err(scope.unsupported(local.span(), "a `let` without a value or with `else`")),
    };
    let ty = written.or_else(|| scope.infer(init));
    let spelled = ty.as_ref().map_or("auto".to_string(), Ty::cuda);
    if let Expr::If(branch) = init
        && !scope.is_ternary(branch)
    {
        let Some(ty) = ty else {
            return Err(Error::new(
                pat.span(),
                "write the type of this variable: `let name: f32 = if …`",
            ));
        };
        let name = scope.name_for(&pat.ident);
        out.line(&format!("{spelled} {name};"));
        if_statement(scope, out, branch, &Target::Assign(name.clone(), Some(ty.clone())))?;
        scope.bind(&pat.ident, name, Some(ty));
        return Ok(());
    }
    // The value is translated before the name is declared: it may use the variable that this one shadows.
    let value = scope.value(init, ty.as_ref())?;
    let name = scope.declare(&pat.ident, ty);
    let constness = if pat.mutability.is_some() { "" } else { "const " };
    out.line(&format!("{constness}{spelled} {name} = {value};"));
    Ok(())
}

/// An expression that stands as a statement.
fn effect(scope: &mut Scope, out: &mut Writer, expr: &Expr) -> Result<()> {
    match expr {
        Expr::Assign(assign) => {
            let ty = scope.infer(&assign.left);
            let left = scope.place(&assign.left)?;
            let value = scope.value(&assign.right, ty.as_ref())?;
            out.line(&format!("{left} = {value};"));
        }
        Expr::Binary(binary) if assignment_operator(&binary.op).is_some() => {
            let operator = assignment_operator(&binary.op).unwrap_or_default();
            let ty = scope.infer(&binary.left);
            let left = scope.place(&binary.left)?;
            let value = if operator.starts_with("<<") || operator.starts_with(">>") {
                scope.shift_amount(&binary.right)?
            } else {
                scope.value(&binary.right, ty.as_ref())?
            };
            out.line(&format!("{left} {operator} {value};"));
        }
        Expr::Return(ret) => {
            let returns = scope.returns.clone();
            let Some(value) = &ret.expr else {
                return Err(scope.unsupported(ret.span(), "a `return` without a value"));
            };
            let value = scope.value(value, returns.as_ref())?;
            out.line(&format!("return {value};"));
        }
        Expr::If(branch) => if_statement(scope, out, branch, &Target::Nothing)?,
        Expr::ForLoop(looped) => for_statement(scope, out, looped)?,
        other => return Err(scope.unsupported(other.span(), "this statement")),
    }
    Ok(())
}

fn if_statement(
    scope: &mut Scope,
    out: &mut Writer,
    branch: &ExprIf,
    target: &Target,
) -> Result<()> {
    let mut branch = branch;
    let condition = scope.value(&branch.cond, Some(&Ty::Bool))?;
    out.line(&format!("if ({condition}) {{"));
    loop {
        block(scope, out, &branch.then_branch, target)?;
        match branch.else_branch.as_ref().map(|(_, otherwise)| &**otherwise) {
            None => break,
            Some(Expr::If(next)) => {
                branch = next;
                let condition = scope.value(&branch.cond, Some(&Ty::Bool))?;
                out.line(&format!("}} else if ({condition}) {{"));
            }
            Some(Expr::Block(last)) => {
                out.line("} else {");
                block(scope, out, &last.block, target)?;
                break;
            }
            Some(other) => return Err(scope.unsupported(other.span(), "this `else`")),
        }
    }
    out.line("}");
    Ok(())
}

fn for_statement(scope: &mut Scope, out: &mut Writer, looped: &ExprForLoop) -> Result<()> {
    let unsupported = "a loop other than `for name in start..end`";
    let (Pat::Ident(pat), Expr::Range(range)) = (&*looped.pat, &*looped.expr) else {
        return Err(scope.unsupported(looped.span(), unsupported));
    };
    let (Some(start), Some(end)) = (&range.start, &range.end) else {
        return Err(scope.unsupported(range.span(), unsupported));
    };
    let Some(ty) = scope.infer(start).or_else(|| scope.infer(end)) else {
        return Err(Error::new(range.span(), "the counter's type is not clear: write `0_u32..n`"));
    };
    let (start, end) = (scope.operand(start, &ty)?, scope.operand(end, &ty)?);
    let outer = scope.enter();
    let spelled = ty.cuda();
    let name = scope.declare(&pat.ident, Some(ty));
    let less = if matches!(range.limits, RangeLimits::Closed(_)) { "<=" } else { "<" };
    out.line(&format!("for ({spelled} {name} = {start}; {name} {less} {end}; ++{name}) {{"));
    block(scope, out, &looped.body, &Target::Nothing)?;
    scope.leave(outer);
    out.line("}");
    Ok(())
}
