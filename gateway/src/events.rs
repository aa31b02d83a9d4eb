//! [`Events`] tells an upstream what happens at the gateway, as far as the configuration asks for it: clients
//! that come and go, their subscriptions, publications, and channels that get their first subscriber or lose
//! their last.
//!
//! Each kind is told in one place: [`Session`](crate::connection::session::Session) tells of clients and
//! subscriptions, [`Events::publish`] of publications, whoever makes them. The upstream's queue, spool and
//! delivery are those of [`upstream`](crate::upstream).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::backplane::occupancy::OccupancyObserver;
use crate::backplane::{Backplane, NewPublication, Outcome, Published, ReplyTo};
use crate::clock::Now;
use crate::config::{ChannelEvents, Config};
use crate::disk::files;
use crate::plugin::event::{Client, DisconnectEvent};
use crate::protocol::channel::Channel;
use crate::protocol::code::Unsubscribe;
use crate::protocol::push::Member;
use crate::protocol::tags::Tags;
use crate::seldom::seldom;
use crate::upstream::{Kind, Upstreams};

/// File with the name of the last run, in the folder of the spools.
const RUN: &str = "run";
const RUN_BYTES_MAX: u64 = 64;

/// Pause between two attempts to write it.
const NAME_AGAIN: Duration = Duration::from_secs(1);

/// Tells an upstream what happens. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    /// `None` tells nobody.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    config: Arc<Config>,
    upstream: Box<str>,
    upstreams: Arc<Upstreams>,
    /// Name of the gateway for people.
    gateway: Box<str>,
    /// Random identifier of this process.
    run: Box<str>,
}

/// The object of an event.
#[derive(Serialize)]
struct Content<'e> {
    id: &'e str,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Unix time in milliseconds.
    time: u64,
    gateway: &'e str,
    run: &'e str,
    #[serde(flatten)]
    facts: Facts<'e>,
}

/// What an event says of its subject. Empty ones are left out.
#[derive(Serialize, Default)]
struct Facts<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_run: Option<&'e str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'e Tags>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

/// A publication that the backplane has not accepted yet.
struct Publication {
    channel: Channel,
    data: Bytes,
    json: bool,
    info: Option<Arc<Member>>,
    tags: Option<Arc<Tags>>,
    at: u64,
}

impl Events {
    /// Tells nobody.
    pub fn off() -> Self {
        Self { inner: None }
    }

    /// Tells the upstream that the configuration names, if it does. `gateway` is the name of this process for
    /// people, `run` its random identifier.
    pub fn new(config: &Arc<Config>, upstreams: &Arc<Upstreams>, gateway: &str, run: &str) -> Self {
        let inner = config.events.upstream.as_ref().map(|upstream| {
            Arc::new(Inner {
                config: config.clone(),
                upstream: upstream.clone(),
                upstreams: upstreams.clone(),
                gateway: gateway.into(),
                run: run.into(),
            })
        });
        Self { inner }
    }

    /// Tells that this process has started, and which one has used the folder of the spools before: what that
    /// one told as open is over. The future writes the name of this run for the next one, again and again as
    /// long as the disk takes nothing. Not before the event is in its spool: a process that is killed until
    /// then must leave the name of the run before, of which nobody was told that it is over.
    ///
    /// # Errors
    ///
    /// If the name of the run before cannot be read.
    pub fn started(
        &self,
        folder: &Path,
        now: Now,
    ) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        let previous = match &self.inner {
            Some(_) => files::read(&folder.join(RUN), RUN_BYTES_MAX)?,
            None => None,
        };
        if let Some(inner) = &self.inner {
            let previous = previous.and_then(|(_, bytes)| String::from_utf8(bytes).ok());
            let facts = Facts { previous_run: previous.as_deref(), ..Facts::default() };
            inner.tell(Kind::GatewayStarted, now.unix, facts);
        }
        let (inner, written, folder) = (self.inner.clone(), self.written(), folder.to_owned());
        Ok(async move {
            let Some(inner) = inner else { return };
            if let Some(written) = written
                && written.await.is_err()
            {
                // The process ends.
                return;
            }
            while let Err(error) = inner.name_run(&folder).await {
                seldom!(error, %error, "failed to write the name of this run to `plugins.state_folder`; a process that is started next would not tell that this one is over");
                sleep(NAME_AGAIN).await;
            }
        })
    }

    /// Whether the end of each client is told, so that another gateway has to do it if this one dies.
    pub fn tells_disconnects(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.config.events.disconnected)
    }

    /// Tells that a client was admitted.
    pub fn connected(&self, client: &Client, now: Now) {
        let Some(inner) = self.inner.as_ref().filter(|inner| inner.config.events.connected) else { return };
        let address = Some(client.address.to_string());
        let facts = Facts { protocol: Some(client.protocol), address, ..Facts::of(client) };
        inner.tell(Kind::Connected, now.unix, facts);
    }

    /// Tells that an admitted client has gone.
    pub fn disconnected(&self, event: &DisconnectEvent) {
        let Some(inner) = self.inner.as_ref().filter(|inner| inner.config.events.disconnected) else {
            return;
        };
        let facts = Facts {
            code: Some(event.code.into()),
            reason: Some(&event.reason),
            duration: Some(event.duration),
            ..Facts::of(&event.client)
        };
        inner.tell(Kind::Disconnected, event.now, facts);
    }

    /// Tells that a client has a subscription.
    pub fn subscribed(&self, client: &Client, channel: &Channel, now: Now) {
        if let Some(inner) = self.of(channel, |events| events.subscribed) {
            let facts = Facts { channel: Some(channel.as_str()), ..Facts::of(client) };
            inner.tell(Kind::Subscribed, now.unix, facts);
        }
    }

    /// Tells that a client has a subscription no more.
    pub fn unsubscribed(&self, client: &Client, channel: &Channel, why: &Unsubscribe, now: Now) {
        if let Some(inner) = self.of(channel, |events| events.unsubscribed) {
            let (code, reason) = (Some(why.code), Some(&*why.reason));
            let facts = Facts { channel: Some(channel.as_str()), code, reason, ..Facts::of(client) };
            inner.tell(Kind::Unsubscribed, now.unix, facts);
        }
    }

    /// Tells an event of a channel that says no more than its name.
    fn tell_of(&self, channel: &Channel, kind: Kind, wanted: impl Fn(&ChannelEvents) -> bool) {
        if let Some(inner) = self.of(channel, wanted) {
            let facts = Facts { channel: Some(channel.as_str()), ..Facts::default() };
            inner.tell(kind, inner.upstreams.now(), facts);
        }
    }

    /// Publishes, and tells it once the backplane has accepted the publication. Every publication of this
    /// gateway takes this way, whoever made it.
    pub fn publish(
        &self,
        backplane: &dyn Backplane,
        new: NewPublication<'_>,
        reply_to: ReplyTo,
        now: Now,
    ) -> Outcome<Published> {
        let Some(inner) = self.of(new.channel, |events| events.published) else {
            return backplane.publish(new, reply_to, now.at);
        };
        let publication = Arc::new(Publication {
            channel: new.channel.clone(),
            data: new.data.clone(),
            json: new.json,
            info: new.info.clone(),
            tags: new.tags.clone(),
            at: now.unix,
        });
        let (told, later) = (inner.clone(), publication.clone());
        let reply_to = reply_to.after(Box::new(move |published| told.published(&later, published)));
        let outcome = backplane.publish(new, reply_to, now.at);
        if let Outcome::Ready(Ok(published)) = &outcome {
            inner.published(&publication, published);
        }
        outcome
    }

    /// Resolves when all events so far are written; `None` if they are.
    pub fn written(&self) -> Option<oneshot::Receiver<()>> {
        let inner = self.inner.as_ref().filter(|inner| inner.upstreams.has_unwritten())?;
        let (sender, written) = oneshot::channel();
        inner.upstreams.when_written(sender);
        Some(written)
    }

    /// The one to tell an event of a channel, if its namespace asks for it.
    fn of(&self, channel: &Channel, asks: impl FnOnce(&ChannelEvents) -> bool) -> Option<&Arc<Inner>> {
        let inner = self.inner.as_ref()?;
        let namespace = inner.config.namespaces.of(channel)?;
        asks(&namespace.events).then_some(inner)
    }
}

impl OccupancyObserver for Events {
    fn occupied(&self, channel: &Channel) {
        self.tell_of(channel, Kind::Occupied, |events| events.occupied);
    }

    fn vacated(&self, channel: &Channel) {
        self.tell_of(channel, Kind::Vacated, |events| events.vacated);
    }
}

impl Inner {
    /// Writes the name of this run for the next one.
    async fn name_run(&self, folder: &Path) -> std::io::Result<()> {
        let (folder, run) = (folder.to_owned(), self.run.clone());
        let write = move || files::write(&folder, RUN, &[run.as_bytes()]);
        spawn_blocking(write).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    fn tell(&self, kind: Kind, time: u64, facts: Facts<'_>) {
        self.upstreams.tell(&self.upstream, kind, time, |id| {
            let (gateway, run) = (&*self.gateway, &*self.run);
            let content = Content { id, kind: kind.as_str(), time, gateway, run, facts };
            serde_json::to_vec(&content).expect("texts and numbers have a form in JSON")
        });
    }

    fn published(&self, publication: &Publication, published: &Published) {
        if published.skipped || published.repeated {
            return;
        }
        let Publication { channel, data, json, info, tags, at } = publication;
        let text = std::str::from_utf8(data).ok().filter(|_| *json);
        let raw: Option<&RawValue> = text.and_then(|text| serde_json::from_str(text).ok());
        let position = &published.top;
        let facts = Facts {
            client: info.as_ref().map_or("", |info| &info.client),
            user: info.as_ref().map_or("", |info| &info.user),
            channel: Some(channel.as_str()),
            offset: (position.offset > 0).then_some(position.offset),
            epoch: (position.offset > 0).then_some(&*position.epoch),
            tags: tags.as_deref(),
            b64data: raw.is_none().then(|| STANDARD.encode(data)),
            data: raw,
            ..Facts::default()
        };
        self.tell(Kind::Published, *at, facts);
    }
}

impl<'e> Facts<'e> {
    fn of(client: &'e Client) -> Self {
        Self { client: &client.id, user: &client.user, ..Self::default() }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Events").field(&self.inner.as_ref().map(|inner| &inner.upstream)).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::fs::read_to_string;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::egress::Client;
    use crate::supervisor::Supervisor;
    use crate::telemetry::metrics::Metrics;
    use crate::upstream::Stop;

    #[tokio::test]
    async fn the_name_of_a_run_replaces_the_one_before_only_when_its_start_is_in_the_spool() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::start());
        let text = "[upstreams.shop]\nurl = 'http://127.0.0.1:9'\n[events]\nupstream = 'shop'";
        let config = Arc::new(Config::parse(text, "test").unwrap());
        std::fs::write(folder.path().join(RUN), "before").unwrap();
        let metrics = Metrics::new(1);
        let upstreams =
            Upstreams::new(&config.upstreams, folder.path(), Client::new(), &metrics.node, clock, 7).unwrap();
        let events = Events::new(&config, &upstreams, "machine", "now");
        let mut naming = pin!(events.started(folder.path(), clock.now()).unwrap());
        let run = || read_to_string(folder.path().join(RUN)).unwrap();
        assert!(naming.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(run(), "before", "nothing is written yet: a kill now must not hide that run");
        let (stop, stopped) = watch::channel(Stop::No);
        let running = tokio::spawn(upstreams.run(stopped, Supervisor::default()));
        naming.await;
        assert_eq!(run(), "now");
        stop.send_replace(Stop::At(Duration::ZERO));
        running.await.unwrap();
        let spool = std::fs::read_dir(folder.path().join("shop.spool")).unwrap();
        let spool: String = spool.map(|file| read_to_string(file.unwrap().path()).unwrap()).collect();
        assert!(spool.contains(r#""previous_run":"before""#), "{spool}");
    }
}
