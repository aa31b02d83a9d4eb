//! What stands between the gateway and the backend of an application.

mod api;
mod ask;
mod events;
mod occupied;
mod revocation;
mod targets;
