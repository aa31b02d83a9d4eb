//! `Key` builds the text under which a message is counted.

use std::cell::OnceCell;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use gateway_plugin_sdk::fields::{Fields, Found, Path, Picked, Slot};
use gateway_plugin_sdk::prelude::*;
use gateway_plugin_sdk::rate;

/// As long as the gateway takes keys.
const BYTES_MAX: usize = 512;

/// Something of a message that tells apart who shares a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Connection,
    User,
    Address,
    Channel,
    Kind,
    /// A place in the JSON payload, and which of the [`Fields`] it is once those are known.
    Field(Path, Option<Slot>),
}

impl Part {
    /// What [`parse`](Self::parse) takes.
    pub(crate) const ACCEPTED: &str = "connection, user, address, channel, kind, payload.FIELD";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "connection" => Self::Connection,
            "user" => Self::User,
            "address" => Self::Address,
            "channel" => Self::Channel,
            "kind" => Self::Kind,
            _ => Self::Field(Path::parse(text.strip_prefix("payload.")?)?, None),
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("connection"),
            Self::User => f.write_str("user"),
            Self::Address => f.write_str("address"),
            Self::Channel => f.write_str("channel"),
            Self::Kind => f.write_str("kind"),
            Self::Field(path, _) => write!(f, "payload.{path}"),
        }
    }
}

/// Makes the keys of one message. Its payload is read once, when a key first needs it.
pub(crate) struct Key<'m> {
    event: &'m Message<'m>,
    fields: &'m Fields,
    payload: OnceCell<Picked<'m>>,
    bytes: &'m mut Vec<u8>,
}

impl<'m> Key<'m> {
    pub(crate) fn new(event: &'m Message<'m>, fields: &'m Fields, room: &'m mut Vec<u8>) -> Self {
        Self { event, fields, payload: OnceCell::new(), bytes: room }
    }

    /// The key of these parts; or the part that the message lacks.
    pub(crate) fn of<'p>(&mut self, parts: &'p [Part]) -> Result<&[u8], &'p Part> {
        self.bytes.clear();
        for part in parts {
            let start = self.bytes.len();
            // Where one part ends and the next begins must not depend on what clients send.
            self.bytes.extend([0; size_of::<u32>()]);
            self.add(part).ok_or(part)?;
            let length = (self.bytes.len() - start - size_of::<u32>()) as u32;
            self.bytes[start..start + size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
        }
        if self.bytes.len() > BYTES_MAX {
            // The beginning and a fingerprint of everything: a long value is limited like any other.
            let mut hasher = DefaultHasher::new();
            self.bytes.hash(&mut hasher);
            self.bytes.truncate(BYTES_MAX - size_of::<u64>());
            self.bytes.extend(hasher.finish().to_le_bytes());
        }
        Ok(self.bytes)
    }

    fn add(&mut self, part: &Part) -> Option<()> {
        let event = self.event;
        match part {
            Part::Connection => self.bytes.extend(event.connection_number().to_le_bytes()),
            Part::User => self.bytes.extend(present(event.user())?.as_bytes()),
            Part::Address => match event.remote_address().parse().map(rate::source) {
                // The rest of it is zero.
                Ok(IpAddr::V6(network)) => self.bytes.extend(&network.octets()[..8]),
                _ => self.bytes.extend(event.remote_address().as_bytes()),
            },
            Part::Channel => self.bytes.extend(present(event.channel())?.as_bytes()),
            Part::Kind => self.bytes.extend(event.kind().number().to_le_bytes()),
            Part::Field(_, slot) => {
                let picked = self.payload.get_or_init(|| self.fields.find(event.payload()));
                match picked.get((*slot)?)? {
                    Found::Text(text) => self.bytes.extend(text.as_bytes()),
                    Found::Other(value) if value.is_number() || value.is_boolean() => {
                        self.bytes.extend(value.to_string().bytes())
                    }
                    Found::Other(_) => return None,
                }
            }
        }
        Some(())
    }
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
