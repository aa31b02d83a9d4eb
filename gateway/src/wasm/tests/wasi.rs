//! Tests the WASI functions, on a thread that runs a tokio runtime as a worker does.

use std::future::Future;

use super::guest::on_message;
use super::support::{Running, component, module, start};
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::verdict::Verdict;

/// Runs on a worker's kind of runtime: blocking on it would panic.
fn on_a_worker<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A plugin that calls one function of WASI and replies with the number it returns.
fn calling(name: &str, signature: &str, arguments: &str) -> Running {
    let imports = format!(r#"(import "wasi_snapshot_preview1" "{name}" (func $f {signature}))"#);
    let body = format!(
        r#"(i32.store8 (i32.const 512) (i32.const 6))
        (i32.store (i32.const 516) (i32.const 2048))
        (i32.store (i32.const 520) (i32.const 1))
        (i32.store8 (i32.const 2048) (i32.add (i32.const 48) (call $f {arguments})))
        (i32.const 512)"#
    );
    start(&on_message("", &imports, "", &body), "").map_err(|error| error.to_string()).unwrap()
}

fn result(name: &str, signature: &str, arguments: &str) -> Result<String, Failure> {
    on_a_worker(async {
        match calling(name, signature, arguments).raw("")? {
            Verdict::Reply(text) => Ok(String::from_utf8(text.into()).unwrap()),
            other => panic!("{other:?}"),
        }
    })
}

const ADDRESS: &str = "(i32.const 4096)";

#[test]
fn clocks_random_numbers_and_an_empty_environment_are_there() {
    let pair = "(param i32 i32) (result i32)";
    for clock in [0, 1] {
        let arguments = format!("(i32.const {clock}) (i64.const 1) {ADDRESS}");
        assert_eq!(result("clock_time_get", "(param i32 i64 i32) (result i32)", &arguments).unwrap(), "0");
    }
    assert_eq!(result("random_get", pair, &format!("{ADDRESS} (i32.const 64)")).unwrap(), "0");
    assert_eq!(result("environ_sizes_get", pair, &format!("{ADDRESS} (i32.const 4100)")).unwrap(), "0");
    assert_eq!(result("sched_yield", "(result i32)", "").unwrap(), "0");
}

#[test]
fn sleeping_ends_the_call_with_a_sentence() {
    // A subscription to the monotonic clock at address 3072: one hour from now.
    let imports = r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))"#;
    let body = r#"
        (i32.store (i32.const 3088) (i32.const 1))
        (i64.store (i32.const 3096) (i64.const 3600000000000))
        (drop (call $poll (i32.const 3072) (i32.const 4096) (i32.const 1) (i32.const 5120)))
        (i32.const 512)"#;
    let wasm = on_message("", imports, "", body);
    on_a_worker(async {
        let mut sleeps = start(&wasm, "").map_err(|error| error.to_string()).unwrap();
        let failure = sleeps.raw("").unwrap_err();
        assert_eq!(failure.cause, Cause::Trap);
        assert!(failure.detail.contains("plugins cannot wait"), "{failure}");
    });
}

#[test]
fn leaving_the_process_ends_only_the_call() {
    let imports = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    let wasm = on_message("", imports, "", "(call $exit (i32.const 3)) unreachable");
    on_a_worker(async {
        let failure = start(&wasm, "").map_err(|error| error.to_string()).unwrap().raw("").unwrap_err();
        assert!(failure.detail.contains("the plugin called exit"), "{failure}");
    });
}

#[test]
fn there_are_no_files_and_nothing_to_read() {
    // 8 is "bad file descriptor": no folder was opened in advance.
    let prestat =
        result("fd_prestat_get", "(param i32 i32) (result i32)", &format!("(i32.const 3) {ADDRESS}"));
    assert_eq!(prestat.unwrap(), "8");
    let signature = "(param i32 i32 i32 i32) (result i32)";
    let arguments = "(i32.const 0) (i32.const 3072) (i32.const 0) (i32.const 4096)";
    assert_eq!(result("fd_read", signature, arguments).unwrap(), "0");
}

#[test]
fn printing_and_panicking_do_not_disturb_the_runtime() {
    for wasm in [module("guest_trap.wasm"), component("guest_trap.wasm")] {
        on_a_worker(async {
            let mut plugin =
                start(&wasm, "[limits]\ndeadline = \"1s\"").map_err(|error| error.to_string()).unwrap();
            assert_eq!(plugin.raw("print").unwrap(), Verdict::Next);
            let failure = plugin.raw("boom").unwrap_err();
            assert!(failure.detail.contains("boom"), "{failure}");
            tokio::task::yield_now().await;
        });
    }
}
