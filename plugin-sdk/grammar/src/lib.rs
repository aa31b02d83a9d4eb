//! Parsers for texts that both the gateway and its plugins read: addresses, patterns, durations, sizes and
//! secrets.
//!
//! The gateway and the SDK share this code, so each of these texts means the same in a token, in a plugin's
//! settings and in the gateway's own file.

pub mod address;
pub mod answer;
pub mod json;
pub mod name;
pub mod nearest;
pub mod secret;
pub mod source;
pub mod units;
pub mod wildcard;
