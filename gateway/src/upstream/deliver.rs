//! `Delivery` is the task of one upstream: it sends events, retries them and gives up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, sleep_until};

use super::dead::{DeadLetters, Letter};
use super::sign::signature;
use super::{Event, Stop, USER_AGENT, Upstream};
use crate::clock::Clock;
use crate::egress::{Client, Error, Request, Response, Url};
use crate::seldom::seldom;

pub(super) struct Delivery {
    pub(super) upstream: Arc<Upstream>,
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) dead: DeadLetters,
}

/// Result of one attempt.
enum Outcome {
    Delivered,
    /// Another attempt makes sense, not before this time.
    Again(Option<Duration>, Box<str>),
    /// Every attempt would fail in the same way.
    Hopeless(Box<str>),
}

/// An event that was given up: after how many attempts, and why.
type GivenUp = Option<(u32, Box<str>)>;

impl Delivery {
    /// Runs until `stop` has announced the end and everything is delivered or given up.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        let mut sending: JoinSet<GivenUp> = JoinSet::new();
        let mut events: HashMap<Id, Arc<Event>> = HashMap::new();
        loop {
            while sending.len() < self.upstream.config.in_flight_max {
                let Some(event) = self.upstream.queue.take() else { break };
                let attempts =
                    attempts(self.upstream.clone(), self.client.clone(), self.clock, event.clone());
                events.insert(sending.spawn(attempts).id(), event);
            }
            let until = match *stop.borrow() {
                Stop::At(_) if sending.is_empty() => break,
                Stop::At(until) => Some(self.clock.instant(until)),
                Stop::No => None,
            };
            tokio::select! {
                Some(ended) = sending.join_next_with_id() => {
                    let (id, given_up) = match ended {
                        Ok((id, given_up)) => (id, given_up),
                        Err(error) => (error.id(), Some((0, "the delivery panicked".into()))),
                    };
                    if let Some(event) = events.remove(&id) {
                        self.settle(event, given_up).await;
                    }
                }
                () = self.upstream.queue.arrived(), if sending.len() < self.upstream.config.in_flight_max => (),
                changed = stop.changed(), if until.is_none() => if changed.is_err() {
                    // The sender of `stop` has gone, so this task ends too.
                    return;
                },
                () = end(until) => break,
            }
        }
        sending.shutdown().await;
        let mut left: Vec<_> = events.into_values().collect();
        left.extend(std::iter::from_fn(|| self.upstream.queue.take()));
        left.sort_by(|a, b| a.id.cmp(&b.id));
        self.give_up(left, 0, "the process ended before it was delivered, or knew that it was").await;
    }

    async fn settle(&mut self, event: Arc<Event>, given_up: GivenUp) {
        match given_up {
            None => {
                self.upstream.metrics.sent();
                self.upstream.queue.done(&event);
            }
            Some((attempts, why)) => self.give_up(vec![event], attempts, &why).await,
        }
    }

    async fn give_up(&mut self, events: Vec<Arc<Event>>, attempts: u32, why: &str) {
        if events.is_empty() {
            return;
        }
        let name = &*self.upstream.name;
        let at = self.clock.now().unix;
        let lines =
            events.iter().map(|event| Letter { upstream: name, event, attempts, why, at }.line()).collect();
        if let Err(error) = self.dead.write(lines).await {
            let lost = events.len();
            seldom!(error, upstream = name, %error, lost, "failed to write to the dead-letter file");
        }
        for event in &events {
            self.upstream.metrics.dead(&event.id, why);
            self.upstream.queue.done(event);
        }
    }
}

/// Waits until this moment; forever if there is none.
async fn end(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Repeats attempts until one succeeds or another is pointless.
async fn attempts(upstream: Arc<Upstream>, client: Client, clock: Clock, event: Arc<Event>) -> GivenUp {
    let config = &upstream.config;
    for attempt in 1.. {
        let sent = send(&upstream, &client, clock, &event).await;
        match outcome(sent, SystemTime::UNIX_EPOCH + Duration::from_millis(clock.now().unix)) {
            Outcome::Delivered => return None,
            Outcome::Hopeless(why) => return Some((attempt, why)),
            Outcome::Again(_, why) if attempt > config.retries => return Some((attempt, why)),
            Outcome::Again(not_before, why) => {
                let random = getrandom::u64().unwrap_or(u64::MAX);
                let pause = pause(attempt, config.retry_pause_min, config.retry_pause_max, random);
                let pause = pause.max(not_before.unwrap_or_default()).min(config.retry_pause_max);
                upstream.metrics.retried(&event.id, attempt, &why, pause);
                sleep(pause).await;
            }
        }
    }
    None
}

async fn send(upstream: &Upstream, client: &Client, clock: Clock, event: &Event) -> Result<Response, Error> {
    let make = |url: &Url| request(upstream, clock, event, url);
    upstream.targets.send(client, upstream.config.timeout, make).await
}

fn request(upstream: &Upstream, clock: Clock, event: &Event, url: &Url) -> Result<Request, Error> {
    let config = &upstream.config;
    // The time of this attempt, not of the event: receivers refuse old signatures.
    let second = clock.now().unix / 1000;
    let json = serde_json::from_slice::<IgnoredAny>(&event.payload).is_ok();
    let mut headers = vec![
        ("content-type", (if json { "application/json" } else { "application/octet-stream" }).to_owned()),
        ("user-agent", USER_AGENT.to_owned()),
        ("webhook-id", event.id.to_string()),
        ("webhook-timestamp", second.to_string()),
        ("gateway-upstream", upstream.name.to_string()),
        ("gateway-plugin", visible(&event.plugin)),
        ("gateway-time", event.at.to_string()),
    ];
    if let Some(secret) = &config.secret {
        headers.push(("webhook-signature", signature(secret.bytes(), &event.id, second, &event.payload)));
    }
    for (name, value) in [("gateway-connection", &event.connection), ("gateway-user", &event.user)] {
        if !value.is_empty() {
            headers.push((name, visible(value)));
        }
    }
    Request::new("POST", url, headers, event.payload.clone())
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
                _ => Outcome::Hopeless(why),
            }
        }
        Err(error @ Error::Invalid(_)) => Outcome::Hopeless(error.to_string().into()),
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

/// Full jitter with a limit that doubles at every attempt: many senders that failed together do not return
/// together.
fn pause(attempt: u32, least: Duration, most: Duration, random: u64) -> Duration {
    let ceiling = least.saturating_mul(1 << (attempt - 1).min(20)).min(most);
    let nanos = ceiling.as_nanos() * u128::from(random) / u128::from(u64::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
            Outcome::Delivered | Outcome::Hopeless(_) => None,
        };
        for status in [408, 425, 429, 500, 503, 599] {
            assert_eq!(again(answer(status, "7")), Some(Some(Duration::from_secs(7))), "{status}");
        }
        assert_eq!(again(answer(503, "Sun, 06 Nov 1994 08:49:47 GMT")), Some(Some(Duration::from_secs(10))));
        assert_eq!(again(answer(503, "Sun, 06 Nov 1994 08:49:00 GMT")), Some(None), "a date that has passed");
        assert_eq!(again(answer(503, "soon")), Some(None));
        assert_eq!(again(Err(Error::Timeout(Duration::from_secs(1)))), Some(None));
        for hopeless in [answer(301, ""), answer(400, ""), answer(410, ""), Err(Error::Invalid("x".into()))] {
            assert!(matches!(outcome(hopeless, now), Outcome::Hopeless(_)));
        }
        for status in [200, 202, 204, 299] {
            assert!(matches!(outcome(answer(status, ""), now), Outcome::Delivered), "{status}");
        }
    }

    #[test]
    fn pauses_grow_to_their_limit_and_are_spread_over_all_of_it() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(10));
        let longest: Vec<_> =
            (1..=6).map(|attempt| pause(attempt, least, most, u64::MAX).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pause(u32::MAX, least, most, u64::MAX), most);
        assert_eq!(pause(3, least, most, 0), Duration::ZERO);
        assert_eq!(pause(3, least, most, u64::MAX / 2).as_millis(), 1999);
    }

    #[test]
    fn a_user_of_any_name_fits_into_a_header() {
        assert_eq!(visible("42@example"), "42@example");
        assert_eq!(visible("é\r\nx: 100%"), "%C3%A9%0D%0Ax:%20100%25");
    }
}
