//! The attribute macros of `gateway-plugin-sdk`, which re-exports and documents them.

mod arguments;
mod plugin;
mod settings;

use proc_macro::TokenStream;

/// Turns an `impl Plugin for ..` block into a plugin: exports the hooks that the block contains.
///
/// A crate holds one plugin. In a build for WebAssembly, the type of the block becomes a component that
/// exports `configure` and one interface for each hook in the block, and the file contains the name and
/// version of the crate. In any other build the block stays unchanged, so that the [test
/// kit](../gateway_plugin_sdk/kit/index.html) can run it.
///
/// Arguments, all of them optional:
///
/// - `environment = ["NAME"]`, `http = ["https://issuer.example"]`, `upstreams = ["orders"]`: environment
///   variables, origins and upstreams that the plugin always needs. The gateway refuses to load the plugin
///   until its settings file grants them. Do not list those that it needs only with some settings.
/// - `self_test = "self-test.json"`: a file next to `Cargo.toml` with settings, events and their expected
///   outcomes. The macro puts it into the plugin. The gateway plays it whenever it loads the plugin, and
///   refuses the plugin if an outcome differs. `cargo test` plays it with
///   [`Kit::self_test`](../gateway_plugin_sdk/kit/struct.Kit.html#method.self_test), whose documentation
///   lists the events:
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
/// The exports use unsafe code: a crate may deny `unsafe_code`, but not forbid it.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    plugin::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a struct or enum readable from a settings file, for `Plugin::Config` and the types in it.
///
/// Short for `#[derive(serde::Deserialize)]` with `deny_unknown_fields`, so that a misspelt key in a settings
/// file causes an error with its name. The usual `#[serde(..)]` attributes work.
#[proc_macro_attribute]
pub fn settings(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        let message = "#[settings] takes no arguments";
        return syn::Error::new(proc_macro2::Span::call_site(), message).into_compile_error().into();
    }
    settings::expand(&item.into()).into()
}
