//! Backends of an application: what they ask, tell and hear.

mod api;
