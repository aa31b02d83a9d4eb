//! `HostError` says why the gateway refused a call of a plugin.

use std::fmt;

/// The reason why the gateway refused a call. The call had no effect; the hook continues and decides what to
/// do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// The kind of error, for code.
    pub kind: HostErrorKind,
    /// A description for people, to log.
    pub message: String,
}

/// The kind of a refused call.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    /// One call of a hook has more effects than the limit of the plugin.
    TooManyEffects,
    /// More bytes than the limit of the plugin.
    TooManyBytes,
    /// Not a valid address or channel, see [`address`](crate::address).
    InvalidAddress,
    /// Not JSON, although the receiver expects JSON.
    NotJson,
    /// Not possible in this hook.
    WrongHook,
    /// Not a code that closes a connection.
    InvalidCode,
    /// An attribute without a name, or a bucket whose name is too long.
    InvalidName,
    /// Not a valid interval of a timer.
    InvalidInterval,
    /// Not a valid rate of a bucket.
    InvalidRule,
    /// A feature that this gateway does not have.
    NotAvailable,
    /// A key or a value that exceeds the gateway's limit.
    TooLarge,
    /// The value is not a number, or the sum would be too large.
    NotANumber,
    /// Not granted in the plugin's settings file.
    NotGranted,
    /// No upstream of this name in the gateway's configuration.
    NoSuchUpstream,
    /// A queue is full, or there are too many requests at the same time: a later call may work.
    Busy,
    /// Not a valid request.
    InvalidRequest,
    /// The host has an address that is not public, and the settings file does not grant its origin as
    /// private.
    RefusedAddress,
    /// No complete response in time.
    Timeout,
    /// The response is too large.
    AnswerTooLarge,
    /// No connection, or no valid response.
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
    /// Lets `?` work in [`Plugin::configure`](crate::Plugin::configure).
    fn from(error: HostError) -> Self {
        error.message
    }
}
