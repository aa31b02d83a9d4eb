//! `Field` is the value of one key of a table.

use super::Errors;

/// What [`Table`](super::Table) has read for a key. A method says what follows if the key was left out.
///
/// If the value is not an accepted one, the error is recorded already.
#[derive(Debug)]
#[must_use]
pub struct Field<'e, T> {
    path: String,
    accepted: String,
    state: State<T>,
    errors: &'e Errors,
}

#[derive(Debug)]
enum State<T> {
    Missing,
    Invalid,
    Read(T),
}

impl<'e, T> Field<'e, T> {
    pub(super) const fn missing(path: String, accepted: String, errors: &'e Errors) -> Self {
        Self { path, accepted, state: State::Missing, errors }
    }

    pub(super) fn read(self, value: T) -> Self {
        Self { state: State::Read(value), ..self }
    }

    /// Records what was found instead of an accepted value.
    pub(super) fn refuse(self, found: &str) -> Self {
        self.errors.add(&self.path, format!("{found}; accepted: {}", self.accepted));
        self.invalid()
    }

    pub(super) fn invalid(self) -> Self {
        Self { state: State::Invalid, ..self }
    }

    /// The value. `None` if the key was left out, or its value is not accepted.
    pub fn optional(self) -> Option<T> {
        match self.state {
            State::Read(value) => Some(value),
            State::Missing | State::Invalid => None,
        }
    }

    /// The value, or this one if the key was left out or its value is not accepted.
    pub fn or(self, default: T) -> T {
        self.optional().unwrap_or(default)
    }

    /// The value, or the default of its type if the key was left out or its value is not accepted.
    pub fn or_default(self) -> T
    where
        T: Default,
    {
        self.optional().unwrap_or_default()
    }

    /// The value of a key that must be given. `None` if an error was recorded.
    pub fn required(self) -> Option<T> {
        if matches!(self.state, State::Missing) {
            self.errors.add(&self.path, format!("is missing; accepted: {}", self.accepted));
        }
        self.optional()
    }
}
