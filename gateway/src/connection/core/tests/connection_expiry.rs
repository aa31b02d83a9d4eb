//! Connections that expire, are refreshed, or run into a deadline.

use super::*;

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

pub(super) fn expiring(user: &str, at: u64) -> Admission {
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
fn a_connection_expires_when_its_credential_does_and_not_a_part_of_a_second_later() {
    let mut client = Client::new();
    client.at = Duration::from_millis(900);
    client.connect("t").authenticate(expiring("42", 5), true);
    let Reply::Connected { result, .. } = client.reply() else { panic!() };
    assert_eq!(result.ttl, Some(4), "a client that refreshes by then is in time");
    client.tick_at(10).request(0, Request::Pong).effects.clear();
    assert_eq!(client.tick_at(15).close(), (3005, CloseCause::Expired));
}
