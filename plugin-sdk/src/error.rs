//! `HostError` says why the gateway refused a call of a plugin.

use std::fmt;

/// Why the gateway refused a call. The call had no effect; the hook goes on and decides what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// For programs.
    pub kind: HostErrorKind,
    /// For people: a sentence for the log.
    pub message: String,
}

/// What was wrong with a call.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    /// More effects in one call of a hook than the plugin's limit.
    TooManyEffects,
    /// More bytes than the plugin's limit.
    TooManyBytes,
    /// Not a valid address or channel, see [`address`](crate::address).
    InvalidAddress,
    /// Not JSON, although the receiver speaks JSON.
    NotJson,
    /// Not possible in this hook.
    WrongHook,
    /// Not a code that closes a connection.
    InvalidCode,
    /// An attribute without a name, or a bucket with too long a one.
    InvalidName,
    /// Not an interval a timer can have.
    InvalidInterval,
    /// Not a rate that a bucket can have.
    InvalidRule,
    /// Something that this gateway does not offer.
    NotAvailable,
    /// A key or a value that is larger than the gateway keeps.
    TooLarge,
    /// A value that is not a number, or would be too large a number.
    NotANumber,
    /// Not granted in the plugin's settings file.
    NotGranted,
    /// No upstream of this name in the gateway's configuration.
    NoSuchUpstream,
    /// Full, or too much at a time: it may work later.
    Busy,
    /// Not a request that can be sent.
    InvalidRequest,
    /// The host has an address that is not public, and its origin is not granted as private.
    RefusedAddress,
    /// No complete answer in time.
    Timeout,
    /// The answer is too large.
    AnswerTooLarge,
    /// No connection, or no valid answer.
    RequestFailed,
    /// A code that this SDK does not know.
    Unknown(u32),
}

impl HostErrorKind {
    /// The code of the interface.
    pub const fn number(self) -> u32 {
        match self {
            Self::TooManyEffects => 1,
            Self::TooManyBytes => 2,
            Self::InvalidAddress => 3,
            Self::NotJson => 4,
            Self::WrongHook => 5,
            Self::InvalidCode => 6,
            Self::InvalidName => 7,
            Self::InvalidInterval => 8,
            Self::InvalidRule => 9,
            Self::NotAvailable => 10,
            Self::TooLarge => 11,
            Self::NotANumber => 12,
            Self::NotGranted => 20,
            Self::NoSuchUpstream => 21,
            Self::Busy => 22,
            Self::InvalidRequest => 23,
            Self::RefusedAddress => 24,
            Self::Timeout => 25,
            Self::AnswerTooLarge => 26,
            Self::RequestFailed => 27,
            Self::Unknown(number) => number,
        }
    }

    /// The kind of a code of the interface.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::TooManyEffects,
            2 => Self::TooManyBytes,
            3 => Self::InvalidAddress,
            4 => Self::NotJson,
            5 => Self::WrongHook,
            6 => Self::InvalidCode,
            7 => Self::InvalidName,
            8 => Self::InvalidInterval,
            9 => Self::InvalidRule,
            10 => Self::NotAvailable,
            11 => Self::TooLarge,
            12 => Self::NotANumber,
            20 => Self::NotGranted,
            21 => Self::NoSuchUpstream,
            22 => Self::Busy,
            23 => Self::InvalidRequest,
            24 => Self::RefusedAddress,
            25 => Self::Timeout,
            26 => Self::AnswerTooLarge,
            27 => Self::RequestFailed,
            _ => Self::Unknown(number),
        }
    }
}

impl HostError {
    pub(crate) fn new(kind: HostErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}

impl From<HostError> for String {
    /// So that `?` works in [`Plugin::configure`](crate::Plugin::configure).
    fn from(error: HostError) -> Self {
        error.message
    }
}
