//! The Centrifuge client protocol, version 2.

pub(super) mod json;
