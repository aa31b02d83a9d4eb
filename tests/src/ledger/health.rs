//! What a gateway says of itself over time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Ledger;
use crate::http;

const PACE: Duration = Duration::from_millis(20);
/// A gateway has to answer how it is within this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks a gateway again and again whether it is ready. Ends when dropped.
#[derive(Debug)]
pub struct HealthWatch {
    changes: Arc<Mutex<Vec<Health>>>,
    task: JoinHandle<()>,
}

/// What it says from a moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Since the ledger was opened.
    pub at: Duration,
    /// Of HTTP; 0 if it did not answer.
    pub status: u16,
    /// What it says.
    pub text: String,
}

impl Health {
    /// Whether everything is as it should be.
    pub fn is_ready(&self) -> bool {
        self.status == 200
    }
}

impl HealthWatch {
    /// Begins to ask.
    pub fn start(ledger: &Arc<Ledger>, admin: SocketAddr) -> Self {
        let changes = Arc::<Mutex<Vec<Health>>>::default();
        let (ledger, written) = (ledger.clone(), changes.clone());
        let task = tokio::spawn(async move {
            loop {
                let answer =
                    timeout(PATIENCE, http::try_request(admin, "GET", "/health/ready", &[], b"")).await;
                let (status, text) = match answer {
                    Ok(Ok(answer)) => (answer.status, answer.text()),
                    Ok(Err(_)) | Err(_) => (0, String::new()),
                };
                note(&written, Health { at: ledger.now(), status, text });
                sleep(PACE).await;
            }
        });
        Self { changes, task }
    }

    /// Every change so far.
    pub fn changes(&self) -> Vec<Health> {
        self.changes.lock().expect("nobody panics with the lock").clone()
    }

    /// How long after a moment it first said that it is ready, or that it is not.
    pub fn said(&self, ready: bool, since: Duration) -> Option<Duration> {
        let changes = self.changes();
        let before = changes.iter().rev().find(|change| change.at <= since);
        if before.is_some_and(|before| before.is_ready() == ready) {
            return Some(Duration::ZERO);
        }
        let change = changes.iter().find(|change| change.at > since && change.is_ready() == ready)?;
        Some(change.at - since)
    }
}

fn note(changes: &Mutex<Vec<Health>>, health: Health) {
    let mut changes = changes.lock().expect("nobody panics with the lock");
    if changes.last().is_none_or(|last| last.status != health.status) {
        changes.push(health);
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
