//! Answers every raw message with `no-sdk`. Written against the interface alone, the way a plugin in another
//! language is: without the SDK, without `configure`, without asking the gateway for anything.

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, unreachable_pub, missing_docs, clippy::all, reason = "generated bindings")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../plugin-sdk/wit/v0.1",
        inline: "
            package tests:no-sdk;
            world no-sdk { export gateway:plugin/on-message@0.1.0; }
        ",
        world: "tests:no-sdk/no-sdk",
        generate_all,
    });

    use exports::gateway::plugin::on_message::{Guest, Kind, Verdict};

    const RAW: Kind = 9;

    struct NoSdk;

    impl Guest for NoSdk {
        fn call(_connection: u64, kind: Kind, _payload: Vec<u8>) -> Verdict {
            match kind {
                RAW => Verdict::Reply(b"no-sdk".to_vec()),
                _ => Verdict::Next,
            }
        }
    }

    export!(NoSdk);
}
