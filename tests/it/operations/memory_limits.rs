//! Limits on memory: a gateway serves with its plugins or does not start, and a plugin that is too large for
//! the machine is refused while the clients stay.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gateway_tests::{Client, Gateway, wasm};
use serde_json::json;

const OPEN: &str =
    "client.anonymous = true\n[namespaces.chat]\nallow_subscribe = 'anyone'\nallow_publish = 'anyone'\n";
const ROUTER: &str = "[[config.rules]]\nkind = 'publish'\ndeny = { code = 1234, reason = 'no' }\n";

/// Compiling has what others leave of the processor.
const COMPILE: Duration = Duration::from_secs(90);

/// Whether the gateway has its plugins, or says why it does not start.
async fn serves_under(limit: u64) -> bool {
    let builder = Gateway::with(OPEN).plugin("50-router", "router", ROUTER).plugin("90-echo", "echo", "");
    let builder = builder.after(&format!("ulimit -v {}", limit >> 10));
    let (mut gateway, said) = match builder.start_or_end(Duration::from_secs(30)).await {
        Ok(gateway) => (gateway, String::new()),
        Err(said) => {
            assert!(said.contains("ulimit -v"), "a sentence: {said}");
            return false;
        }
    };
    let ready = gateway.get("/health/ready").await;
    let metrics = gateway.metrics().await;
    let live = metrics.get("gateway_plugins_live");
    println!("{} MiB of address space: ready {}, {live} plugins live {said}", limit >> 20, ready.status);
    assert_eq!((ready.status, live), (200, 2.0), "{}\n{}", ready.text(), gateway.log().tail(20));
    let mut client = Client::connect(&gateway).await;
    assert!(
        client.ask("publish", json!({"channel": "chat:1", "data": 1})).await.is_err(),
        "the router decides"
    );
    assert!(gateway.is_running());
    true
}

#[tokio::test]
async fn a_limit_on_address_space_leaves_the_plugins_where_they_are() {
    for gib in [12, 4, 2, 1] {
        assert!(serves_under(gib << 30).await, "{gib} GiB are enough");
    }
    for mib in [600, 400, 300, 200] {
        let serves = serves_under(mib << 20).await;
        println!("{mib} MiB: {}", if serves { "serves" } else { "refuses to start" });
    }
}

#[tokio::test]
async fn a_plugin_that_needs_more_memory_to_compile_than_it_may_is_refused() {
    let config = format!("plugins.compile_bytes_max = '32MiB'\n{OPEN}");
    let gateway = Gateway::with(&config).start().await;
    let mut client = Client::connect(&gateway).await;
    let mark = gateway.log().mark();
    gateway.folder().plugin("50-schema", &wasm("schema"), "");
    let line = gateway.log().wait_within(COMPILE, mark, &["plugin refused"]).await;
    assert_eq!(line.field("code"), "compile-memory", "{}", line.text);
    assert!(
        line.message.contains("32 MiB of memory to compile (plugins.compile_bytes_max)"),
        "{}",
        line.text
    );
    client.ask("subscribe", json!({"channel": "chat:1"})).await.unwrap();
    assert_eq!(gateway.get("/health/ready").await.status, 200);
}

/// A control group for memory, removed in the end. For root.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Self {
        let name = format!("gateway-test-{}", std::process::id());
        let first = PathBuf::from("/sys/fs/cgroup/memory");
        let (folder, limit) = if first.is_dir() {
            (first.join(name), "memory.limit_in_bytes")
        } else {
            (PathBuf::from("/sys/fs/cgroup").join(name), "memory.max")
        };
        fs::create_dir_all(&folder).expect("root may make a control group");
        fs::write(folder.join(limit), bytes.to_string()).expect("root may limit it");
        Self(folder)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_plugin_that_is_too_large_for_the_control_group_is_refused_and_the_clients_stay() {
    let group = Group::new(128 << 20);
    let join = format!("echo $$ > {}/cgroup.procs", group.0.display());
    let config = format!("memory.history_bytes_max = '8MiB'\n{OPEN}");
    let mut gateway = Gateway::with(&config).plugin("90-echo", "echo", "").after(&join).start().await;
    let line = gateway.log().wait(&["settings allow more memory than"]).await;
    assert!(line.message.contains("the control group of the process"), "{}", line.text);
    assert_eq!(line.field("there_is"), "128 MiB");
    let mut clients = Vec::new();
    for _ in 0..150 {
        clients.push(Client::connect(&gateway).await);
    }
    let mark = gateway.log().mark();
    gateway.folder().plugin("50-schema", &wasm("schema"), "");
    let line = gateway.log().wait_within(COMPILE, mark, &["plugin refused", "50-schema.wasm"]).await;
    assert_eq!(line.field("code"), "compile-memory", "{}", line.text);
    assert!(gateway.is_running());
    for client in &mut clients {
        client.ask("presence_stats", json!({"channel": "chat:1"})).await.unwrap_err();
    }
    drop(gateway);
    drop(group);
}
