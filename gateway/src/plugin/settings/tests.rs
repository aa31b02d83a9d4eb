//! Settings files that are valid, and the errors of those that are not.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;

fn errors(file: &str) -> Vec<String> {
    let errors = Settings::parse(file.as_bytes()).unwrap_err();
    errors.iter().map(|error| format!("{}: {}", error.key, error.text)).collect()
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(Settings::parse(b"").unwrap(), Settings::default());
}

#[test]
fn every_key_is_taken_over() {
    let settings = Settings::parse(
        br#"
        failure = "open"
        breaker = { failures = 0, within = "1m", open_for = "100ms" }
        [config]
        secret = "s"
        since = 1979-05-27
        rates = [1, 2.5, { burst = 3 }]
        [grants]
        effects = ["subscribe", "publish", "publish"]
        buckets = true
        key-value = true
        http = ["https://Issuer.example", "http://[::1]:8080"]
        http-private = ["http://10.0.0.7:8080"]
        upstreams = ["orders"]
        environment = ["JWT_SECRET"]
        [limits]
        deadline = "20ms"
        configure_deadline = "2s"
        memory = "64MiB"
        effects_max = 7
        effect_bytes_max = "1MiB"
        log_lines_per_second = 0
        [state]
        entries_max = 16
        bytes_max = "1MiB"
        "#,
    )
    .unwrap();
    assert_eq!(settings.failure, FailurePolicy::Open);
    let (within, open_for) = (Duration::from_secs(60), Duration::from_millis(100));
    assert_eq!(settings.breaker, BreakerSettings { failures: 0, within, open_for });
    let config: serde_json::Value = serde_json::from_str(&settings.config).unwrap();
    assert_eq!(
        config,
        serde_json::json!({"secret": "s", "since": "1979-05-27", "rates": [1, 2.5, {"burst": 3}]})
    );
    assert_eq!(
        settings.grants,
        Grants {
            effects: ["publish", "subscribe"].into(),
            buckets: true,
            key_value: true,
            http_private: ["http://10.0.0.7:8080".into()].into(),
            http: ["https://issuer.example".into(), "http://[::1]:8080".into()].into(),
            upstreams: ["orders".into()].into(),
            environment: ["JWT_SECRET".into()].into(),
        }
    );
    assert_eq!(settings.state, Bounds { entries_max: 16, bytes_max: 1 << 20 });
    assert_eq!(
        settings.limits,
        Limits {
            deadline: Duration::from_millis(20),
            configure_deadline: Duration::from_secs(2),
            memory: 64 << 20,
            effects_max: 7,
            effect_bytes_max: 1 << 20,
            log_lines_per_second: 0,
        }
    );
}

#[test]
fn all_mistakes_come_at_once_and_say_what_would_be_accepted() {
    let file = r#"
        failure = "ajar"
        falure = "open"
        [config]
        ratio = inf
        [breaker]
        failures = -1
        within = "1h"
        after = 3
        [limits]
        deadline = 5
        memory = "1KiB"
        effects_max = -1
        fuel = 3
        [state]
        entries_max = 15
        bytes_max = 1000
        ttl = "1s"
        "#;
    assert_eq!(
        errors(file),
        [
            "config.ratio: is inf; expected a finite number",
            "limits.deadline: is 5; expected a text like \"5ms\" or \"1s\", from \"1ms\" to \"10s\"",
            "limits.memory: is \"1KiB\"; expected a text like \"64KiB\" or \"32MiB\", from \"1MiB\" to \"4GiB\"",
            "limits.effects_max: is -1; expected a number from 0 to 10000",
            "limits.fuel: is not a known key; accepted: deadline, configure_deadline, memory, effects_max, \
             effect_bytes_max, log_lines_per_second",
            "state.entries_max: is 15; expected a number from 16 to 100000000",
            "state.bytes_max: is 1000; expected a text like \"64KiB\" or \"32MiB\", from \"64KiB\" to \"64GiB\"",
            "state.ttl: is not a known key; accepted: entries_max, bytes_max",
            "failure: is \"ajar\"; expected \"closed\" or \"open\"",
            "breaker.failures: is -1; expected a number from 0 to 1000",
            "breaker.within: is \"1h\"; expected a text like \"5ms\" or \"1s\", from \"100ms\" to \"600s\"",
            "breaker.after: is not a known key; accepted: failures, within, open_for",
            "falure: is not a known key; the nearest is `failure`; accepted: [config], [grants], [limits], [state], [http], failure, \
             [breaker]; settings of the plugin itself belong under [config]",
        ]
    );
}

#[test]
fn a_capability_that_cannot_be_granted_is_answered_with_those_that_can() {
    let file = r#"
        [grants]
        effects = ["fly", 7, "set-payload", "emit"]
        buckets = "yes"
        http = ["issuer.example", "ftp://a.example", "https://a.example/path", "https://a.example:443", "https://*.example"]
        upstreams = "orders"
        environment = ["1ST", "A B"]
        sockets = true
        "#;
    let shape = "a scheme, a host and maybe a port such as \"https://app.example:8443\", nothing after it";
    let variable = "the name of an environment variable: letters, digits and `_`, no digit first";
    assert_eq!(
        errors(file),
        [
            "grants.effects[0]: is \"fly\"; expected one of \"publish\", \"subscribe\", \"unsubscribe\", \
             \"disconnect\", \"refresh\", \"set-attribute\"",
            "grants.effects[1]: is 7; expected a text",
            "grants.effects[2]: is \"set-payload\"; expected nothing: set-payload is a part of answering and needs no grant",
            "grants.effects[3]: is \"emit\"; expected upstreams = [\"NAME\"] instead: what is emitted is granted by upstream",
            &format!("grants.http[0]: is \"issuer.example\"; expected {shape}"),
            "grants.http[1]: is \"ftp://a.example\"; expected an origin that begins with https:// or http://",
            &format!("grants.http[2]: is \"https://a.example/path\"; expected {shape}"),
            "grants.http[3]: is \"https://a.example:443\"; expected the origin without its default port, as browsers send it",
            "grants.http[4]: is \"https://*.example\"; expected every origin written out: a pattern would also match hosts \
             of others",
            "grants.upstreams: is \"orders\"; expected a list of texts",
            &format!("grants.environment[0]: is \"1ST\"; expected {variable}"),
            &format!("grants.environment[1]: is \"A B\"; expected {variable}"),
            "grants.buckets: is \"yes\"; expected true or false",
            "grants.sockets: is not a known key; the nearest is `buckets`; accepted: effects, buckets, key-value, http, \
             http-private, upstreams, environment",
        ]
    );
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    assert!(errors("a = 1\n[limits\n")[0].starts_with(": is not TOML: line 2, column 8: "));
    assert_eq!(Settings::parse(b"\xff").unwrap_err().to_string(), "is not UTF-8 text; expected TOML");
    assert_eq!(errors("limits = 3"), ["limits: is 3; expected a table [limits]"]);
}
