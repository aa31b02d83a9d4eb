//! Answers `info`, `channels` and `connections` with the merged data of all gateways.

use std::collections::BTreeMap;

use gateway_plugin_grammar::address;
use serde::Serialize;

use super::fields::{Failure, Fields, bad_request};
use crate::backplane;
use crate::control::Control;
use crate::protocol::channel::Channel;
use crate::survey::{self, Connection, Counts, ENTRIES_MAX, Finding, Page, Part, Question};

/// Default number of entries in an answer.
const LIMIT: usize = 1_000;

/// Maximum length of pattern, user and cursor.
const NAME_BYTES_MAX: usize = 1_024;

/// The gateways that answered, with their numbers, and those that did not.
#[derive(Serialize)]
pub(super) struct Info {
    nodes: Vec<InfoNode>,
    unanswered: Vec<Name>,
}

#[derive(Serialize)]
struct InfoNode {
    uid: Box<str>,
    name: Box<str>,
    version: Box<str>,
    /// In seconds.
    uptime: u64,
    num_clients: u64,
    num_users: u64,
    num_channels: u64,
    num_subs: u64,
    num_workers: u64,
}

/// How people and programs identify a gateway.
#[derive(Serialize)]
struct Name {
    uid: Box<str>,
    name: Box<str>,
}

/// A part of a list over all gateways.
#[derive(Serialize)]
pub(super) struct Listed<T> {
    #[serde(flatten)]
    list: T,
    /// The cursor for the next part.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Box<str>>,
    nodes: Vec<Name>,
    unanswered: Vec<Name>,
}

#[derive(Serialize)]
pub(super) struct Channels {
    channels: BTreeMap<Box<str>, ChannelEntry>,
}

#[derive(Serialize)]
struct ChannelEntry {
    /// Number of subscriptions.
    num_clients: u64,
}

#[derive(Serialize)]
pub(super) struct Connections {
    connections: BTreeMap<Box<str>, ConnectionEntry>,
}

#[derive(Serialize)]
struct ConnectionEntry {
    /// The uid of its gateway.
    node: Box<str>,
    user: Box<str>,
    transport: Box<str>,
    protocol: Box<str>,
    /// In Unix time in milliseconds.
    connected_at_ms: u64,
    /// In seconds.
    uptime: u64,
}

fn names(nodes: Vec<backplane::Node>) -> Vec<Name> {
    nodes.into_iter().map(|node| Name { uid: node.id, name: node.name }).collect()
}

pub(super) async fn info(control: &Control, fields: Fields) -> Result<Info, Failure> {
    fields.finish()?;
    let survey = control.survey(Question::Counts).await?;
    let entry = |(node, finding): (backplane::Node, Finding)| {
        let Finding::Counts(Counts { clients, users, channels, subscriptions, workers }) = finding else {
            return None;
        };
        Some(InfoNode {
            uid: node.id,
            name: node.name,
            version: node.version,
            uptime: node.uptime / 1000,
            num_clients: clients,
            num_users: users,
            num_channels: channels,
            num_subs: subscriptions,
            num_workers: workers,
        })
    };
    let nodes = survey.answers.into_iter().filter_map(entry).collect();
    Ok(Info { nodes, unanswered: names(survey.unanswered) })
}

pub(super) async fn channels(control: &Control, mut fields: Fields) -> Result<Listed<Channels>, Failure> {
    let pattern = fields.text("pattern", NAME_BYTES_MAX)?.unwrap_or_else(|| "*".into());
    let page = page(&mut fields)?;
    fields.finish()?;
    // A pattern of subscriptions is listed by its name, and so may be asked for by it.
    if !address::is_pattern(&pattern) && Channel::parse_subscription(&pattern).is_err() {
        let why = "`pattern` is neither a name of a channel nor the beginning of one with a final `*`";
        return Err(bad_request(why).into());
    }
    let part = |_: &backplane::Node, finding| match finding {
        Finding::Channels(part) => Some(part),
        _ => None,
    };
    let question = Question::Channels { pattern, page: page.clone() };
    listed(control, question, &page, part, |part| Channels {
        channels: part
            .entries
            .into_iter()
            .map(|(name, num_clients)| (name, ChannelEntry { num_clients }))
            .collect(),
    })
    .await
}

pub(super) async fn connections(
    control: &Control,
    mut fields: Fields,
) -> Result<Listed<Connections>, Failure> {
    let user = fields.user()?.ok_or_else(|| bad_request("`user` is missing"))?;
    let page = page(&mut fields)?;
    fields.finish()?;
    let part = |node: &backplane::Node, finding| match finding {
        Finding::Connections(mut part) => {
            part.entries.values_mut().for_each(|connection| connection.node.clone_from(&node.id));
            Some(part)
        }
        _ => None,
    };
    let now = control.now().unix;
    let question = Question::Connections { user: user.clone(), page: page.clone() };
    let entry = |connection: Connection| {
        let Connection { node, protocol, since, transport } = connection;
        let uptime = now.saturating_sub(since) / 1000;
        ConnectionEntry { node, user: user.clone(), transport, protocol, connected_at_ms: since, uptime }
    };
    listed(control, question, &page, part, |part| Connections {
        connections: part.entries.into_iter().map(|(id, connection)| (id, entry(connection))).collect(),
    })
    .await
}

/// Asks all gateways and merges their parts.
async fn listed<T: survey::Together, L>(
    control: &Control,
    question: Question,
    page: &Page,
    part: impl Fn(&backplane::Node, Finding) -> Option<Part<T>>,
    list: impl FnOnce(Part<T>) -> L,
) -> Result<Listed<L>, Failure> {
    let survey = control.survey(question).await?;
    let (mut nodes, mut parts) = (Vec::new(), Vec::new());
    for (node, finding) in survey.answers {
        parts.extend(part(&node, finding));
        nodes.push(node);
    }
    let all = Part::together(parts, page);
    let next = all.entries.last_key_value().filter(|_| all.more).map(|(name, _)| name.clone());
    Ok(Listed { next, list: list(all), nodes: names(nodes), unanswered: names(survey.unanswered) })
}

fn page(fields: &mut Fields) -> Result<Page, Failure> {
    let limit: usize = fields.optional("limit")?.unwrap_or(0);
    if limit > ENTRIES_MAX {
        return Err(bad_request(format!("`limit` is {limit}, at most {ENTRIES_MAX} are accepted")).into());
    }
    let after = fields.text("cursor", NAME_BYTES_MAX)?.unwrap_or_default();
    Ok(Page { after, limit: if limit == 0 { LIMIT } else { limit } })
}
