//! Signals: none ends a gateway that is not meant to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use gateway_tests::{Gateway, RawClient, eventually, gateway_binary, within_time};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

const CONFIG: &str = "raw.enabled = true\nclient.anonymous = true\n";

const HARMLESS: [(Signal, &str); 6] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::IO, "SIGIO"),
    // Nobody who reads has gone: it is the process itself that must not care.
    (Signal::PIPE, ""),
];

#[tokio::test]
async fn a_harmless_signal_is_logged_and_ignored() {
    let mut gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    for (signal, name) in HARMLESS {
        let mark = gateway.log().mark();
        gateway.signal(signal);
        if !name.is_empty() {
            gateway.log().wait_since(mark, &[name]).await;
        }
        assert_eq!(client.ask("still here").await, "still here", "{name}");
    }
    let line = gateway.log().wait(&["SIGHUP"]).await;
    assert!(line.says(&["restart the gateway to apply changes"]), "{}", line.text);
    gateway.terminate();
    assert_eq!(client.closed().await.code, Some(3001));
    drop(client);
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn harmless_signals_do_not_disturb_a_drain() {
    let config = format!("drain = {{ closes_per_second = 10, deadline = '10s' }}\n{CONFIG}");
    let mut gateway = Gateway::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::connect(&gateway).await);
    }
    let going = tokio::spawn(async move {
        for client in &mut clients {
            assert_eq!(client.closed().await.code, Some(3001));
        }
    });
    gateway.terminate();
    gateway.log().wait(&["draining"]).await;
    for (signal, _) in HARMLESS {
        gateway.signal(signal);
    }
    going.await.unwrap();
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn harmless_signals_do_not_disturb_a_start_and_a_signal_to_stop_ends_it() {
    // The demo builds its plugins first. This cargo takes its time.
    let folder = tempfile::tempdir().unwrap();
    let cargo = folder.path().join("cargo");
    let begun = folder.path().join("begun");
    fs::write(&cargo, format!("#!/bin/sh\ntouch {}\nexec sleep 10\n", begun.display())).unwrap();
    // It has every target.
    let rustc = folder.path().join("rustc");
    fs::write(&rustc, "#!/bin/sh\necho /tmp\n").unwrap();
    for program in [&cargo, &rustc] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for end in [Signal::TERM, Signal::INT] {
        let _ = fs::remove_file(&begun);
        let mut demo = Command::new(gateway_binary())
            .args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--source"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .arg("--dir")
            .arg(folder.path().join("plugins"))
            .env("CARGO", &cargo)
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let id = Pid::from_child(&demo);
        eventually("the build to begin", async || begun.exists().then_some(())).await;
        for (signal, _) in HARMLESS {
            kill_process(id, signal).unwrap();
        }
        sleep(Duration::from_millis(200)).await;
        assert_eq!(demo.try_wait().unwrap(), None, "it goes on");
        kill_process(id, end).unwrap();
        let status = within_time(Duration::from_secs(5), "the end", async {
            loop {
                match demo.try_wait().unwrap() {
                    Some(status) => break status,
                    None => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        assert_eq!(status.await.code(), Some(128 + end.as_raw()));
    }
}
