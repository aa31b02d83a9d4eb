//! Codes that clients understand, for [`Verdict::deny`](crate::Verdict::deny),
//! [`Verdict::disconnect`](crate::Verdict::disconnect) and [`Connect::refuse`](crate::Connect::refuse).
//!
//! Codes 100-1999 become an error reply; 400-1999 are free for an application. Codes 3000-4999 close the
//! connection: on 3000-3499 and 4000-4499 the client reconnects, on 3500-3999 and 4500-4999 it does not. Of
//! these, 4000-4999 are free for an application.

/// Error reply: internal error of the server; the client may try again.
pub const INTERNAL: u32 = 100;
/// Error reply: the client has not signed in.
pub const UNAUTHORIZED: u32 = 101;
/// Error reply: unknown channel.
pub const UNKNOWN_CHANNEL: u32 = 102;
/// Error reply: this client has no permission.
pub const PERMISSION_DENIED: u32 = 103;
/// Error reply: unknown method.
pub const METHOD_NOT_FOUND: u32 = 104;
/// Error reply: the client is already subscribed.
pub const ALREADY_SUBSCRIBED: u32 = 105;
/// Error reply: a limit is exceeded.
pub const LIMIT_EXCEEDED: u32 = 106;
/// Error reply: the request is invalid.
pub const BAD_REQUEST: u32 = 107;
/// Error reply: the feature is not available.
pub const NOT_AVAILABLE: u32 = 108;
/// Error reply: the token has expired. Client libraries fetch a new one and reconnect.
pub const TOKEN_EXPIRED: u32 = 109;
/// Error reply: the connection or subscription has expired.
pub const EXPIRED: u32 = 110;
/// Error reply: too many requests, the client may try again later.
pub const TOO_MANY_REQUESTS: u32 = 111;

/// Close, reconnect: internal error of the server.
pub const CLOSE_INTERNAL: u32 = 3004;
/// Close, reconnect: the connection has expired.
pub const CLOSE_EXPIRED: u32 = 3005;
/// Close, reconnect: the server asks for a new connection.
pub const CLOSE_RECONNECT: u32 = 3011;
/// Close, reconnect: too many requests.
pub const CLOSE_TOO_MANY_REQUESTS: u32 = 3013;
/// Close for good: the token is not valid.
pub const INVALID_TOKEN: u32 = 3500;
/// Close for good: the client broke the protocol.
pub const CLOSE_BAD_REQUEST: u32 = 3501;
/// Close for good: the server disconnects this client on purpose.
pub const CLOSE_FORCED: u32 = 3503;
/// Close for good: too many connections.
pub const CLOSE_CONNECTION_LIMIT: u32 = 3504;
/// Close for good: this client has no permission.
pub const CLOSE_PERMISSION_DENIED: u32 = 3507;
/// Close for good: too many errors.
pub const CLOSE_TOO_MANY_ERRORS: u32 = 3509;
