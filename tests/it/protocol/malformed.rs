//! What is not right: every handshake, frame and command of these tables gets its documented answer, and the
//! gateway goes on as if nothing had been.

mod binaries;
mod commands;
mod configurations;
mod frames;
mod handshakes;

use gateway_tests::{Client, Gateway, RawClient};
use serde_json::json;

const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    [namespaces.open]
    history_size = 10
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
";

async fn gateway() -> Gateway {
    Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await
}

/// A client that does everything right, in both protocols.
async fn still_serves(gateway: &Gateway) {
    assert_eq!(RawClient::connect(gateway).await.ask("x").await, "x");
    let mut client = Client::connect(gateway).await;
    client.subscribe("open:good").await;
    client.publish("open:good", json!("x")).await;
    assert_eq!(client.publication("open:good").await["data"], "x");
}

/// Compares what came with what should have, for all cases before the test fails.
#[derive(Default)]
struct Verdicts {
    cases: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: &T, expected: &T) {
        self.cases += 1;
        if got != expected {
            self.wrong.push(format!("{what}: got {got:?}, expected {expected:?}"));
        }
    }

    fn all_of(self, cases_min: usize) {
        assert!(
            self.wrong.is_empty(),
            "{} of {} cases:\n{}",
            self.wrong.len(),
            self.cases,
            self.wrong.join("\n")
        );
        assert!(self.cases >= cases_min, "only {} cases", self.cases);
    }
}
