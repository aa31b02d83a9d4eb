//! The WebSocket protocol, judged by the Autobahn test suite against raw mode and the echo plugin.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use gateway_tests::{Gateway, Tool, target_folder};
use serde_json::{Value, json};

/// Messages of up to 16 MiB, and a plugin that may take its time with them.
const CONFIG: &str = "
    raw.enabled = true
    compression = { enabled = true, min_bytes = '0B' }
    client.anonymous = true
    limits = { message_bytes_max = '16MiB', outbound_bytes_max = '64MiB' }
";
const ECHO: &str = "
    [limits]
    deadline = '5s'
    memory = '256MiB'
    effect_bytes_max = '32MiB'
";

/// All cases of these sections.
const SECTIONS: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
/// The parts of the sections about compression: kinds of content, and offers. Each has the same cases for
/// sizes of messages and fragments. All of them would take ten minutes.
const COMPRESSION: [&str; 12] =
    ["12.1", "12.2", "12.3", "12.4", "12.5", "13.1", "13.2", "13.3", "13.4", "13.5", "13.6", "13.7"];
const SIZES: [usize; 5] = [1, 5, 8, 12, 15];
const CASES_MIN: usize = 300 + COMPRESSION.len() * SIZES.len();

/// Only for want of Python 2.7, where `tests/run` has looked for it: it says so once more at its end.
/// Otherwise what must not be skipped fails.
fn skip() {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    assert!(
        !is_set("GATEWAY_REQUIRE_ALL") || is_set("GATEWAY_WITHOUT_PYTHON2"),
        "the Autobahn suite is not installed: `tests/run` does all the set-up"
    );
    println!("*** SKIPPED: the Autobahn suite, which needs Python 2.7; `tests/run` installs it ***");
}

#[tokio::test]
async fn every_case_of_the_autobahn_suite_passes() {
    let suite = target_folder().join("autobahn/bin/wstest");
    if !suite.exists() {
        return skip();
    }
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", ECHO).start().await;
    let folder = tempfile::tempdir().unwrap();
    let compression = COMPRESSION.iter().flat_map(|part| SIZES.map(|size| format!("{part}.{size}")));
    let cases: Vec<_> = SECTIONS.map(str::to_owned).into_iter().chain(compression).collect();
    let spec = json!({
        "outdir": folder.path().join("reports"),
        "servers": [{ "agent": "gateway", "url": format!("ws://{}/connection/raw", gateway.address()) }],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let path = folder.path().join("spec.json");
    fs::write(&path, spec.to_string()).unwrap();
    let limit = Duration::from_secs(240);
    Tool::new(suite)
        .arg("-m")
        .arg("fuzzingclient")
        .arg("-s")
        .arg(path)
        .env("HOME", folder.path())
        .run(limit)
        .await;

    let index = fs::read(folder.path().join("reports/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let cases = index["gateway"].as_object().unwrap();
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    for (case, result) in cases {
        let (behaviour, end) =
            (result["behavior"].as_str().unwrap(), result["behaviorClose"].as_str().unwrap());
        *counts.entry(behaviour).or_insert(0) += 1;
        if !matches!(behaviour, "OK" | "NON-STRICT" | "INFORMATIONAL")
            || !matches!(end, "OK" | "INFORMATIONAL")
        {
            wrong.push(format!("{case}: {behaviour}, close: {end}"));
        }
    }
    println!("{} cases: {counts:?}", cases.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cases.len() >= CASES_MIN, "only {} cases", cases.len());
}
