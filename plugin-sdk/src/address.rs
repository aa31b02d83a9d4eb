//! Addresses: the one way to say who receives a message.
//!
//! An address is a channel (`news`, `chat:room-7`), `#42` for all connections of user 42, or `@` and the id
//! of a connection. The gateway refuses what is none; a plugin that builds addresses from what clients sent
//! asks here first and answers in its own words. A pattern such as `chat:*` means channels; `#*` and
//! `#team-*` mean users.
//!
//! This is the code that the gateway uses.

#[doc(inline)]
pub use gateway_plugin_grammar::address::{
    BYTES_MAX, Invalid, InvalidUser, USER_BYTES_MAX, check, check_user, is_direct, is_part, is_pattern,
    is_valid, matches, matches_user,
};
