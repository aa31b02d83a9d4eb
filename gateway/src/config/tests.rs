//! Configurations that are valid, and the errors of those that are not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::egress::Url;

/// The leaves of the shipped file, as `table.key`.
fn shipped_keys() -> BTreeSet<String> {
    let tables: toml::Table = DEFAULTS.parse().unwrap();
    let mut keys = BTreeSet::new();
    for (name, table) in &tables {
        leaves(name, table.as_table().unwrap(), &mut keys);
    }
    keys
}

fn leaves(path: &str, table: &toml::Table, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{path}.{key}");
        match value.as_table() {
            Some(table) => leaves(&path, table, keys),
            None => _ = keys.insert(path),
        }
    }
}

#[test]
fn the_shipped_file_has_exactly_the_keys_that_are_read() {
    let (_, read) = resolve::resolve("", "default.toml", Path::new(""), &|_| None).unwrap();
    assert_eq!(read, shipped_keys());
}

#[test]
fn the_shipped_file_explains_every_key() {
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for (before, line) in lines.iter().zip(&lines[1..]) {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(before.starts_with("# "), "{line}");
        }
    }
}

#[test]
fn the_shipped_file_is_closed_to_everybody() {
    let config = Config::default();
    assert!(config.listen.address.ip().is_loopback());
    assert!(config.admin.address.unwrap().ip().is_loopback());
    assert_eq!(config.admin.api_key, None);
    assert_eq!(config.handshake.origins, Origins::Listed(vec![]));
    assert!(!config.client.anonymous && !config.raw.enabled && !config.compression.enabled);
    assert!(config.namespaces.named.is_empty());
    let rules = &config.namespaces.default;
    for access in [rules.allow_subscribe, rules.allow_publish, rules.allow_history, rules.allow_presence] {
        assert_eq!(access, Access::Nobody);
    }
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn every_key_reaches_its_own_field() {
    let text = r#"
        [listen]
        address = "[::1]:9000"
        workers = 3
        trusted_proxies = ["10.0.0.0/8", "::ffff:192.0.2.7"]
        client_address_from = ["forwarded"]
        [listen.tls]
        certificates = [{ certificate = "/etc/a.pem", key = "a.key" }, { certificate = "b.pem", key = "b.key" }]
        client_ca = "clients.pem"
        client_certificate = "optional"
        min_version = "1.3"
        http2 = false
        [admin]
        address = ""
        api_key = "key-of-the-api"
        metrics_need_key = true
        [admin.tls]
        certificates = [{ certificate = "c.pem", key = "c.key" }]
        client_ca = "operators.pem"
        client_certificate = "required"
        [handshake]
        origins = ["https://App.example", "http://localhost:3000"]
        deadline = "11s"
        head_deadline = "4s"
        header_bytes_max = "12KiB"
        headers_kept = ["User-Agent", "x-forwarded-for"]
        [limits]
        connections_max = 13
        connections_per_address_max = 14
        handshakes_max = 15
        handshakes_per_address_max = 8
        connection_rate = 101
        connection_burst = 102
        connection_rate_per_address = 103
        connection_burst_per_address = 104
        message_bytes_max = "16KiB"
        publication_bytes_max = "18KiB"
        commands_per_message_max = 17
        outbound_bytes_max = "180KiB"
        write_timeout = "19s"
        channels_per_connection_max = 20
        [client]
        anonymous = true
        personal_channel = true
        personal_channel_namespace = "inbox"
        ping_interval = "21s"
        pong_timeout = "2200ms"
        expiry_grace = "0s"
        subscription_expiry_grace = "23s"
        history_publications_max = 24
        [fallbacks]
        enabled = false
        [unidirectional]
        enabled = true
        [compression]
        enabled = true
        min_bytes = "48B"
        level = 9
        [raw]
        enabled = true
        token_in_first_message = true
        [channel]
        history_size = 25
        history_ttl = "26h"
        idempotency_ttl = "45s"
        [namespaces.chat]
        history_size = 27
        idempotency_ttl = "46s"
        recovery = true
        recovery_mode = "cache"
        latest_on_subscribe = true
        presence = true
        join_leave = true
        force_push_join_leave = true
        tag_filter = true
        delta = true
        wildcards = true
        client_certificate = true
        events = ["subscribed", "vacated"]
        allow_subscribe = "users"
        allow_publish = "subscribers"
        allow_history = "anyone"
        allow_presence = "users"
        ask_subscribe = "orders"
        ask_sub_refresh = "orders"
        ask_publish = "orders"
        ask_failure = "open"
        [namespaces.inbox]
        [memory]
        channels_max = 28
        patterns_max = 31
        unsubscribed_channels_max = 29
        inbox_deliveries_max = 2048
        inbox_bytes_max = "44MiB"
        outbound_bytes_max = "45MiB"
        history_bytes_max = "30MiB"
        idempotency_keys_max = 43
        revocations_max = 44
        [plugins]
        folder = "/srv/rules"
        state_folder = "/srv/state"
        on_removal = "keep"
        required = ["auth-jwt"]
        check_owner = false
        watch = "poll"
        compile_timeout = "33s"
        compile_bytes_max = "47MiB"
        max = 34
        [upstreams.orders]
        targets = [{ url = "https://a.example/orders", weight = 43 }, { url = "https://b.example" }]
        ask_timeout = "44s"
        asks_in_flight_max = 45
        asks_waiting_max = 46
        ask_answer_bytes_max = "47KiB"
        ask_retries = 4
        breaker_failures = 48
        breaker_pause = "49s"
        health_path = "/health"
        health_interval = "50s"
        shadow = "https://shadow.example"
        shadow_share = 51
        timeout = "34s"
        retries = 3
        retry_pause_min = "36ms"
        retry_pause_max = "37s"
        in_flight_max = 38
        queue_events_max = 39
        queue_bytes_max = "40MiB"
        dead_letter = "dead.jsonl"
        dead_letter_bytes_max = "42MiB"
        batch_events_max = 48
        batch_bytes_max = "49KiB"
        batch_wait = "50ms"
        spool_bytes_max = "51MiB"
        [events]
        upstream = "orders"
        connected = false
        disconnected = false
        vacated_delay = "47s"
        [ask]
        connect = "orders"
        refresh = "orders"
        rpc = "orders"
        send = "orders"
        message = "orders"
        headers = ["USER-AGENT"]
        failure = "closed"
        [explain]
        sample = 34
        kept = 35
        reply = true
        [drain]
        delay = '31s'
        deadline = "32s"
        closes_per_second = 33
        [log]
        format = "json"
        filter = "warn,gateway=debug"
        users = "hashed"
    "#;
    let shipped = Config::default().namespaces.default;
    let files =
        |certificate: &str, key: &str| CertificateFiles { certificate: certificate.into(), key: key.into() };
    let mut expected = Config {
        listen: Listen {
            address: "[::1]:9000".parse().unwrap(),
            workers: 3,
            proxies: Proxies {
                networks: ["10.0.0.0/8", "192.0.2.7/32"].map(|network| network.parse().unwrap()).into(),
                tell: [Tell::Forwarded].into(),
            },
            tls: Some(Tls {
                certificates: vec![files("/etc/a.pem", "a.key"), files("b.pem", "b.key")],
                client_certificates: ClientCertificates::Optional { authority: "clients.pem".into() },
                min_version: TlsVersion::V13,
                http2: false,
            }),
        },
        admin: Admin {
            address: None,
            api_key: Some(Secret::new("key-of-the-api")),
            metrics_need_key: true,
            tls: Some(Tls {
                certificates: vec![files("c.pem", "c.key")],
                client_certificates: ClientCertificates::Required { authority: "operators.pem".into() },
                min_version: TlsVersion::V12,
                http2: false,
            }),
        },
        handshake: Handshake {
            origins: Origins::Listed(vec!["https://app.example".into(), "http://localhost:3000".into()]),
            deadline: Duration::from_secs(11),
            head_deadline: Duration::from_secs(4),
            header_bytes_max: 12 << 10,
            headers_kept: vec!["user-agent".into(), "x-forwarded-for".into()],
        },
        limits: Limits {
            connections_max: 13,
            connections_per_address_max: 14,
            handshakes_max: 15,
            handshakes_per_address_max: 8,
            connection_rate: Rate { per_second: 101, burst: 102 },
            connection_rate_per_address: Rate { per_second: 103, burst: 104 },
            message_bytes_max: 16 << 10,
            publication_bytes_max: 18 << 10,
            commands_per_message_max: 17,
            outbound_bytes_max: 180 << 10,
            write_timeout: Duration::from_secs(19),
            channels_per_connection_max: 20,
        },
        client: Client {
            anonymous: true,
            personal_channel: PersonalChannel::Namespace("inbox".into()),
            ping_interval: Duration::from_secs(21),
            pong_timeout: Duration::from_millis(2200),
            expiry_grace: Duration::ZERO,
            subscription_expiry_grace: Duration::from_secs(23),
            history_publications_max: 24,
        },
        fallbacks: Fallbacks { enabled: false },
        unidirectional: Unidirectional { enabled: true },
        compression: Compression { enabled: true, min_bytes: 48, level: 9 },
        raw: Raw { enabled: true, token_in_first_message: true },
        namespaces: Namespaces {
            default: Arc::new(Namespace {
                history_size: 25,
                history_ttl: Duration::from_secs(26 * 3600),
                idempotency_ttl: Duration::from_secs(45),
                ..Namespace::clone(&shipped)
            }),
            named: HashMap::from([(
                "chat".into(),
                Arc::new(Namespace {
                    history_size: 27,
                    // This must not be the value of `[channel]` above.
                    history_ttl: shipped.history_ttl,
                    min_replicas: 0,
                    idempotency_ttl: Duration::from_secs(46),
                    recovery: true,
                    recovery_mode: RecoveryMode::Cache,
                    latest_on_subscribe: true,
                    presence: true,
                    join_leave: true,
                    force_push_join_leave: true,
                    tag_filter: true,
                    delta: true,
                    wildcards: true,
                    client_certificate: true,
                    events: ChannelEvents { subscribed: true, vacated: true, ..ChannelEvents::default() },
                    allow_subscribe: Access::Users,
                    allow_publish: Access::Subscribers,
                    allow_history: Access::Anyone,
                    allow_presence: Access::Users,
                    ask: ChannelAsk {
                        subscribe: Some("orders".into()),
                        sub_refresh: Some("orders".into()),
                        publish: Some("orders".into()),
                        failure: AskFailure::Open,
                    },
                }),
            )]),
        },
        memory: Memory {
            channels_max: 28,
            patterns_max: 31,
            unsubscribed_channels_max: 29,
            inbox_deliveries_max: 2048,
            inbox_bytes_max: 44 << 20,
            outbound_bytes_max: 45 << 20,
            history_bytes_max: 30 << 20,
            idempotency_keys_max: 43,
            revocations_max: 44,
        },
        redis: None,
        plugins: Plugins {
            folder: "/srv/rules".into(),
            state_folder: Some("/srv/state".into()),
            on_removal: OnRemoval::Keep,
            required: ["auth-jwt".into()].into(),
            check_owner: false,
            watch: Watch::Poll,
            compile_timeout: Duration::from_secs(33),
            compile_bytes_max: 47 << 20,
            max: 34,
        },
        upstreams: BTreeMap::from([(
            "orders".into(),
            Upstream {
                targets: [("https://a.example/orders", 43), ("https://b.example", 1)]
                    .map(|(url, weight)| UpstreamTarget { url: Url::parse(url).unwrap(), weight })
                    .into(),
                asks: Asks {
                    timeout: Duration::from_secs(44),
                    in_flight_max: 45,
                    waiting_max: 46,
                    answer_bytes_max: 47 << 10,
                    retries: 4,
                },
                breaker: TargetBreaker { failures: 48, pause: Duration::from_secs(49) },
                health: Some(Health { path: "/health".into(), interval: Duration::from_secs(50) }),
                shadow: Some(Shadow { url: Url::parse("https://shadow.example").unwrap(), share: 51 }),
                secret: None,
                timeout: Duration::from_secs(34),
                retries: 3,
                retry_pause_min: Duration::from_millis(36),
                retry_pause_max: Duration::from_secs(37),
                in_flight_max: 38,
                queue_events_max: 39,
                queue_bytes_max: 40 << 20,
                dead_letter: Some("dead.jsonl".into()),
                dead_letter_bytes_max: 42 << 20,
                batch_events_max: 48,
                batch_bytes_max: 49 << 10,
                batch_wait: Duration::from_millis(50),
                spool_bytes_max: 51 << 20,
            },
        )]),
        ask: Ask {
            connect: Some("orders".into()),
            refresh: Some("orders".into()),
            rpc: Some("orders".into()),
            send: Some("orders".into()),
            message: Some("orders".into()),
            headers: vec!["user-agent".into()],
            failure: AskFailure::Closed,
            channels: true,
        },
        events: Events {
            upstream: Some("orders".into()),
            connected: false,
            disconnected: false,
            vacated_delay: Duration::from_secs(47),
        },
        consumers: BTreeMap::new(),
        explain: Explain { sample: 34, kept: 35, reply: true },
        drain: Drain {
            delay: Duration::from_secs(31),
            deadline: Duration::from_secs(32),
            closes_per_second: 33,
        },
        log: Log {
            format: LogFormat::Json,
            filter: "warn,gateway=debug".to_owned(),
            users: LogUsers::Hashed,
        },
    };
    expected.namespaces.named.insert("inbox".into(), shipped);
    assert_eq!(Config::parse(text, "a.toml"), Ok(expected));
}

/// Every `golden/NAME.toml` is refused with exactly the lines of `golden/NAME.txt`.
#[test]
fn invalid_files_are_refused_with_the_messages_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/golden");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_name().unwrap().to_str().unwrap();
            let errors = Config::parse(&fs::read_to_string(&path).unwrap(), name).expect_err(name);
            let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
            assert_eq!(format!("{errors}\n"), expected, "{name}");
            count += errors.errors().len();
        }
    }
    assert!(count >= 60, "only {count} errors were looked at");
}

#[test]
fn a_key_in_the_environment_wins_over_the_file() {
    let with = |text, value: Option<&str>| {
        let environment = |name: &str| value.filter(|_| name == API_KEY_VARIABLE).map(str::to_owned);
        resolve::resolve(text, "a.toml", Path::new(""), &environment).map(|(config, _)| config.admin.api_key)
    };
    let file = "admin.api_key = \"from-the-file\"";
    assert_eq!(with(file, Some("from-outside")), Ok(Some(Secret::new("from-outside"))));
    assert_eq!(with(file, None), Ok(Some(Secret::new("from-the-file"))));
    assert_eq!(with("", Some("from-outside")), Ok(Some(Secret::new("from-outside"))));
    assert!(with("admin.address = \"0.0.0.0:1\"", Some("from-outside")).is_ok());
    for wrong in ["", "short", "with a space"] {
        let errors = with(file, Some(wrong)).unwrap_err().to_string();
        assert!(errors.starts_with("GATEWAY_ADMIN_API_KEY: admin.api_key: found a text of"), "{errors}");
        assert!(wrong.is_empty() || !errors.contains(wrong), "{errors}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let config = Config::parse("admin.api_key = \"correct-horse\"", "a.toml").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("***") && !shown.contains("correct-horse"), "{shown}");
}

#[test]
fn a_channel_has_the_rules_of_its_namespace() {
    let text = "[namespaces.chat]\nhistory_size = 7";
    let namespaces = Config::parse(text, "a.toml").unwrap().namespaces;
    let size = |name| namespaces.of(&Channel::parse(name).unwrap()).map(|rules| rules.history_size);
    assert_eq!(size("chat:lobby"), Some(7));
    assert_eq!(size("chat:"), Some(7));
    assert_eq!(size("news"), Some(0));
    assert_eq!(size("other:lobby"), None);
    assert_eq!(size("#chat:42"), Some(0), "the id of a user is no namespace");
    assert_eq!(size("@chat:1"), Some(0));
}

#[test]
fn a_file_is_read_from_its_place() {
    let folder = std::env::temp_dir().join(format!("gateway-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let relative = Config::load(&write("relative.toml", b"plugins.folder = \"rules\"")).unwrap();
    assert_eq!(relative.plugins.folder, folder.join("rules"));
    assert_eq!(relative.plugins.state_folder(), folder.join(".rules.state"));
    let state = Config::load(&write("state.toml", b"plugins.state_folder = \"state\"")).unwrap();
    assert_eq!(state.plugins.state_folder(), folder.join("state"));
    let absolute = Config::load(&write("absolute.toml", b"plugins.folder = \"/srv/rules\"")).unwrap();
    assert_eq!(absolute.plugins.folder, Path::new("/srv/rules"));

    let message = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert!(message(&folder.join("missing.toml")).contains("missing.toml: cannot be read: "));
    assert!(message(&write("latin1.toml", b"# \xe4")).ends_with("is not UTF-8 text: save it as UTF-8"));
    assert!(message(&write("large.toml", &vec![b'#'; 2 << 20])).contains("larger than 1 MiB"));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_open_on_purpose_is_warned_about() {
    for (text, word) in [
        ("handshake.origins = [\"*\"]", "handshake.origins"),
        ("admin = { address = \"0.0.0.0:8001\", api_key = \"correct-horse\" }", "admin.address"),
        ("client.anonymous = true\nraw.enabled = true", "client.anonymous"),
        ("listen.trusted_proxies = ['10.0.0.0/8', '::/0']", "trusted_proxies has ::/0"),
    ] {
        let warnings = Config::parse(text, "a.toml").unwrap().warnings();
        assert!(matches!(&warnings[..], [one] if one.contains(word)), "{warnings:?}");
    }
}

#[test]
fn the_secret_of_an_upstream_comes_from_elsewhere_and_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let environment = |name: &str| match name {
        "KEY" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        "SHORT" => Some("correct-horse".to_owned()),
        "PADDED" => Some("correct-horse00000000000000".to_owned()),
        "BARE" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAB".to_owned()),
        "BROKEN" => Some("whsec_correct*horse*battery*staple".to_owned()),
        _ => None,
    };
    let with = |secret: &str| {
        let text = format!("[upstreams.a]\nurl = 'http://a.example'\nsecret = '{secret}'");
        let resolved = resolve::resolve(&text, "a.toml", folder.path(), &environment);
        resolved.map(|(config, _)| config.upstreams["a"].secret.clone().unwrap())
    };
    assert_eq!(with("env:KEY").unwrap().bytes()[..3], [0x31, 0xf2, 0x90], "decoded");
    assert_eq!(with("env:BARE").unwrap().bytes().len(), 25, "without `==`, and with bits that mean nothing");
    assert_eq!(
        with("file:key").unwrap().bytes(),
        b"0123456789abcdef0123456789abcdef",
        "without the line end"
    );
    assert_eq!(format!("{:?}", with("env:KEY").unwrap()), "***");
    for (secret, word) in [
        ("env:NONE", "NONE, which is not set"),
        ("env:SHORT", "13 bytes"),
        ("env:PADDED", "13 bytes without padding and repetition"),
        ("env:BROKEN", "base64"),
        ("file:missing", "cannot be read"),
        ("correct-horse-battery-staple", "a secret in the file"),
    ] {
        let text = with(secret).unwrap_err().to_string();
        assert!(text.contains(word) && !text.contains("horse"), "{text}");
    }
}
