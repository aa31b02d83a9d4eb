//! `resolve` maps each key to its field and rejects values that conflict with each other.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use gateway_plugin_grammar::name::plugin_name;
use toml::Spanned;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::ask;
use super::error::{ConfigError, ConfigErrors};
use super::origin;
use super::proxies;
use super::read::{Document, Invalid, Section, found};
use super::*;

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
const CONNECTIONS_MAX: u64 = 10_000_000;
const RATE_MAX: u64 = 1_000_000;
const HEADERS_KEPT_MAX: usize = 32;
const NAMESPACE_NAME_BYTES_MAX: usize = 64;
const REQUIRED_MAX: usize = 256;

/// Reads a text over the defaults, with paths relative to `folder`; also returns the keys that were read.
pub(super) fn resolve(
    text: &str,
    origin: &str,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, BTreeSet<String>), ConfigErrors> {
    let document = Document::parse(origin, text, DEFAULTS)?;
    let listen = listen(&document, folder);
    let limits = limits(&document);
    let upstreams = upstream::upstreams(&document, folder, environment);
    let events = events::events(&document, &upstreams);
    let namespaces = namespaces(&document, &listen, &upstreams, events.upstream.is_some());
    let handshake = handshake(&document);
    let ask = ask::ask(&document, &upstreams, &handshake, &namespaces);
    let config = Config {
        admin: admin(&document, &listen, folder, environment),
        listen,
        handshake,
        limits,
        client: client(&document, &namespaces),
        compression: compression(&document),
        fallbacks: Fallbacks { enabled: enabled(&document, "fallbacks") },
        unidirectional: Unidirectional { enabled: enabled(&document, "unidirectional") },
        raw: raw(&document),
        redis: redis::redis(&document, &namespaces, folder, environment),
        namespaces,
        memory: memory(&document),
        plugins: plugins(&document),
        events,
        upstreams,
        ask,
        consumers: consumer::consumers(&document, folder, environment),
        explain: explain(&document),
        drain: drain(&document),
        log: log(&document),
    };
    let read = document.finish()?;
    Ok((config, read))
}

fn listen(document: &Document<'_>, folder: &Path) -> Listen {
    let section = document.section("listen");
    let address = section.simple("address", &ADDRESS, |value| value.as_str()?.parse().ok());
    let workers = match section.count("workers", 0..=WORKERS_MAX as u64) {
        0 => available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX)),
        workers => workers,
    };
    let proxies = proxies::proxies(&section);
    let tls = tls::tls(&section, "listen.tls", folder);
    section.finish();
    Listen { address, workers, proxies, tls }
}

const ADDRESS: &str = r#"an IP address and a port such as "127.0.0.1:8000" or "[::]:8000""#;
const API_KEY: &str = "8 to 256 visible ASCII characters, or nothing";

fn admin(
    document: &Document<'_>,
    listen: &Listen,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Admin {
    let section = document.section("admin");
    let address =
        section.simple("address", &format!("{ADDRESS}, or \"\""), |value| match value.as_str()? {
            "" => Some(None),
            text => text.parse::<SocketAddr>().ok().map(Some),
        });
    let in_file = section.value("api_key", |value| {
        // A mistyped key is still a secret: the message must not repeat it.
        let found =
            || value.get_ref().as_str().map_or_else(|| "something that is no text".to_owned(), secret_found);
        let invalid = || vec![Invalid { span: None, found: found(), accepted: API_KEY.to_owned() }];
        value.get_ref().as_str().and_then(api_key).ok_or_else(invalid)
    });
    let from_environment = environment(API_KEY_VARIABLE).map(|text| {
        api_key(&text).flatten().or_else(|| {
            document.external(ConfigError {
                origin: API_KEY_VARIABLE.to_owned(),
                position: None,
                key: Some("admin.api_key".to_owned()),
                message: format!("found {}; accepted: {API_KEY} by unsetting it", secret_found(&text)),
            });
            None
        })
    });
    let api_key = from_environment.unwrap_or(in_file);
    let metrics_need_key = section.flag("metrics_need_key");
    if metrics_need_key && api_key.is_none() {
        let accepted = format!("false, or this one together with `admin.api_key` or {API_KEY_VARIABLE}");
        section.conflict(&["metrics_need_key", "api_key"], "true without a key", &accepted);
    }
    if let Some(address) = address {
        if !address.ip().is_loopback() && api_key.is_none() {
            let accepted = format!(
                "an address such as \"127.0.0.1:8001\", or this one together with `admin.api_key` or {API_KEY_VARIABLE}"
            );
            section.conflict(
                &["address", "api_key"],
                &format!("\"{address}\", which other machines reach, without a key"),
                &accepted,
            );
        }
        if address == listen.address && address.port() != 0 {
            section.conflict(
                &["address"],
                &format!("\"{address}\", which `listen.address` has too"),
                "another port",
            );
        }
    }
    let tls = tls::tls(&section, "admin.tls", folder);
    section.finish();
    Admin { address, api_key, metrics_need_key, tls }
}

/// `Some(None)` for no key, `None` for an invalid one.
fn api_key(text: &str) -> Option<Option<Secret>> {
    match text.len() {
        0 => Some(None),
        8..=256 if text.bytes().all(|b| b.is_ascii_graphic()) => Some(Some(Secret::new(text))),
        _ => None,
    }
}

fn secret_found(text: &str) -> String {
    format!("a text of {} characters", text.chars().count())
}

fn handshake(document: &Document<'_>) -> Handshake {
    let section = document.section("handshake");
    let deadline = section.duration("deadline", 100..=5 * MINUTE);
    let handshake = Handshake {
        origins: section.value("origins", origin::list),
        deadline,
        head_deadline: section.duration("head_deadline", 100..=5 * MINUTE).min(deadline),
        header_bytes_max: section.size("header_bytes_max", 8 * KIB..=256 * KIB),
        headers_kept: section.value("headers_kept", |value| {
            let accepted =
                format!("a list of at most {HEADERS_KEPT_MAX} names of headers such as [\"user-agent\"], none of which begins with `{CERTIFICATE_HEADERS}`");
            let invalid = |span, found| Invalid { span, found, accepted: accepted.clone() };
            let Some(list) = value.get_ref().as_array() else {
                return Err(vec![invalid(None, found(value.get_ref()))]);
            };
            if list.len() > HEADERS_KEPT_MAX {
                return Err(vec![invalid(None, format!("{} names", list.len()))]);
            }
            let name = |entry: &toml::Spanned<toml::de::DeValue<'_>>| {
                let name = entry.get_ref().as_str().filter(|name| is_header_name(name));
                let name = name.filter(|name| !is_of_certificate(name));
                let invalid = || invalid(Some(entry.span()), found(entry.get_ref()));
                name.map(|name| name.to_ascii_lowercase().into_boxed_str()).ok_or_else(invalid)
            };
            all(list.iter().map(name))
        }),
    };
    section.finish();
    handshake
}

/// Whether plugins find something about a client's certificate under this name, never what a request says.
fn is_of_certificate(name: &str) -> bool {
    let head = name.as_bytes().get(..CERTIFICATE_HEADERS.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(CERTIFICATE_HEADERS.as_bytes()))
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// All values, or all errors.
pub(super) fn all<T>(results: impl Iterator<Item = Result<T, Invalid>>) -> Result<Vec<T>, Vec<Invalid>> {
    let (mut values, mut invalids) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(invalid) => invalids.push(invalid),
        }
    }
    if invalids.is_empty() { Ok(values) } else { Err(invalids) }
}

fn limits(document: &Document<'_>) -> Limits {
    let section = document.section("limits");
    let mut limits = Limits {
        connections_max: section.count("connections_max", 1..=CONNECTIONS_MAX),
        connections_per_address_max: section.count("connections_per_address_max", 1..=CONNECTIONS_MAX),
        handshakes_max: section.count("handshakes_max", 1..=CONNECTIONS_MAX),
        handshakes_per_address_max: section.count("handshakes_per_address_max", 1..=CONNECTIONS_MAX),
        connection_rate: rate(&section, "connection_rate", "connection_burst"),
        connection_rate_per_address: rate(
            &section,
            "connection_rate_per_address",
            "connection_burst_per_address",
        ),
        message_bytes_max: section.size("message_bytes_max", KIB..=16 * MIB),
        commands_per_message_max: section.count("commands_per_message_max", 1..=65_536),
        publication_bytes_max: section.size("publication_bytes_max", 0..=32 * MIB),
        outbound_bytes_max: section.size("outbound_bytes_max", 64 * KIB..=256 * MIB),
        write_timeout: section.duration("write_timeout", 100..=10 * MINUTE),
        channels_per_connection_max: section.count("channels_per_connection_max", 1..=65_536),
    };
    let room = limits.outbound_bytes_max.saturating_sub(AROUND_PUBLICATION);
    let around = AROUND_PUBLICATION as u64 / KIB;
    if room < limits.message_bytes_max {
        section.conflict(
            &["outbound_bytes_max", "message_bytes_max"],
            "a queue in which the largest message has no room",
            &format!("a size that is at least {around}KiB above `limits.message_bytes_max`"),
        );
    }
    match limits.publication_bytes_max {
        0 => {
            let wanted = limits.message_bytes_max.saturating_mul(2).max(PUBLICATION_BYTES);
            limits.publication_bytes_max = wanted.min(room).max(limits.message_bytes_max);
        }
        size if size < limits.message_bytes_max => section.conflict(
            &["publication_bytes_max", "message_bytes_max"],
            "a size that the largest message does not have",
            "0B, or a size of at least `limits.message_bytes_max`",
        ),
        size if size > room => section.conflict(
            &["publication_bytes_max", "outbound_bytes_max"],
            "a publication for which the queue of a client has no room",
            &format!("0B, or a size that is at least {around}KiB below `limits.outbound_bytes_max`"),
        ),
        _ => (),
    }
    section.finish();
    limits
}

fn rate(section: &Section<'_, '_>, per_second: &'static str, burst: &'static str) -> Rate {
    let number = |key, least| u32::try_from(section.number(key, least..=RATE_MAX)).unwrap_or(u32::MAX);
    Rate { per_second: number(per_second, 0), burst: number(burst, 1) }
}

fn client(document: &Document<'_>, namespaces: &Namespaces) -> Client {
    let section = document.section("client");
    let client = Client {
        anonymous: section.flag("anonymous"),
        personal_channel: personal::personal_channel(&section, namespaces),
        ping_interval: section.duration("ping_interval", SECOND..=10 * MINUTE),
        pong_timeout: section.duration("pong_timeout", 100..=5 * MINUTE),
        expiry_grace: section.duration("expiry_grace", 0..=10 * MINUTE),
        subscription_expiry_grace: section.duration("subscription_expiry_grace", 0..=10 * MINUTE),
        history_publications_max: section.count("history_publications_max", 1..=10_000),
    };
    if client.ping_interval.subsec_nanos() != 0 {
        section.conflict(
            &["ping_interval"],
            "a part of a second",
            "whole seconds: clients are told the interval in seconds",
        );
    }
    if client.pong_timeout >= client.ping_interval {
        section.conflict(
            &["pong_timeout", "ping_interval"],
            "a time in which the next ping is due",
            "a duration below `client.ping_interval`",
        );
    }
    section.finish();
    client
}

/// A section with nothing but a switch.
fn enabled(document: &Document<'_>, name: &'static str) -> bool {
    let section = document.section(name);
    let enabled = section.flag("enabled");
    section.finish();
    enabled
}

fn compression(document: &Document<'_>) -> Compression {
    let section = document.section("compression");
    let compression = Compression {
        enabled: section.flag("enabled"),
        min_bytes: section.size("min_bytes", 0..=64 * KIB),
        level: u32::try_from(section.number("level", 1..=9)).unwrap_or(1),
    };
    section.finish();
    compression
}

fn raw(document: &Document<'_>) -> Raw {
    let section = document.section("raw");
    let enabled = section.flag("enabled");
    let raw = Raw { enabled, token_in_first_message: section.flag("token_in_first_message") };
    section.finish();
    raw
}

fn namespaces(document: &Document<'_>, listen: &Listen, upstreams: ask::Names<'_>, told: bool) -> Namespaces {
    let asks = listen.tls.as_ref().is_some_and(|tls| tls.client_certificates != ClientCertificates::None);
    let default = Arc::new(namespace(document.section("channel"), false, asks, upstreams, told));
    let mut named = HashMap::new();
    for (name, section) in document.sections("namespaces", "channel") {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > NAMESPACE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
            section.misnamed(name, "a name of 1 to 64 letters, digits, `_`, `-` and `.`");
        }
        named.insert(name.into(), Arc::new(namespace(section, true, asks, upstreams, told)));
    }
    Namespaces { default, named }
}

/// `named` is whether the channels have a namespace, `asks` whether the listener asks clients for
/// certificates, `told` whether an upstream is told what happens.
fn namespace(
    section: Section<'_, '_>,
    named: bool,
    asks: bool,
    upstreams: ask::Names<'_>,
    told: bool,
) -> Namespace {
    let namespace = Namespace {
        history_size: section.count("history_size", 0..=10_000),
        history_ttl: section.duration("history_ttl", SECOND..=30 * DAY),
        min_replicas: u16::try_from(section.number("min_replicas", 0..=16)).unwrap_or(0),
        idempotency_ttl: section.duration("idempotency_ttl", SECOND..=DAY),
        recovery: section.flag("recovery"),
        recovery_mode: recovery_mode(&section),
        latest_on_subscribe: section.flag("latest_on_subscribe"),
        presence: section.flag("presence"),
        join_leave: section.flag("join_leave"),
        force_push_join_leave: section.flag("force_push_join_leave"),
        tag_filter: section.flag("tag_filter"),
        delta: section.flag("delta"),
        wildcards: section.flag("wildcards"),
        client_certificate: section.flag("client_certificate"),
        events: events::of_channels(&section, told),
        allow_subscribe: access(&section, "allow_subscribe"),
        allow_publish: access(&section, "allow_publish"),
        allow_history: access(&section, "allow_history"),
        allow_presence: access(&section, "allow_presence"),
        ask: ask::channel_ask(&section, upstreams),
    };
    if namespace.wildcards && !named {
        section.conflict(
            &["wildcards"],
            "patterns of channels without a namespace",
            "false; patterns are permitted in tables of `[namespaces]`",
        );
    }
    if namespace.client_certificate && !asks {
        section.conflict(
            &["client_certificate"],
            "a need for certificates for which no client is asked",
            "false, or this one together with `listen.tls.client_certificate`",
        );
    }
    let has_history = namespace.history_size > 0;
    if namespace.recovery && !has_history {
        section.conflict(
            &["recovery", "history_size"],
            "true without a history to recover from",
            "false, or a `history_size` above 0",
        );
    }
    if namespace.recovery_mode == RecoveryMode::Cache && !namespace.recovery {
        section.conflict(
            &["recovery_mode", "recovery"],
            "a mode of a recovery that there is not",
            "\"stream\", or `recovery = true`",
        );
    }
    if namespace.latest_on_subscribe && namespace.recovery_mode != RecoveryMode::Cache {
        section.conflict(
            &["latest_on_subscribe", "recovery_mode"],
            "true where more than the latest publication counts",
            "false, or `recovery_mode = \"cache\"`",
        );
    }
    if namespace.min_replicas > 0 && !has_history {
        section.conflict(
            &["min_replicas", "history_size"],
            "replicas of a history that is not kept",
            "0, or a `history_size` above 0",
        );
    }
    if namespace.allow_history != Access::Nobody && !has_history {
        section.conflict(
            &["allow_history", "history_size"],
            "a permission to read a history that is not kept",
            "\"nobody\", or a `history_size` above 0",
        );
    }
    if namespace.force_push_join_leave && !namespace.join_leave {
        section.conflict(
            &["force_push_join_leave", "join_leave"],
            "true without joins and leaves",
            "false, or `join_leave = true`",
        );
    }
    if namespace.allow_presence != Access::Nobody && !namespace.presence {
        section.conflict(
            &["allow_presence", "presence"],
            "a permission without presence",
            "\"nobody\", or `presence = true`",
        );
    }
    section.finish();
    namespace
}

fn recovery_mode(section: &Section<'_, '_>) -> RecoveryMode {
    section.simple("recovery_mode", &r#""stream" or "cache""#, |value| match value.as_str()? {
        "stream" => Some(RecoveryMode::Stream),
        "cache" => Some(RecoveryMode::Cache),
        _ => None,
    })
}

fn access(section: &Section<'_, '_>, key: &'static str) -> Access {
    let subscribing = key == "allow_subscribe";
    let accepted = if subscribing {
        r#""nobody", "users" or "anyone""#
    } else {
        r#""nobody", "subscribers", "users" or "anyone""#
    };
    section.simple(key, &accepted, |value| match value.as_str()? {
        "nobody" => Some(Access::Nobody),
        "subscribers" if !subscribing => Some(Access::Subscribers),
        "users" => Some(Access::Users),
        "anyone" => Some(Access::Anyone),
        _ => None,
    })
}

fn memory(document: &Document<'_>) -> Memory {
    let section = document.section("memory");
    let memory = Memory {
        channels_max: section.count("channels_max", 1..=10_000_000),
        patterns_max: section.count("patterns_max", 1..=1_000_000),
        unsubscribed_channels_max: section.count("unsubscribed_channels_max", 1..=10_000_000),
        inbox_deliveries_max: section.count("inbox_deliveries_max", 1_024..=1_048_576),
        inbox_bytes_max: section.size("inbox_bytes_max", MIB..=16 * GIB),
        outbound_bytes_max: section.size("outbound_bytes_max", MIB..=1024 * GIB),
        history_bytes_max: section.size("history_bytes_max", MIB..=64 * GIB),
        idempotency_keys_max: section.count("idempotency_keys_max", 1..=10_000_000),
        revocations_max: section.count("revocations_max", 1..=1_000_000),
    };
    section.finish();
    memory
}

fn plugins(document: &Document<'_>) -> Plugins {
    let section = document.section("plugins");
    let folder = section.simple("folder", &"the path of a folder", |value| {
        value.as_str().filter(|path| !path.is_empty() && !path.contains('\0')).map(PathBuf::from)
    });
    let max = section.count("max", 1..=256);
    let compile_timeout = section.duration("compile_timeout", 1_000..=3_600_000);
    let compile_bytes_max = section.size("compile_bytes_max", 32 * MIB..=64 * GIB);
    let state_folder = section.simple("state_folder", &"the path of a folder, or \"\"", |value| {
        let path = value.as_str().filter(|path| !path.contains('\0'))?;
        Some(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
    });
    let on_removal =
        section.simple("on_removal", &r#""remove" or "keep""#, |value| match value.as_str()? {
            "remove" => Some(OnRemoval::Remove),
            "keep" => Some(OnRemoval::Keep),
            _ => None,
        });
    let required = section.value("required", required_plugins);
    let check_owner = section.flag("check_owner");
    let watch = section.simple("watch", &r#""notify" or "poll""#, |value| match value.as_str()? {
        "notify" => Some(Watch::Notify),
        "poll" => Some(Watch::Poll),
        _ => None,
    });
    section.finish();
    Plugins {
        folder,
        state_folder,
        on_removal,
        required,
        check_owner,
        watch,
        compile_timeout,
        compile_bytes_max,
        max,
    }
}

/// Reads the list of `plugins.required`.
fn required_plugins(value: &Spanned<DeValue<'_>>) -> Result<Arc<[Box<str>]>, Vec<Invalid>> {
    let invalid = |span, found| {
        let accepted = format!(
            "a list of at most {REQUIRED_MAX} names of plugins such as [\"auth-jwt\"], without the number and `.wasm`"
        );
        Invalid { span, found, accepted }
    };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, found(value.get_ref()))]);
    };
    if list.len() > REQUIRED_MAX {
        return Err(vec![invalid(None, format!("{} names", list.len()))]);
    }
    let name = |entry: &Spanned<DeValue<'_>>| {
        let name = entry.get_ref().as_str().filter(|name| plugin_name(name) == Ok(*name));
        name.map(Box::from).ok_or_else(|| invalid(Some(entry.span()), found(entry.get_ref())))
    };
    all(list.iter().map(name)).map(Into::into)
}

fn explain(document: &Document<'_>) -> Explain {
    let section = document.section("explain");
    let sample = section.number("sample", 0..=10_000);
    let explain = Explain {
        sample: u32::try_from(sample).unwrap_or(0),
        kept: section.count("kept", 1..=10_000),
        reply: section.flag("reply"),
    };
    section.finish();
    explain
}

fn drain(document: &Document<'_>) -> Drain {
    let section = document.section("drain");
    let delay = section.duration("delay", 0..=10 * MINUTE);
    let deadline: Duration = section.duration("deadline", SECOND..=10 * MINUTE);
    let closes_per_second = section.number("closes_per_second", 1..=1_000_000);
    section.finish();
    Drain { delay, deadline, closes_per_second: u32::try_from(closes_per_second).unwrap_or(u32::MAX) }
}

fn log(document: &Document<'_>) -> Log {
    let section = document.section("log");
    let format = section.simple("format", &r#""text" or "json""#, |value| match value.as_str()? {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    });
    let accepted =
        r#""error", "warn", "info", "debug", "trace", or a list such as "info,gateway::admin=debug""#;
    let filter = section.simple("filter", &accepted, |value| {
        value.as_str().filter(|text| is_filter(text)).map(str::to_owned)
    });
    let users = section.simple("users", &r#""plain", "hashed" or "none""#, |value| match value.as_str()? {
        "plain" => Some(LogUsers::Plain),
        "hashed" => Some(LogUsers::Hashed),
        "none" => Some(LogUsers::None),
        _ => None,
    });
    section.finish();
    Log { format, filter, users }
}

fn is_filter(text: &str) -> bool {
    // A single word that is no level would be taken for a module name, and all other modules would be
    // silenced.
    let level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    text.split(',').all(|part| level(part) || part.contains('=')) && EnvFilter::try_new(text).is_ok()
}
