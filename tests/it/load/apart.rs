//! Threads that are kept apart: what keeps some of them busy, or waits on them, takes nothing from the
//! others.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use gateway_tests::{Client, Endpoint, Gateway, Reply, Tool, eventually_within, wasm};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Longer than any test waits.
const HANG: &str = "
    #include <netdb.h>
    #include <unistd.h>
    int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
        sleep(120);
        return EAI_AGAIN;
    }
";

/// A library that takes the place of the resolver.
async fn resolver_that_hangs(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("hang.c"), folder.join("hang.so"));
    fs::write(&source, HANG).unwrap();
    let cc = Tool::new("cc").arg("-shared").arg("-fPIC").arg("-o").arg(&library).arg(&source);
    cc.run(Duration::from_secs(60)).await;
    library
}

/// A token that says it is from this issuer, with a signature that is none.
fn token(issuer: &str, algorithm: &str, signature: &[u8]) -> String {
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": algorithm, "kid": "a" });
    let claims = json!({ "iss": issuer, "sub": "eve", "exp": 4_102_444_800_u64 });
    [part(header), part(claims), BASE64_URL_SAFE_NO_PAD.encode(signature)].join(".")
}

#[tokio::test]
async fn names_that_are_looked_up_for_ever_hold_up_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let library = resolver_that_hangs(folder.path()).await;
    let issuers: Vec<_> = (0..16).map(|number| format!("http://issuer-{number}.example")).collect();
    let mut settings = "[config]\njwks_interval = 1\n".to_owned();
    for issuer in &issuers {
        settings += &format!("[[config.issuers]]\nissuer = '{issuer}'\njwks_url = '{issuer}/keys'\n");
    }
    let origins = issuers.iter().map(|issuer| format!("'{issuer}'")).collect::<Vec<_>>().join(",");
    settings += &format!(
        "[grants]\nkey-value = true\nhttp = [{origins}]\n[http]\ninstances = 16\n[breaker]\nfailures = 0\n"
    );
    let config = "handshake.deadline = '1s'\nclient.anonymous = true\n";
    let gateway = Gateway::with(config)
        .plugin("10-auth-jwt", "auth-jwt", &settings)
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .start()
        .await;
    // Everybody gives up, and the resolver does not.
    for issuers in issuers.chunks(4) {
        let mut waiting = Vec::new();
        for issuer in issuers {
            let mut client = Client::open(gateway.address()).await;
            let id = client.command("connect", json!({ "token": token(issuer, "EdDSA", &[0; 64]) })).await;
            waiting.push((client, id));
        }
        for (client, id) in &mut waiting {
            assert!(!matches!(client.outcome(*id, "connect").await, Ok(Ok(_))), "nobody knows this token");
        }
    }
    let begun = Instant::now();
    gateway.folder().plugin("90-echo", &wasm("echo"), "");
    // One that is compiled already takes a moment, and one that is not some seconds on a busy machine.
    eventually_within(Duration::from_secs(60), "the plugin to be live", async || {
        (gateway.metrics().await.get("gateway_plugins_live") == 2.0).then_some(())
    })
    .await;
    let took = begun.elapsed();
    println!("with 16 look-ups that hang a plugin was live after {took:.2?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

/// The median of how long a probe takes.
async fn probe(gateway: &Gateway) -> Duration {
    let mut times = Vec::new();
    for _ in 0..60 {
        let begun = Instant::now();
        assert_eq!(gateway.get("/health/live").await.status, 200);
        times.push(begun.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn clients_whose_tokens_are_judged_do_not_hold_up_probes() {
    // A number that is as long as a key of 4096 bits, and as slow.
    let mut modulus = [0xa5_u8; 512];
    modulus[511] = 0x4d;
    let key = json!({ "kty": "RSA", "kid": "a", "alg": "RS256", "use": "sig", "e": "AQAB", "n": BASE64_URL_SAFE_NO_PAD.encode(modulus) });
    let endpoint = Endpoint::start(move |_, _| Reply::json(&json!({ "keys": [key] }))).await;
    let settings = format!(
        "[config]\n[[config.issuers]]\nissuer = 'https://shop.example'\njwks_url = '{}'\n\
         [grants]\nkey-value = true\nhttp-private = ['{}']\n\
         [http]\ninstances = 16\n[limits]\ndeadline = '1s'\n[breaker]\nfailures = 0\n",
        endpoint.url("/keys"),
        endpoint.url(""),
    );
    let config = "listen.workers = 2\nlog.filter = 'info,plugin=error'\n";
    let gateway = Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
    let calm = probe(&gateway).await;
    let mut flood = JoinSet::new();
    let address = gateway.address();
    for _ in 0..16 {
        flood.spawn(async move {
            let token = token("https://shop.example", "RS256", &[0x5a; 512]);
            loop {
                let mut client = Client::open(address).await;
                let id = client.command("connect", json!({ "token": token })).await;
                assert!(!matches!(client.outcome(id, "connect").await, Ok(Ok(_))), "the signature is none");
            }
        });
    }
    sleep(Duration::from_millis(500)).await;
    let busy = probe(&gateway).await;
    let judged = gateway.metrics().await.get("gateway_plugin_calls_total{plugin=\"auth-jwt\"}");
    println!("a probe takes {calm:.1?}, and {busy:.1?} while {judged} forged tokens are judged");
    assert!(judged > 50.0, "{judged}");
    assert!(busy < calm * 6 + Duration::from_millis(8), "{busy:?} and not {calm:?}");
}
