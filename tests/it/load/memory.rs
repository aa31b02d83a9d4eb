//! What clients make the gateway hold: an idle connection costs little, reading makes nothing, answers and
//! queues are bounded, and whoever fills them pays.

mod answers;
mod idle;
mod queues;
mod reading;
mod sizes;

use serde_json::{Value, json};

/// A namespace without history.
const LIVE: &str = "
    client.anonymous = true
    [namespaces.live]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// What a plugin needs that publishes as its clients ask.
const SCRIPTED: &str = "[grants]\neffects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']\n[limits]\ndeadline = '1s'\n";

/// The parameters of a subscribe command that recovers.
fn recover(channel: &str, offset: u64, epoch: &Value) -> Value {
    json!({ "channel": channel, "recover": true, "offset": offset, "epoch": epoch })
}
