//! Tests plugins with rate limits in the gateway.

use super::guest::{guest, on_message};
use super::support::{chain, load, message, start};
use crate::plugin::event::Kind;
use crate::plugin::failure::{Cause, FailurePolicy};
use crate::plugin::state::Meters;
use crate::plugin::verdict::Decision;
use crate::plugin::{Chain, Link};
use crate::protocol::Encoding;

#[test]
fn a_bucket_that_was_never_declared_ends_the_instance() {
    let take =
        r#"(import "gateway:plugin/buckets@0.1.0" "take" (func $take (param i32 i32 i32 i32) (result i64)))"#;
    let body = "(drop (call $take (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1))) (i32.const 0)";
    let wasm = on_message("import gateway:plugin/buckets@0.1.0;", take, "", body);
    let mut guest = start(&wasm, "").map_err(|error| error.to_string()).unwrap();
    let failure = guest.raw("").unwrap_err();
    assert_eq!(failure.cause, Cause::Trap, "{failure}");
    assert!(failure.detail.contains("there is no bucket 3: this instance has declared 0"), "{failure}");
}

/// Declares a rate of one per second and takes one for the connection of each message. Has no opinion if it
/// is admitted, otherwise it allows. Then traps if the message has a payload.
fn takes_and_traps() -> Vec<u8> {
    let imports = r#"
        (import "gateway:plugin/buckets@0.1.0" "declare"
            (func $declare (param i32 i32 i32 i64 i64 i64 i32 i32)))
        (import "gateway:plugin/buckets@0.1.0" "take-connection" (func $take (param i32 i32) (result i64)))"#;
    let code = r#"
        (data (i32.const 512) "\01")
        (func (export "gateway:plugin/configure@0.1.0#call") (param i32 i32) (result i32)
            (call $declare (i32.const 1024) (i32.const 0) (i32.const 1) (i64.const 1) (i64.const 1000) (i64.const 0)
                (i32.const 1) (i32.const 2048))
            (i32.const 0))
        (func (export "gateway:plugin/on-message@0.1.0#call")
            (param $connection i64) (param $kind i32) (param $payload i32) (param $length i32) (result i32)
            (local $wait i64)
            (local.set $wait (call $take (i32.const 0) (i32.const 1)))
            (if (local.get $length) (then unreachable))
            (if (result i32) (i64.eqz (local.get $wait)) (then (i32.const 0)) (else (i32.const 512))))"#;
    let world = "import gateway:plugin/buckets@0.1.0; export gateway:plugin/configure@0.1.0; \
                 export gateway:plugin/on-message@0.1.0;";
    guest(world, imports, code)
}

/// Runs a message of a connection with these rate limits, which return with it.
fn ask(chain: &mut Chain, meters: &mut Meters, payload: &str) -> Decision {
    let mut message = message(Encoding::Raw, Kind::Raw, payload.as_bytes());
    message.meters = std::mem::take(meters);
    let decision = chain.on_message(&mut message, &mut Vec::new());
    *meters = message.meters;
    decision
}

#[test]
fn what_a_connection_has_used_stays_with_it_through_a_trap_and_a_reload() {
    let admitted = Decision::Undecided("".into());
    let too_much = Decision::Allowed("".into());
    let (mut first, counters) = chain(&takes_and_traps(), "", FailurePolicy::Closed);
    let [mut ann, mut bob] = [(); 2].map(|()| Meters::default());
    assert_eq!(ask(&mut first, &mut ann, "trap"), Decision::Failed);
    assert_eq!(ask(&mut first, &mut ann, ""), too_much, "another instance, the same connection");
    assert_eq!(ask(&mut first, &mut bob, ""), admitted, "another connection");
    assert_eq!(counters.read().failures_by(Cause::Trap), 1);

    let factory = load(&takes_and_traps(), "failure = \"open\"").unwrap();
    let link = Link::new("test".into(), 0, FailurePolicy::Closed, factory, counters).unwrap();
    let mut second = Chain::new(2, vec![link]);
    assert_eq!(ask(&mut second, &mut bob, ""), too_much, "another chain of the same plugin");
    let (mut other, _) = chain(&takes_and_traps(), "", FailurePolicy::Closed);
    assert_eq!(ask(&mut other, &mut bob, ""), admitted, "another plugin with a bucket of that name");
}
