//! The limits of a settings file, tested with the kit of the SDK.

use std::time::Duration;

use gateway_plugin_sdk::kit::{Kit, Outcome};

use super::*;

/// The plugin with the limits of a settings file.
#[track_caller]
fn kit(limits: &str) -> Kit<RateLimit> {
    Kit::new(config(limits)).expect("good limits")
}

#[track_caller]
fn config(limits: &str) -> Value {
    toml::from_str::<Value>(&limits.replace("[[limits]]", "\n[[limits]]\n").replace(';', "\n")).expect("TOML")
}

#[test]
fn the_self_test_holds() -> Result<(), String> {
    Kit::<RateLimit>::self_test()
}

/// A connection of a user publishes to a channel.
fn publish(kit: &mut Kit<RateLimit>, connection: &str, user: &str, channel: &str) -> Outcome<Verdict> {
    kit.connection(connection).user(user).message(Kind::Publish).channel(channel).json(&json!({})).send()
}

fn retry(name: &str, millis: u64) -> Verdict {
    Verdict::deny(111, format!("{name}: retry after {millis} ms"))
}

fn after(kit: &mut Kit<RateLimit>, millis: u64) -> &mut Kit<RateLimit> {
    kit.advance(Duration::from_millis(millis))
}

// ---- Limits ----

#[test]
fn every_algorithm_refuses_what_is_too_much_and_says_when_it_is_not() {
    for (algorithm, at_once, wait) in [
        ("token-bucket", 4, 250),
        ("leaky-bucket", 1, 250),
        ("leaky-bucket\"; burst = 3; name = \"l", 3, 250),
        ("token-bucket\"; burst = 6; name = \"l", 6, 250),
        ("fixed-window", 4, 1000),
        ("sliding-window", 4, 1250),
    ] {
        let name = if algorithm.contains("name") { "" } else { "name = \"l\";" };
        let mut kit =
            kit(&format!("[[limits]] {name} limit = 4; period = \"1s\"; algorithm = \"{algorithm}\""));
        for _ in 0..at_once {
            assert_eq!(publish(&mut kit, "c", "", "a").verdict, Verdict::Next, "{algorithm}");
        }
        assert_eq!(publish(&mut kit, "c", "", "a").verdict, retry("l", wait), "{algorithm}");
        after(&mut kit, wait - 1);
        assert_eq!(publish(&mut kit, "c", "", "a").verdict, retry("l", 1), "{algorithm}");
        after(&mut kit, 1);
        assert_eq!(publish(&mut kit, "c", "", "a").verdict, Verdict::Next, "{algorithm}");
    }
}

/// Which of these messages pass a limit of one an hour: connection, user, channel, payload.
#[track_caller]
fn check_key(key: &str, messages: &[(&str, &str, &str, Value, bool)]) {
    let mut kit = kit(&format!("[[limits]] name = \"l\"; limit = 1; period = \"1h\"; key = {key}"));
    for (connection, user, channel, payload, passes) in messages {
        let message =
            kit.connection(connection).user(user).message(Kind::Publish).channel(channel).json(payload);
        assert_eq!(
            message.send().verdict == Verdict::Next,
            *passes,
            "{key}: {connection} {user} {channel} {payload}"
        );
    }
}

#[test]
fn a_pattern_counts_where_one_of_its_channels_does() {
    let limits =
        "[[limits]] name = \"l\"; kind = \"subscribe\"; channel = \"chat:room*\"; limit = 1; period = \"1s\"";
    let mut kit = kit(limits);
    let mut subscribe = |channel: &str| {
        let message = kit.connection("c").message(Kind::Subscribe).channel(channel);
        message.json(&json!({})).send().verdict
    };
    assert_eq!(subscribe("chat:hall.*"), Verdict::Next);
    assert_eq!(subscribe("chat:**"), Verdict::Next);
    assert_eq!(subscribe("chat:room1"), retry("l", 1000));
    assert_eq!(subscribe("chat:**"), retry("l", 1000));
}

#[test]
fn who_shares_a_key_shares_a_limit() {
    let none = || json!({});
    check_key(
        "\"connection\"",
        &[("c1", "u", "a", none(), true), ("c2", "u", "a", none(), true), ("c1", "v", "b", none(), false)],
    );
    check_key(
        "\"user\"",
        &[("c1", "u", "a", none(), true), ("c2", "u", "b", none(), false), ("c1", "v", "a", none(), true)],
    );
    check_key(
        "[\"channel\", \"kind\"]",
        &[("c1", "u", "a", none(), true), ("c2", "v", "a", none(), false), ("c1", "u", "b", none(), true)],
    );
    check_key("\"address\"", &[("c1", "u", "a", none(), true), ("c2", "v", "b", none(), false)]);
    check_key(
        "[\"connection\", \"channel\"]",
        &[
            ("c1", "u", "a", none(), true),
            ("c1", "u", "b", none(), true),
            ("c2", "u", "a", none(), true),
            ("c1", "u", "a", none(), false),
        ],
    );
    check_key(
        "[\"payload.room.0\", \"payload.size\"]",
        &[
            ("c", "", "a", json!({"room": ["x"], "size": 1}), true),
            ("c", "", "a", json!({"room": ["x"], "size": true}), true),
            ("c", "", "a", json!({"room": ["y"], "size": 1}), true),
            ("c", "", "b", json!({"room": ["x", "z"], "size": 1}), false),
        ],
    );
}

#[test]
fn one_gateway_that_is_the_cluster_limits_as_one_that_is_a_node() {
    let limits = ["node", "cluster"].map(|scope| {
        format!(
            "[[limits]] name = \"{scope}\"; limit = 2; period = \"1s\"; key = \"user\"; scope = \"{scope}\""
        )
    });
    for (scope, limit) in ["node", "cluster"].into_iter().zip(limits) {
        let mut kit = kit(&limit);
        for _ in 0..2 {
            assert_eq!(publish(&mut kit, "c1", "42", "a").verdict, Verdict::Next);
        }
        assert_eq!(publish(&mut kit, "c2", "42", "a").verdict, retry(scope, 500));
        assert_eq!(publish(&mut kit, "c2", "43", "a").verdict, Verdict::Next);
    }
}

#[test]
fn parts_of_a_key_do_not_run_into_each_other() {
    check_key(
        "[\"user\", \"channel\"]",
        &[("c", "ab", "c", json!({}), true), ("c", "a", "bc", json!({}), true)],
    );
}

#[test]
fn long_values_are_limited_like_any_other() {
    let long = |end: &str| json!({"room": format!("{}{end}", "x".repeat(5000))});
    let messages =
        [("c", "", "a", long("1"), true), ("c", "", "a", long("2"), true), ("c", "", "a", long("1"), false)];
    check_key("\"payload.room\"", &messages);
}

#[test]
fn the_address_is_the_clients() {
    let mut kit = kit("[[limits]] name = \"l\"; limit = 1; period = \"1s\"; key = \"address\"");
    for (address, passes) in [
        ("10.0.0.1", true),
        ("10.0.0.2", true),
        ("10.0.0.1", false),
        ("2001:db8::1", true),
        ("2001:db8::ffff:2", false),
        ("2001:db8:0:1::1", true),
    ] {
        let outcome = kit.connection(address).remote_address(address).message(Kind::Rpc).send();
        assert_eq!(outcome.verdict == Verdict::Next, passes);
    }
}

#[test]
fn what_a_message_lacks_passes_the_limit_or_is_refused() {
    let limit = |key: &str, missing: &str| {
        format!(
            "[[limits]] name = \"l\"; limit = 1; period = \"1s\"; key = \"{key}\"; missing = \"{missing}\""
        )
    };
    let send = |kit: &mut Kit<RateLimit>| kit.connection("c").message(Kind::Rpc).payload("[]").send().verdict;
    for key in ["user", "channel", "payload.a"] {
        let mut kit = kit(&limit(key, "skip"));
        assert_eq!([send(&mut kit), send(&mut kit)], [Verdict::Next, Verdict::Next], "{key}");
    }
    assert_eq!(send(&mut kit(&limit("user", "deny"))), Verdict::deny(101, "sign in"));
    assert_eq!(send(&mut kit(&limit("channel", "deny"))), Verdict::deny(107, "channel is missing"));
    assert_eq!(send(&mut kit(&limit("payload.a", "deny"))), Verdict::deny(107, "payload.a is missing"));
}

#[test]
fn a_message_may_cost_more_than_one() {
    let mut kit = kit("[[limits]] name = \"l\"; limit = 10; period = \"1s\"; cost = 5");
    let seen = [(); 3].map(|()| publish(&mut kit, "c", "", "a").verdict);
    assert_eq!(seen, [Verdict::Next, Verdict::Next, retry("l", 500)]);
}

#[test]
fn bytes_can_be_limited() {
    let mut kit = kit("[[limits]] name = \"bytes\"; limit = 1000; period = \"1s\"; cost = \"bytes\"");
    let mut send =
        |bytes: usize| kit.connection("c").message(Kind::Raw).payload(vec![b'x'; bytes]).send().verdict;
    assert_eq!(send(900), Verdict::Next);
    assert_eq!(send(101), retry("bytes", 1));
    assert_eq!(send(100), Verdict::Next);
    assert_eq!(send(1001), Verdict::deny(106, "bytes: too much at once"), "it makes no sense to try again");
}

#[test]
fn a_limit_of_bytes_may_be_a_size() {
    let mut kit = kit(
        "[[limits]] name = \"bytes\"; limit = \"1KiB\"; burst = \"2KiB\"; period = \"1m\"; cost = \"bytes\"",
    );
    let mut send =
        |bytes: usize| kit.connection("c").message(Kind::Raw).payload(vec![b'x'; bytes]).send().verdict;
    assert_eq!(send(2048), Verdict::Next);
    assert_eq!(send(1), retry("bytes", 59));
    for (limit, cost) in [("1KiB", "1"), ("1 KiB", "\"bytes\"")] {
        check_error(
            &format!("[[limits]] name = \"l\"; limit = \"{limit}\"; period = \"1s\"; cost = {cost}"),
            &format!("`limits[0].limit` is \"{limit}\"; accepted: {PER_PERIOD}"),
        );
    }
}

#[test]
fn limits_are_charged_in_order_until_one_refuses() {
    let mut kit = kit("[[limits]] name = \"all\"; limit = 3; period = \"1s\"
         [[limits]] name = \"chat\"; limit = 1; period = \"1s\"; channel = \"chat:*\"");
    let seen =
        ["chat:1", "chat:1", "news", "news"].map(|channel| publish(&mut kit, "c", "", channel).verdict);
    assert_eq!(seen, [Verdict::Next, retry("chat", 1000), Verdict::Next, retry("all", 334)]);
}

#[test]
fn a_limit_may_close_the_connection() {
    let mut kit = kit("[[limits]] name = \"l\"; limit = 1; period = \"1s\"; action = \"disconnect\"");
    publish(&mut kit, "c", "", "a");
    assert_eq!(publish(&mut kit, "c", "", "a").verdict, Verdict::disconnect(3013, "l: retry after 1000 ms"));
}

// ---- What it says ----

#[test]
fn a_dry_run_refuses_nothing_and_says_what_it_would_have_refused_once_a_second() {
    let mut kit = kit(
        "[[limits]] name = \"l\"; limit = 1; period = \"1h\"; dry_run = true
         [[limits]] name = \"user\"; limit = 1; period = \"1h\"; key = \"user\"; missing = \"deny\"; dry_run = true",
    );
    let send = |kit: &mut Kit<RateLimit>| {
        let outcome = publish(kit, "c", "", "a");
        assert_eq!(outcome.verdict, Verdict::Next);
        outcome.logged()
    };
    assert_eq!(send(&mut kit), "limit `user` would have refused 1 message so far");
    assert_eq!(send(&mut kit), "limit `l` would have refused 1 message so far");
    assert_eq!(send(&mut kit), "");
    after(&mut kit, 1000);
    assert_eq!(
        send(&mut kit),
        "limit `l` would have refused 3 messages so far\nlimit `user` would have refused 4 messages so far"
    );
}

#[test]
fn what_is_refused_is_counted_and_said_once_a_second() {
    let mut kit = kit("[[limits]] name = \"l\"; limit = 1; period = \"1h\"");
    let lines: Vec<String> = (0..12)
        .map(|_| {
            after(&mut kit, 100);
            publish(&mut kit, "c", "", "a").logged()
        })
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines, ["limit `l` has refused 1 message so far", "limit `l` has refused 11 messages so far"]);
}

#[test]
fn a_reload_keeps_what_is_used() {
    let settings = "[[limits]] name = \"l\"; limit = 1; period = \"1s\"; key = \"user\"";
    let mut kit = kit(settings);
    publish(&mut kit, "c", "u", "a");
    kit.reload(config(&format!("{settings}; action = \"disconnect\""))).expect("good limits");
    assert_eq!(publish(&mut kit, "c", "u", "a").verdict, Verdict::disconnect(3013, "l: retry after 1000 ms"));
    kit.reload(config(&settings.replace("limit = 1", "limit = 2"))).expect("good limits");
    assert_eq!(publish(&mut kit, "c", "u", "a").verdict, Verdict::Next, "another limit begins anew");
}

// ---- Interests ----

#[test]
fn messages_without_a_limit_do_not_reach_it() {
    let mut kit = kit(
        "[[limits]] name = \"a\"; limit = 1; period = \"1s\"; kind = \"publish\"; channel = [\"chat:*\", \"news\"]
         [[limits]] name = \"b\"; limit = 1; period = \"1s\"; kind = [\"subscribe\"]; channel = \"chat:*\"",
    );
    assert!(!kit.interests().wants_payload());
    for (kind, channel, called) in [
        (Kind::Publish, "news", true),
        (Kind::Subscribe, "chat:1", true),
        (Kind::Publish, "other", false),
        (Kind::History, "chat:1", false),
    ] {
        let outcome = kit.connection("c").message(kind).channel(channel).send();
        assert_eq!((outcome.called, outcome.verdict), (called, Verdict::Next), "{kind} {channel}");
    }
    let all = self::kit("[[limits]] name = \"a\"; limit = 1; period = \"1s\"; key = \"payload.a\"");
    assert!(all.interests().wants_payload() && all.interests().asked_kinds().is_none());
    assert!(all.interests().asked_channels().is_none());
}

// ---- Errors ----

const PER_PERIOD: &str = "how much is admitted per period, from 1 to 4294967295, or a size such as \"64KiB\" \
                          where `cost` is \"bytes\"";
const PERIOD: &str = "a text like \"500ms\", \"1s\", \"5m\", \"1h\" or \"1d\", up to \"49d\"";

#[track_caller]
fn check_error(settings: &str, expected: &str) {
    assert_eq!(Kit::<RateLimit>::new(config(settings)).expect_err("errors"), expected);
}

#[test]
fn errors_say_what_would_be_accepted() {
    let limit = |more: &str| format!("[[limits]] name = \"l\"; limit = 5; period = \"1s\"; {more}");
    let check = |more: &str, expected: &str| check_error(&limit(more), &format!("`limits[0].{expected}"));
    check_error("", "`limits` is missing or empty: a [[config.limits]] table is one limit");
    check_error("limits = 7", "`limits` is 7; accepted: a list of tables: [[config.limits]]");
    check(
        "colour = 1",
        "colour` is not a known key; accepted: name, algorithm, limit, period, burst, kind, channel, key, scope, \
         cost, action, missing, dry_run",
    );
    check("chanel = \"a\"", "chanel` is not a known key; the nearest is `channel`");
    check(
        "algorithm = \"bucket\"",
        "algorithm` is \"bucket\"; accepted: token-bucket, leaky-bucket, fixed-window, sliding-window",
    );
    check("scope = \"world\"; key = \"user\"", "scope` is \"world\"; accepted: node, cluster");
    check("scope = \"cluster\"", "scope` is \"cluster\", but a connection is on one node: add a `key`");
    check(
        "burst = 0",
        "burst` is 0; accepted: how much is admitted at once, from 1 to 4294967295, or a size such as \"64KiB\" \
         where `cost` is \"bytes\"",
    );
    check(
        "burst = 9; algorithm = \"fixed-window\"",
        "burst` belongs to token-bucket and leaky-bucket, not to fixed-window",
    );
    check(
        "kind = \"shout\"",
        "kind` has \"shout\"; accepted: publish, subscribe, unsubscribe, rpc, send, presence, presence-stats, \
         history, raw, sub-refresh",
    );
    check("kind = []", "kind` is an empty list; accepted: a text or a list of texts");
    check("channel = \"a b\"", "channel` has \"a b\"; accepted: channel names, with or without a last `*`");
    for key in ["ip", "payload.a..b"] {
        check(
            &format!("key = \"{key}\""),
            &format!("key` has \"{key}\"; accepted: connection, user, address, channel, kind, payload.FIELD"),
        );
    }
    check("cost = 0", "cost` is 0; accepted: a whole number from 1 to 4294967295, or \"bytes\"");
    check("cost = 6", "cost` is 6, but no more than 5 is ever admitted at once");
    check(
        "cost = \"bytes\"; algorithm = \"leaky-bucket\"",
        "cost` is in bytes, but only one is admitted at once: add a `burst`",
    );
    check("action = \"drop\"", "action` is \"drop\"; accepted: deny, disconnect");
    check("missing = true", "missing` is true; accepted: skip, deny");
    check("dry_run = 1", "dry_run` is 1; accepted: true or false");
    for period in ["1", "s", "0s", "50d", "1.5s", "1 s", "99999999999999999999s"] {
        check_error(
            &format!("[[limits]] name = \"l\"; limit = 5; period = \"{period}\""),
            &format!("`limits[0].period` is \"{period}\"; accepted: {PERIOD}"),
        );
    }
}

#[test]
fn all_errors_come_at_once() {
    check_error(
        "colour = 1
         [[limits]] name = \"\"; limit = 0; period = 3
         [[limits]] name = \"l\"; limit = 1; period = \"1s\"
         [[limits]] name = \"l\"; limit = 1; period = \"1s\"
         [[limits]]",
        &format!(
            "8 errors: `colour` is not a known key; accepted: limits; \
             `limits[0].name` is \"\"; accepted: a text of 1 to 64 bytes, under which what is used is kept; \
             `limits[0].limit` is 0; accepted: {PER_PERIOD}; \
             `limits[0].period` is 3; accepted: {PERIOD}; \
             `limits[2].name` is the same as `limits[1].name`; \
             `limits[3].name` is missing; accepted: a text of 1 to 64 bytes, under which what is used is kept; \
             `limits[3].limit` is missing; accepted: {PER_PERIOD}; \
             `limits[3].period` is missing; accepted: {PERIOD}"
        ),
    );
    let many = (0..65)
        .map(|n| format!("[[limits]] name = \"{n}\"; limit = 1; period = \"1s\"\n"))
        .collect::<String>();
    check_error(&many, "`limits` has 65 members: at most 64 are accepted");
}
