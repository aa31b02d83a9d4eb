//! The data format in Redis: names of keys, encodings and scripts. Nothing here does I/O.

pub mod again;
pub(crate) mod input;
pub(crate) mod keys;
pub(crate) mod order;
pub(crate) mod script;
pub(crate) mod slots;
pub(crate) mod survey;
pub(crate) mod wire;
