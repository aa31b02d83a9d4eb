//! Plugin folders as Kubernetes mounts them: ConfigMaps, Secrets and emptyDirs. Who can really write there
//! decides.
//!
//! These mount things, which only root may, in a namespace of the gateway alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use gateway_tests::{Client, Folder, Gateway, RawClient, wasm};
use serde_json::{Value, json};

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

fn version_echo(version: &str) -> String {
    format!("[config]\nversion = \"{version}\"\n")
}

fn answer_of(version: &str) -> String {
    json!({ "version": version, "payload": "x" }).to_string()
}

/// Fills a volume: the files lie in a folder of their own, and are exchanged together by one link.
fn fill(volume: &Path, version: &str) {
    let data = format!("..2026_{version}");
    let folder = Folder::create(volume.join(&data));
    folder.plugin("50-version-echo", &wasm("guest-version-echo"), &version_echo(version));
    symlink(&data, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for name in ["50-version-echo.wasm", "50-version-echo.toml"] {
        let _ = symlink(format!("..data/{name}"), volume.join(name));
    }
}

async fn errors(gateway: &Gateway) -> Value {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    plugins["result"]["plugins"][0]["error"].clone()
}

#[tokio::test]
async fn a_volume_that_is_mounted_read_only_works_whatever_its_modes_say() {
    for mode in [0o777, 0o1777] {
        let gateway = Gateway::with(RAW);
        let (folder, source) =
            (gateway.folder().path().to_owned(), gateway.config().with_file_name("volume"));
        fs::create_dir(&source).unwrap();
        fill(&source, "1");
        fs::set_permissions(&source, Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(source.join("..2026_1"), Permissions::from_mode(0o777)).unwrap();
        let (from, to) = (source.display(), folder.display());
        let mount = format!("mount --bind {from} {to} && mount -o remount,bind,ro {to}");
        let gateway = gateway.after_mounts(&mount).start().await;
        let mut client = RawClient::connect(&gateway).await;
        assert_eq!(client.ask("x").await, answer_of("1"), "{mode:o}");
        // Whoever owns the volume exchanges it in one step, and both files take effect together.
        for version in ["2", "3"] {
            let mark = gateway.log().mark();
            fill(&source, version);
            gateway.log().wait_since(mark, &["plugin chain swapped"]).await;
            assert_eq!(client.ask("x").await, answer_of(version), "{mode:o}");
        }
        assert_eq!(errors(&gateway).await, Value::Null);
    }
}

#[tokio::test]
async fn an_empty_dir_that_somebody_else_fills_works_and_foreign_files_in_it_do_not() {
    let gateway = Gateway::with(RAW);
    let folder = gateway.folder().path().to_owned();
    let (to, wasm) = (folder.display(), wasm("guest-version-echo").display().to_string());
    let mount = format!(
        "mount -t tmpfs -o mode=0777 none {to} && cp {wasm} {to}/50-version-echo.wasm && printf '{}' > {to}/50-version-echo.toml && \
         chmod 644 {to}/50-version-echo.wasm {to}/50-version-echo.toml",
        version_echo("1").replace('\n', "\\n")
    );
    let gateway = gateway.after_mounts(&mount).start().await;
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, answer_of("1"));

    let gateway = Gateway::with(RAW);
    let folder = gateway.folder().path().to_owned();
    let to = folder.display();
    let mount = format!(
        "mount -t tmpfs -o mode=0777 none {to} && cp {wasm} {to}/50-version-echo.wasm && chmod 644 {to}/50-version-echo.wasm && \
         chown 12345 {to}/50-version-echo.wasm"
    );
    let gateway = gateway.after_mounts(&mount).start_unready().await;
    let health = gateway.get("/health/ready").await;
    assert_eq!(health.status, 503);
    assert!(health.text().contains("belongs to user 12345"), "{}", health.text());
}

#[tokio::test]
async fn a_folder_that_everybody_may_write_to_and_that_is_no_volume_is_refused() {
    let gateway = Gateway::with(RAW).prepare(|folder| {
        fill(folder.path(), "1");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    });
    let gateway = gateway.start_unready().await;
    assert_eq!(gateway.get("/health/ready").await.status, 503);
    assert!(Client::open(gateway.address()).await.ask("connect", json!({})).await.is_err());
    // What the message advises works.
    let mark = gateway.log().mark();
    fs::set_permissions(gateway.folder().path(), Permissions::from_mode(0o755)).unwrap();
    gateway.log().wait_since(mark, &["plugin chain swapped"]).await;
    assert_eq!(gateway.get("/health/ready").await.status, 200);
}
