//! Subscriptions that expire or are refreshed.

use super::*;

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
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(..))));
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
    assert_eq!(left.matches("UnsubscribedByServer").count(), 2, "{left}");
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
    let ended = |client: &mut Client| client.effects().matches("UnsubscribedByServer").count();
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
    assert!(matches!(client.effects.pop_back(), Some(Effect::Unsubscribe(..))));
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
