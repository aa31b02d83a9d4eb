//! Asks upstreams, for the core. The answer comes through the inbox of the worker, like those of the
//! backplane.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::pending::Pending;
use crate::ask::{self, Answer, Limits, Question};
use crate::backplane::{ReplyTo, Response};
use crate::clock::Now;
use crate::connection::effect::About;
use crate::connection::event::Event;
use crate::plugin::event::{Client, ConnectEvent};
use crate::plugin::verdict::Admission;
use crate::protocol::command::Software;
use crate::seldom::seldom;
use crate::upstream::{AskError, AskRequest};

/// What upstreams are told of a client.
#[derive(Default)]
pub(super) struct Backend {
    /// JSON that an upstream has attached to the connection; empty for none.
    meta: Bytes,
    /// A connect or a refresh on which no plugin has decided, until an upstream is asked.
    event: Option<Arc<ConnectEvent>>,
    /// An upstream is being asked whether the client is admitted, which the driver does not know yet.
    begins: bool,
    /// Alive as long as the connection.
    here: Arc<()>,
}

impl Session {
    /// Keeps a connect or a refresh on which no plugin has decided, if an upstream will be asked. Returns its
    /// name.
    pub(super) fn undecided(
        &mut self,
        refresh: bool,
        admission: &Admission,
        event: &Arc<ConnectEvent>,
    ) -> Option<Arc<str>> {
        let ask = &self.worker.config.ask;
        let upstream = if refresh { &ask.refresh } else { &ask.connect }.clone()?;
        if !matches!(admission, Admission::Undecided | Admission::Doubtful) {
            return None;
        }
        self.backend.get_or_insert_default().event = Some(event.clone());
        Some(upstream)
    }

    /// Whether an upstream is asked since the last call whether the client is admitted.
    pub fn begins_to_ask(&mut self) -> bool {
        self.backend.as_mut().is_some_and(|backend| std::mem::take(&mut backend.begins))
    }

    /// Asks an upstream. Its answer comes later, unless it cannot be asked.
    pub(super) fn ask_upstream(&mut self, upstream: &Arc<str>, about: About) -> Option<Event> {
        let kind = about.kind();
        let backend = self.backend.get_or_insert_default();
        // The credential is for the upstream that is asked about it, and for no other one.
        let event = matches!(about, About::Client { .. }).then(|| backend.event.take()).flatten();
        // Whoever leaves wants no decision any more, but what it has sent still counts.
        let here = kind.is_repeatable().then(|| Arc::downgrade(&backend.here));
        let client = self.client.borrow().clone();
        let request = AskRequest {
            path: kind.path().into(),
            headers: headers(&client, &self.worker.config.ask.headers),
            body: self.question(&client, &about, event.as_deref()).body(),
            repeatable: kind.is_repeatable(),
            client: here,
        };
        if !self.is_admitted() {
            // The hub knows admitted connections only.
            self.worker.hub.borrow_mut().expect_answer(self.handle.clone());
        }
        let ReplyTo::Connection(connection, request_id) = self.reply_to() else { return None };
        let limits = Limits {
            json: self.handle.format.encoding.is_json(),
            channels_max: self.worker.config.limits.channels_per_connection_max,
        };
        let name = upstream.clone();
        let done = move |answer| Response::Upstream(read(&name, kind, answer, limits));
        match self.worker.ask_upstream(upstream, request, (connection, request_id), done) {
            Ok(()) => {
                if let Some(backend) = &mut self.backend {
                    backend.begins = kind == ask::Kind::Connect;
                }
                self.remember(Pending::Upstream(about));
                None
            }
            Err(error) => {
                failed(upstream, kind, &error);
                Some(Event::Answers { about, answer: None })
            }
        }
    }

    fn question<'a>(
        &'a self,
        client: &'a Client,
        about: &'a About,
        event: Option<&'a ConnectEvent>,
    ) -> Question<'a> {
        let format = self.handle.format;
        let meta = self.backend.as_ref().map_or(&[][..], |backend| &backend.meta);
        let question = Question {
            kind: about.kind(),
            client: &client.id,
            transport: format.transport_name(),
            protocol: format.encoding.name(),
            user: &client.user,
            channel: None,
            method: "",
            token: event.map_or("", |event| &event.token),
            data: event.map_or(&[][..], |event| &event.data),
            meta,
            name: "",
            version: "",
            channels: &[],
        };
        match about {
            About::Client { connecting: Some(connecting), .. } => {
                let Software { name, version } = &connecting.software;
                Question { name, version, channels: &connecting.channels, ..question }
            }
            About::Client { connecting: None, .. } => question,
            About::Command { ask, payload, .. } => {
                let content = &ask.content;
                let (channel, method, token) = (content.channel.as_ref(), &*content.method, &*content.token);
                Question { channel, method, token, data: payload, ..question }
            }
            About::Connection => question,
            About::Subscription(channel) => Question { channel: Some(channel), ..question },
        }
    }

    /// The event for an answer. An upstream knows nothing of blocked users.
    pub(super) fn upstream_answered(&mut self, now: Now, about: About, answer: Option<Box<Answer>>) -> Event {
        let mut answer = answer.map(|answer| *answer);
        if let Some(Answer::Connected(connected)) = &answer
            && let About::Client { connecting: Some(connecting), .. } = &about
            && let Some(close) = self.close_if_blocked(now, &connected.user, connecting.asked)
        {
            return close;
        }
        let meta = match &mut answer {
            Some(Answer::Connected(connected)) => std::mem::take(&mut connected.meta),
            Some(Answer::Refreshed(refreshed)) => std::mem::take(&mut refreshed.meta),
            _ => Bytes::new(),
        };
        if !meta.is_empty() {
            self.backend.get_or_insert_default().meta = meta;
        }
        Event::Answers { about, answer }
    }
}

/// The headers of a request: what the configuration passes on of the handshake.
fn headers(client: &Client, passed: &[Box<str>]) -> Vec<(Box<str>, Bytes)> {
    let passed = client.headers.iter().filter(|(name, _)| passed.contains(name));
    passed.map(|(name, value)| (name.clone(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// Reads an answer. `None` if it is not usable, with a log line.
fn read(
    upstream: &str,
    kind: ask::Kind,
    answer: Result<Bytes, AskError>,
    limits: Limits,
) -> Option<Box<Answer>> {
    let body = answer.inspect_err(|error| failed(upstream, kind, error)).ok()?;
    match ask::answer::read(kind, &body, limits) {
        Ok(ask::answer::Read { answer, left_out }) => {
            if !left_out.is_empty() {
                let (asked, fields) = (kind.as_str(), left_out.join(", "));
                seldom!(
                    warn,
                    upstream,
                    asked,
                    fields,
                    "the answer of an upstream has fields that have no effect here"
                );
            }
            Some(Box::new(answer))
        }
        Err(why) => {
            let asked = kind.as_str();
            seldom!(
                warn,
                upstream,
                asked,
                why,
                "the answer of an upstream is wrong; the policy for failures decides"
            );
            None
        }
    }
}

fn failed(upstream: &str, kind: ask::Kind, error: &AskError) {
    let asked = kind.as_str();
    seldom!(warn, upstream, asked, %error, "an upstream has no answer; the policy for failures decides");
}
