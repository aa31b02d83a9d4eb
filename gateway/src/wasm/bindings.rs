//! What `plugin-sdk/wit/v0.1` looks like in Rust: traits for what the gateway offers, and how to call each hook.
//!
//! Every hook is an interface of its own, so a plugin that lacks some of them is looked up hook by hook through the
//! `GuestIndices` of each; the type for the whole world, which would demand all of them, stays unused.
#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit/v0.1",
    world: "plugin",
    imports: {
        // A number that no declaration gave out is a mistake in the plugin's program and not an error to handle.
        "gateway:plugin/buckets.take": trappable,
        "gateway:plugin/buckets.take-connection": trappable,
        "gateway:plugin/buckets.peek": trappable,
    },
    require_store_data_send: true,
});
