//! `Arguments` parses the options in `#[plugin(...)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Lit, LitStr, MetaNameValue, Result, Token};

/// What stands in the brackets of `#[plugin(..)]`.
#[derive(Default)]
pub(crate) struct Arguments {
    http: Vec<LitStr>,
    upstreams: Vec<LitStr>,
    environment: Vec<LitStr>,
    self_test: Option<LitStr>,
}

impl Arguments {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self> {
        let mut arguments = Self::default();
        for argument in Punctuated::<MetaNameValue, Token![,]>::parse_terminated.parse2(tokens)? {
            let name = argument.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match name.as_str() {
                "http" => arguments.http = names(&argument.value)?,
                "upstreams" => arguments.upstreams = names(&argument.value)?,
                "environment" => arguments.environment = names(&argument.value)?,
                "self_test" => arguments.self_test = Some(text(&argument.value)?.clone()),
                _ => {
                    let message = "#[plugin] takes `environment`, `http` and `upstreams`, each a list of texts, and \
                                   `self_test`, a file";
                    return Err(Error::new_spanned(&argument.path, message));
                }
            }
        }
        Ok(arguments)
    }

    /// What the stamp has more than the name and versions, as JSON that begins with a comma.
    pub(crate) fn stamp(&self) -> String {
        let list = |key: &str, names: &[LitStr]| match names {
            [] => String::new(),
            names => {
                let names: Vec<_> = names.iter().map(|name| format!("\"{}\"", name.value())).collect();
                format!(",\"{key}\":[{}]", names.join(","))
            }
        };
        [list("http", &self.http), list("upstreams", &self.upstreams), list("environment", &self.environment)]
            .concat()
    }

    /// The self-test as a text, if there is one: a path begins at the folder of the crate.
    pub(crate) fn self_test(&self) -> Option<TokenStream> {
        let path = self.self_test.as_ref()?;
        Some(quote! {
            ::core::include_str!(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), "/", #path))
        })
    }
}

fn names(value: &Expr) -> Result<Vec<LitStr>> {
    let Expr::Array(list) = value else {
        return Err(Error::new_spanned(value, "expected a list of texts, such as [\"A\", \"B\"]"));
    };
    list.elems
        .iter()
        .map(|element| {
            let name = text(element)?;
            // It stands in the stamp without being escaped; no name that can be granted needs it.
            let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
            if name.value().is_empty() || !name.value().chars().all(is_plain) {
                return Err(Error::new_spanned(name, "a name here has visible ASCII characters, no quotes"));
            }
            Ok(name.clone())
        })
        .collect()
}

fn text(value: &Expr) -> Result<&LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text),
        other => Err(Error::new_spanned(other, "expected a text")),
    }
}
