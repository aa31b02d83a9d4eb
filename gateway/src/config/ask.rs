//! Reads which upstreams are asked for what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::read::{Document, Invalid, Section, found};
use super::resolve::all;
use super::{Handshake, Namespaces, Upstream};

/// The upstreams that are asked about what has no channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Whether a client is admitted.
    pub connect: Option<Arc<str>>,
    /// Whether a connection that expires may stay.
    pub refresh: Option<Arc<str>>,
    /// The results of calls.
    pub rpc: Option<Arc<str>>,
    /// What becomes of messages without a reply.
    pub send: Option<Arc<str>>,
    /// What becomes of messages in raw mode.
    pub message: Option<Arc<str>>,
    /// Names of headers of the handshake that go with each question, in lower case.
    pub headers: Vec<Box<str>>,
    /// What happens without an answer.
    pub failure: AskFailure,
    /// Whether an upstream is asked about the channels of any namespace.
    pub channels: bool,
}

/// The upstreams that are asked about the channels of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelAsk {
    /// Whether a client may subscribe.
    pub subscribe: Option<Arc<str>>,
    /// Whether a subscription that expires may stay.
    pub sub_refresh: Option<Arc<str>>,
    /// Whether a client may publish.
    pub publish: Option<Arc<str>>,
    /// What happens without an answer.
    pub failure: AskFailure,
}

/// What happens if an upstream has no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskFailure {
    /// What was asked for is refused.
    Closed,
    /// It fails with a temporary error.
    Error,
    /// It is decided as if no upstream were configured.
    Open,
}

/// The names of the upstreams that may be asked.
pub(super) type Names<'a> = &'a BTreeMap<Box<str>, Upstream>;

/// Reads the table `[ask]`.
pub(super) fn ask(
    document: &Document<'_>,
    names: Names<'_>,
    handshake: &Handshake,
    namespaces: &Namespaces,
) -> Ask {
    let tables = namespaces.named.values().chain([&namespaces.default]);
    let asks =
        |ask: &ChannelAsk| ask.subscribe.is_some() || ask.sub_refresh.is_some() || ask.publish.is_some();
    let section = document.section("ask");
    let ask = Ask {
        connect: upstream(&section, "connect", names),
        refresh: upstream(&section, "refresh", names),
        rpc: upstream(&section, "rpc", names),
        send: upstream(&section, "send", names),
        message: upstream(&section, "message", names),
        headers: headers(&section, handshake),
        failure: failure(&section, "failure"),
        channels: tables.map(|namespace| &namespace.ask).any(asks),
    };
    section.finish();
    ask
}

/// Reads the keys of a namespace.
pub(super) fn channel_ask(section: &Section<'_, '_>, names: Names<'_>) -> ChannelAsk {
    ChannelAsk {
        subscribe: upstream(section, "ask_subscribe", names),
        sub_refresh: upstream(section, "ask_sub_refresh", names),
        publish: upstream(section, "ask_publish", names),
        failure: failure(section, "ask_failure"),
    }
}

fn upstream(section: &Section<'_, '_>, key: &'static str, names: Names<'_>) -> Option<Arc<str>> {
    let accepted = "the name of a table in [upstreams], or \"\"";
    section.simple(key, &accepted, |value| match value.as_str()? {
        "" => Some(None),
        name => names.contains_key(name).then(|| Some(name.into())),
    })
}

fn failure(section: &Section<'_, '_>, key: &'static str) -> AskFailure {
    section.simple(key, &r#""closed", "error" or "open""#, |value| match value.as_str()? {
        "closed" => Some(AskFailure::Closed),
        "error" => Some(AskFailure::Error),
        "open" => Some(AskFailure::Open),
        _ => None,
    })
}

fn headers(section: &Section<'_, '_>, handshake: &Handshake) -> Vec<Box<str>> {
    let accepted = "a list of names that `handshake.headers_kept` has too";
    section.value("headers", |value| {
        let invalid = |span, found| Invalid { span, found, accepted: accepted.to_owned() };
        let Some(list) = value.get_ref().as_array() else {
            return Err(vec![invalid(None, found(value.get_ref()))]);
        };
        all(list.iter().map(|entry| {
            let name = entry.get_ref().as_str().map(str::to_ascii_lowercase);
            let name = name.filter(|name| handshake.headers_kept.iter().any(|kept| **kept == **name));
            name.map(String::into_boxed_str)
                .ok_or_else(|| invalid(Some(entry.span()), found(entry.get_ref())))
        }))
    })
}
