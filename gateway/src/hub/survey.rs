//! Answers a survey of all gateways with the state of one worker.

use rustc_hash::FxHashSet;

use super::Hub;
use crate::protocol::channel::{Channel, Target};
use crate::survey::{Connection, Part, Question, Seen, user_number};

impl Hub {
    /// Visits everything: not for the path of a message.
    pub fn survey(&self, question: &Question) -> Seen {
        match question {
            Question::Counts => {
                let clients = self.handles.values().map(|admitted| user_number(&admitted.client.borrow()));
                Seen::Users(clients.collect::<FxHashSet<_>>())
            }
            Question::Channels { pattern, page } => {
                let mut part = Part::empty();
                for (channel, subscribers) in &self.channels {
                    if channel.target() == Target::Channel && channel.is_covered_by(pattern) {
                        part.offer(page, channel.as_str(), || subscribers.len() as u64);
                    }
                }
                Seen::Channels(part)
            }
            Question::Connections { user, page } => {
                let mut part = Part::empty();
                let listening = Channel::of_user(user).and_then(|address| self.channels.get(&address));
                for number in listening.into_iter().flat_map(|subscribers| subscribers.keys()) {
                    // Connections of other users may subscribe to the user's address too.
                    if let Some(admitted) = self.handles.get(number)
                        && *admitted.client.borrow().user == **user
                    {
                        part.offer(page, &admitted.handle.id, || Connection {
                            node: Box::default(),
                            protocol: admitted.handle.format.encoding.protocol_name().into(),
                            since: admitted.since,
                            transport: admitted.handle.format.transport_name().into(),
                        });
                    }
                }
                Seen::Connections(part)
            }
        }
    }
}
