//! Subscriptions: who makes them, with which rules, and what ends them.

use super::*;

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
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(..))));
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
fn whoever_is_sent_away_for_a_subscribe_has_nothing_to_leave() {
    let mut client = Client::admitted();
    client.subscribe(2, "open:a").decide(Decision::Disconnect(refusal(4000)));
    assert!(!client.effects.iter().any(|effect| matches!(effect, Effect::Unsubscribe(..))), "it never began");
    assert!(matches!(client.effects.back(), Some(Effect::End { .. })));
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
fn every_subscribe_brings_the_latest_where_the_namespace_says_so() {
    let latest = "history_size = 1\nrecovery = true\nrecovery_mode = \"cache\"\nallow_subscribe = \"anyone\"";
    let more = format!("[namespaces.one]\n{latest}\n[namespaces.all]\n{latest}\nlatest_on_subscribe = true");
    let mut client = Client::with(config(&more), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    let recovers = |client: &mut Client| match client.effects.pop_back() {
        Some(Effect::Subscribe { recover, .. }) => recover,
        other => panic!("{other:?}"),
    };
    let start = Some(Position { offset: 0, epoch: "".into() });
    client.subscribe(2, "all:a").decide(Decision::Undecided(NOTHING));
    assert_eq!(recovers(&mut client), start);
    client.on(Event::PluginSubscribes(channel("all:b")));
    assert_eq!(recovers(&mut client), start);
    let mut client = Client::with(config(&more), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false).effects.clear();
    client.subscribe(2, "one:a").decide(Decision::Undecided(NOTHING));
    assert_eq!(recovers(&mut client), None);
}
