//! Tests the rules of a connection, with time set by the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

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
fn a_client_without_a_token_is_admitted_only_where_anonymous_clients_are() {
    let mut client = Client::new();
    assert!(matches!(
        client.connect("").authenticate(Admission::Undecided, false).reply(),
        Reply::Connected { id: 1, .. }
    ));
    let closed = config("").as_ref().clone();
    let closed =
        Config { client: crate::config::Client { anonymous: false, ..closed.client.clone() }, ..closed };
    let mut client = Client::with(Arc::new(closed), Encoding::Json);
    assert_eq!(client.connect("").authenticate(Admission::Undecided, false).close().0, 3501);
}

#[test]
fn a_token_that_no_plugin_accepts_is_invalid() {
    assert_eq!(
        Client::new().connect("t").authenticate(Admission::Undecided, true).close(),
        (3500, CloseCause::Plugin)
    );
}

#[test]
fn a_plugin_refuses_with_an_error_or_with_a_close() {
    let mut client = Client::new();
    assert_eq!(client.connect("t").authenticate(Admission::Refused(refusal(109)), true).error(), 109);
    assert!(client.request(2, publish("open:a")).effects.is_empty(), "nothing is processed after a refusal");
    assert_eq!(client.tick_at(10).close(), (3502, CloseCause::Stale));
    let mut client = Client::new();
    assert_eq!(
        client.connect("t").authenticate(Admission::Refused(refusal(4501)), true).close(),
        (4501, CloseCause::Plugin)
    );
    let mut client = Client::new();
    assert_eq!(client.connect("t").authenticate(Admission::Failed, true).error(), 100);
    assert_eq!(Client::new().connect("t").authenticate(Admission::Doubtful, true).error(), 100);
    for admission in [Admission::Failed, Admission::Doubtful] {
        let mut raw = Client::with(config(""), Encoding::Raw);
        raw.request(0, Request::Connect(Connect { token: "t".into(), ..Connect::default() }));
        assert_eq!(raw.authenticate(admission, true).close().0, 3004, "and the client comes back");
    }
}

#[test]
fn the_connect_reply_waits_for_the_servers_subscriptions() {
    let mut client = Client::new();
    let identity = Identity {
        user: "42".into(),
        channels: vec![channel("open:a"), channel("open:b")],
        ..Identity::default()
    };
    client.connect("t").authenticate(Admission::Accepted(Box::new(identity)), true);
    assert!(matches!(client.effects.pop_front(), Some(Effect::Admit(_))));
    for name in ["open:a", "open:b"] {
        let result = Ok(Subscribed { offset: 7, ..Subscribed::default() });
        client.on(Event::Subscribed { channel: channel(name), by: Subscriber::Identity, result });
    }
    let Reply::Connected { result, .. } = client.reply() else { panic!() };
    let names: Vec<_> = result.subscriptions.iter().map(|(channel, _)| channel.as_str()).collect();
    assert_eq!(names, ["open:a", "open:b"]);
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(10)), "the first ping");
}

#[test]
fn what_the_server_changes_before_the_connect_reply_comes_with_it() {
    for (removed, expected) in [(None, &["open:b", "open:a"][..]), (Some("open:b"), &["open:a"])] {
        let mut client = Client::new();
        let identity =
            Identity { user: "42".into(), channels: [channel("open:a")].into(), ..Identity::default() };
        client.connect("t").authenticate(Admission::Accepted(Box::new(identity)), true);
        client.on(Event::Signal(Signal::Subscribe(channel("open:b"), None))).effects.clear();
        let made =
            |name, by| Event::Subscribed { channel: channel(name), by, result: Ok(Subscribed::default()) };
        assert!(client.on(made("open:b", Subscriber::Plugin)).effects.is_empty(), "no reply yet");
        if let Some(name) = removed {
            client.on(Event::Signal(Signal::Unsubscribe(channel(name))));
            assert!(matches!(client.effects.pop_front(), Some(Effect::Unsubscribe(_))));
            assert!(client.effects.is_empty(), "the client does not know of it");
        }
        client.on(made("open:a", Subscriber::Identity));
        let Reply::Connected { result, .. } = client.reply() else { panic!() };
        let names: Vec<_> = result.subscriptions.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(names, expected);
    }
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
fn a_channel_is_subscribed_once_and_only_as_many_as_allowed() {
    let mut client = Client::admitted();
    client.subscribe(2, "open:a");
    assert!(matches!(client.effects.pop_back(), Some(Effect::Ask(_))));
    assert_eq!(client.subscribe(3, "open:a").error(), 105, "also while the first is under way");
    client.subscribed(4, "open:b");
    assert_eq!(client.subscribe(5, "open:c").error(), 106);
}

#[test]
fn unsubscribing_twice_succeeds_twice() {
    let mut client = Client::admitted();
    client.subscribed(2, "open:a");
    for (id, effects) in [(3, 2), (4, 1)] {
        let unsubscribe = Request::Unsubscribe { channel: Channel::parse("open:a") };
        client.request(id, unsubscribe).decide(Decision::Undecided(NOTHING));
        assert_eq!(client.effects.len(), effects);
        assert!(matches!(client.reply(), Reply::Done { what: Done::Unsubscribe, .. }));
        client.effects.clear();
    }
}

#[test]
fn a_client_that_prefers_an_error_gets_it_instead_of_a_hole() {
    let mut client = Client::admitted();
    client.subscribe(2, "open:a").decide(Decision::Allowed(NOTHING));
    client.effects.clear();
    let by = Subscriber::Client { id: 2, reject_unrecovered: true };
    let result = Ok(Subscribed { recovered: Some(false), ..Subscribed::default() });
    assert_eq!(client.on(Event::Subscribed { channel: channel("open:a"), by, result }).error(), 112);
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(_))));
}

#[test]
fn where_only_the_latest_counts_nothing_to_recover_is_no_hole() {
    let more = "[namespaces.state]\nhistory_size = 1\nrecovery = true\nrecovery_mode = \"cache\"";
    let mut client = Client::with(config(more), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    client.subscribe(2, "state:a").decide(Decision::Allowed(NOTHING));
    client.effects.clear();
    let by = Subscriber::Client { id: 2, reject_unrecovered: true };
    let result = Ok(Subscribed { recovered: Some(false), ..Subscribed::default() });
    client.on(Event::Subscribed { channel: channel("state:a"), by, result });
    assert!(matches!(client.reply(), Reply::Subscribed { id: 2, .. }));
}

#[test]
fn a_gap_ends_the_clients_subscription_or_the_connection() {
    let mut client = Client::admitted();
    client.subscribed(2, "open:a");
    client.on(Event::Signal(Signal::Gap(channel("open:a"))));
    let Reply::UnsubscribedByServer { why, .. } = client.reply() else { panic!() };
    assert_eq!(why.code, 2500);
    client.effects.clear();
    assert!(client.on(Event::Signal(Signal::Gap(channel("open:a")))).effects.is_empty(), "it is gone");
    client.on(Event::PluginSubscribes(channel("open:b"))).effects.clear();
    let (by, result) = (Subscriber::Plugin, Ok(Subscribed::default()));
    client.on(Event::Subscribed { channel: channel("open:b"), by, result });
    assert!(matches!(client.reply(), Reply::SubscribedByServer { .. }));
    assert_eq!(client.on(Event::Signal(Signal::Gap(channel("open:b")))).close().0, 3010);
}

#[test]
fn the_server_extends_or_ends_a_connection() {
    let mut client = Client::admitted();
    let unix = client.now().unix / 1000;
    client.on(Event::Signal(Signal::Refresh(Some(unix + 60))));
    assert_eq!(client.reply(), Reply::RefreshedByServer { ttl: Some(60) });
    client.on(Event::Signal(Signal::Refresh(None)));
    assert_eq!(client.reply(), Reply::RefreshedByServer { ttl: None });
    assert_eq!(client.on(Event::Signal(Signal::Refresh(Some(unix)))).close().0, 3005, "it has expired");
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

fn expiring(user: &str, at: u64) -> Admission {
    let expires_at = Some(UNIX_START + at);
    Admission::Accepted(Box::new(Identity { user: user.into(), expires_at, ..Identity::default() }))
}

#[test]
fn an_expiring_connection_is_refreshed_or_closed_after_the_grace() {
    let mut client = Client::new();
    client.connect("t").authenticate(expiring("42", 60), true);
    let Reply::Connected { result, .. } = client.reply() else { panic!() };
    assert_eq!(result.ttl, Some(60));
    // Pings continue meanwhile.
    for at in [10, 30, 50] {
        assert!(matches!(client.tick_at(at).reply(), Reply::Ping));
        client.request(0, Request::Pong);
    }
    client.request(2, Request::Refresh { token: "new".into() }).effects.clear();
    client.on(Event::Authenticated { id: 2, refresh: true, admission: expiring("42", 90), credential: true });
    assert!(matches!(client.reply(), Reply::Refreshed { ttl: Some(40), .. }));
    client.tick_at(75).request(0, Request::Pong).effects.clear();
    client.tick_at(95).request(0, Request::Pong).effects.clear();
    assert_eq!(client.tick_at(100).close(), (3005, CloseCause::Expired));
}

#[test]
fn a_refresh_brings_what_the_new_credential_permits() {
    let mut client = Client::new();
    client.connect("t").authenticate(expiring("42", 60), true).effects.clear();
    let attributes = vec![("may".into(), "read".into()), ("write".into(), "".into())];
    let less = Identity { user: "42".into(), attributes: attributes.clone(), ..Identity::default() };
    let admission = Admission::Accepted(Box::new(less));
    client.on(Event::Authenticated { id: 2, refresh: true, admission, credential: true });
    assert!(matches!(client.effects.pop_front(), Some(Effect::SetAttributes(set)) if set == attributes));
    assert!(matches!(client.reply(), Reply::Refreshed { .. }));
}

#[test]
fn a_refresh_changes_the_time_but_never_the_user() {
    let mut client = Client::new();
    client.connect("t").authenticate(expiring("42", 60), true);
    let authenticated =
        |admission| Event::Authenticated { id: 2, refresh: true, admission, credential: true };
    assert_eq!(client.on(authenticated(expiring("42", 0))).error(), 110);
    assert_eq!(client.on(authenticated(Admission::Undecided)).error(), 108);
    assert_eq!(client.on(authenticated(Admission::Failed)).error(), 100);
    assert_eq!(client.on(authenticated(Admission::Refused(refusal(109)))).error(), 109);
    assert_eq!(client.on(authenticated(expiring("43", 60))).close().0, 3500);
    let mut client = Client::admitted();
    assert_eq!(client.request(2, Request::Refresh { token: "".into() }).close().0, 3501);
    let mut client = Client::new();
    assert_eq!(client.connect("t").authenticate(expiring("42", 0), true).error(), 110, "expired on arrival");
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
fn whoever_is_sent_away_for_a_subscribe_has_nothing_to_leave() {
    let mut client = Client::admitted();
    client.subscribe(2, "open:a").decide(Decision::Disconnect(refusal(4000)));
    assert!(!client.effects.iter().any(|effect| matches!(effect, Effect::Unsubscribe(_))), "it never began");
    assert!(matches!(client.effects.back(), Some(Effect::End { .. })));
}

#[test]
fn after_the_expiry_and_its_grace_no_command_is_carried_out_whatever_the_timer_does() {
    let requests = [
        publish("open:a"),
        Request::Rpc { method: "m".into(), data: NOTHING },
        Request::Send { data: NOTHING },
        Request::Refresh { token: "new".into() },
        Request::Unsubscribe { channel: Channel::parse("open:a") },
    ];
    for request in requests {
        let mut client = Client::new();
        client.connect("t").authenticate(expiring("42", 5), true).effects.clear();
        client.at = Duration::from_millis(14_999);
        client.request(2, request.clone());
        assert!(!client.core.is_closed() && !client.effects.is_empty(), "in the grace: {request:?}");
        client.effects.clear();
        client.at = Duration::from_secs(15);
        assert_eq!(client.request(3, request).close(), (3005, CloseCause::Expired));
        assert!(client.effects.is_empty(), "and nothing else");
    }
    let mut raw = Client::with(config(""), Encoding::Raw);
    raw.connect("t").authenticate(expiring("42", 5), true).effects.clear();
    raw.at = Duration::from_secs(15);
    let message = Request::Raw { data: NOTHING, binary: false };
    assert_eq!(raw.request(0, message).close(), (3005, CloseCause::Expired));
}

#[test]
fn no_other_deadline_is_outrun_by_commands_either() {
    let mut client = Client::new();
    client.at = Duration::from_secs(10);
    assert_eq!(client.connect("t").close(), (3502, CloseCause::Stale));
    let mut client = Client::new();
    client.connect("t");
    client.at = Duration::from_secs(10);
    assert_eq!(
        client.authenticate(expiring("42", 60), true).close(),
        (3502, CloseCause::Stale),
        "the verdict is late"
    );
    let mut client = Client::admitted();
    client.tick_at(10).effects.clear();
    client.at = Duration::from_secs(15);
    assert_eq!(client.request(0, Request::Pong).close(), (3012, CloseCause::NoPong));
    let mut client = Client::admitted();
    client.on(Event::Flushed { written: 10, pending: true });
    client.at = Duration::from_secs(3);
    assert_eq!(client.request(2, publish("open:a")).close(), (3008, CloseCause::Slow));
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

#[test]
fn what_an_earlier_subscription_missed_is_not_missed_by_one_that_is_being_made() {
    let mut client = Client::admitted();
    client.subscribed(2, "open:a");
    // Both commands came in one message, and the gap was found between them.
    client.request(3, Request::Unsubscribe { channel: Channel::parse("open:a") });
    client.decide(Decision::Undecided(NOTHING)).effects.clear();
    client.subscribe(4, "open:a").decide(Decision::Undecided(NOTHING));
    let Some(Effect::Subscribe { channel, by, .. }) = client.effects.pop_back() else { panic!() };
    client.on(Event::Signal(Signal::Gap(channel.clone())));
    assert!(client.effects.is_empty());
    client.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) });
    assert!(matches!(client.reply(), Reply::Subscribed { id: 4, .. }));
}

#[test]
fn a_connection_expires_when_its_credential_does_and_not_a_part_of_a_second_later() {
    let mut client = Client::new();
    client.at = Duration::from_millis(900);
    client.connect("t").authenticate(expiring("42", 5), true);
    let Reply::Connected { result, .. } = client.reply() else { panic!() };
    assert_eq!(result.ttl, Some(4), "a client that refreshes by then is in time");
    client.tick_at(10).request(0, Request::Pong).effects.clear();
    assert_eq!(client.tick_at(15).close(), (3005, CloseCause::Expired));
}

#[test]
fn a_filter_needs_a_namespace_that_permits_it() {
    let fields = |(): (), _| {
        let (op, val, vals, nodes) = ("".into(), "".into(), Vec::new(), Vec::new());
        Ok(Fields { op, key: "kind".into(), cmp: "ex".into(), val, vals, nodes })
    };
    let filter = Some(Arc::new(TagFilter::read((), 1, fields).unwrap()));
    let config = config("[namespaces.tagged]\ntag_filter = true\nallow_subscribe = \"anyone\"");
    let mut client = Client::with(config, Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false);
    client.effects.clear();
    let Reply::Error { id: 2, error } = client.subscribe_with(2, "open:a", filter.clone()).reply() else {
        panic!("accepted")
    };
    assert!(error.code == 107 && error.message.contains("`tag_filter = true`"), "{error:?}");
    client.subscribed(3, "open:a");
    client.subscribe_with(4, "tagged:a", filter.clone()).decide(Decision::Undecided(NOTHING));
    let Some(Effect::Subscribe { filter: asked, .. }) = client.effects.pop_back() else { panic!() };
    assert_eq!(asked, filter);
}

// ---- Deltas ----

const DELTAS: &str = "[namespaces.prices]\ndelta = true\ntag_filter = true\nallow_subscribe = \"anyone\"";

#[test]
fn deltas_need_a_namespace_that_has_them_and_no_filter() {
    let mut client = Client::with(config(DELTAS), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false);
    for (id, name, asks, gets) in
        [(2, "prices:a", true, true), (3, "prices:b", false, false), (4, "open:a", true, false)]
    {
        client.subscribe_for(id, name, None, asks).decide(Decision::Undecided(NOTHING));
        let Some(Effect::Subscribe { delta, .. }) = client.effects.pop_back() else { panic!("{name}") };
        assert_eq!(delta, gets, "{name}");
        client.core.subscriptions.clear();
    }
    let fields = |(): (), _| {
        let (op, val, vals, nodes) = ("".into(), "".into(), Vec::new(), Vec::new());
        Ok(Fields { op, key: "kind".into(), cmp: "ex".into(), val, vals, nodes })
    };
    let filter = Some(Arc::new(TagFilter::read((), 1, fields).unwrap()));
    client.effects.clear();
    let refused = client.subscribe_for(5, "prices:c", filter, true).reply();
    let Reply::Error { id: 5, error } = refused else { panic!("accepted") };
    assert!(error.code == 107 && error.message.contains("`delta` and `tf` exclude each other"), "{error:?}");
}

#[test]
fn a_subscription_of_the_server_has_deltas_if_the_connect_request_asks_for_them() {
    let mut client = Client::with(config(DELTAS), Encoding::Json);
    let deltas = ["open:a", "prices:a"].map(channel).into();
    client.request(1, Request::Connect(Connect { token: "t".into(), deltas, ..Connect::default() }));
    let channels = ["prices:a", "prices:b"].map(channel).into();
    let identity = Identity { user: "42".into(), channels, ..Identity::default() };
    client.authenticate(Admission::Accepted(Box::new(identity)), true);
    assert!(matches!(client.effects.pop_front(), Some(Effect::Admit(_))));
    let made: Vec<_> = client.effects.drain(..).collect();
    let deltas: Vec<_> =
        made.iter().map(|made| matches!(made, Effect::Subscribe { delta: true, .. })).collect();
    assert_eq!(deltas, [true, false]);
    // The client would not learn of it from the push that tells of a later subscription.
    client.core.subscriptions.clear();
    client.on(Event::PluginSubscribes(channel("prices:a")));
    assert!(matches!(client.effects.pop_back(), Some(Effect::Subscribe { delta: false, .. })));
}

#[test]
fn a_pattern_is_a_subscription_where_the_namespace_permits_it_and_nothing_else() {
    let config = config("[namespaces.wide]\nwildcards = true\nallow_subscribe = \"anyone\"");
    let mut client = Client::with(config, Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false);
    client.effects.clear();
    let pattern = |name| Channel::parse_subscription(name);
    let mut refused = |id, request: Request| {
        let Reply::Error { id: of, error } = client.request(id, request).reply() else { panic!("accepted") };
        assert_eq!(of, id);
        (error.code, error.message.contains("`wildcards = true`"))
    };
    let subscribe = |name| {
        let (token, data) = ("".into(), NOTHING);
        let (recover, join_leave, reject_unrecovered, filter) = (None, false, false, None);
        let channel = pattern(name);
        Request::Subscribe(Subscribe {
            channel,
            recover,
            join_leave,
            reject_unrecovered,
            token,
            data,
            filter,
            delta: true,
        })
    };
    let history = |name| Request::History { channel: pattern(name), query: HistoryQuery::default() };
    assert_eq!(refused(2, subscribe("open:*")), (107, true));
    assert_eq!(refused(3, subscribe("wide:a*")), (107, false), "malformed");
    assert_eq!(refused(4, Request::Unsubscribe { channel: pattern("open:*") }), (107, true));
    assert_eq!(refused(5, history("open:*")), (107, true));
    assert_eq!(refused(6, history("wide:*")), (108, false));
    assert_eq!(refused(7, Request::Presence { channel: pattern("wide:*") }), (108, false));
    assert_eq!(refused(8, Request::PresenceStats { channel: pattern("wide:**") }), (108, false));
    let publish = Request::Publish { channel: Channel::parse("wide:*"), data: NOTHING };
    assert_eq!(refused(9, publish), (107, false));
    client.request(10, subscribe("wide:*.a")).decide(Decision::Undecided(NOTHING));
    let Some(Effect::Subscribe { channel, .. }) = client.effects.pop_back() else { panic!("refused") };
    assert_eq!(channel.as_str(), "wide:*.a");
}

// ---- Subscriptions that expire ----

#[test]
fn an_expiring_subscription_is_refreshed_or_ends_after_its_grace() {
    let mut client = Client::admitted();
    let Reply::Subscribed { result, .. } = client.subscribed_until(2, "open:a", 8).reply() else { panic!() };
    assert_eq!(result.ttl, Some(8));
    assert_eq!(client.ping_at(10).deadline(), Some(12), "8 seconds, and 4 of grace");
    client.at = Duration::from_secs(11);
    let Some(Effect::Ask(ask)) = client.sub_refresh(3, "open:a", "new").effects.back() else { panic!() };
    assert_eq!((ask.content.kind, &*ask.content.token), (Kind::SubRefresh, "new"));
    let refreshed = client.decide_with(Decision::Allowed(NOTHING), at(20)).reply();
    assert_eq!(refreshed, Reply::SubRefreshed { id: 3, ttl: Some(9) });
    assert_eq!(client.deadline(), Some(24));
    client.tick_at(24);
    let unsubscribed = Reply::UnsubscribedByServer { channel: channel("open:a"), why: Unsubscribe::EXPIRED };
    assert_eq!(client.reply(), unsubscribed);
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(_))));
    assert!(!client.core.is_closed(), "the connection stays");
    assert_eq!(client.deadline(), Some(30), "the next ping");
    assert_eq!(client.sub_refresh(4, "open:a", "new").error(), 103);
    client.subscribed(5, "open:a");
}

#[test]
fn a_subscription_without_an_expiry_says_nothing_of_one() {
    let mut client = Client::admitted();
    for expiry in [None, Some(Expiry::Never)] {
        client.subscribe(2, "open:a").decide_with(Decision::Allowed(NOTHING), expiry);
        let Some(Effect::Subscribe { channel, by, .. }) = client.effects.pop_back() else { panic!() };
        client.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) });
        let Reply::Subscribed { result, .. } = client.reply() else { panic!() };
        assert_eq!((result.ttl, client.deadline()), (None, Some(10)), "only the ping");
        client.request(3, Request::Unsubscribe { channel: Channel::parse("open:a") });
        client.decide(Decision::Undecided(NOTHING));
    }
}

#[test]
fn a_refresh_of_a_subscription_needs_one_and_a_token_and_a_plugin() {
    assert_eq!(Client::admitted().sub_refresh(2, "", "t").close(), (3501, CloseCause::BadRequest));
    assert_eq!(Client::admitted().sub_refresh(2, "a b", "t").error(), 107);
    assert_eq!(Client::admitted().sub_refresh(2, "open:a", "t").error(), 103, "not subscribed");
    let mut client = Client::admitted();
    client.subscribe(2, "open:a");
    assert_eq!(client.sub_refresh(3, "open:a", "t").error(), 103, "nor while it is being made");
    let mut client = Client::admitted();
    client.subscribed_until(2, "open:a", 8);
    assert_eq!(client.sub_refresh(3, "open:a", "").error(), 107);
    let refusals = [
        (Decision::Undecided(NOTHING), None, 108),
        (Decision::Allowed(NOTHING), None, 108),
        (Decision::Allowed(NOTHING), at(0), 110),
        (Decision::Undecided(NOTHING), at(0), 110),
        (Decision::Denied(refusal(103)), at(100), 103),
        (Decision::Denied(refusal(110)), None, 110),
        (Decision::Failed, at(100), 100),
        (Decision::Dropped, at(100), 103),
        (Decision::Reply(NOTHING), at(100), 108),
        (Decision::Route { targets: vec![channel("a")], payload: NOTHING }, at(100), 108),
    ];
    for (decision, expiry, code) in refusals {
        let what = format!("{decision:?} {expiry:?}");
        assert_eq!(
            client.sub_refresh(3, "open:a", "t").decide_with(decision, expiry).error(),
            code,
            "{what}"
        );
    }
    assert_eq!(client.ping_at(10).deadline(), Some(12), "none of them changed when it expires");
    client.sub_refresh(4, "open:a", "t").decide_with(Decision::Undecided(NOTHING), Some(Expiry::Never));
    assert_eq!(client.reply(), Reply::SubRefreshed { id: 4, ttl: None });
    assert_eq!(client.deadline(), Some(30), "the next ping");
    client.sub_refresh(5, "open:a", "t").decide(Decision::Disconnect(refusal(4000)));
    assert_eq!(client.close().0, 4000);
}

#[test]
fn a_subscription_that_has_expired_on_arrival_is_not_made() {
    let mut client = Client::admitted();
    client.at = Duration::from_secs(5);
    assert_eq!(client.subscribe(2, "open:a").decide_with(Decision::Allowed(NOTHING), at(5)).error(), 110);
    assert!(client.effects.is_empty());
    assert_eq!(client.subscribe(3, "closed").decide_with(Decision::Undecided(NOTHING), at(9)).error(), 103);
    assert_eq!(client.deadline(), Some(10), "what was refused does not expire");
    client.subscribed(4, "open:a");
}

#[test]
fn a_subscription_of_the_server_ends_the_connection_unless_the_server_extends_it() {
    let mut client = Client::admitted();
    client.subscribed_by_server("open:a").effects.clear();
    assert!(client.refresh_subscription("open:a", 8).effects.is_empty(), "the client is not told");
    assert_eq!(client.ping_at(10).deadline(), Some(12));
    client.refresh_subscription("open:a", 15);
    client.tick_at(12);
    assert!(client.effects.is_empty());
    assert_eq!(client.deadline(), Some(19));
    assert_eq!(client.tick_at(19).close(), (3006, CloseCause::Expired));
    let mut client = Client::admitted();
    client.subscribed_by_server("open:a");
    assert_eq!(client.sub_refresh(2, "open:a", "t").close(), (3501, CloseCause::BadRequest));
    let mut client = Client::admitted();
    client.subscribed_by_server("open:a").refresh_subscription("open:a", 0);
    assert_eq!(client.close().0, 3006, "at once: it has expired");
}

#[test]
fn the_server_api_chooses_position_expiry_and_joins_of_a_subscription() {
    let since = Position { offset: 7, epoch: "e".into() };
    let options = |seconds| SubscribeOptions {
        recover: Some(since.clone()),
        expires_at: Some(UNIX_START + seconds),
        overrides: Overrides { push_join_leave: Some(false), ..Overrides::default() },
        ..SubscribeOptions::default()
    };
    let order = |name, seconds| Signal::Subscribe(channel(name), Some(Arc::new(options(seconds))));
    let mut client = Client::admitted();
    client.on(Event::Signal(order("open:a", 8)));
    let Some(Effect::Subscribe { by, recover, join_leave, options: chosen, .. }) = client.effects.pop_back()
    else {
        panic!("{:?}", client.effects)
    };
    assert_eq!((by, recover, join_leave), (Subscriber::Plugin, Some(since.clone()), Some(false)));
    assert_eq!(chosen.as_deref(), Some(&options(8)));
    let result = Ok(Subscribed { data: Bytes::from_static(b"1"), ..Subscribed::default() });
    client.on(Event::Subscribed { channel: channel("open:a"), by, result });
    let Reply::SubscribedByServer { result, .. } = client.reply() else { panic!() };
    assert_eq!(&*result.data, b"1");
    client.effects.clear();
    assert!(client.on(Event::Signal(order("open:b", 0))).effects.is_empty(), "it has expired");
    assert_eq!(client.ping_at(10).deadline(), Some(12));
    assert_eq!(client.tick_at(12).close(), (3006, CloseCause::Expired));
}

#[test]
fn a_namespace_may_force_joins_and_leaves_on_its_subscribers() {
    let more =
        "[namespaces.told]\njoin_leave = true\nforce_push_join_leave = true\nallow_subscribe = \"anyone\"";
    let mut client = Client::with(config(more), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    for (id, name, expected) in [(2, "open:a", false), (3, "told:a", true)] {
        client.subscribe(id, name).decide(Decision::Undecided(NOTHING));
        let Some(Effect::Subscribe { join_leave, .. }) = client.effects.pop_back() else { panic!() };
        assert_eq!(join_leave, Some(expected), "{name}");
    }
}

#[test]
fn a_plugin_ends_the_subscription_of_a_client_by_its_expiry() {
    let mut client = Client::admitted();
    client.subscribed(2, "open:a").refresh_subscription("open:a", 0);
    let Reply::UnsubscribedByServer { why, .. } = client.reply() else { panic!() };
    assert_eq!(why.code, 2501);
    client.effects.clear();
    client.refresh_subscription("open:a", 8).refresh_subscription("open:b", 8);
    assert!(client.effects.is_empty());
    assert_eq!(client.deadline(), Some(10), "there is nothing that could expire");
}

#[test]
fn what_a_client_leaves_does_not_expire() {
    let mut client = Client::admitted();
    client.subscribed_until(2, "open:a", 3).effects.clear();
    assert_eq!(client.deadline(), Some(7));
    client.request(3, Request::Unsubscribe { channel: Channel::parse("open:a") });
    client.decide(Decision::Undecided(NOTHING));
    assert_eq!(client.deadline(), Some(10), "only the ping is left");
    client.subscribed(4, "open:a").ping_at(10);
    assert!(client.effects.is_empty());
}

#[test]
fn each_subscription_expires_at_its_own_time_and_two_together() {
    let mut client = Client::with(config("[namespaces.more]\nallow_subscribe = \"anyone\""), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    client.subscribed_until(2, "open:a", 3).subscribed_until(3, "more:b", 2).effects.clear();
    assert_eq!(client.deadline(), Some(6));
    let left = client.tick_at(6).effects();
    assert!(left.contains("more:b") && !left.contains("open:a"), "{left}");
    client.subscribed_until(4, "more:b", 8).effects.clear();
    let left = client.tick_at(12).effects();
    assert_eq!(left.matches("code: 2501").count(), 2, "{left}");
}

#[test]
fn one_tick_ends_a_bounded_number_of_subscriptions_and_the_next_one_goes_on() {
    let many = config("");
    let limits = crate::config::Limits { channels_per_connection_max: 200, ..many.limits.clone() };
    let mut client = Client::with(Arc::new(Config { limits, ..Config::clone(&many) }), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    for number in 0..100 {
        client.subscribed_until(2, &format!("open:{number}"), 3).effects.clear();
    }
    let ended = |client: &mut Client| client.effects().matches("code: 2501").count();
    client.tick_at(7);
    assert_eq!((ended(&mut client), client.deadline()), (64, Some(7)));
    client.tick_at(7);
    assert_eq!((ended(&mut client), client.deadline()), (36, Some(10)));
}

#[test]
fn a_subscription_that_expires_while_it_is_being_made_is_not_made() {
    let mut client = Client::admitted();
    client.subscribe(2, "open:a").decide_with(Decision::Allowed(NOTHING), at(3));
    let Some(Effect::Subscribe { channel, by, .. }) = client.effects.pop_back() else { panic!() };
    assert!(client.tick_at(7).effects.is_empty());
    assert_eq!(client.deadline(), Some(10));
    assert_eq!(client.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) }).error(), 103);
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(_))));
}

#[test]
fn after_the_grace_of_a_subscription_a_refresh_is_too_late_whatever_the_timer_does() {
    let mut client = Client::admitted();
    client.subscribed_until(2, "open:a", 3).effects.clear();
    client.at = Duration::from_millis(6_999);
    client.sub_refresh(3, "open:a", "t");
    assert!(matches!(client.effects.pop_back(), Some(Effect::Ask(_))), "in the grace");
    client.at = Duration::from_secs(7);
    assert_eq!(client.sub_refresh(4, "open:a", "t").error(), 103);
    assert!(matches!(client.reply(), Reply::UnsubscribedByServer { .. }));
}
