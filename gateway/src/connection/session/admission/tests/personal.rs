//! The channel of a user: it comes with the connect reply, in every encoding, and is recovered.

use super::*;
use crate::backplane::{NewPublication, Retention};
use crate::protocol::command::Position;

/// The address of the user, and a channel in a namespace. Both keep what they publish.
const SHAPES: [(&str, &str); 2] = [
    ("#ann", "client.personal_channel = true\n[channel]\nhistory_size = 9\nrecovery = true\npresence = true"),
    (
        "inbox:#ann",
        "client = { personal_channel = true, personal_channel_namespace = 'inbox' }\n\
         [namespaces.inbox]\nhistory_size = 9\nrecovery = true\npresence = true",
    ),
];

const ENCODINGS: [Encoding; 3] = [Encoding::Json, Encoding::Protobuf, Encoding::Unidirectional];

/// A connect request, with the position of a client that returns.
fn connect(encoding: Encoding, channel: &str, since: Option<&Position>) -> Vec<u8> {
    let since = since.map(|Position { offset, epoch }| (*offset, &**epoch));
    if encoding == Encoding::Protobuf {
        let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
        let mut connect = field(1, b"t");
        if let Some((offset, epoch)) = since {
            let position = [&[3 << 3, 1][..], &field(6, epoch.as_bytes()), &[7 << 3, offset as u8]].concat();
            connect.extend(field(3, &[field(1, channel.as_bytes()), field(2, &position)].concat()));
        }
        let command = [&[1 << 3, 1][..], &field(4, &connect)].concat();
        return [&[command.len() as u8][..], &command].concat();
    }
    let subs = since.map_or(String::new(), |(offset, epoch)| {
        format!(r#","subs":{{"{channel}":{{"recover":true,"epoch":"{epoch}","offset":{offset}}}}}"#)
    });
    let connect = format!(r#"{{"token":"t"{subs}}}"#);
    let text = match encoding {
        Encoding::Json => format!(r#"{{"id":1,"connect":{connect}}}"#),
        _ => connect,
    };
    text.into_bytes()
}

impl World {
    fn for_ann(text: &str, encoding: Encoding) -> Self {
        let mut world = Self::with(text, encoding.over(Framing::WebSocket));
        world.swap_to(&["a"]);
        world
    }

    fn connect(&mut self, message: Vec<u8>) {
        let inbound = Inbound { data: message.into(), binary: false };
        self.session.message(&mut Turn::at(self.now(), u32::MAX), inbound);
        self.accept("ann");
        assert!(self.session.is_admitted());
    }

    /// The bytes that the client got, as text.
    fn sent(&mut self) -> String {
        String::from_utf8_lossy(&self.session.handle().outbound.take()).into_owned()
    }

    fn publish(&mut self, channel: &str, data: &'static str) {
        let channel = &Channel::parse(channel).unwrap();
        let retention = Retention::of(self.worker.config.namespaces.of(channel).unwrap());
        let new = NewPublication {
            channel,
            data: data.into(),
            json: true,
            info: None,
            tags: None,
            retention,
            patterns: false,
            skip_history: false,
            conditions: None,
            charge: None,
        };
        self.worker.backplane.publish(new, ReplyTo::Nobody, self.at);
        let mut batch = Vec::new();
        self.inbox.take(&mut batch);
        for delivery in batch {
            self.worker.handle(self.now(), delivery);
        }
    }

    fn top(&self, channel: &str) -> Position {
        self.worker.backplane.top(&Channel::parse(channel).unwrap()).expect("a stream")
    }

    fn leave(&mut self) {
        let close = Close::custom(1006, "gone");
        self.session.event(self.now(), Event::TransportEnded { close, ending: Ending::Client });
    }

    /// The same client with another connection.
    fn come_back(&mut self, encoding: Encoding) {
        self.session = Self::session(&self.worker, 2, encoding.over(Framing::WebSocket));
    }
}

#[test]
fn it_comes_with_the_connect_reply_and_its_publications_follow() {
    for (channel, text) in SHAPES {
        for encoding in ENCODINGS {
            let mut world = World::for_ann(text, encoding);
            world.connect(connect(encoding, channel, None));
            let hello = world.sent();
            assert!(hello.contains(channel), "{encoding:?}: {hello}");
            assert_eq!(world.worker.metrics.subscriptions(), 1);
            world.publish(channel, "\"psst\"");
            let push = world.sent();
            assert!(push.contains(channel) && push.contains("psst"), "{encoding:?}: {push}");
            world.leave();
            assert_eq!(world.worker.metrics.subscriptions(), 0);
            assert!(world.worker.hub.borrow().channels_of(1).is_empty());
        }
    }
}

#[test]
fn what_was_missed_comes_with_the_next_connect_reply_and_nothing_else_does() {
    for (channel, text) in SHAPES {
        for encoding in ENCODINGS {
            let mut world = World::for_ann(text, encoding);
            world.connect(connect(encoding, channel, None));
            world.publish(channel, "\"seen\"");
            let since = world.top(channel);
            world.leave();
            world.publish(channel, "\"missed\"");
            world.come_back(encoding);
            world.connect(connect(encoding, channel, Some(&since)));
            let hello = world.sent();
            assert!(hello.contains("missed") && !hello.contains("seen"), "{encoding:?}: {hello}");
            let recovered = encoding == Encoding::Protobuf || hello.contains(r#""recovered":true"#);
            assert!(recovered, "{encoding:?}: {hello}");
            world.publish(channel, "\"live\"");
            assert!(world.sent().contains("live"));
        }
    }
}

#[test]
fn messages_to_the_user_are_no_publications_where_the_channel_is_another_one() {
    let (channel, text) = SHAPES[1];
    let mut world = World::for_ann(text, Encoding::Json);
    world.connect(connect(Encoding::Json, channel, None));
    world.sent();
    world.publish("#ann", "\"psst\"");
    let push = world.sent();
    assert!(push.contains(r#""message":{"data":"psst"}"#), "{push}");
    let (channel, text) = SHAPES[0];
    let mut world = World::for_ann(text, Encoding::Json);
    world.connect(connect(Encoding::Json, channel, None));
    world.sent();
    world.publish("#ann", "\"psst\"");
    let push = world.sent();
    assert!(push.contains(r##""channel":"#ann","pub":{"data":"psst","offset":1}"##), "{push}");
}
