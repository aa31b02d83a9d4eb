//! The attribute macros of `gateway-plugin-sdk`, which re-exports and documents them.

mod arguments;
mod plugin;

use proc_macro::TokenStream;
use quote::quote;

/// Makes a plugin of an `impl Plugin for ..` block: exports the hooks that the block contains.
///
/// A crate holds one plugin. Built for WebAssembly, the block's type becomes a component that exports
/// `configure` and one interface for each hook in the block, and the name and version of the crate are
/// stamped into the file. Built for anything else, the block stays as it is, so that the
/// [test kit](../gateway_plugin_sdk/kit/index.html) can run it.
///
/// Arguments, all of them optional:
///
/// - `environment = ["NAME"]`, `http = ["https://issuer.example"]`, `upstreams = ["orders"]`: environment
///   variables, origins and upstreams that the plugin cannot do without. The gateway refuses to load it until
///   its settings file grants them; what it may need or not, depending on its settings, is better left out.
/// - `self_test = "self-test.json"`: a file beside `Cargo.toml` that is put into the plugin, with settings,
///   events and what should come of them. The gateway plays it whenever the plugin is loaded and refuses the
///   plugin if something else comes. `cargo test` plays the same with
///   [`Kit::self_test`](../gateway_plugin_sdk/kit/struct.Kit.html#method.self_test), whose documentation
///   tells what events there are:
///
/// ```json
/// {
///   "settings": {"words": ["darn"]},
///   "events": [
///     {"event": "message", "kind": "publish", "channel": "chat:1", "payload": "darn!", "expect": "deny"},
///     {"event": "message", "kind": "publish", "channel": "chat:1", "payload": "well", "expect": {"verdict": "next"}}
///   ]
/// }
/// ```
///
/// Exports are unsafe by nature: a crate may deny `unsafe_code`, but not forbid it.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    plugin::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a struct or enum readable from a settings file, for `Plugin::Config` and what it contains.
///
/// Short for `#[derive(serde::Deserialize)]` with `deny_unknown_fields`, so that a key that is misspelt in a
/// settings file is refused by name. Takes the usual `#[serde(..)]` attributes.
#[proc_macro_attribute]
pub fn settings(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        let message = "#[settings] takes no arguments";
        return syn::Error::new(proc_macro2::Span::call_site(), message).into_compile_error().into();
    }
    let item = proc_macro2::TokenStream::from(item);
    quote! {
        #[derive(::gateway_plugin_sdk::serde::Deserialize)]
        #[serde(crate = "::gateway_plugin_sdk::serde", deny_unknown_fields)]
        #item
    }
    .into()
}
