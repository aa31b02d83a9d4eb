//! A plugin of interface 0.1 as it was released: against the copy of the interface in `wit/` and without the SDK, so that
//! nothing of what is written later gets into it. Whatever the gateway becomes, it has to load this and answer like this.
//!
//! `wit/` is the released interface. It changes with a release only: `cp plugin-sdk/wit/v0.1/*.wit tests/frozen/v0.1/wit/`.

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, unreachable_pub, missing_docs, clippy::all, reason = "generated bindings")]
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tests:frozen;
            world frozen {
                import gateway:plugin/context@0.1.0;
                import gateway:plugin/effects@0.1.0;
                import gateway:plugin/interests@0.1.0;
                import gateway:plugin/log@0.1.0;
                export gateway:plugin/configure@0.1.0;
                export gateway:plugin/on-connect@0.1.0;
                export gateway:plugin/on-message@0.1.0;
                export gateway:plugin/on-disconnect@0.1.0;
            }
        ",
        world: "tests:frozen/frozen",
        generate_all,
    });

    use exports::gateway::plugin::{configure, on_connect, on_disconnect, on_message};
    use gateway::plugin::types::{ConnectVerdict, Identity, Refusal, Verdict};
    use gateway::plugin::{context, effects, interests, log};

    struct Frozen;

    impl configure::Guest for Frozen {
        fn call(settings: String) -> Result<(), String> {
            if settings.contains("refuse") {
                return Err("told to refuse".to_owned());
            }
            interests::kinds(&[1, 9]).map_err(|error| error.message)?;
            interests::channels(&["news".to_owned()]).map_err(|error| error.message)
        }
    }

    impl on_connect::Guest for Frozen {
        fn call(_connection: u64, token: String, _data: Vec<u8>) -> ConnectVerdict {
            match token.as_str() {
                "" => ConnectVerdict::Pass,
                "no" => ConnectVerdict::Refuse(Refusal { code: 3500, reason: "no".to_owned() }),
                user => ConnectVerdict::Accept(Identity {
                    user: user.to_owned(),
                    expires_at: Some(2_000_000_000),
                    info: b"{}".to_vec(),
                    data: Vec::new(),
                    channels: vec!["news".to_owned()],
                    attributes: vec![("plan".to_owned(), "free".to_owned())],
                }),
            }
        }
    }

    impl on_message::Guest for Frozen {
        fn call(_connection: u64, kind: u32, payload: Vec<u8>) -> Verdict {
            if kind == 1 {
                return match effects::publish("copy", &payload) {
                    Ok(()) => Verdict::Allow,
                    Err(error) => Verdict::Deny(Refusal { code: 400 + error.code, reason: error.message }),
                };
            }
            match payload.as_slice() {
                b"who" => Verdict::Reply(format!("{} {}", context::user(), context::protocol()).into_bytes()),
                b"away" => Verdict::Route(vec!["#42".to_owned()]),
                b"change" => Verdict::Replace(b"changed".to_vec()),
                _ => Verdict::Next,
            }
        }
    }

    impl on_disconnect::Guest for Frozen {
        fn call(_connection: u64, code: u32, _reason: String, _duration: u64) {
            log::line(3, &format!("gone with {code}"));
        }
    }

    export!(Frozen);
}
