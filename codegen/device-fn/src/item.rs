//! A function or constant item as a whole: signature, documentation, and the text around the body.

use proc_macro2::TokenStream;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, Item, ItemConst, ItemFn, Lit, Meta, Pat, Result,
    ReturnType, Visibility,
};

use crate::scope::Scope;
use crate::stmt::{Target, Writer, block};
use crate::ty::Ty;

/// What becomes of an item.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) name: String,
    pub(crate) visibility: Visibility,
    pub(crate) cuda: String,
}

/// Translates the item under the attribute.
pub(crate) fn translate(tokens: TokenStream) -> Result<Translated> {
    match syn::parse2::<Item>(tokens)? {
        Item::Fn(function) => function_item(&function),
        Item::Const(constant) => constant_item(&constant),
        other => Err(Error::new(
            other.span(),
            "#[device_fn] belongs on a function or a constant of scalars",
        )),
    }
}

fn constant_item(item: &ItemConst) -> Result<Translated> {
    let ty = Ty::parse(&item.ty)?;
    let mut scope = Scope::new(&TokenStream::new());
    let value = scope.value(&item.expr, Some(&ty))?;
    let name = item.ident.to_string();
    let cuda = format!("{}constexpr {} {name} = {value};\n", comments(&item.attrs), ty.cuda());
    Ok(Translated { name, visibility: item.vis.clone(), cuda })
}

fn function_item(item: &ItemFn) -> Result<Translated> {
    let signature = &item.sig;
    plain_signature(item)?;
    let body = &item.block;
    let mut scope = Scope::new(&quote::quote!(#body));
    let mut params = Vec::new();
    for input in &signature.inputs {
        let FnArg::Typed(param) = input else {
            return Err(Error::new(input.span(), "a #[device_fn] has no self"));
        };
        let Pat::Ident(pat) = &*param.pat else {
            return Err(Error::new(
                param.pat.span(),
                "name this parameter: patterns have no CUDA twin",
            ));
        };
        let ty = Ty::parse(&param.ty)?;
        let spelled = ty.cuda();
        params.push(format!("{spelled} {}", scope.declare(&pat.ident, Some(ty))));
    }
    let ReturnType::Type(_, returned) = &signature.output else {
        return Err(Error::new(signature.span(), "a #[device_fn] returns a value"));
    };
    let returned = Ty::parse(returned)?;
    let name = signature.ident.to_string();
    let mut writer = Writer::new();
    writer.line(&format!(
        "__device__ __forceinline__ {} {name}({}) {{",
        returned.cuda(),
        params.join(", ")
    ));
    scope.returns = Some(returned);
    block(&mut scope, &mut writer, body, &Target::Return)?;
    writer.line("}");
    let cuda = comments(&item.attrs) + &writer.text;
    Ok(Translated { name, visibility: item.vis.clone(), cuda })
}

/// Refuses what a CUDA function cannot be.
fn plain_signature(item: &ItemFn) -> Result<()> {
    let signature = &item.sig;
    let refuse =
        |span, what: &str| Err(Error::new(span, format!("a #[device_fn] cannot be {what}")));
    if let Some(token) = &signature.asyncness {
        return refuse(token.span(), "async");
    }
    if let Some(abi) = &signature.abi {
        return refuse(abi.span(), "extern");
    }
    if !signature.generics.params.is_empty() {
        return refuse(signature.generics.span(), "generic: write one function for each type");
    }
    if crate::methods::reserved().any(|word| signature.ident == word) {
        return refuse(signature.ident.span(), "named like a CUDA keyword or function");
    }
    Ok(())
}

/// The item's documentation as `//` comments.
fn comments(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        if let Meta::NameValue(pair) = &attribute.meta
            && pair.path.is_ident("doc")
            && let Expr::Lit(ExprLit { lit: Lit::Str(doc), .. }) = &pair.value
        {
            for line in doc.value().split('\n') {
                // A trailing backslash would continue the comment onto the next line.
                let line = line.trim_end().trim_end_matches('\\');
                text += &format!("//{line}\n");
            }
        }
    }
    text
}
