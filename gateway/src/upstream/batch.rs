//! Which events go into one request, and when: decided without a clock.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::Waiting;
use super::{Event, Kind};
use crate::config;

/// Events of the gateway in one request, if the configuration leaves it open.
const EVENTS_MAX: usize = 100;

/// Bounds of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum number of events of the gateway.
    events: usize,
    /// Maximum number of events of plugins; one of them has a request of its own.
    emitted: usize,
    bytes: usize,
    wait: Duration,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This many of the first events, at least one.
    Send(usize),
    /// Nothing before this time, unless more events come.
    WaitUntil(Duration),
    /// There is none.
    Nothing,
}

/// The form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The payload of one event.
    Payload,
    /// A list of events.
    List,
}

impl Limits {
    pub(super) fn of(config: &config::Upstream) -> Self {
        let (events, emitted) = match config.batch_events_max {
            0 => (EVENTS_MAX, 1),
            most => (most, most),
        };
        Self { events, emitted, bytes: config.batch_bytes_max, wait: config.batch_wait }
    }

    /// The form in which an event is sent.
    pub(super) fn form(&self, event: &Event) -> Form {
        match event.kind {
            Kind::Emitted if self.emitted == 1 => Form::Payload,
            _ => Form::List,
        }
    }

    /// Decides at a time since the start of the process. `hurry` is whether events no longer wait for others.
    pub(super) fn next(&self, waiting: &VecDeque<Waiting>, at: Duration, hurry: bool) -> Next {
        let Some(first) = waiting.front() else { return Next::Nothing };
        if self.form(&first.event) == Form::Payload {
            return Next::Send(1);
        }
        let (mut count, mut bytes) = (0, 0);
        for Waiting { event, .. } in waiting {
            bytes += event.payload.len();
            if count > 0 && bytes > self.bytes || self.form(event) != Form::List {
                return Next::Send(count);
            }
            count += 1;
            if count == self.events {
                return Next::Send(count);
            }
        }
        let until = first.since + self.wait;
        if hurry || at >= until || bytes >= self.bytes { Next::Send(count) } else { Next::WaitUntil(until) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use super::*;
    use crate::config::Config;

    fn limits(settings: &str) -> Limits {
        let text = format!("[upstreams.a]\nurl = 'http://a.example'\nbatch_wait = '100ms'\n{settings}");
        Limits::of(&Config::parse(&text, "test").unwrap().upstreams["a"])
    }

    /// Events with payloads of so many bytes, which came at these milliseconds.
    fn waiting(kind: Kind, events: &[(usize, u64)]) -> VecDeque<Waiting> {
        let one = |&(bytes, since): &(usize, u64)| {
            let (plugin, connection, user) = <(Arc<str>, Arc<str>, Arc<str>)>::default();
            let payload = vec![b'1'; bytes].into();
            let event = Event { id: "msg_1".into(), kind, plugin, connection, user, at: 0, payload };
            Waiting { event: Arc::new(event), place: None, since: Duration::from_millis(since) }
        };
        events.iter().map(one).collect()
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_request_waits_for_others_until_the_first_event_has_waited_or_it_is_full() {
        let limits = limits("batch_events_max = 3\nbatch_bytes_max = '1KiB'");
        let events = |events: &[(usize, u64)]| waiting(Kind::Subscribed, events);
        assert_eq!(limits.next(&events(&[]), at(1000), true), Next::Nothing);
        assert_eq!(limits.next(&events(&[(9, 10), (9, 90)]), at(109), false), Next::WaitUntil(at(110)));
        assert_eq!(limits.next(&events(&[(9, 10), (9, 90)]), at(110), false), Next::Send(2));
        assert_eq!(limits.next(&events(&[(9, 10)]), at(11), true), Next::Send(1), "the process ends");
        assert_eq!(limits.next(&events(&[(9, 10); 5]), at(11), false), Next::Send(3), "no more than three");
        assert_eq!(limits.next(&events(&[(600, 10), (600, 10)]), at(11), false), Next::Send(1), "1KiB");
        assert_eq!(limits.next(&events(&[(9000, 10), (1, 10)]), at(11), false), Next::Send(1), "a large one");
        assert_eq!(limits.next(&events(&[(9000, 10)]), at(11), false), Next::Send(1), "none fits beside it");
    }

    #[test]
    fn an_event_of_a_plugin_is_a_request_of_its_own_unless_the_configuration_wants_lists() {
        let mut mixed = waiting(Kind::Connected, &[(9, 10), (9, 10)]);
        mixed.extend(waiting(Kind::Emitted, &[(9, 10), (9, 10)]));
        let own = limits("");
        assert_eq!(own.next(&mixed, at(11), false), Next::Send(2), "the next one has another form: no wait");
        mixed.drain(..2);
        assert_eq!(own.next(&mixed, at(11), false), Next::Send(1));
        assert_eq!(own.form(&mixed[0].event), Form::Payload);
        let lists = limits("batch_events_max = 50");
        assert_eq!(lists.next(&mixed, at(11), false), Next::WaitUntil(at(110)));
        assert_eq!(lists.next(&mixed, at(110), false), Next::Send(2));
        let alone = limits("batch_events_max = 1");
        assert_eq!(alone.next(&waiting(Kind::Connected, &[(9, 10); 2]), at(11), false), Next::Send(1));
        assert_eq!(
            limits("").next(&waiting(Kind::Connected, &[(9, 10); 200]), at(11), false),
            Next::Send(100)
        );
    }
}
