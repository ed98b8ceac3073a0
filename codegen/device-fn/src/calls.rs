//! Calls: of methods with a CUDA twin, of conversions, and of other device functions.

use syn::spanned::Spanned;
use syn::{Expr, ExprCall, ExprMethodCall, Result};

use crate::methods;
use crate::operators::{PRODUCT, SUM, Text, primary};
use crate::scope::{Scope, unclear};
use crate::ty::Ty;

impl Scope {
    pub(crate) fn call(&mut self, call: &ExprCall) -> Result<Text> {
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
        let args = call.args.iter().map(|arg| self.value(arg, None)).collect::<Result<Vec<_>>>()?;
        Ok(primary(format!("{name}({})", args.join(", "))))
    }

    pub(crate) fn method(&mut self, call: &ExprMethodCall, want: Option<&Ty>) -> Result<Text> {
        let name = call.method.to_string();
        let known = methods::find(&name);
        let special = ["clamp", "to_bits"].contains(&&*name)
            || methods::WRAPPING.iter().any(|(wrapping, _)| *wrapping == name);
        if known.is_none() && !special {
            return Err(self.unsupported(call.method.span(), &format!("the method `{name}`")));
        }
        let keeps_type = name != "to_bits";
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
            let binds = if *operator == "*" { PRODUCT } else { SUM };
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
}
