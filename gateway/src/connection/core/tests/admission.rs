//! Who is admitted, and with which subscriptions.

use super::*;

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
            assert!(matches!(client.effects.pop_front(), Some(Effect::Unsubscribe(..))));
            assert!(client.effects.is_empty(), "the client does not know of it");
        }
        client.on(made("open:a", Subscriber::Identity));
        let Reply::Connected { result, .. } = client.reply() else { panic!() };
        let names: Vec<_> = result.subscriptions.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(names, expected);
    }
}

/// An identity with this user and these channels.
fn identity(user: &str, channels: &[&str]) -> Admission {
    let channels = channels.iter().map(|name| channel(name)).collect();
    Admission::Accepted(Box::new(Identity { user: user.into(), channels, ..Identity::default() }))
}

/// A gateway with personal channels. `more` belongs to the table of the inbox.
fn personal(namespace: &str, more: &str) -> Client {
    let text = format!(
        "client.personal_channel = true\nclient.personal_channel_namespace = '{namespace}'\n\
         limits.channels_per_connection_max = 2\n\
         [namespaces.open]\n[namespaces.inbox]\nhistory_size = 1\nrecovery = true\n{more}"
    );
    Client::with(Arc::new(Config::parse(&text, "test").unwrap()), Encoding::Json)
}

/// The channels to which the admitted client is subscribed, and what it recovers there.
fn requested(client: &mut Client) -> Vec<(String, Option<u64>)> {
    let mut requested = Vec::new();
    for effect in std::mem::take(&mut client.effects) {
        if let Effect::Subscribe { channel, by, recover, .. } = effect {
            assert_eq!(by, Subscriber::Identity);
            requested.push((channel.to_string(), recover.map(|position| position.offset)));
        }
    }
    requested
}

#[test]
fn the_channel_of_the_user_comes_first_and_with_the_connect_reply() {
    for (namespace, own) in [("", "#42"), ("inbox", "inbox:#42")] {
        let mut client = personal(namespace, "");
        client.connect("t").authenticate(identity("42", &["open:a"]), true);
        assert_eq!(requested(&mut client), [(own.to_owned(), None), ("open:a".to_owned(), None)]);
        for name in [own, "open:a"] {
            let result = Ok(Subscribed::default());
            client.on(Event::Subscribed { channel: channel(name), by: Subscriber::Identity, result });
        }
        let Reply::Connected { result, .. } = client.reply() else { panic!() };
        let names: Vec<_> = result.subscriptions.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(names, [own, "open:a"]);
    }
}

#[test]
fn a_client_that_returns_recovers_the_channel_of_its_user() {
    let mut client = personal("inbox", "");
    let position = Position { offset: 7, epoch: "e".into() };
    let positions = vec![(channel("inbox:#42"), position)];
    let connect = Connect { token: "t".into(), positions, ..Connect::default() };
    client.request(1, Request::Connect(connect)).authenticate(identity("42", &[]), true);
    assert_eq!(requested(&mut client), [("inbox:#42".to_owned(), Some(7))]);
}

#[test]
fn a_user_has_one_channel_whatever_plugins_list_and_an_anonymous_client_has_none() {
    let mut client = personal("", "");
    client.connect("t").authenticate(identity("42", &["#42", "open:a", "open:b"]), true);
    let names: Vec<_> = requested(&mut client).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["#42", "open:a"], "no more than a connection may have");
    let mut anonymous = personal("", "");
    anonymous.connect("t").authenticate(identity("", &[]), true);
    assert!(matches!(anonymous.reply(), Reply::Connected { .. }));
    assert!(requested(&mut anonymous).is_empty());
    let mut without = Client::new();
    without.connect("t").authenticate(identity("42", &[]), true);
    assert!(requested(&mut without).is_empty(), "unless the gateway has such channels");
}

#[test]
fn a_user_whose_name_no_channel_can_have_is_refused_before_anything_else() {
    let mut client = personal("inbox", "");
    client.connect("t").authenticate(identity("jane doe", &["open:a"]), true);
    let Some(Effect::End { close, .. }) = client.effects.pop_back() else { panic!("{:?}", client.effects) };
    assert_eq!(close.code, 3507);
    assert!(close.reason.starts_with("the user has no personal channel: "), "{}", close.reason);
    assert!(client.effects.is_empty(), "nothing was begun: {:?}", client.effects);
    let mut client = personal("", "");
    client.connect("t").authenticate(identity("jane doe", &[]), true);
    assert_eq!(requested(&mut client), [("#jane doe".to_owned(), None)], "it has an address");
}
