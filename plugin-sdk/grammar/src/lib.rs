//! How texts are read that operators and clients write for the gateway and for its plugins alike.
//!
//! The gateway and the SDK share this code, so that an address, a pattern, a duration or a size means the
//! same wherever it stands: in a token, in a plugin's settings, in the gateway's own file. There is one
//! parser for each.

pub mod address;
pub mod answer;
pub mod json;
pub mod name;
pub mod nearest;
pub mod source;
pub mod units;
