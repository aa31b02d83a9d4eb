//! Tests the rules of a connection, with time set by the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod backend;
mod connection_expiry;
mod subscribing;
mod subscription_expiry;

use super::*;
use crate::backplane::{Overrides, SubscribeOptions};
use crate::connection::event::NOTHING;
use crate::connection::heartbeat::CONTROL_FRAMES_BURST;
use crate::plugin::event::Kind;
use crate::plugin::verdict::{Admission, Decision, Expiry, Identity};
use crate::protocol::command::{Command, Connect, HistoryQuery, Malformed, Request, Subscribe};
use crate::protocol::filter::{Fields, TagFilter};
use crate::protocol::reply::Done;

struct Client {
    core: Core,
    at: Duration,
    effects: Effects,
}

const UNIX_START: u64 = 1_700_000_000;

fn config(more: &str) -> Arc<Config> {
    let text = format!(
        "[client]\nanonymous = true\nping_interval = \"20s\"\npong_timeout = \"5s\"\nexpiry_grace = \"10s\"\n\
         subscription_expiry_grace = \"4s\"\n\
         [handshake]\ndeadline = \"10s\"\n\
         [limits]\nchannels_per_connection_max = 2\nwrite_timeout = \"3s\"\n\
         [namespaces.open]\nhistory_size = 10\npresence = true\nallow_subscribe = \"anyone\"\nallow_publish = \"subscribers\"\nallow_history = \"users\"\n\
         allow_presence = \"nobody\"\n{more}"
    );
    Arc::new(Config::parse(&text, "test").unwrap())
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

impl Client {
    fn with(config: Arc<Config>, encoding: Encoding) -> Self {
        let now = Now { at: Duration::ZERO, unix: UNIX_START * 1000 };
        Self {
            core: Core::new(config, encoding, "c1".into(), now, 0),
            at: Duration::ZERO,
            effects: Effects::new(),
        }
    }

    fn new() -> Self {
        Self::with(config(""), Encoding::Json)
    }

    fn admitted() -> Self {
        let mut client = Self::new();
        client.connect("");
        client.authenticate(Admission::Undecided, false);
        client.effects.clear();
        client
    }

    fn now(&self) -> Now {
        Now { at: self.at, unix: UNIX_START * 1000 + self.at.as_millis() as u64 }
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let now = self.now();
        self.core.on(now, event, &mut self.effects);
        self
    }

    fn request(&mut self, id: u32, request: Request) -> &mut Self {
        self.on(Event::Command(Command { id, request }))
    }

    fn connect(&mut self, token: &str) -> &mut Self {
        let connect = Connect { token: token.into(), ..Connect::default() };
        self.request(1, Request::Connect(connect))
    }

    fn authenticate(&mut self, admission: Admission, credential: bool) -> &mut Self {
        assert!(matches!(self.effects.pop_front(), Some(Effect::Authenticate { .. })));
        self.on(Event::Authenticated { id: 1, refresh: false, admission, credential })
    }

    fn subscribe(&mut self, id: u32, name: &str) -> &mut Self {
        self.subscribe_with(id, name, None)
    }

    fn subscribe_with(&mut self, id: u32, name: &str, filter: Option<Arc<TagFilter>>) -> &mut Self {
        self.subscribe_for(id, name, filter, false)
    }

    fn subscribe_for(
        &mut self,
        id: u32,
        name: &str,
        filter: Option<Arc<TagFilter>>,
        delta: bool,
    ) -> &mut Self {
        self.request(
            id,
            Request::Subscribe(Subscribe {
                token: Box::default(),
                channel: Channel::parse(name),
                recover: None,
                join_leave: false,
                reject_unrecovered: false,
                data: NOTHING,
                filter,
                delta,
            }),
        )
    }

    /// Sends a decision on the last command for the plugins.
    fn decide(&mut self, decision: Decision) -> &mut Self {
        self.decide_with(decision, None)
    }

    /// The same, with an expiry for the subscription.
    fn decide_with(&mut self, decision: Decision, expiry: Option<Expiry>) -> &mut Self {
        let Some(Effect::Ask(ask)) = self.effects.pop_back() else { panic!("nothing was asked") };
        self.on(Event::Decided { ask, decision, expiry })
    }

    /// Makes a subscription that expires at this time.
    fn subscribed_until(&mut self, id: u32, name: &str, seconds: u64) -> &mut Self {
        self.subscribe(id, name).decide_with(Decision::Allowed(NOTHING), at(seconds));
        let Some(Effect::Subscribe { channel, by, .. }) = self.effects.pop_back() else {
            panic!("{:?}", self.effects)
        };
        self.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) })
    }

    /// Makes a subscription for the server.
    fn subscribed_by_server(&mut self, name: &str) -> &mut Self {
        self.on(Event::PluginSubscribes(channel(name))).effects.clear();
        let result = Ok(Subscribed::default());
        self.on(Event::Subscribed { channel: channel(name), by: Subscriber::Plugin, result })
    }

    fn sub_refresh(&mut self, id: u32, name: &str, token: &str) -> &mut Self {
        self.request(id, Request::SubRefresh { channel: Channel::parse(name), token: token.into() })
    }

    fn refresh_subscription(&mut self, name: &str, seconds: u64) -> &mut Self {
        let expiry = Expiry::At(UNIX_START + seconds);
        self.on(Event::PluginRefreshes { channel: channel(name), expiry })
    }

    /// Answers the ping that is due now, so that only other deadlines are left.
    fn ping_at(&mut self, seconds: u64) -> &mut Self {
        assert!(matches!(self.tick_at(seconds).reply(), Reply::Ping));
        self.request(0, Request::Pong)
    }

    fn deadline(&self) -> Option<u64> {
        self.core.deadline().map(|deadline| deadline.as_secs())
    }

    fn subscribed(&mut self, id: u32, name: &str) -> &mut Self {
        self.subscribe(id, name).decide(Decision::Undecided(NOTHING));
        let Some(Effect::Subscribe { channel, by, .. }) = self.effects.pop_back() else {
            panic!("{:?}", self.effects)
        };
        self.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) });
        self.effects.clear();
        self
    }

    fn tick_at(&mut self, seconds: u64) -> &mut Self {
        self.at = Duration::from_secs(seconds);
        self.on(Event::Tick)
    }

    fn effects(&mut self) -> String {
        std::mem::take(&mut self.effects).iter().map(|effect| format!("{effect:?}\n")).collect()
    }

    /// The close that ended the connection.
    fn close(&mut self) -> (u16, CloseCause) {
        match self.effects.pop_back() {
            Some(Effect::End { close, cause, .. }) => (close.code, cause),
            other => panic!("still open: {other:?}"),
        }
    }

    /// The code of the last error reply.
    fn error(&mut self) -> u32 {
        match self.effects.pop_back() {
            Some(Effect::Reply(Reply::Error { error, .. })) => error.code,
            other => panic!("no error: {other:?}"),
        }
    }

    fn reply(&mut self) -> Reply {
        match self.effects.pop_back() {
            Some(Effect::Reply(reply)) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }
}

fn refusal(code: u32) -> Refusal {
    Refusal { code, reason: "because".into() }
}

/// An expiry at this time of the test.
fn at(seconds: u64) -> Option<Expiry> {
    Some(Expiry::At(UNIX_START + seconds))
}

fn publish(name: &str) -> Request {
    Request::Publish { channel: Channel::parse(name), data: Bytes::from_static(b"1") }
}

#[test]
fn connect_must_come_first_once_and_with_an_id() {
    assert_eq!(Client::new().request(1, publish("open:a")).close(), (3501, CloseCause::BadRequest));
    assert_eq!(Client::new().request(0, Request::Connect(Connect::default())).close().0, 3501);
    assert_eq!(Client::admitted().connect("").close().0, 3501);
}

#[test]
fn a_silent_client_is_stale_at_the_deadline() {
    let mut client = Client::new();
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(10)));
    assert_eq!(client.tick_at(10).close(), (3502, CloseCause::Stale));
    assert_eq!(client.core.deadline(), None);
}

#[test]
fn pings_want_pongs_and_pongs_want_pings() {
    let mut client = Client::admitted();
    assert!(matches!(client.tick_at(10).reply(), Reply::Ping));
    assert!(client.request(0, Request::Pong).effects.is_empty());
    assert!(matches!(client.tick_at(30).reply(), Reply::Ping));
    assert_eq!(client.tick_at(35).close(), (3012, CloseCause::NoPong));
    assert_eq!(Client::admitted().request(0, Request::Pong).close().0, 3501);
    // Any command without an id counts as a pong.
    let mut client = Client::admitted();
    client.tick_at(10).effects.clear();
    assert!(client.request(0, publish("open:a")).effects.is_empty());
    assert_eq!(client.request(0, publish("open:a")).close().0, 3501);
}

#[test]
fn in_raw_mode_a_pong_nobody_asked_for_is_allowed() {
    let mut client = Client::with(config(""), Encoding::Raw);
    client.request(0, Request::Connect(Connect::default())).authenticate(Admission::Undecided, false);
    client.effects.clear();
    assert!(client.request(0, Request::Pong).effects.is_empty());
    assert!(!client.core.is_closed());
}

#[test]
fn what_is_malformed_ends_the_connection_and_says_why() {
    for malformed in [Malformed::Empty, Malformed::Syntax, Malformed::NoRequest, Malformed::TooMany] {
        let mut client = Client::admitted();
        let Some(Effect::End { close, tell: true, .. }) =
            client.on(Event::Malformed(malformed)).effects.pop_back()
        else {
            panic!()
        };
        assert_eq!((close.code, &*close.reason), (3501, &*malformed.to_string()));
    }
    assert_eq!(Client::admitted().subscribe(2, "").close().0, 3501);
    assert_eq!(Client::admitted().subscribe(2, "a b").error(), 107);
    assert_eq!(Client::admitted().request(2, Request::Pong).close().0, 3501);
}

#[test]
fn the_policy_of_the_channel_decides_when_no_plugin_does() {
    let undecided = || Decision::Undecided(Bytes::from_static(b"1"));
    let mut client = Client::admitted();
    assert_eq!(client.subscribe(2, "news").decide(undecided()).error(), 103, "closed by default");
    assert_eq!(client.subscribe(2, "other:a").decide(undecided()).error(), 102, "unknown namespace");
    assert_eq!(client.subscribe(2, "#42").decide(undecided()).error(), 103, "addresses are for plugins");
    assert_eq!(client.request(2, publish("open:a")).decide(undecided()).error(), 103, "not a subscriber");
    client.subscribed(3, "open:a");
    client.request(4, publish("open:a")).decide(undecided());
    assert!(matches!(client.effects.pop_back(), Some(Effect::Publish { id: 4, .. })));
    let history = Request::History { channel: Channel::parse("open:a"), query: HistoryQuery::default() };
    assert_eq!(client.request(5, history).decide(undecided()).error(), 103, "not a user");
    let presence = Request::Presence { channel: Channel::parse("open:a") };
    assert_eq!(client.request(6, presence).decide(undecided()).error(), 103, "nobody");
    let rpc = Request::Rpc { method: "m".into(), data: NOTHING };
    assert_eq!(client.request(7, rpc).decide(undecided()).error(), 108);
    assert_eq!(client.request(0, Request::Send { data: NOTHING }).decide(undecided()).close().0, 3508);
}

#[test]
fn a_plugin_that_allows_is_not_overruled_by_the_policy() {
    let mut client = Client::admitted();
    client.request(2, publish("news")).decide(Decision::Allowed(Bytes::from_static(b"2")));
    let Some(Effect::Publish { targets, payload, .. }) = client.effects.pop_back() else { panic!() };
    assert_eq!((targets, &payload[..]), (vec![channel("news")], &b"2"[..]));
}

#[test]
fn every_decision_on_a_publish_has_its_answer() {
    let mut client = Client::admitted();
    let mut decide = |decision| {
        client.request(2, publish("news")).decide(decision);
        client.effects()
    };
    assert!(decide(Decision::Denied(refusal(400))).contains("code: 400"));
    assert!(decide(Decision::Failed).contains("code: 100"));
    assert!(decide(Decision::Dropped).starts_with("Reply(Done { id: 2, what: Publish })"));
    let answer = decide(Decision::Reply(Bytes::from_static(b"7")));
    assert!(answer.starts_with("Reply(Done") && answer.contains("Message { data: b\"7\" }"), "{answer}");
    let routed = decide(Decision::Route { targets: vec![channel("a"), channel("#42")], payload: NOTHING });
    assert!(routed.contains("targets: [\"a\", \"#42\"]"), "{routed}");
    assert!(decide(Decision::Denied(refusal(4501))).contains("code: 4501"), "a code that closes closes");
}

#[test]
fn a_plugin_may_end_the_connection_but_only_with_a_code_that_can() {
    for (code, expected) in
        [(4000, 4000), (3000, 3000), (4999, 4999), (1000, 3507), (5000, 3507), (70_000, 3507)]
    {
        let mut client = Client::admitted();
        client.request(2, publish("news")).decide(Decision::Disconnect(refusal(code)));
        assert_eq!(client.close(), (expected, CloseCause::Plugin), "{code}");
        let mut client = Client::admitted();
        assert_eq!(client.on(Event::PluginDisconnects(refusal(code))).close().0, expected);
    }
}

#[test]
fn what_cannot_be_hidden_is_denied() {
    let mut client = Client::admitted();
    assert_eq!(client.subscribe(2, "open:a").decide(Decision::Dropped).error(), 103);
    assert_eq!(client.subscribe(3, "open:a").decide(Decision::Reply(NOTHING)).error(), 108);
    let routed = Decision::Route { targets: vec![channel("a")], payload: NOTHING };
    assert_eq!(client.subscribe(4, "open:a").decide(routed).error(), 108);
    // None of them left state behind.
    client.subscribe(5, "open:a").decide(Decision::Allowed(NOTHING));
    assert!(matches!(client.effects.pop_back(), Some(Effect::Subscribe { .. })));
}

#[test]
fn a_slow_reader_is_cut_off_with_what_it_did_not_read() {
    let mut client = Client::admitted();
    let Some(Effect::End { close, tell: true, discard: true, cause }) =
        client.on(Event::Signal(Signal::Slow)).effects.pop_back()
    else {
        panic!()
    };
    assert_eq!((close, cause), (Close::SLOW, CloseCause::Slow));
}

#[test]
fn a_socket_that_accepts_too_little_for_too_long_is_slow() {
    let mut client = Client::admitted();
    client.at = Duration::from_secs(1);
    client.on(Event::Flushed { written: 10, pending: true });
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(4)));
    client.at = Duration::from_secs(3);
    client.on(Event::Flushed { written: 10 + WRITE_BYTES_MIN, pending: true });
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(6)), "that was enough for now");
    for (at, written) in [(4, 20_000), (5, 30_000)] {
        client.at = Duration::from_secs(at);
        client.on(Event::Flushed { written: WRITE_BYTES_MIN + written, pending: true });
        assert_eq!(client.core.deadline(), Some(Duration::from_secs(6)), "a little does not count");
    }
    assert_eq!(client.tick_at(6).close(), (3008, CloseCause::Slow));
    let mut client = Client::admitted();
    client
        .on(Event::Flushed { written: 10, pending: true })
        .on(Event::Flushed { written: 20, pending: false });
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(10)), "only the ping is left");
}

#[test]
fn the_end_takes_every_subscription_along_and_comes_once() {
    let mut client = Client::admitted();
    client.subscribed(2, "open:a").subscribed(3, "open:b");
    let ended = Event::TransportEnded { close: Close::NORMAL, ending: Ending::Client };
    client.on(ended);
    assert_eq!(client.effects.len(), 3);
    assert!(matches!(client.effects.back(), Some(Effect::End { tell: false, .. })));
    client.effects.clear();
    client.on(Event::Signal(Signal::Slow)).on(Event::Tick).request(4, publish("open:a"));
    assert!(client.effects.is_empty(), "nothing happens after the end");
}

#[test]
fn control_frames_have_a_rate_of_their_own_also_before_the_connect() {
    for mut client in [Client::new(), Client::admitted()] {
        for _ in 0..CONTROL_FRAMES_BURST {
            client.on(Event::Control(ControlFrame::Ping));
        }
        assert!(!client.core.is_closed());
        let closed = client.on(Event::Control(ControlFrame::Pong)).close();
        assert_eq!(closed, (3013, CloseCause::TooManyRequests));
    }
}

#[test]
fn a_pong_of_the_transport_answers_a_ping_in_raw_mode_only() {
    for (encoding, closed) in [(Encoding::Raw, false), (Encoding::Json, true)] {
        let mut client = Client::with(config(""), encoding);
        client.connect("").authenticate(Admission::Undecided, false).tick_at(10);
        client.on(Event::Control(ControlFrame::Pong)).tick_at(15);
        assert_eq!(client.core.is_closed(), closed, "{encoding:?}");
    }
}
