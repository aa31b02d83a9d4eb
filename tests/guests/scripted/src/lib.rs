//! Follows a script: an rpc names an effect to request, and the settings name a timer and the events that the
//! plugin asks for. It answers every other command with the fields of the event that it received.

use std::time::Duration;

use gateway_plugin_sdk::HostError;
use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    /// Publishes the number of the instance to `ticks` so often.
    timer_ms: Option<u64>,
    /// A user who connects sends the user's other connections away.
    #[serde(default)]
    one_per_user: bool,
    kinds: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    #[serde(default)]
    without_payload: bool,
    /// Nobody receives what is published to these channels but the text "shown", and it takes its time to say
    /// so.
    withhold: Option<Vec<String>>,
}

/// The plugin.
#[derive(Debug)]
pub struct Scripted {
    one_per_user: bool,
}

/// Steps of a delivery that takes its time.
const DELIBERATION: u32 = 40_000;

#[derive(gateway_plugin_sdk::serde::Deserialize)]
#[serde(crate = "gateway_plugin_sdk::serde", default)]
struct Order {
    /// A user or the id of a connection.
    who: String,
    channel: String,
    /// How often, and with a payload of how many bytes.
    times: usize,
    bytes: usize,
    /// Whether the first refusal is the answer.
    heed: bool,
    /// Unix time in seconds.
    expires_at: Option<u64>,
}

impl Default for Order {
    fn default() -> Self {
        Self { who: String::new(), channel: String::new(), times: 1, bytes: 0, heed: true, expires_at: None }
    }
}

#[plugin]
impl Plugin for Scripted {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        if let Some(millis) = config.timer_ms {
            interests.timer(Duration::from_millis(millis));
        }
        if let Some(names) = config.kinds {
            let kinds = names.iter().map(|name| Kind::from_name(name).ok_or("no such kind"));
            interests.kinds(kinds.collect::<Result<Vec<_>, _>>()?);
        }
        if let Some(patterns) = config.channels {
            interests.channels(patterns);
        }
        if config.without_payload {
            interests.without_payload();
        }
        if let Some(patterns) = config.withhold {
            interests.deliver(patterns);
        }
        Ok(Self { one_per_user: config.one_per_user })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if self.one_per_user && event.disconnect_user(event.token(), 4501, "connected elsewhere").is_err() {
            return Connect::refuse(code::INVALID_TOKEN, "not a user");
        }
        Connect::accept(event.token())
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if event.kind() != Kind::Rpc {
            let seen = format!("{} {} {}", event.kind(), event.channel(), event.text().unwrap_or("?"));
            return match event.kind() {
                Kind::Send | Kind::Raw => Verdict::reply_json(&seen),
                _ => Verdict::deny(1000 + event.kind().number(), seen),
            };
        }
        let Ok(order) = event.json::<Order>() else {
            return Verdict::deny(code::BAD_REQUEST, "no order");
        };
        let payload = format!("\"{}\"", "x".repeat(order.bytes));
        let mut refused = 0;
        for _ in 0..order.times {
            match obey(event, &order, payload.as_bytes()) {
                Ok(()) => (),
                Err(error) if order.heed => return Verdict::deny(1000 + error.kind.number(), error.message),
                Err(_) => refused += 1,
            }
        }
        Verdict::reply_json(&json!({"refused": refused}))
    }

    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        for step in 0..DELIBERATION {
            std::hint::black_box(step);
        }
        match event.text() {
            Some("\"shown\"") => Delivery::pass(),
            _ => Delivery::drop(),
        }
    }

    fn on_timer(&mut self, event: &Timer) {
        if let Err(error) =
            event.publish_json("ticks", &json!({"instance": event.instance(), "now": event.now()}))
        {
            log::error!("{error}");
        }
    }
}

fn obey(event: &Message<'_>, order: &Order, payload: &[u8]) -> Result<(), HostError> {
    let Order { who, channel, .. } = order;
    match event.method() {
        "publish" => event.publish(channel, payload),
        "disconnect-user" => event.disconnect_user(who, 4502, "told to"),
        "disconnect-connection" => event.disconnect_connection(who, 4502, "told to"),
        "subscribe-user" => event.subscribe_user(who, channel),
        "subscribe-connection" => event.subscribe_connection(who, channel),
        "unsubscribe-user" => event.unsubscribe_user(who, channel),
        "unsubscribe-connection" => event.unsubscribe_connection(who, channel),
        "refresh" => event.refresh(order.expires_at),
        "refresh-subscription" => event.refresh_subscription(channel, order.expires_at),
        "set-subscription-expiry" => event.set_subscription_expiry(order.expires_at),
        "refresh-user" => event.refresh_user(who, order.expires_at),
        "refresh-connection" => event.refresh_connection(who, order.expires_at),
        _ => Ok(()),
    }
}
