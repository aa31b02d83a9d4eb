//! A plugin with every hook: a lobby where clients say a name, join a room and are missed when they leave.

use std::collections::HashMap;

use gateway_plugin_sdk::HostError;
use gateway_plugin_sdk::prelude::*;

#[settings]
struct Settings {
    /// How many rooms this instance remembers.
    #[serde(default = "rooms_max")]
    rooms_max: usize,
}

const fn rooms_max() -> usize {
    1000
}

struct Lobby {
    rooms_max: usize,
    /// Connection to room.
    rooms: HashMap<u64, String>,
}

#[plugin]
impl Plugin for Lobby {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        interests.kinds([Kind::Rpc]);
        Ok(Self { rooms_max: config.rooms_max, rooms: HashMap::new() })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        match event.token() {
            "" => Connect::pass(),
            name if name.len() > 32 => Connect::refuse(code::INVALID_TOKEN, "a name has at most 32 bytes"),
            name => Connect::accept(name).channel("lobby").info_json(&json!({"name": name})),
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if event.method() != "join" {
            return Verdict::next();
        }
        let Ok(room) = event.json::<String>() else {
            return Verdict::deny(code::BAD_REQUEST, "send the name of a room");
        };
        match self.join(event, &room) {
            Ok(()) => Verdict::reply_json(&json!({"room": room})),
            Err(error) => {
                log::info!("{} cannot join: {error}", event.user());
                Verdict::deny(code::BAD_REQUEST, "no such room")
            }
        }
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let Some(room) = self.rooms.remove(&event.connection_number()) else { return };
        let seconds = event.duration().as_secs();
        if let Err(error) = event.publish_json(room, &json!({"left": event.user(), "after": seconds})) {
            log::warn!("nobody is told of a leave: {error}");
        }
    }
}

impl Lobby {
    fn join(&mut self, event: &Message<'_>, room: &str) -> Result<(), HostError> {
        event.subscribe(room)?;
        event.set_attribute("room", room)?;
        event.publish_json(room, &json!({"joined": event.user()}))?;
        if self.rooms.len() < self.rooms_max {
            self.rooms.insert(event.connection_number(), room.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gateway_plugin_sdk::kit::{Effect, Kit};

    use super::*;

    #[test]
    fn a_client_joins_and_is_missed() {
        let mut kit = Kit::<Lobby>::new(json!({})).expect("every setting has a default");
        assert_eq!(
            kit.connection("c1").connect("visitor").send().verdict,
            Connect::accept("visitor").channel("lobby").info_json(&json!({"name": "visitor"}))
        );

        let joined = kit.connection("c1").message(Kind::Rpc).method("join").json("room:1").send();
        assert_eq!(joined.verdict, Verdict::reply_json(&json!({"room": "room:1"})));
        assert_eq!(
            joined.effects,
            [
                Effect::Subscribe("room:1".into()),
                Effect::set_attribute("room", "room:1"),
                Effect::publish("room:1", r#"{"joined":"visitor"}"#),
            ]
        );

        kit.advance(std::time::Duration::from_secs(90));
        let left = kit.connection("c1").disconnect(3000, "connection closed");
        assert_eq!(left.effects, [Effect::publish("room:1", r#"{"after":90,"left":"visitor"}"#)]);
    }

    #[test]
    fn a_room_that_is_no_channel_is_refused() {
        let mut kit = Kit::<Lobby>::new(json!({})).expect("every setting has a default");
        let outcome =
            kit.connection("c1").user("visitor").message(Kind::Rpc).method("join").json("a b").send();
        assert_eq!(outcome.verdict, Verdict::deny(107, "no such room"));
        assert!(
            outcome.logged().starts_with("visitor cannot join: \"a b\" is not a valid channel: "),
            "{}",
            outcome.logged()
        );
    }
}
