//! Tests running plugins: verdicts, effects, limits and failures.

use bytes::Bytes;

use super::guest::{answers, guest, on_message, wat_string};
use super::support::{
    Running, chain, channel, component, connect_event, decide, disconnect_event, message, module, start,
};
use crate::plugin::event::Kind;
use crate::plugin::failure::{Cause, Failure, FailurePolicy};
use crate::plugin::interests::Kinds;
use crate::plugin::verdict::{ConnectVerdict, Decision, Effect, Refusal, Verdict};
use crate::protocol::Encoding;

fn running(wasm: &[u8]) -> Running {
    start(wasm, "").map_err(|error| error.to_string()).unwrap()
}

#[track_caller]
fn check_invalid(answer: Result<Verdict, Failure>, words: &str) {
    let failure = answer.unwrap_err();
    assert_eq!(failure.cause, Cause::InvalidAnswer, "{failure}");
    assert!(failure.detail.contains(words), "{words:?} in: {failure}");
}

// ----------------------------------------------------------------------------------------------- real
// plugins

#[test]
fn both_forms_of_a_plugin_answer_alike() {
    for wasm in [module("echo.wasm"), component("echo.wasm")] {
        let mut echo = running(&wasm);
        for payload in ["hello", "", "{\"a\":1}"] {
            assert_eq!(
                echo.raw(payload).unwrap(),
                Verdict::Reply(Bytes::copy_from_slice(payload.as_bytes()))
            );
        }
        assert_eq!(echo.plugin.interests().kinds, Kinds::NONE.with(Kind::Raw));
    }
    for wasm in [module("guest_no_sdk.wasm"), component("guest_no_sdk.wasm")] {
        let mut no_sdk = running(&wasm);
        assert_eq!(no_sdk.raw("x").unwrap(), Verdict::Reply("no-sdk".into()));
        assert_eq!(no_sdk.message(Kind::Publish, "news", b"{}").unwrap(), Verdict::Next);
        assert_eq!(no_sdk.plugin.interests().kinds, Kinds::ALL, "without configure it sees everything");
    }
}

#[test]
fn settings_reach_the_plugin() {
    let mut version_echo = start(&module("guest_version_echo.wasm"), "[config]\nversion = \"7\"")
        .map_err(|e| e.to_string())
        .unwrap();
    assert_eq!(version_echo.raw("x").unwrap(), Verdict::Reply(r#"{"payload":"x","version":"7"}"#.into()));
}

#[test]
fn a_plugin_with_every_hook_lives_through_a_connection() {
    for wasm in [module("examples/lobby.wasm"), component("examples/lobby.wasm")] {
        let mut lobby = running(&wasm).json();
        let mut effects = Vec::new();
        let connect = |lobby: &mut Running, token: &str| {
            lobby.plugin.on_connect(&connect_event(Encoding::Json, token), &mut Vec::new()).unwrap()
        };
        assert_eq!(connect(&mut lobby, ""), ConnectVerdict::Pass);
        assert!(matches!(connect(&mut lobby, &"x".repeat(33)), ConnectVerdict::Refuse(_)));
        let ConnectVerdict::Accept(identity) = connect(&mut lobby, "ann") else { panic!("accepted") };
        assert_eq!((&*identity.user, &identity.channels[..]), ("ann", &[channel("lobby")][..]));
        assert_eq!(identity.info, r#"{"name":"ann"}"#);

        let mut join = message(Encoding::Json, Kind::Rpc, b"\"room:1\"");
        join.content.method = "join".into();
        effects.push(Effect::Subscribe(channel("earlier")));
        let verdict = lobby.plugin.on_message(&mut join, &mut effects).unwrap();
        assert_eq!(verdict, Verdict::Reply(r#"{"room":"room:1"}"#.into()));
        let publish = |payload: &str| Effect::Publish {
            address: channel("room:1"),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        assert_eq!(
            effects,
            [
                Effect::Subscribe(channel("earlier")),
                Effect::Subscribe(channel("room:1")),
                Effect::SetAttribute { name: "room".into(), value: "room:1".into() },
                publish(r#"{"joined":"ann"}"#),
            ]
        );
        join.content.payload = Bytes::from_static(b"\"a b\"");
        let denied = lobby.plugin.on_message(&mut join, &mut Vec::new()).unwrap();
        assert!(matches!(denied, Verdict::Deny(_)), "{denied:?}");

        effects.clear();
        lobby.plugin.on_disconnect(&disconnect_event(90_000), &mut effects).unwrap();
        assert_eq!(effects, [publish(r#"{"after":90,"left":"ann"}"#)]);
    }
}

#[test]
fn a_plugin_that_misbehaves_fails_with_the_reason_and_never_serves_again() {
    for wasm in [module("guest_trap.wasm"), component("guest_trap.wasm")] {
        for (payload, cause, words) in [
            ("boom", Cause::Trap, "boom"),
            ("loop", Cause::Deadline, "took longer than 5ms (limits.deadline)"),
            ("eat", Cause::Memory, "wanted more than 2 MiB of memory (limits.memory)"),
            ("deep", Cause::Trap, ""),
        ] {
            let mut trap = start(&wasm, "[limits]\nmemory = \"2MiB\"").map_err(|e| e.to_string()).unwrap();
            assert_eq!(trap.raw("fine").unwrap(), Verdict::Next);
            trap.effects.push(Effect::Subscribe(channel("earlier")));
            let failure = trap.raw(payload).unwrap_err();
            assert_eq!(failure.cause, cause, "{failure}");
            assert!(failure.detail.contains(words), "{words:?} in: {failure}");
            assert_eq!(trap.effects[0], Effect::Subscribe(channel("earlier")), "not its own");
            let again = trap.raw("fine").unwrap_err();
            assert_eq!(&*again.detail, "this instance has failed before");
        }
    }
}

#[test]
fn a_chain_replaces_a_failed_instance_without_using_up_the_pool() {
    let (mut chain, counters) = chain(&module("guest_trap.wasm"), "", FailurePolicy::Closed);
    for _ in 0..1000 {
        assert_eq!(decide(&mut chain, "boom"), Decision::Failed);
        assert_eq!(decide(&mut chain, "fine"), Decision::Undecided("fine".into()));
    }
    assert_eq!(counters.read().failures_by(Cause::Trap), 1000);
}

#[test]
fn output_and_log_lines_are_bounded() {
    for wasm in [module("guest_trap.wasm"), component("guest_trap.wasm")] {
        let limits = "[limits]\nlog_lines_per_second = 3\ndeadline = \"1s\"";
        let mut trap = start(&wasm, limits).map_err(|e| e.to_string()).unwrap();
        // Lines below the log filter use no budget.
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            assert_eq!(trap.raw("print").unwrap(), Verdict::Next);
        });
        let unwanted = trap.counters.read().log_lines_dropped;
        assert!(unwanted < 3, "{unwanted}: only what the streams took beyond their share");
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink);
        tracing::subscriber::with_default(log.finish(), || {
            assert_eq!(trap.raw("print").unwrap(), Verdict::Next);
        });
        // 512 log lines, of which few pass; each stream counts once for output beyond its limit.
        let dropped = trap.counters.read().log_lines_dropped - unwanted;
        assert!((500..530).contains(&dropped), "{dropped}");
    }
}

// ------------------------------------------------------------------------------------------- what is
// answered

#[test]
fn every_verdict_arrives_as_it_was_meant() {
    let refusal = |code| Refusal { code, reason: "why".into() };
    for (wasm, verdict) in [
        (answers(0, &[], ""), Verdict::Next),
        (answers(1, &[], ""), Verdict::Allow),
        (answers(2, &[103, 1024, 3], "why"), Verdict::Deny(refusal(103))),
        (answers(2, &[3500, 1024, 3], "why"), Verdict::Disconnect(refusal(3500))),
        (answers(3, &[], ""), Verdict::Drop),
        (answers(4, &[4000, 1024, 3], "why"), Verdict::Disconnect(refusal(4000))),
        (answers(5, &[1024, 2], "{}"), Verdict::Replace("{}".into())),
        (answers(6, &[1024, 2], "{}"), Verdict::Reply("{}".into())),
        (answers(7, &[1024, 0], ""), Verdict::Route(vec![])),
        // Two strings: their addresses and lengths, then the text.
        (
            answers(7, &[1024, 2], "\x10\x04\0\0\x04\0\0\0\x14\x04\0\0\x02\0\0\0news#4"),
            Verdict::Route(vec![channel("news"), channel("#4")]),
        ),
    ] {
        for mut plugin in [running(&wasm), running(&wasm).json()] {
            assert_eq!(plugin.message(Kind::Rpc, "", b"null").unwrap(), verdict);
        }
    }
}

#[test]
fn an_answer_that_cannot_be_carried_out_is_a_failure_but_not_the_end() {
    for (wasm, words) in [
        (answers(2, &[99, 1024, 0], ""), "refused with code 99; codes are 100 to 1999"),
        (answers(2, &[2000, 1024, 0], ""), "refused with code 2000"),
        (answers(4, &[103, 1024, 0], ""), "103 is not a close code; they are 3000 to 4999"),
        (answers(4, &[5000, 1024, 0], ""), "5000 is not a close code"),
        (answers(6, &[1024, 1], "{"), "answered with a payload that is not valid JSON"),
        (answers(5, &[1024, 0], ""), "answered with a payload that is not valid JSON"),
        (
            answers(7, &[1024, 1], "\x10\x04\0\0\x03\0\0\0\0\0\0\0\0\0\0\0a b"),
            "\"a b\" among the addresses is not usable",
        ),
        (answers(7, &[1024, 65], &"\0".repeat(65 * 8)), "more than 64 addresses (effects_max)"),
    ] {
        let mut plugin = running(&wasm).json();
        for _ in 0..2 {
            check_invalid(plugin.message(Kind::Rpc, "", b"null"), words);
        }
    }
}

#[test]
fn only_clients_that_speak_json_need_it() {
    let wasm = answers(6, &[1024, 4], "[1,\n");
    assert_eq!(running(&wasm).raw("").unwrap(), Verdict::Reply("[1,\n".into()));
    let wasm = answers(6, &[1024, 6], "[1,\n2]");
    assert_eq!(running(&wasm).raw("").unwrap(), Verdict::Reply("[1,\n2]".into()));
    let verdict = running(&wasm).json().message(Kind::Rpc, "", b"null").unwrap();
    assert_eq!(verdict, Verdict::Reply("[1,2]".into()), "a line feed would end the frame");
}

#[test]
fn a_close_reason_is_cut_between_characters_and_an_error_is_not() {
    let reason = format!("x{}", "é".repeat(80));
    let length = u32::try_from(reason.len()).unwrap();
    let Verdict::Disconnect(refusal) = running(&answers(4, &[3500, 1024, length], &reason)).raw("").unwrap()
    else {
        panic!("disconnect")
    };
    assert_eq!(&*refusal.reason, format!("x{}", "é".repeat(61)));
    let Verdict::Deny(refusal) = running(&answers(2, &[103, 1024, length], &reason)).raw("").unwrap() else {
        panic!("deny")
    };
    assert_eq!(&*refusal.reason, reason);
}

#[test]
fn an_answer_has_a_size() {
    let wasm = answers(6, &[1024, 1025], &"x".repeat(1025));
    let limits = "[limits]\neffect_bytes_max = \"1KiB\"";
    let mut plugin = start(&wasm, limits).map_err(|e| e.to_string()).unwrap();
    check_invalid(plugin.raw(""), "more than 1024 bytes together (effect_bytes_max)");
    // Far more than a host call may carry: reading it ends the call.
    let huge = answers(6, &[0, 128 << 10], "");
    let mut plugin = start(&huge, limits).map_err(|e| e.to_string()).unwrap();
    plugin.raw("").unwrap_err();
}

#[test]
fn a_payload_that_is_not_needed_does_not_arrive() {
    let reply = r#"
        (i32.store8 (i32.const 512) (i32.const 6))
        (i32.store (i32.const 516) (local.get $payload))
        (i32.store (i32.const 520) (local.get $length))
        (i32.const 512)"#;
    let configure = |needed: u8| {
        format!(
            r#"(func (export "gateway:plugin/configure@0.1.0#call") (param i32 i32) (result i32)
                 (call $payload (i32.const {needed})) (i32.const 256))"#
        )
    };
    let imports = r#"(import "gateway:plugin/interests@0.1.0" "payload" (func $payload (param i32)))"#;
    let world = "import gateway:plugin/interests@0.1.0; export gateway:plugin/configure@0.1.0;";
    for (needed, reply_payload) in [(1, "abc"), (0, "")] {
        let mut plugin = running(&on_message(world, imports, &configure(needed), reply));
        assert_eq!(plugin.raw("abc").unwrap(), Verdict::Reply(reply_payload.into()));
    }
}

// -------------------------------------------------------------------------------------------- what is
// recorded

/// A plugin that publishes its payload to a fixed address `times` times and replies with one character per
/// result: `.` or the number of the error.
fn publisher(address: &str, times: u32) -> Vec<u8> {
    let world = "import gateway:plugin/effects@0.1.0;";
    let imports =
        r#"(import "gateway:plugin/effects@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))"#;
    let data = format!("(data (i32.const 1024) {})", wat_string(address));
    let body = format!(
        r#"(local $n i32)
        (loop $again
            (call $publish
                (i32.const 1024) (i32.const {}) (local.get $payload) (local.get $length) (i32.const 256))
            ;; The error's code lies behind the tag of the result.
            (i32.store8 (i32.add (i32.const 2048) (local.get $n))
                (select (i32.add (i32.load (i32.const 260)) (i32.const 48)) (i32.const 46)
                    (i32.load8_u (i32.const 256))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))
        (i32.store8 (i32.const 512) (i32.const 6))
        (i32.store (i32.const 516) (i32.const 2048))
        (i32.store (i32.const 520) (local.get $n))
        (i32.const 512)"#,
        address.len()
    );
    on_message(world, imports, &data, &body)
}

fn results(plugin: &mut Running, payload: &str) -> String {
    match plugin.raw(payload).unwrap() {
        Verdict::Reply(text) => String::from_utf8(text.into()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn effects_have_a_count_and_a_size_and_a_refused_one_leaves_nothing() {
    let start = |limits: &str, address| {
        start(&publisher(address, 5), &format!("[limits]\n{limits}")).map_err(|e| e.to_string()).unwrap()
    };
    let mut counted = start("effects_max = 3", "news");
    assert_eq!(results(&mut counted, "x"), "...11");
    assert_eq!(counted.effects.len(), 3);
    assert_eq!(results(&mut counted, "x"), "...11", "per call");
    assert_eq!(counted.effects.len(), 6);

    let mut sized = start("effect_bytes_max = \"1KiB\"", "news");
    assert_eq!(results(&mut sized, &"x".repeat(300)), "...22");
    let mut invalid = start("effects_max = 3", "a b");
    assert_eq!(results(&mut invalid, "x"), "33333");
    assert_eq!(invalid.effects, []);
}

#[test]
fn what_is_published_by_a_client_that_speaks_json_is_json_on_one_line() {
    let wasm = publisher("news", 1);
    let mut plugin = running(&wasm);
    assert_eq!(results(&mut plugin, "not json"), ".");
    let effects = |payload: &str| {
        // The reply of this plugin is not JSON, which does not matter here.
        let mut plugin = running(&wasm).json();
        let _ = plugin.message(Kind::Rpc, "", payload.as_bytes());
        plugin.effects
    };
    assert_eq!(effects("not json"), []);
    assert_eq!(effects("[1,\n2]"), [Effect::Publish { address: channel("news"), payload: "[1,2]".into() }]);
}

/// Registers this many permissions to publish by the attribute `b`, which is `2`, and refuses its settings if
/// the last one failed. Traps in every call.
fn permits_and_traps(times: usize) -> Vec<u8> {
    let permit =
        r#"(import "gateway:plugin/interests@0.1.0" "permit" (func $permit (param i32 i32 i32 i32 i32)))"#;
    let call = "(call $permit (i32.const 512) (i32.const 1) (i32.const 520) (i32.const 1) (i32.const 2048))";
    // The first byte of both results is their case; the message of the error stays where it is in memory.
    let code = format!(
        r#"
        (data (i32.const 512) "\01\00\00\00")
        (data (i32.const 520) "b")
        (func (export "gateway:plugin/configure@0.1.0#call") (param i32 i32) (result i32)
            {}
            (i32.store8 (i32.const 1024) (i32.load8_u (i32.const 2048)))
            (i64.store (i32.const 1028) (i64.load (i32.const 2056)))
            (i32.const 1024))
        (func (export "gateway:plugin/on-message@0.1.0#call") (param i64 i32 i32 i32) (result i32) unreachable)"#,
        call.repeat(times)
    );
    let world = "import gateway:plugin/interests@0.1.0; export gateway:plugin/configure@0.1.0; \
                 export gateway:plugin/on-message@0.1.0;";
    guest(world, permit, &code)
}

#[test]
fn what_an_attribute_permits_needs_no_call() {
    let wasm = permits_and_traps(16);
    for (kind, channel, called) in [
        (Kind::Publish, "2", false),
        (Kind::Publish, "3", true),
        (Kind::Publish, "", true),
        (Kind::Subscribe, "2", true),
    ] {
        let answer = running(&wasm).message(kind, channel, b"{}");
        match called {
            false => assert_eq!(answer, Ok(Verdict::Allow), "{kind:?} {channel}"),
            true => {
                assert_eq!(answer.map_err(|failure| failure.cause), Err(Cause::Trap), "{kind:?} {channel}")
            }
        }
    }
}

#[test]
fn permissions_are_few() {
    let error = start(&permits_and_traps(17), "").map(drop).expect_err("one too many");
    assert!(error.to_string().contains("more than 16 permissions"), "{error}");
}
