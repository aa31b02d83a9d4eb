//! `expand` makes a struct or enum readable from a settings file.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Attribute, Field, Item};

pub(crate) fn expand(item: &TokenStream) -> TokenStream {
    let checks = syn::parse2(item.clone()).map(|item| checks(&item)).unwrap_or_default();
    quote! {
        #[derive(::gateway_plugin_sdk::serde::Deserialize)]
        #[serde(crate = "::gateway_plugin_sdk::serde", deny_unknown_fields)]
        #item

        #checks
    }
}

/// Requires of the type of each field that it can be read. The message of the derive would advise a crate on
/// which a plugin does not depend.
fn checks(item: &Item) -> TokenStream {
    let (attributes, generics, fields): (_, _, Vec<&Field>) = match item {
        Item::Struct(item) => (&item.attrs, &item.generics, item.fields.iter().collect()),
        Item::Enum(item) => {
            let fields = item.variants.iter().flat_map(|variant| &variant.fields);
            (&item.attrs, &item.generics, fields.collect())
        }
        _ => return TokenStream::new(),
    };
    // With these, another type is read in the place of this one; and a parameter has no type here.
    if !generics.params.is_empty() || has_option(attributes, &["from", "remote"]) {
        return TokenStream::new();
    }
    let fields = fields.into_iter().filter(|field| !has_option(&field.attrs, &["with", "skip"]));
    // `Self` names the type in its definition only.
    let fields = fields.filter(|field| !field.ty.to_token_stream().to_string().contains("Self"));
    fields
        .map(|field| {
            let is_readable = quote! { ::gateway_plugin_sdk::__private::is_readable };
            let field = &field.ty;
            quote_spanned! { field.span() => const _: () = #is_readable::<#field>(); }
        })
        .collect()
}

/// Whether `#[serde(..)]` names one of these options, or one whose name contains it.
fn has_option(attributes: &[Attribute], options: &[&str]) -> bool {
    let mut serde = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    serde.any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        options.iter().any(|option| text.contains(option))
    })
}
