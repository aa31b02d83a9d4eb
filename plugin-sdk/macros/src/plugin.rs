//! `expand` turns an `impl Plugin` block into the exports of a WebAssembly component, one for each hook.

use crate::arguments::Arguments;
use gateway_plugin_grammar::nearest::nearest;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Error, ImplItem, ImplItemFn, ItemImpl, Result};

/// The SDK pins the version of this crate to its own.
const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");
const INTERFACE_VERSION: &str = "0.1";
/// The methods of the trait `Plugin`.
const HOOKS: [&str; 6] = ["configure", "on_connect", "on_message", "on_deliver", "on_disconnect", "on_timer"];

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = Arguments::parse(arguments)?;
    let names = arguments.stamp();
    let self_test = arguments.self_test();
    let section = self_test.iter().map(|text| {
        quote! {
            const SELF_TEST: &str = #text;
            #[used]
            #[unsafe(link_section = "gateway-self-test")]
            static SELF_TEST_SECTION: [u8; SELF_TEST.len()] = sdk::bytes(SELF_TEST);
        }
    });
    let self_test = match &self_test {
        Some(text) => quote! { ::core::option::Option::Some(#text) },
        None => quote! { ::core::option::Option::None },
    };
    let block: ItemImpl = syn::parse2(item)?;
    check(&block)?;
    let plugin = &block.self_ty;
    let exports = block.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) => export(function),
        _ => None,
    });
    let hooks = block.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) => Some(name(function)),
        _ => None,
    });
    Ok(quote! {
        #block

        // Elsewhere nothing but tests calls the plugin, and that is not dead code. What its file carries the
        // test kit finds here.
        #[cfg(not(target_family = "wasm"))]
        const _: () = ::gateway_plugin_sdk::__private::used::<#plugin>();

        #[cfg(not(target_family = "wasm"))]
        impl ::gateway_plugin_sdk::__private::Embedded for #plugin {
            const HOOKS: &'static [&'static str] = &[#(#hooks),*];
            const SELF_TEST: ::core::option::Option<&'static str> = #self_test;
        }

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, unreachable_pub, missing_docs, reason = "the exports of a component and its custom section")]
        const _: () = {
            use ::gateway_plugin_sdk::__private as sdk;

            ::std::thread_local! {
                static PLUGIN: sdk::Slot<#plugin> = const { sdk::Slot::empty() };
            }

            struct Exports;

            impl sdk::bindings::configure::exports::gateway::plugin::configure::Guest for Exports {
                fn call(settings: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    PLUGIN.with(|plugin| plugin.configure(&settings))
                }
            }
            sdk::bindings::configure::export_configure!(Exports with_types_in sdk::bindings::configure);

            #(#exports)*
            #(#section)*

            const STAMP: &str = ::core::concat!(
                "{\"name\":\"", ::core::env!("CARGO_PKG_NAME"),
                "\",\"version\":\"", ::core::env!("CARGO_PKG_VERSION"),
                "\",\"sdk\":\"", #SDK_VERSION,
                "\",\"interface\":\"", #INTERFACE_VERSION, "\"",
                #names,
                "}",
            );
            #[used]
            #[unsafe(link_section = "gateway-plugin")]
            static STAMP_SECTION: [u8; STAMP.len()] = sdk::bytes(STAMP);
        };
    })
}

fn check(block: &ItemImpl) -> Result<()> {
    let is_plugin = block
        .trait_
        .as_ref()
        .and_then(|(path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Plugin");
    if !is_plugin {
        return Err(Error::new_spanned(&block.self_ty, "#[plugin] belongs on an `impl Plugin for ..` block"));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(&block.generics, "a plugin is one concrete type, without parameters"));
    }
    for item in &block.items {
        if let ImplItem::Fn(hook) = item {
            check_hook(hook)?;
        }
    }
    Ok(())
}

/// Refuses a misspelt hook, and a function of the author's own. The compiler would not list the hooks.
fn check_hook(hook: &ImplItemFn) -> Result<()> {
    let name = hook.sig.ident.to_string();
    if HOOKS.contains(&name.as_str()) {
        return Ok(());
    }
    let advice = match nearest(&name, HOOKS) {
        Some(near) => format!("the nearest is `{near}`"),
        None => "a function of your own belongs in an `impl` block of the type".to_owned(),
    };
    let message = format!("a plugin has no hook `{name}`: {advice}; the hooks are {}", HOOKS.join(", "));
    Err(Error::new_spanned(&hook.sig.ident, message))
}

/// The name of one hook, under the same `#[cfg]` as the hook itself.
fn name(hook: &ImplItemFn) -> TokenStream {
    let cfg = cfg_of(hook);
    let name = hook.sig.ident.to_string();
    quote! { #(#cfg)* #name }
}

fn cfg_of(hook: &ImplItemFn) -> Vec<&Attribute> {
    hook.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect()
}

/// The export of one hook, under the same `#[cfg]` as the hook itself. `configure` is always exported.
fn export(hook: &ImplItemFn) -> Option<TokenStream> {
    let cfg = cfg_of(hook);
    let export = match hook.sig.ident.to_string().as_str() {
        "on_connect" => quote! {
            use sdk::bindings::host::gateway::plugin::types::ConnectVerdict;
            impl sdk::bindings::on_connect::exports::gateway::plugin::on_connect::Guest for Exports {
                fn call(connection: u64, token: ::std::string::String, data: ::std::vec::Vec<u8>) -> ConnectVerdict {
                    PLUGIN.with(|plugin| plugin.on_connect(connection, &token, &data))
                }
            }
            sdk::bindings::on_connect::export_on_connect!(Exports with_types_in sdk::bindings::on_connect);
        },
        "on_message" => quote! {
            use sdk::bindings::host::gateway::plugin::types::Verdict;
            impl sdk::bindings::on_message::exports::gateway::plugin::on_message::Guest for Exports {
                fn call(connection: u64, kind: u32, payload: ::std::vec::Vec<u8>) -> Verdict {
                    PLUGIN.with(|plugin| plugin.on_message(connection, kind, &payload))
                }
            }
            sdk::bindings::on_message::export_on_message!(Exports with_types_in sdk::bindings::on_message);
        },
        "on_disconnect" => quote! {
            impl sdk::bindings::on_disconnect::exports::gateway::plugin::on_disconnect::Guest for Exports {
                fn call(connection: u64, code: u32, reason: ::std::string::String, duration: u64) {
                    PLUGIN.with(|plugin| plugin.on_disconnect(connection, code, &reason, duration));
                }
            }
            sdk::bindings::on_disconnect::export_on_disconnect!(Exports with_types_in sdk::bindings::on_disconnect);
        },
        "on_deliver" => quote! {
            use sdk::bindings::on_deliver::exports::gateway::plugin::on_deliver::Delivery;
            impl sdk::bindings::on_deliver::exports::gateway::plugin::on_deliver::Guest for Exports {
                fn call(class: ::std::string::String, payload: ::std::vec::Vec<u8>) -> Delivery {
                    PLUGIN.with(|plugin| plugin.on_deliver(&class, &payload))
                }
            }
            sdk::bindings::on_deliver::export_on_deliver!(Exports with_types_in sdk::bindings::on_deliver);
        },
        "on_timer" => quote! {
            impl sdk::bindings::on_timer::exports::gateway::plugin::on_timer::Guest for Exports {
                fn call(instance: u32) {
                    PLUGIN.with(|plugin| plugin.on_timer(instance));
                }
            }
            sdk::bindings::on_timer::export_on_timer!(Exports with_types_in sdk::bindings::on_timer);
        },
        _ => return None,
    };
    Some(quote! { #(#cfg)* const _: () = { #export }; })
}
