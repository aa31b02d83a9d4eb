//! The codes of the Centrifuge client protocol v2: errors of a reply, reasons to close, reasons to
//! unsubscribe.

use std::borrow::Cow;

/// The error of a reply. The connection stays open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyError {
    /// 100-399 of the protocol, 400-1999 of the application.
    pub code: u32,
    /// For people; clients decide by the code.
    pub message: Cow<'static, str>,
    /// Whether the same command may succeed later.
    pub temporary: bool,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $message:literal, $temporary:literal;)*) => {
        impl ReplyError {
            $($(#[$doc])* pub const $name: Self =
                Self { code: $code, message: Cow::Borrowed($message), temporary: $temporary };)*

            /// Every error the protocol names.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

errors! {
    /// A failure of the gateway, or of a plugin that fails closed.
    INTERNAL = 100, "internal server error", true;
    /// No valid credentials.
    UNAUTHORIZED = 101, "unauthorized", false;
    /// The channel's namespace is not configured.
    UNKNOWN_CHANNEL = 102, "unknown channel", false;
    /// Neither a plugin nor the policy of the channel permits it.
    PERMISSION_DENIED = 103, "permission denied", false;
    /// The method does not exist.
    METHOD_NOT_FOUND = 104, "method not found", false;
    /// The connection is already subscribed to the channel.
    ALREADY_SUBSCRIBED = 105, "already subscribed", false;
    /// A limit on channels was reached.
    LIMIT_EXCEEDED = 106, "limit exceeded", false;
    /// A field has an invalid value.
    BAD_REQUEST = 107, "bad request", false;
    /// The gateway or the channel does not offer this.
    NOT_AVAILABLE = 108, "not available", false;
    /// The token has expired: the client fetches a new one.
    TOKEN_EXPIRED = 109, "token expired", false;
    /// The item to refresh has already expired.
    EXPIRED = 110, "expired", false;
    /// A rate limit was exceeded.
    TOO_MANY_REQUESTS = 111, "too many requests", true;
    /// The requested position is no longer in the history.
    UNRECOVERABLE_POSITION = 112, "unrecoverable position", false;
}

impl ReplyError {
    /// An error with the message of a plugin. The codes of the protocol keep their meaning of "temporary".
    pub fn custom(code: u32, message: &str) -> Self {
        let known = Self::ALL.iter().find(|known| known.code == code);
        let message = match known {
            Some(known) if message.is_empty() => known.message.clone(),
            _ => Cow::Owned(message.to_owned()),
        };
        Self { code, message, temporary: known.is_some_and(|known| known.temporary) }
    }

    /// This error with a more specific message.
    pub fn because(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), ..self }
    }
}

/// Longest reason in bytes that fits into a close frame together with the code (RFC 6455, 5.5).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Why a connection ends. Clients reconnect after 3000-3499 and 4000-4499, and give up after 3500-3999 and
/// 4500-4999.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// WebSocket codes below 3000, codes of the protocol from 3000.
    pub code: u16,
    /// At most [`CLOSE_REASON_BYTES_MAX`] bytes.
    pub reason: Cow<'static, str>,
}

macro_rules! closes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        impl Close {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: Cow::Borrowed($reason) };)*

            /// Every reason for which the gateway itself closes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

closes! {
    /// RFC 6455: both sides are done.
    NORMAL = 1000, "";
    /// RFC 6455: the frame breaks the WebSocket protocol.
    PROTOCOL_ERROR = 1002, "protocol error";
    /// RFC 6455: a text message is not UTF-8.
    INVALID_UTF8 = 1007, "text is not valid UTF-8";
    /// RFC 6455: the message is larger than `message_bytes_max`.
    MESSAGE_TOO_BIG = 1009, "message too big";
    /// The gateway shuts down; another node, or the next process, is available.
    SHUTDOWN = 3001, "shutdown";
    /// The client's gateway has died. This is never sent to a client; another gateway passes it to the
    /// plugins.
    GATEWAY_DIED = 3002, "gateway died";
    /// A failure of the gateway.
    INTERNAL = 3004, "internal server error";
    /// The connection expired and was not refreshed.
    EXPIRED = 3005, "connection expired";
    /// A server-side subscription expired, and no plugin extended it.
    SUBSCRIPTION_EXPIRED = 3006, "subscription expired";
    /// The client does not read fast enough; recovery fills what it missed.
    SLOW = 3008, "slow";
    /// Publications were missed on a server-side subscription.
    INSUFFICIENT_STATE = 3010, "insufficient state";
    /// The operator wants the client to connect again.
    FORCE_RECONNECT = 3011, "force reconnect";
    /// No answer to a ping.
    NO_PONG = 3012, "no pong";
    /// The client exceeds its rate limit.
    TOO_MANY_REQUESTS = 3013, "too many requests";
    /// The credential is not valid.
    INVALID_TOKEN = 3500, "invalid token";
    /// The client does not speak the protocol, or speaks it in the wrong order.
    BAD_REQUEST = 3501, "bad request";
    /// No connect command in time.
    STALE = 3502, "stale";
    /// The operator disconnected the client.
    FORCE_DISCONNECT = 3503, "force disconnect";
    /// Too many connections.
    CONNECTION_LIMIT = 3504, "connection limit";
    /// Not permitted, for good.
    PERMISSION_DENIED = 3507, "permission denied";
    /// The gateway does not offer this.
    NOT_AVAILABLE = 3508, "not available";
}

impl Close {
    /// A close with another reason, cut at a character boundary so that it fits into a close frame.
    pub fn custom(code: u16, reason: &str) -> Self {
        let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self { code, reason: Cow::Owned(reason[..end].to_owned()) }
    }
}

/// Why a subscription is removed. Clients resubscribe from 2500 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// 2000-2499 for good, 2500-2999 subscribe again; below that it is not told to the client.
    pub code: u32,
    /// For people.
    pub reason: Cow<'static, str>,
}

impl Unsubscribe {
    /// The client asked for it. Never sent to a client.
    pub const BY_CLIENT: Self = Self { code: 0, reason: Cow::Borrowed("client unsubscribe") };
    /// Its connection has ended. Never sent to a client.
    pub const DISCONNECTED: Self = Self { code: 1, reason: Cow::Borrowed("disconnect") };
    /// What the client asked for could not be recovered, and so it has no subscription. Never sent to a
    /// client.
    pub const UNRECOVERED: Self = Self { code: 2, reason: Cow::Borrowed("unrecoverable position") };
    /// A plugin or the operator removed it.
    pub const BY_SERVER: Self = Self { code: 2000, reason: Cow::Borrowed("server unsubscribe") };
    /// Publications were missed: subscribe again and recover.
    pub const INSUFFICIENT_STATE: Self = Self { code: 2500, reason: Cow::Borrowed("insufficient state") };
    /// The subscription expired and was not refreshed: subscribe again, with another credential.
    pub const EXPIRED: Self = Self { code: 2501, reason: Cow::Borrowed("expired") };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_reasons_fit_into_a_close_frame() {
        let mut codes: Vec<_> = Close::ALL.iter().map(|close| close.code).collect();
        codes.dedup();
        assert_eq!(codes.len(), Close::ALL.len());
        assert!(Close::ALL.iter().all(|close| close.reason.len() <= CLOSE_REASON_BYTES_MAX));
        let mut codes: Vec<_> = ReplyError::ALL.iter().map(|error| error.code).collect();
        codes.dedup();
        assert_eq!(codes.len(), ReplyError::ALL.len());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let close = Close::custom(4500, &"é".repeat(100));
        assert_eq!(close.reason.len(), 122);
    }

    #[test]
    fn a_plugins_error_keeps_the_protocols_meaning_of_temporary() {
        assert!(ReplyError::custom(111, "slow down").temporary);
        assert!(!ReplyError::custom(400, "no").temporary);
        assert_eq!(ReplyError::custom(103, "").message, "permission denied");
    }
}
