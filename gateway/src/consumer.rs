//! Consumers carry out commands that a backend has put into a queue: a stream of Redis, of NATS JetStream, or
//! a table of PostgreSQL.
//!
//! An entry is a method of the server API with its fields, and is carried out by the same code as a request.
//! It is acknowledged after the backplane has accepted it, or after it was written to the dead letters. An
//! entry that is refused for now is tried again, and everything behind it waits. So what is in one partition
//! (a stream, a subject, a partition) is carried out in order.
//!
//! Only one gateway holds a partition. If it does not give a sign of life for `ack_wait`, another one takes
//! over what was not acknowledged. A gateway that was only slow notices before its next entry. It may carry
//! out the one that it has begun: both go through the same sequence, and the idempotency key
//! (`config::Source::key`) makes one publication of two. So the order is kept, too.

mod entry;
mod partition;
mod nats;
mod postgres;
mod redis_stream;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::partition::{Partition, Stop};
use crate::clock::Clock;
use crate::config;
use crate::control::Control;
use crate::dead_letters::DeadLetters;
use crate::shutdown::{self, Phase};
use crate::supervisor::Supervisor;

/// What consumers need.
pub(crate) struct Parts {
    /// The consumers of the configuration, by name.
    pub(crate) configured: BTreeMap<Box<str>, config::Consumer>,
    /// Carries out the commands.
    pub(crate) control: Control,
    /// The clock.
    pub(crate) clock: Clock,
    /// The phase of the process: consumers begin when it runs, and stop taking entries when it drains.
    pub(crate) phase: watch::Receiver<Phase>,
    /// The name by which other gateways know this one.
    pub(crate) node: Arc<str>,
    /// Notices parts that panic.
    pub(crate) supervisor: Supervisor,
}

/// Carries out entries from the moment the gateway runs until it drains and what was taken is done.
///
/// Dropping the future loses nothing: what was not acknowledged is taken over by another gateway.
pub(crate) async fn run(parts: Parts) {
    let Parts { configured, control, clock, phase, node, supervisor } = parts;
    let mut partitions = JoinSet::new();
    for (name, config) in configured {
        let metrics = control.metrics().node.consumer(&name, config.partitions());
        let dead = DeadLetters::new(config.dead_letter.as_deref(), config.dead_letter_bytes_max);
        let config = Arc::new(config);
        for index in 0..config.partitions() {
            let partition = Partition {
                name: name.clone(),
                index,
                config: config.clone(),
                control: control.clone(),
                clock,
                metrics: metrics.clone(),
                dead: dead.clone(),
                node: node.clone(),
                stop: Stop::of(phase.clone()),
            };
            let running = phase.clone();
            partitions.spawn(supervisor.until_done(&format!("consumer {name}"), async move {
                shutdown::running(running).await;
                partition.run().await;
            }));
        }
    }
    while partitions.join_next().await.is_some() {}
}
