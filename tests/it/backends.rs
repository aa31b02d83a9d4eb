//! What stands between the gateway and the backend of an application.

mod api;
mod ask;
mod consumers;
mod events;
mod examples;
mod occupied;
mod revocation;
mod targets;
