//! C++'s precedences, and text that knows how tightly it binds.

use syn::{BinOp, Expr};

/// Text with how tightly it binds; 16 is a name, a literal or a call.
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) binds: u8,
}

pub(crate) const PRIMARY: u8 = 16;
pub(crate) const UNARY: u8 = 14;
pub(crate) const PRODUCT: u8 = 13;
pub(crate) const SUM: u8 = 12;
pub(crate) const SHIFT: u8 = 11;
pub(crate) const TERNARY: u8 = 3;

pub(crate) fn primary(text: impl Into<String>) -> Text {
    Text { text: text.into(), binds: PRIMARY }
}

impl Text {
    pub(crate) fn at_least(self, binds: u8) -> String {
        if self.binds < binds { format!("({})", self.text) } else { self.text }
    }
}

pub(crate) fn is_predicate(op: &BinOp) -> bool {
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
pub(crate) fn tightness(operand: &Expr, parent: &str, binds: u8) -> u8 {
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

pub(crate) fn operator(op: &BinOp) -> Option<(&'static str, u8)> {
    Some(match op {
        BinOp::Mul(_) => ("*", PRODUCT),
        BinOp::Div(_) => ("/", PRODUCT),
        BinOp::Rem(_) => ("%", PRODUCT),
        BinOp::Add(_) => ("+", SUM),
        BinOp::Sub(_) => ("-", SUM),
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
