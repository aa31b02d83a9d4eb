//! Generated Rust bindings of `plugin-sdk/wit/v0.1`: traits for the functions of the gateway, and types to
//! call each hook.
//!
//! Every hook is a separate interface, and a plugin may lack some of them. So each hook is looked up through
//! its `GuestIndices`; the type for the whole world, which requires all hooks, stays unused.
#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit/v0.1",
    world: "plugin",
    imports: {
        // An undeclared number is a bug in the plugin's program and not an error to handle.
        "gateway:plugin/buckets.take": trappable,
        "gateway:plugin/buckets.take-connection": trappable,
        "gateway:plugin/buckets.peek": trappable,
    },
    require_store_data_send: true,
});
