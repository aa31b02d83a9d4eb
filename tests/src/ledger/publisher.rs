//! Somebody who publishes numbers at a steady pace, whatever becomes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};

use super::Ledger;
use super::history::{Outcome, Position, Published};
use crate::gateway::API_KEY;
use crate::http;

/// Publications without an answer at a time; above it a publisher waits. Each has a connection of its own,
/// and the admin listener has few.
const IN_FLIGHT_MAX: usize = 32;
/// After this it gives up hoping for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes over the API of one gateway until it is stopped.
#[derive(Debug)]
pub struct Publisher {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Begins to publish to these channels in turn, once every `pace`. It does not wait for one answer before
    /// the next publication.
    pub fn start(
        ledger: &Arc<Ledger>,
        admin: SocketAddr,
        channels: &[impl AsRef<str>],
        pace: Duration,
    ) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (ledger, mut turns) = (ledger.clone(), interval(pace));
        let channels: Vec<Arc<str>> = channels.iter().map(|channel| channel.as_ref().into()).collect();
        let task = tokio::spawn(async move {
            let (permits, mut in_flight) = (Arc::new(Semaphore::new(IN_FLIGHT_MAX)), JoinSet::new());
            for channel in channels.iter().cycle() {
                tokio::select! {
                    _ = turns.tick() => (),
                    _ = stopped.wait_for(|stop| *stop) => break,
                }
                let permit = permits.clone().acquire_owned().await.expect("nobody closes it");
                let (ledger, channel) = (ledger.clone(), channel.clone());
                in_flight.spawn(async move {
                    publish(&ledger, admin, channel).await;
                    drop(permit);
                });
                while in_flight.try_join_next().is_some() {}
            }
            in_flight.join_all().await;
        });
        Self { stop, task }
    }

    /// Ends with the answers to everything that was sent.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("a publisher does not panic");
    }
}

async fn publish(ledger: &Ledger, admin: SocketAddr, channel: Arc<str>) {
    let (number, sent) = (ledger.number(), ledger.now());
    let body = json!({ "channel": *channel, "data": { "n": number } }).to_string();
    let headers = [&*format!("X-API-Key: {API_KEY}"), "Content-Type: application/json"];
    let answer = http::try_request(admin, "POST", "/api/publish", &headers, body.as_bytes());
    let outcome = match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => outcome(&answer.json()),
        Ok(Err(_)) | Err(_) => Outcome::Unanswered,
    };
    let answered = ledger.now();
    ledger.lock().published.push(Published { channel, number, sent, answered, outcome });
}

fn outcome(answer: &Value) -> Outcome {
    let (result, error) = (&answer["result"], &answer["error"]);
    match (result["epoch"].as_str(), result["offset"].as_u64(), error["code"].as_u64()) {
        (Some(epoch), Some(offset), None) => Outcome::Acknowledged(Position { epoch: epoch.into(), offset }),
        (None | Some(""), None | Some(0), None) if result.is_object() => {
            Outcome::Acknowledged(Position::nowhere())
        }
        (None, None, Some(code)) => {
            let message = error["message"].as_str().unwrap_or_default();
            if message.contains("may have been published") {
                return Outcome::Doubtful;
            }
            Outcome::Refused { code, message: message.to_owned() }
        }
        _ => panic!("neither a place in a stream nor an error: {answer}"),
    }
}
