//! `Text` and `Json` fill placeholders with parts of a message.

use std::borrow::Cow;
use std::fmt;

use gateway_plugin_sdk::fields::Found;
use gateway_plugin_sdk::prelude::*;
use serde_json::{Map, Value};

use crate::payload::{Path, Payload};

/// What templates are filled from.
pub(crate) struct Scope<'s, 'm> {
    pub(crate) event: &'s Message<'s>,
    pub(crate) payload: &'s Payload<'m>,
}

/// Why a message does not fit a rule. Names what the operator wrote and nothing of what the client sent,
/// because it ends in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// The payload, or what is on the way to the field.
    NotAnObject(Option<String>),
    /// The placeholder has no value that can stand in a text.
    NoValue(String),
    /// The filled template is not an address.
    NoAddress(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject(None) => write!(f, "the payload is not a JSON object"),
            Self::NotAnObject(Some(path)) => {
                write!(f, "`{path}` leads through something that is not an object")
            }
            Self::NoValue(placeholder) => write!(f, "there is no text or number for {{{placeholder}}}"),
            Self::NoAddress(template) => write!(f, "`{template}` does not make a valid address"),
        }
    }
}

// ---- Texts ----

/// A text with placeholders, such as `logs:{channel}`.
#[derive(Debug)]
pub(crate) struct Text {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Value(Placeholder),
}

#[derive(Debug)]
enum Placeholder {
    User,
    Channel,
    Method,
    Connection,
    Payload(Path),
}

/// What may stand between braces.
pub(crate) const PLACEHOLDERS: &str = "{user}, {channel}, {method}, {connection}, {payload.FIELD}";

impl Text {
    /// Reads a template. `{{` and `}}` stand for braces. An error is the rest of a sentence that begins with
    /// its key.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
            } else if brace == "{"
                && let Some((name, after)) = rest.split_once('}')
            {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Value(Placeholder::parse(name)?));
                rest = after;
            } else {
                return Err(format!(
                    "has `{source}` with a lone `{brace}`; write `{brace}{brace}` for a brace"
                ));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// Every place in the payload that the template takes a value from.
    pub(crate) fn each_path(&mut self, path: &mut dyn FnMut(&mut Path)) {
        for piece in &mut self.pieces {
            if let Piece::Value(Placeholder::Payload(place)) = piece {
                path(place);
            }
        }
    }

    pub(crate) fn needs_payload(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Value(Placeholder::Payload(_))))
    }

    /// What every address made of this template begins with.
    pub(crate) fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Literal(text)) => text,
            _ => "",
        }
    }

    /// Whether values exist that make an address of this template.
    pub(crate) fn can_be_address(&self) -> bool {
        let sample: String = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text,
                Piece::Value(_) => "x",
            })
            .collect();
        address::is_valid(&sample)
    }

    /// The address that the template makes of a message.
    ///
    /// A value is never empty, and only a channel may bring `#` or `@` to the front: with `{payload.to}` a
    /// client could otherwise reach any user and connection where the operator meant channels.
    pub(crate) fn address(&self, scope: &Scope<'_, '_>) -> Result<String, Unfit> {
        // With exactly the room it needs: it leaves the plugin without being copied again.
        let mut address = String::with_capacity(self.length(scope)?);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => address.push_str(text),
                Piece::Value(placeholder) => {
                    let value = placeholder.text(scope)?;
                    if value.is_empty() {
                        return Err(Unfit::NoValue(placeholder.to_string()));
                    }
                    let turns = address.is_empty() && value.starts_with(['#', '@']);
                    if turns && !matches!(placeholder, Placeholder::Channel) {
                        return Err(Unfit::NoAddress(self.source.clone()));
                    }
                    address.push_str(&value);
                }
            }
        }
        if address::is_valid(&address) { Ok(address) } else { Err(Unfit::NoAddress(self.source.clone())) }
    }

    /// How many bytes come of it.
    fn length(&self, scope: &Scope<'_, '_>) -> Result<usize, Unfit> {
        let length = |piece: &Piece| match piece {
            Piece::Literal(text) => Ok(text.len()),
            Piece::Value(placeholder) => Ok(placeholder.text(scope)?.len()),
        };
        self.pieces.iter().map(length).sum()
    }

    fn fill(&self, scope: &Scope<'_, '_>) -> Result<String, Unfit> {
        let mut text = String::with_capacity(self.length(scope)?);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Value(placeholder) => text.push_str(&placeholder.text(scope)?),
            }
        }
        Ok(text)
    }
}

impl Placeholder {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "user" => Ok(Self::User),
            "channel" => Ok(Self::Channel),
            "method" => Ok(Self::Method),
            "connection" => Ok(Self::Connection),
            _ => match name.strip_prefix("payload.").and_then(Path::parse) {
                Some(path) => Ok(Self::Payload(path)),
                None => Err(format!("has the unknown placeholder {{{name}}}; accepted: {PLACEHOLDERS}")),
            },
        }
    }

    fn text<'s>(&self, scope: &Scope<'s, '_>) -> Result<Cow<'s, str>, Unfit> {
        match self {
            Self::User => Ok(scope.event.user().into()),
            Self::Channel => Ok(scope.event.channel().into()),
            Self::Method => Ok(scope.event.method().into()),
            Self::Connection => Ok(scope.event.connection().into()),
            Self::Payload(path) => match scope.payload.get(path) {
                Some(Found::Text(text)) => Ok(text),
                Some(Found::Other(value)) if value.is_number() || value.is_boolean() => {
                    Ok(value.to_string().into())
                }
                _ => Err(Unfit::NoValue(self.to_string())),
            },
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::Channel => f.write_str("channel"),
            Self::Method => f.write_str("method"),
            Self::Connection => f.write_str("connection"),
            Self::Payload(path) => write!(f, "payload.{path}"),
        }
    }
}

// ---- JSON ----

/// A JSON value in which texts are templates.
#[derive(Debug)]
pub(crate) enum Json {
    /// Holds no text.
    Fixed(Value),
    Text(Text),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    pub(crate) fn parse(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(source) => Self::Text(Text::parse(&source)?),
            Value::Array(items) => Self::List(items.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::Object(fields) => Self::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| Ok((name, Self::parse(value)?)))
                    .collect::<Result<_, String>>()?,
            ),
            fixed => Self::Fixed(fixed),
        })
    }

    /// See [`Text::each_path`].
    pub(crate) fn each_path(&mut self, path: &mut dyn FnMut(&mut Path)) {
        match self {
            Self::Fixed(_) => {}
            Self::Text(text) => text.each_path(path),
            Self::List(items) => items.iter_mut().for_each(|item| item.each_path(path)),
            Self::Object(fields) => fields.iter_mut().for_each(|(_, value)| value.each_path(path)),
        }
    }

    pub(crate) fn needs_payload(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Text(text) => text.needs_payload(),
            Self::List(items) => items.iter().any(Self::needs_payload),
            Self::Object(fields) => fields.iter().any(|(_, value)| value.needs_payload()),
        }
    }

    /// The value that the template makes of a message. A text that is nothing but a field of the payload
    /// becomes what is there, of whatever type, and null if nothing is.
    pub(crate) fn fill(&self, scope: &Scope<'_, '_>) -> Result<Value, Unfit> {
        Ok(match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(text) => match text.pieces.as_slice() {
                [Piece::Value(Placeholder::Payload(path))] => {
                    scope.payload.get(path).map_or(Value::Null, Found::into_value)
                }
                _ => Value::String(text.fill(scope)?),
            },
            Self::List(items) => {
                Value::Array(items.iter().map(|item| item.fill(scope)).collect::<Result<_, _>>()?)
            }
            Self::Object(fields) => Value::Object(
                fields.iter().map(|(name, value)| Ok((name.clone(), value.fill(scope)?))).collect::<Result<
                    Map<_, _>,
                    Unfit,
                >>(
                )?,
            ),
        })
    }
}
