//! Reads which channel of its own user each client is subscribed to.

use super::read::Section;
use super::{Access, Namespace, Namespaces};

const NAMESPACE: &str = "the name of a table in `[namespaces]`, or \"\"";

/// The channel of its own user to which the gateway subscribes each client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonalChannel {
    /// None.
    None,
    /// The address of the user: `#USER`.
    Address,
    /// A channel in this namespace, which is configured: `NAMESPACE:#USER`.
    Namespace(Box<str>),
}

/// Reads the keys of the section `client` about it.
pub(super) fn personal_channel(section: &Section<'_, '_>, namespaces: &Namespaces) -> PersonalChannel {
    let enabled = section.flag("personal_channel");
    let namespace: Box<str> = section.simple("personal_channel_namespace", &NAMESPACE, |value| {
        value.as_str().filter(|name| name.is_empty() || namespaces.named.contains_key(*name)).map(Box::from)
    });
    if !enabled {
        if !namespace.is_empty() {
            section.conflict(
                &["personal_channel_namespace", "personal_channel"],
                "a namespace of a channel that there is not",
                "\"\", or this one together with `personal_channel = true`",
            );
        }
        return PersonalChannel::None;
    }
    match namespaces.named.get(&namespace) {
        None => PersonalChannel::Address,
        Some(rules) => {
            if let Some(key) = open_to_others(rules) {
                section.conflict(
                    &["personal_channel_namespace", "personal_channel"],
                    &format!("a namespace in which `{key}` lets users read the channels of others"),
                    "a namespace in which `allow_subscribe` is \"nobody\", and `allow_history` and \
                     `allow_presence` are \"nobody\" or \"subscribers\"",
                );
            }
            PersonalChannel::Namespace(namespace)
        }
    }
}

/// The rule by which a user might read the channel of another one.
fn open_to_others(rules: &Namespace) -> Option<&'static str> {
    let reads = [
        ("allow_subscribe", rules.allow_subscribe),
        ("allow_history", rules.allow_history),
        ("allow_presence", rules.allow_presence),
    ];
    let open = reads.into_iter().find(|(_, access)| matches!(access, Access::Users | Access::Anyone));
    open.map(|(key, _)| key)
}
