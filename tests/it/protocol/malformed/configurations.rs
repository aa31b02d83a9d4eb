//! Configuration files with a mistake in them: each is named with its place, and nothing is started.

use std::fs;
use std::time::Duration;

use gateway_tests::{Tool, gateway_binary};

use super::Verdicts;

/// A configuration and what the program has to say of it.
const CASES: [(&str, &str); 34] = [
    ("[listen", "1:8: not valid TOML"),
    ("= 1", "not valid TOML"),
    ("listen = 1\nlisten = 2", "not valid TOML"),
    ("\u{0}", "not valid TOML"),
    ("nonsense = 1", "nonsense: no such key"),
    ("[listne]", "the nearest is `listen`"),
    ("listen.adress = '127.0.0.1:0'", "the nearest is `address`"),
    ("connections_max = 1", "there is `limits.connections_max`"),
    ("listen = '127.0.0.1:0'", "accepted: a table: [listen]"),
    ("listen.address = 8000", "listen.address: found the number 8000"),
    ("listen.address = 'localhost'", "listen.address"),
    ("listen.address = '127.0.0.1'", "listen.address"),
    ("listen.address = '127.0.0.1:65536'", "listen.address"),
    ("listen.address = ''", "listen.address"),
    ("listen.workers = 65", "accepted: a whole number from 0 to 64"),
    ("listen.workers = -1", "accepted: a whole number from 0 to 64"),
    ("listen.workers = 'all'", "accepted: a whole number from 0 to 64"),
    ("admin = { address = '0.0.0.0:8001' }", "api_key"),
    ("admin.api_key = 'short'", "accepted: 8 to 256 visible ASCII characters"),
    ("listen.address = '127.0.0.1:8001'", "admin.address"),
    ("handshake.origins = 'https://app.example'", "accepted: a list of at most 256 origins"),
    ("handshake.origins = ['https://app.example/']", "nothing after it"),
    ("handshake.origins = ['https://*.example']", "every origin written out"),
    ("handshake.origins = ['*', 'https://app.example']", "as the only entry"),
    ("handshake.deadline = 10", "accepted: a duration from \"100ms\" to \"5m\""),
    ("handshake.deadline = '10 s'", "handshake.deadline: found \"10 s\""),
    ("handshake.headers_kept = ['no good']", "handshake.headers_kept"),
    ("limits.message_bytes_max = '64kb'", "limits.message_bytes_max: found \"64kb\""),
    ("limits = { message_bytes_max = '1MiB', outbound_bytes_max = '64KiB' }", "outbound_bytes_max"),
    ("client = { ping_interval = '5s', pong_timeout = '5s' }", "pong_timeout"),
    ("channel = { recovery = true }", "history_size"),
    ("channel.allow_publish = 'everybody'", "\"nobody\", \"subscribers\", \"users\" or \"anyone\""),
    ("namespaces.'a b' = {}", "namespaces"),
    ("log.filter = 'loud'", "log.filter"),
];

#[tokio::test]
async fn every_bad_configuration_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let mut verdicts = Verdicts::default();
    for (config, words) in CASES {
        fs::write(&path, config).unwrap();
        let tool = Tool::new(gateway_binary()).arg("serve").arg("--config").arg(&path);
        let output = tool.output(Duration::from_secs(20)).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = text.contains(words) && text.contains("gateway.toml");
        verdicts.expect(
            &format!("{config:?} says {text:?}"),
            &(output.status.code(), told),
            &(Some(3), true),
        );
    }
    verdicts.all_of(CASES.len());
}
