//! `Delivery` is the task of one upstream: it sends events, retries them and gives up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};

use super::batch::Form;
use super::dead::Letter;
use super::handover::{Handover, Job};
use super::queue::{Taken, Waiting};
use super::sign::signature;
use super::{Event, Kind, Stop, USER_AGENT, Upstream, record, targets};
use crate::backoff::pause;
use crate::clock::Clock;
use crate::config::SigningKey;
use crate::dead_letters::DeadLetters;
use crate::egress::{Client, Error, Request, Response, Url};
use crate::seldom::seldom;

/// How long the last events may take until they are written and queued.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Delivery {
    pub(super) upstream: Arc<Upstream>,
    pub(super) handover: Arc<Handover>,
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) dead: DeadLetters,
}

/// Result of one attempt.
enum Outcome {
    Delivered,
    /// Another attempt makes sense, not before this time.
    Again(Option<Duration>, Box<str>),
    /// Every attempt would fail in the same way. With the status of the answer, 0 if there is none.
    Hopeless(u16, Box<str>),
}

/// Events that were given up: after how many attempts, and why.
struct GivenUp {
    attempts: u32,
    why: Box<str>,
    /// The status of the last answer, 0 if there was none.
    status: u16,
}

/// Some events of a request and what became of them.
type Ended = (Vec<Waiting>, Option<GivenUp>);

const QUEUE_FULL: &str = "the queue of the upstream was full";

impl Delivery {
    /// Runs until `stop` has announced the end and everything is delivered or given up, or the time is up.
    /// What is left then stays in the spool.
    pub(super) async fn run(self, mut stop: watch::Receiver<Stop>) {
        let mut sending: JoinSet<Vec<Ended>> = JoinSet::new();
        let mut sent: HashMap<Id, Vec<Waiting>> = HashMap::new();
        let mut until = None;
        loop {
            self.give_up_refused().await;
            let mut at = None;
            let has_room = |sending: &JoinSet<_>| sending.len() < self.upstream.config.in_flight_max;
            while has_room(&sending) {
                match self.upstream.queue.take(self.clock.at(), until.is_some()) {
                    Taken::Events(events) => {
                        let attempts =
                            deliver(self.upstream.clone(), self.client.clone(), self.clock, events.clone());
                        sent.insert(sending.spawn(attempts).id(), events);
                    }
                    Taken::WaitUntil(until) => {
                        at = Some(self.clock.instant(until));
                        break;
                    }
                    Taken::Nothing => break,
                }
            }
            let in_flight = sent.values().filter_map(|events| events.first()).map(|first| first.event.at);
            let oldest = in_flight.chain(self.upstream.queue.oldest()).min();
            self.upstream.metrics.set_oldest(oldest.unwrap_or(0));
            if until.is_some() && sending.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = sending.join_next_with_id() => {
                    let (id, ended) = match ended {
                        Ok((id, ended)) => (id, Ok(ended)),
                        Err(error) => (error.id(), Err(())),
                    };
                    let events = sent.remove(&id).unwrap_or_default();
                    let panicked = || GivenUp { attempts: 0, why: "the delivery panicked".into(), status: 0 };
                    self.settle(ended.unwrap_or_else(|()| vec![(events, Some(panicked()))])).await;
                }
                () = self.upstream.queue.arrived() => (),
                () = targets::until(at) => (),
                changed = stop.changed(), if until.is_none() => {
                    if changed.is_err() {
                        // The sender of `stop` has gone, so this task ends too.
                        return;
                    }
                    if let Stop::At(end) = *stop.borrow_and_update() {
                        until = Some(self.clock.instant(end));
                    }
                    // What was emitted last is on its way into the queue.
                    let (sender, written) = oneshot::channel();
                    self.handover.when_written(sender);
                    let _ = timeout(SETTLED_WITHIN, written).await;
                }
                () = targets::until(until) => break,
            }
        }
        sending.shutdown().await;
        self.give_up_refused().await;
        let mut left: Vec<_> = sent.into_values().flatten().collect();
        left.extend(self.upstream.queue.take_all());
        let (kept, lost): (Vec<_>, Vec<_>) = left.into_iter().partition(|event| event.place.is_some());
        if !kept.is_empty() {
            let (upstream, events) = (&*self.upstream.name, kept.len());
            tracing::warn!(
                upstream,
                events,
                "events are not delivered yet; they are sent after the next start"
            );
        }
        let why = "the process ended before it was delivered, or knew that it was".into();
        self.settle(vec![(lost, Some(GivenUp { attempts: 0, why, status: 0 }))]).await;
    }

    async fn settle(&self, ended: Vec<Ended>) {
        for (events, given_up) in ended {
            match given_up {
                None => {
                    events.iter().for_each(|waiting| self.upstream.metrics.sent(waiting.event.kind.index()))
                }
                Some(GivenUp { attempts, why, .. }) => {
                    let events = events.iter().map(|waiting| waiting.event.clone()).collect();
                    self.give_up(events, attempts, &why).await;
                }
            }
            events.iter().for_each(|waiting| self.upstream.queue.done(&waiting.event));
            // Not before: a gateway that is killed in between sends them again.
            let places: Vec<_> = events.iter().filter_map(|waiting| waiting.place).collect();
            if !places.is_empty() {
                self.handover.put(Job::Finished(self.upstream.number, places));
            }
        }
    }

    async fn give_up_refused(&self) {
        let refused = self.upstream.queue.take_refused();
        self.give_up(refused, 0, QUEUE_FULL).await;
    }

    async fn give_up(&self, events: Vec<Arc<Event>>, attempts: u32, why: &str) {
        if events.is_empty() {
            return;
        }
        let name = &*self.upstream.name;
        let at = self.clock.now().unix;
        let lines =
            events.iter().map(|event| Letter { upstream: name, event, attempts, why, at }.line()).collect();
        let written = self.dead.write(lines).await;
        if let Err(error) = &written {
            let lost = events.len();
            seldom!(error, upstream = name, %error, lost, "failed to write to the dead-letter file");
        }
        for event in &events {
            match written {
                Ok(()) => self.upstream.metrics.dead(event.kind.index(), &event.id, why),
                Err(_) => self.upstream.metrics.given_up_unwritten(event.kind.index(), &event.id, why),
            }
        }
    }
}

/// Sends events in one request, again and again until it succeeds or another attempt is pointless. If the
/// upstream refuses the request because of its contents, the events are sent in smaller parts, so that one of
/// them does not take the others along.
async fn deliver(upstream: Arc<Upstream>, client: Client, clock: Clock, events: Vec<Waiting>) -> Vec<Ended> {
    let (mut ended, mut parts) = (Vec::new(), vec![events]);
    while let Some(mut part) = parts.pop() {
        match attempts(&upstream, &client, clock, &part).await {
            Some(given_up) if part.len() > 1 && blames_contents(given_up.status) => {
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            }
            given_up => ended.push((part, given_up)),
        }
    }
    ended
}

/// Whether another body might have been accepted: 400, 413 (too large) and 422.
fn blames_contents(status: u16) -> bool {
    matches!(status, 400 | 413 | 422)
}

/// Repeats attempts until one succeeds or another is pointless.
async fn attempts(upstream: &Upstream, client: &Client, clock: Clock, events: &[Waiting]) -> Option<GivenUp> {
    let config = &upstream.config;
    let parcel = Parcel::of(upstream, events);
    for attempt in 1.. {
        upstream.metrics.requested();
        let sent = send(upstream, client, clock, &parcel).await;
        match outcome(sent, SystemTime::UNIX_EPOCH + Duration::from_millis(clock.now().unix)) {
            Outcome::Delivered => return None,
            Outcome::Hopeless(status, why) => return Some(GivenUp { attempts: attempt, why, status }),
            Outcome::Again(_, why) if attempt > config.retries => {
                return Some(GivenUp { attempts: attempt, why, status: 0 });
            }
            Outcome::Again(not_before, why) => {
                let random = getrandom::u64().unwrap_or(u64::MAX);
                let pause = pause(attempt, config.retry_pause_min, config.retry_pause_max, random);
                let pause = pause.max(not_before.unwrap_or_default()).min(config.retry_pause_max);
                upstream.metrics.retried(&parcel.id, attempt, &why, pause);
                sleep(pause).await;
            }
        }
    }
    None
}

/// The part of a request that is the same in every attempt.
pub(super) struct Parcel {
    id: Box<str>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Parcel {
    fn of(upstream: &Upstream, events: &[Waiting]) -> Self {
        let upstream_header = ("gateway-upstream", upstream.name.to_string());
        match events {
            [Waiting { event, .. }] if upstream.queue.limits().form(event) == Form::Payload => {
                Self::payload(upstream_header, event)
            }
            events => Self::list(upstream_header, events.iter().map(|waiting| &*waiting.event)),
        }
    }

    /// The payload of one event of a plugin.
    pub(super) fn payload(upstream: (&'static str, String), event: &Event) -> Self {
        let json = serde_json::from_slice::<IgnoredAny>(&event.payload).is_ok();
        let content_type = if json { "application/json" } else { "application/octet-stream" };
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            upstream,
            ("gateway-plugin", visible(&event.plugin)),
            ("gateway-time", event.at.to_string()),
        ];
        for (name, value) in [("gateway-connection", &event.connection), ("gateway-user", &event.user)] {
            if !value.is_empty() {
                headers.push((name, visible(value)));
            }
        }
        Self { id: event.id.clone(), headers, body: event.payload.clone() }
    }

    /// A list of events. The same events have the same id.
    pub(super) fn list<'e>(
        upstream: (&'static str, String),
        events: impl ExactSizeIterator<Item = &'e Event>,
    ) -> Self {
        let (mut body, mut id, count) = (b"{\"events\":[".to_vec(), Box::default(), events.len());
        for (index, event) in events.enumerate() {
            if index == 0 {
                id = format!("{}-{count}", event.id.replacen("msg_", "batch_", 1)).into();
            } else {
                body.push(b',');
            }
            match event.kind {
                Kind::Emitted => record::write_emitted(event, &mut body),
                _ => body.extend_from_slice(&event.payload),
            }
        }
        body.extend_from_slice(b"]}");
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            upstream,
            ("gateway-events", count.to_string()),
        ];
        Self { id, headers, body: body.into() }
    }

    /// The request of one attempt, signed if there is a key.
    pub(super) fn request(
        &self,
        url: &Url,
        secret: Option<&SigningKey>,
        clock: Clock,
    ) -> Result<Request, Error> {
        // The time of this attempt, not of the event: receivers refuse old signatures.
        let second = clock.now().unix / 1000;
        let mut headers = self.headers.clone();
        headers.extend([
            ("user-agent", USER_AGENT.to_owned()),
            ("webhook-id", self.id.to_string()),
            ("webhook-timestamp", second.to_string()),
        ]);
        if let Some(secret) = secret {
            headers.push(("webhook-signature", signature(secret.bytes(), &self.id, second, &self.body)));
        }
        Request::new("POST", url, headers, self.body.clone())
    }
}

async fn send(
    upstream: &Upstream,
    client: &Client,
    clock: Clock,
    parcel: &Parcel,
) -> Result<Response, Error> {
    let secret = upstream.config.secret.as_ref();
    let make = |url: &Url| parcel.request(url, secret, clock);
    upstream.targets.send(client, upstream.config.timeout, make).await
}

/// Encodes a text for a header: percent signs and everything but visible ASCII as `%` and two hex digits.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            visible.push(char::from(byte));
        } else {
            visible.push_str(&format!("%{byte:02X}"));
        }
    }
    visible
}

fn outcome(sent: Result<Response, Error>, now: SystemTime) -> Outcome {
    match sent {
        Ok(response) if response.is_success() => Outcome::Delivered,
        Ok(response) => {
            let why = format!("answered {}", response.status).into();
            match response.status {
                408 | 425 | 429 | 500..=599 => Outcome::Again(retry_after(&response, now), why),
                status => Outcome::Hopeless(status, why),
            }
        }
        Err(error @ Error::Invalid(_)) => Outcome::Hopeless(0, error.to_string().into()),
        Err(error) => Outcome::Again(None, error.to_string().into()),
    }
}

/// The pause the receiver asks for, in seconds or as a date.
fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
    let value = response.header("retry-after")?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: &'static str) -> Result<Response, Error> {
        let headers = vec![("retry-after".into(), Bytes::from_static(retry_after.as_bytes()))];
        Ok(Response { status, headers, body: Bytes::new() })
    }

    #[test]
    fn what_may_work_later_is_tried_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let again = |sent| match outcome(sent, now) {
            Outcome::Again(not_before, _) => Some(not_before),
            Outcome::Delivered | Outcome::Hopeless(..) => None,
        };
        for status in [408, 425, 429, 500, 503, 599] {
            assert_eq!(again(answer(status, "7")), Some(Some(Duration::from_secs(7))), "{status}");
        }
        assert_eq!(again(answer(503, "Sun, 06 Nov 1994 08:49:47 GMT")), Some(Some(Duration::from_secs(10))));
        assert_eq!(again(answer(503, "Sun, 06 Nov 1994 08:49:00 GMT")), Some(None), "a date that has passed");
        assert_eq!(again(answer(503, "soon")), Some(None));
        assert_eq!(again(Err(Error::Timeout(Duration::from_secs(1)))), Some(None));
        for hopeless in [answer(301, ""), answer(400, ""), answer(410, ""), Err(Error::Invalid("x".into()))] {
            assert!(matches!(outcome(hopeless, now), Outcome::Hopeless(..)));
        }
        for status in [200, 202, 204, 299] {
            assert!(matches!(outcome(answer(status, ""), now), Outcome::Delivered), "{status}");
        }
    }

    #[test]
    fn a_user_of_any_name_fits_into_a_header() {
        assert_eq!(visible("42@example"), "42@example");
        assert_eq!(visible("é\r\nx: 100%"), "%C3%A9%0D%0Ax:%20100%25");
    }
}
