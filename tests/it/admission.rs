//! Which clients may connect, as whom and from where: tokens and their keys, web pages, and addresses behind
//! proxies.

mod auth;
mod connect;
mod jwks;
mod origins;
mod proxies;
