//! The program on the command line: what it prints, and its exit codes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::{Gateway, Tool, gateway_binary, token, wasm};

const LIMIT: Duration = Duration::from_secs(20);

/// A folder with `gateway.toml` and `plugins/`.
struct Site(tempfile::TempDir);

impl Site {
    fn new(config: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        fs::create_dir(site.path("plugins")).unwrap();
        fs::write(site.path("gateway.toml"), config).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plugin(self, name: &str, wasm: &Path, settings: &str) -> Self {
        fs::copy(wasm, self.path(&format!("plugins/{name}.wasm"))).unwrap();
        fs::write(self.path(&format!("plugins/{name}.toml")), settings).unwrap();
        self
    }

    /// Exit code and everything printed.
    async fn run(&self, command: &str) -> (i32, String) {
        let config = self.path("gateway.toml");
        gateway(&[command, "--config", config.to_str().unwrap()]).await
    }
}

async fn gateway(arguments: &[&str]) -> (i32, String) {
    let tool = arguments.iter().fold(Tool::new(gateway_binary()), |tool, argument| tool.arg(argument));
    let output = tool.output(LIMIT).await;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().expect("it was not killed"), text)
}

#[tokio::test]
async fn the_default_configuration_is_printed_and_is_a_valid_file() {
    let (code, printed) = gateway(&["config"]).await;
    assert_eq!(code, 0);
    assert_eq!(printed, include_str!("../../../gateway/default.toml"));
    let (code, report) = Site::new(&printed).run("check").await;
    assert_eq!(code, 0, "{report}");
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_their_places() {
    let config = "[limits]\nconnections_max = 0\nmesage_bytes_max = '1KiB'\n[handshake]\norigins = ['null']\n[nonsense]\n";
    for command in ["check", "serve"] {
        let (code, text) = Site::new(config).run(command).await;
        assert_eq!(code, 3, "{command}: {text}");
        for mistake in [
            "4 mistakes in the configuration",
            "gateway.toml:2:19: limits.connections_max: found the number 0",
            "gateway.toml:3:1: limits.mesage_bytes_max: no such key; the nearest is `message_bytes_max`",
            "gateway.toml:5:12: handshake.origins: found \"null\"",
            "gateway.toml:6:2: nonsense: no such table",
        ] {
            assert!(text.contains(mistake), "{command} does not say {mistake:?}:\n{text}");
        }
    }
}

#[tokio::test]
async fn check_tries_every_plugin() {
    let good = Site::new("").plugin("10-auth-jwt", &wasm("auth-jwt"), &token::settings());
    let (code, report) = good.run("check").await;
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("ok       10-auth-jwt.wasm: auth-jwt "), "{report}");
    let bad = good.plugin("20-router", &wasm("router"), "[config]\n").plugin(
        "30-text",
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        "",
    );
    let (code, report) = bad.run("check").await;
    assert_eq!(code, 4, "{report}");
    for line in [
        "ok       10-auth-jwt.wasm",
        "refused  20-router.wasm: configure: ",
        "refused  30-text.wasm: not-wasm: ",
        "2 plugins are refused",
    ] {
        assert!(report.contains(line), "no {line:?}:\n{report}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let missing = tempfile::tempdir().unwrap().path().join("nothing.toml");
    let (code, text) = gateway(&["serve", "--config", missing.to_str().unwrap()]).await;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("nothing.toml"), "{text}");
    let site = Site::new(
        "[plugins]\nfolder = 'elsewhere'\n[listen]\naddress = '127.0.0.1:0'\n[admin]\naddress = ''",
    );
    let (code, text) = site.run("serve").await;
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("elsewhere"), "{text}");
    assert_eq!(gateway(&["serve", "--nonsense"]).await.0, 2);
    assert_eq!(gateway(&["nonsense"]).await.0, 2);
    assert_eq!(gateway(&[]).await.0, 2);
}

#[tokio::test]
async fn an_address_in_use_is_an_error_and_not_a_second_gateway_beside_the_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Gateway::start("").await;
    for (key, address) in [
        ("listen", listener.local_addr().unwrap()),
        ("admin", listener.local_addr().unwrap()),
        ("listen", running.address()),
        ("admin", running.admin()),
    ] {
        let other = if key == "listen" { "admin.address = ''" } else { "listen.address = '127.0.0.1:0'" };
        let (code, text) = Site::new(&format!("{other}\n{key}.address = '{address}'")).run("serve").await;
        assert_eq!(code, 5, "{text}");
        assert!(text.contains(&format!("{key}.address")) && text.contains(&address.to_string()), "{text}");
        assert!(text.contains("in use"), "{text}");
    }
}

#[tokio::test]
async fn the_key_comes_from_the_environment_if_it_is_there() {
    let site = Site::new("[admin]\naddress = '127.0.0.1:0'\napi_key = 'from-the-file'\n");
    let config = site.path("gateway.toml");
    let check = |key: &str| {
        Tool::new(gateway_binary())
            .arg("check")
            .arg("--config")
            .arg(&config)
            .env("GATEWAY_ADMIN_API_KEY", key)
    };
    let output = check("too short").output(LIMIT).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("GATEWAY_ADMIN_API_KEY") && !text.contains("too short"),
        "no secret is printed: {text}"
    );
    assert!(check("from-the-environment").output(LIMIT).await.status.success());
}

#[tokio::test]
async fn help_and_version_are_there() {
    let (code, help) = gateway(&["--help"]).await;
    assert_eq!(code, 0);
    for word in ["serve", "check", "config", "demo", "Exit codes"] {
        assert!(help.contains(word), "{word}");
    }
    assert_eq!(gateway(&["--version"]).await, (0, format!("gateway {}\n", env!("CARGO_PKG_VERSION"))));
}
