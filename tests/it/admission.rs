//! Which clients may connect, as whom and from where: tokens and their keys, web pages, and addresses behind
//! proxies; and that proxies keep them connected.

mod auth;
mod connect;
mod idle;
mod jwks;
mod origins;
mod proxies;
