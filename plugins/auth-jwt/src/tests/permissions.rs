//! Permissions from claims: given with the token, looked up with each message.

use gateway_plugin_sdk::kit::Outcome;

use super::*;

fn permitting(otherwise: &str) -> Kit<AuthJwt> {
    kit_with(json!({
        "secret": SECRET, "permissions": "claims", "permissions_otherwise": otherwise,
        "permission_claims": {"history": "/caps/history"},
    }))
}

/// Connects as a user whose token has these claims beside the usual ones.
#[track_caller]
fn connect(kit: &mut Kit<AuthJwt>, user: &str, claims: &Value) -> Outcome<Connect> {
    let mut all = json!({"sub": user, "exp": NOW + 60});
    all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
    kit.connection("c1").connect(&token(&all)).send()
}

fn ask(kit: &mut Kit<AuthJwt>, kind: Kind, channel: &str) -> Verdict {
    kit.connection("c1").message(kind).channel(channel).send().verdict
}

fn denied() -> Verdict {
    Verdict::deny(103, "permission denied")
}

#[test]
fn each_claim_permits_its_own_kind() {
    let mut kit = permitting("deny");
    connect(
        &mut kit,
        "42",
        &json!({
            "subscribe": ["news", "chat:*"], "publish": ["chat:1"], "presence": ["chat:*"], "caps": {"history": ["news"]},
        }),
    );
    for (kind, allowed, refused) in [
        (Kind::Subscribe, vec!["news", "chat:1", "chat:"], vec!["news2", "chat", "#42"]),
        (Kind::Publish, vec!["chat:1"], vec!["chat:2", "news", "chat:11"]),
        (Kind::Presence, vec!["chat:2"], vec!["news"]),
        (Kind::PresenceStats, vec!["chat:2"], vec!["news"]),
        (Kind::History, vec!["news"], vec!["chat:1"]),
    ] {
        for channel in allowed {
            assert_eq!(ask(&mut kit, kind, channel), Verdict::allow(), "{kind} {channel}");
        }
        for channel in refused {
            assert_eq!(ask(&mut kit, kind, channel), denied(), "{kind} {channel}");
        }
    }
}

#[test]
fn what_is_not_permitted_may_be_left_to_others() {
    let mut kit = permitting("next");
    connect(&mut kit, "42", &json!({"publish": ["chat:1"]}));
    assert_eq!(ask(&mut kit, Kind::Publish, "chat:1"), Verdict::allow());
    assert_eq!(ask(&mut kit, Kind::Publish, "chat:2"), Verdict::next());
    assert_eq!(ask(&mut kit, Kind::Subscribe, "chat:1"), Verdict::next());
}

#[test]
fn whoever_has_no_token_has_no_permissions() {
    assert_eq!(ask(&mut permitting("deny"), Kind::Subscribe, "news"), denied());
    assert_eq!(ask(&mut permitting("next"), Kind::Subscribe, "news"), Verdict::next());
}

#[test]
fn other_kinds_and_payloads_do_not_reach_the_plugin() {
    let mut kit = permitting("deny");
    for kind in [Kind::Unsubscribe, Kind::Rpc, Kind::Send, Kind::Raw] {
        assert!(!kit.connection("c1").message(kind).channel("news").send().called, "{kind}");
    }
    assert!(!kit.interests().wants_payload());
    let mut kit = self::kit();
    for kind in Kind::ALL {
        assert!(!kit.connection("c1").message(kind).channel("news").send().called, "{kind}");
    }
}

#[test]
fn a_new_token_takes_back_what_the_one_before_permitted() {
    let mut kit = permitting("deny");
    connect(&mut kit, "42", &json!({"publish": ["*"], "subscribe": ["*"]}));
    assert_eq!(ask(&mut kit, Kind::Publish, "news"), Verdict::allow());
    connect(&mut kit, "42", &json!({"subscribe": ["*"]}));
    assert_eq!(ask(&mut kit, Kind::Publish, "news"), denied());
    assert_eq!(ask(&mut kit, Kind::Subscribe, "news"), Verdict::allow());
}

#[test]
fn a_pattern_may_name_the_user() {
    let mut kit = permitting("deny");
    connect(&mut kit, "42", &json!({"subscribe": ["inbox:{user}", "files:{user}:*", "#{user}"]}));
    for (channel, verdict) in [
        ("inbox:42", Verdict::allow()),
        ("files:42:a", Verdict::allow()),
        ("#42", Verdict::allow()),
        ("inbox:4", denied()),
        ("inbox:421", denied()),
        ("files:421:a", denied()),
        ("inbox:{user}", denied()),
    ] {
        assert_eq!(ask(&mut kit, Kind::Subscribe, channel), verdict, "{channel}");
    }
}

#[test]
fn a_user_cannot_widen_a_pattern_with_a_name() {
    for user in ["*", "", "4*", "a b", "42 secret", "{user}", "Zoë"] {
        let mut kit = permitting("deny");
        let outcome = connect(&mut kit, user, &json!({"subscribe": ["inbox:{user}", "news"]}));
        assert!(matches!(outcome.verdict, Connect::Accept(_)), "{user:?}: {}", outcome.logged());
        for channel in ["inbox:1", "inbox:", "inbox:4", "inbox:42", "secret"] {
            assert_eq!(ask(&mut kit, Kind::Subscribe, channel), denied(), "{user:?} {channel}");
        }
        assert_eq!(ask(&mut kit, Kind::Subscribe, "news"), Verdict::allow());
    }
}

#[test]
fn a_star_means_channels_and_addresses_are_named_as_such() {
    let mut kit = permitting("deny");
    connect(
        &mut kit,
        "42",
        &json!({"subscribe": ["*"], "publish": ["*", "#team-*"], "caps": {"history": ["#ann"]}}),
    );
    for (kind, channel, verdict) in [
        (Kind::Subscribe, "news", Verdict::allow()),
        (Kind::Subscribe, "#ann", denied()),
        (Kind::Subscribe, "#42", denied()),
        (Kind::Subscribe, "@c2", denied()),
        (Kind::Publish, "chat:1", Verdict::allow()),
        (Kind::Publish, "#ann", denied()),
        (Kind::Publish, "@c2", denied()),
        (Kind::Publish, "#team-a", Verdict::allow()),
        (Kind::History, "#ann", Verdict::allow()),
        (Kind::History, "#bob", denied()),
    ] {
        assert_eq!(ask(&mut kit, kind, channel), verdict, "{kind} {channel}");
    }
}

#[test]
fn a_user_cannot_make_an_address_of_a_channel() {
    for user in ["#ann", "@c1", "#"] {
        let mut kit = permitting("deny");
        connect(&mut kit, user, &json!({"subscribe": ["{user}", "{user}*", "inbox:{user}"]}));
        for channel in ["#ann", "#ann2", "@c1", "#x"] {
            assert_eq!(ask(&mut kit, Kind::Subscribe, channel), denied(), "{user} {channel}");
        }
        assert_eq!(ask(&mut kit, Kind::Subscribe, &format!("inbox:{user}")), Verdict::allow());
    }
}

#[test]
fn claims_hold_lists_of_patterns() {
    let long: Vec<String> = (0..20).map(|number| format!("{number}{}", "x".repeat(200))).collect();
    for (value, why) in [
        (json!("*"), "claim `publish` has the wrong type or a value out of range"),
        (json!({"*": true}), "claim `publish` has the wrong type or a value out of range"),
        (json!([["*"]]), "claim `publish` has the wrong type or a value out of range"),
        (json!(["news", 1]), "claim `publish` has the wrong type or a value out of range"),
        (json!(null), "claim `publish` has the wrong type or a value out of range"),
        (json!([""]), "claim `publish` holds a text that is no channel pattern"),
        (json!(["a*b"]), "claim `publish` holds a text that is no channel pattern"),
        (json!(["#a b"]), "claim `publish` holds a text that is no channel pattern"),
        (json!(["a b"]), "claim `publish` holds a text that is no channel pattern"),
        (json!(["{users}"]), "claim `publish` holds a text that is no channel pattern"),
        (json!(vec!["a"; 65]), "claim `publish` has more than 64 channel patterns"),
        (json!(long), "claim `publish` is longer than 2048 bytes"),
    ] {
        let outcome = connect(&mut permitting("deny"), "42", &json!({"publish": value}));
        assert_eq!(outcome.verdict, Connect::refuse(3500, "invalid token"), "{value}");
        assert_eq!(outcome.logged(), format!("token refused: {why}"));
    }
}
