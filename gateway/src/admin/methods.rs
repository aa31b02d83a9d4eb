//! The names of the API: the methods that there are, and those of Centrifugo that are absent.

use crate::protocol::code::ReplyError;

macro_rules! methods {
    ($($method:ident = $name:literal,)*) => {
        /// The closed set of methods.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::admin) enum Call {
            $($method,)*
        }

        impl Call {
            pub(in crate::admin) const ALL: &[Self] = &[$(Self::$method,)*];

            /// The last segment of the path.
            pub(in crate::admin) const fn name(self) -> &'static str {
                match self {
                    $(Self::$method => $name,)*
                }
            }
        }
    };
}

methods! {
    Publish = "publish",
    Broadcast = "broadcast",
    Batch = "batch",
    Disconnect = "disconnect",
    Subscribe = "subscribe",
    Unsubscribe = "unsubscribe",
    Refresh = "refresh",
    Presence = "presence",
    PresenceStats = "presence_stats",
    History = "history",
    HistoryRemove = "history_remove",
    Info = "info",
    Channels = "channels",
    Connections = "connections",
    Nodes = "nodes",
    Plugins = "plugins",
    PluginRollback = "plugin_rollback",
    PluginBreaker = "plugin_breaker",
    Explain = "explain",
    ExplainStart = "explain_start",
    Upstreams = "upstreams",
    UpstreamWeights = "upstream_weights",
    RevokeToken = "revoke_token",
    InvalidateUserTokens = "invalidate_user_tokens",
    BlockUser = "block_user",
    UnblockUser = "unblock_user",
    Revocations = "revocations",
    LiftRevocation = "lift_revocation",
}

/// Methods of Centrifugo that the gateway does not have, and why.
const ABSENT: [(&[&str], &str); 5] = [
    (&["rpc"], "plugins answer the calls of clients, and have no hook for a call without a client"),
    (
        &["update_user_status", "get_user_status", "delete_user_status"],
        "the gateway keeps no status of users: `connections` and `presence` say who is connected",
    ),
    (
        &[
            "device_register",
            "device_update",
            "device_remove",
            "device_list",
            "device_topic_list",
            "device_topic_update",
            "user_topic_list",
            "user_topic_update",
            "send_push_notification",
            "update_push_status",
            "cancel_push",
        ],
        "the gateway sends no push notifications to devices",
    ),
    (
        &["map_publish", "map_remove", "map_read_state", "map_read_stream", "map_stats", "map_clear"],
        "the gateway has no map subscriptions",
    ),
    (&["shared_poll_publish"], "the gateway polls no backend for channels"),
];

/// A name that a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Named {
    Method(Call),
    /// Error 108, for this reason.
    Absent(&'static str, &'static str),
}

impl Named {
    /// `None` for a name that neither the gateway nor Centrifugo has.
    pub(in crate::admin) fn of(name: &str) -> Option<Self> {
        if let Some(call) = Call::ALL.iter().find(|call| call.name() == name) {
            return Some(Self::Method(*call));
        }
        Self::absent().find(|absent| absent.name() == name)
    }

    /// The methods that are absent.
    pub(in crate::admin) fn absent() -> impl Iterator<Item = Self> {
        ABSENT.into_iter().flat_map(|(names, why)| names.iter().map(move |name| Self::Absent(name, why)))
    }

    pub(in crate::admin) const fn name(self) -> &'static str {
        match self {
            Self::Method(call) => call.name(),
            Self::Absent(name, _) => name,
        }
    }

    /// The method, or the error that says why it is absent.
    pub(in crate::admin) fn available(self) -> Result<Call, ReplyError> {
        match self {
            Self::Method(call) => Ok(call),
            Self::Absent(name, why) => {
                Err(ReplyError::NOT_AVAILABLE.because(format!("`{name}` is not available: {why}")))
            }
        }
    }
}

impl Call {
    /// Whether an answer may be large. These methods change nothing.
    pub(in crate::admin) const fn answers_much(self) -> bool {
        matches!(
            self,
            Self::Presence
                | Self::History
                | Self::Info
                | Self::Channels
                | Self::Connections
                | Self::Nodes
                | Self::Plugins
                | Self::Explain
                | Self::Upstreams
                | Self::Revocations
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_name_means_one_method_or_none() {
        let all: Vec<_> = Call::ALL.iter().map(|call| Named::Method(*call)).chain(Named::absent()).collect();
        let names: BTreeSet<_> = all.iter().map(|named| named.name()).collect();
        assert_eq!(names.len(), all.len(), "a method that is there is not in the list of the absent ones");
        assert!(all.iter().all(|named| Named::of(named.name()) == Some(*named)));
        for name in ["", "Publish", "publish ", "nothing"] {
            assert_eq!(Named::of(name), None, "{name:?}");
        }
    }

    #[test]
    fn an_absent_method_says_its_name_and_why() {
        let error = Named::of("device_list").and_then(|named| named.available().err()).expect("absent");
        assert_eq!(error.code, 108);
        assert_eq!(
            error.message,
            "`device_list` is not available: the gateway sends no push notifications to devices"
        );
    }

    #[test]
    fn the_description_has_every_method_and_no_other() {
        let text = include_str!("../../openapi.json");
        let description: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = description["paths"].as_object().expect("paths");
        let names = Call::ALL.iter().map(|call| call.name()).chain(Named::absent().map(Named::name));
        let expected: BTreeSet<_> = names.map(|name| format!("/api/{name}")).collect();
        let others = ["/api", "/api/openapi.json"].map(str::to_owned);
        let described: BTreeSet<_> = paths.keys().filter(|path| !others.contains(*path)).cloned().collect();
        assert_eq!(described, expected);
        assert!(others.iter().all(|path| paths.contains_key(path)));
        let mut references = text.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next());
        assert!(references.all(|path| path.is_some_and(|path| description.pointer(path).is_some())));
        for (path, operations) in paths.iter().filter(|(path, _)| **path != *others[1]) {
            let responses = operations["post"]["responses"].as_object().expect("responses");
            let statuses: Vec<_> = responses.keys().map(String::as_str).collect();
            let expected = ["200", "400", "401", "405", "408", "413", "421", "431", "503"];
            assert_eq!(statuses, expected, "{path}");
        }
    }

    #[test]
    fn the_page_describes_every_method_and_no_other() {
        let page = include_str!("../../API.md");
        let described: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert!(
            described.iter().all(|name| matches!(Named::of(name), Some(Named::Method(_)))),
            "{described:?}"
        );
        assert_eq!(described.len(), Call::ALL.len(), "{described:?}");
        for absent in Named::absent() {
            assert!(page.contains(&format!("`{}`", absent.name())), "{} is named as absent", absent.name());
        }
    }
}
