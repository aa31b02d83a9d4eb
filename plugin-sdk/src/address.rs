//! Addresses: they name the receivers of a message.
//!
//! An address is a channel (`news`, `chat:room-7`), `#42` for all connections of user 42, or `@` and the id
//! of a connection. The gateway refuses an invalid address. A plugin that builds addresses from client input
//! can check them here first and refuse with its own message. A pattern such as `chat:*` matches channels;
//! `#*` and `#team-*` match users.
//!
//! A client may also subscribe to a wildcard pattern such as `news:eu.*`, in namespaces with `wildcards`:
//! plugins then see it as the channel of the subscription. [`check_subscription`] accepts both, and a plugin
//! that guards channels asks [`concerns`], which is true for patterns that reach one of them.
//!
//! The gateway uses the same code.

#[doc(inline)]
pub use gateway_plugin_grammar::address::{
    BYTES_MAX, Invalid, InvalidUser, USER_BYTES_MAX, check, check_user, is_direct, is_part, is_pattern,
    is_valid, matches, matches_user,
};
#[doc(inline)]
pub use gateway_plugin_grammar::wildcard::{check_subscription, concerns, is_wildcard};
