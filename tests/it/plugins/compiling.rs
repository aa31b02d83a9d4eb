//! Plugins that take long to compile: what waits for them, and what does not. The tests stop the compiler,
//! which is a process of its own, so that it takes as long as they want.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::{Gateway, RawClient, eventually_within, wasm, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

/// Two compilers fit beside each other on a small machine.
const RAW: &str = "raw.enabled = true\nclient.anonymous = true\nplugins.compile_bytes_max = '64MiB'\n";

/// Longer than a change of the plugins waits for a file.
const LONG: Duration = Duration::from_secs(4);

/// Before that, a change may still wait for the files of the change before.
const SOON: Duration = Duration::from_secs(15);

/// Processes that compile for the gateway with this configuration file.
fn compilers(config: &Path) -> Vec<Pid> {
    let command = |process: &str| fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let parent = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).map(|parent| parent.trim().to_owned())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let compilers = processes.filter(|process| {
        command(process).contains("compile-for-parent")
            && parent(process).is_some_and(|parent| command(&parent).contains(&config.display().to_string()))
    });
    compilers.filter_map(|process| Pid::from_raw(process.parse().ok()?)).collect()
}

/// Stops this many compilers as soon as they run.
async fn stop_compilers(config: PathBuf, number: usize) -> Vec<Pid> {
    let mut stopped = Vec::new();
    within("compilers that run", async {
        while stopped.len() < number {
            for compiler in compilers(&config) {
                if !stopped.contains(&compiler) {
                    kill_process(compiler, Signal::STOP).unwrap();
                    stopped.push(compiler);
                }
            }
            // Shorter than any compile.
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    stopped
}

fn go_on(stopped: Vec<Pid>) {
    for compiler in stopped {
        kill_process(compiler, Signal::CONT).unwrap();
    }
}

fn version_echo(version: &str) -> String {
    format!("[config]\nversion = \"{version}\"\n")
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_a_required_plugin_that_may_be_absent_later() {
    let builder = Gateway::with(&format!("plugins.required = ['echo']\n{RAW}"));
    let builder = builder.plugin("90-echo", "echo", "failure = 'open'\n");
    let config = builder.config();
    let mut start = Box::pin(builder.start());
    let stopped = tokio::select! {
        _ = &mut start => panic!("it was ready before the compiler was stopped"),
        stopped = stop_compilers(config, 1) => stopped,
    };
    tokio::select! {
        _ = &mut start => panic!("it is ready without a plugin that it requires"),
        () = sleep(LONG) => (),
    }
    go_on(stopped);
    let gateway = start.await;
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "x", "the first client has the plugin");
}

#[tokio::test]
async fn files_that_are_compiled_hold_up_no_changed_settings() {
    let gateway = Gateway::with(RAW).plugin("50-a", "guest-version-echo", &version_echo("1")).start().await;
    let mut client = RawClient::connect(&gateway).await;
    let name = "[config]\nname = \"b\"\nversion = \"1\"\n";
    gateway.folder().plugin("10-b", &wasm("guest-append-name"), name);
    gateway.folder().plugin("20-echo", &wasm("echo"), "");
    let stopped = stop_compilers(gateway.config(), 2).await;
    let mark = gateway.log().mark();
    gateway.folder().settings("50-a", &version_echo("2"));
    gateway.log().wait_within(SOON, mark, &["plugin chain swapped"]).await;
    assert_eq!(client.ask("x").await, json!({ "version": "2", "payload": "x" }).to_string());
    let mark = gateway.log().mark();
    go_on(stopped);
    gateway.log().wait_since(mark, &["plugin live", "10-b.wasm"]).await;
    gateway.log().wait_since(mark, &["plugin live", "20-echo.wasm"]).await;
}

#[tokio::test]
async fn the_compiler_of_a_file_that_is_removed_is_ended() {
    let gateway = Gateway::with(RAW).start().await;
    gateway.folder().plugin("90-echo", &wasm("echo"), "");
    let stopped = stop_compilers(gateway.config(), 1).await;
    gateway.folder().remove("90-echo.wasm");
    eventually_within(SOON, "the end of the compiler", async || {
        (!compilers(&gateway.config()).contains(&stopped[0])).then_some(())
    })
    .await;
}
