//! [`Failure`]: why a call of a plugin failed.

use std::fmt;

/// Why one call returned no usable verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct Failure {
    /// The class, for counters and for the treatment of the instance.
    pub cause: Cause,
    /// The message of the plugin or the runtime, for the log.
    pub detail: Box<str>,
}

impl Failure {
    /// A failure of class `cause`.
    pub fn new(cause: Cause, detail: impl Into<Box<str>>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

/// The classes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The plugin panicked, executed an illegal instruction, exited, or called a function that it may not
    /// call.
    Trap,
    /// The call took longer than the plugin's deadline.
    Deadline,
    /// The plugin exceeded its memory limit.
    Memory,
    /// The plugin returned an invalid verdict.
    InvalidAnswer,
    /// The plugin was not called: too many clients wait for its instances, or none became free in time.
    Busy,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Trap, Self::Deadline, Self::Memory, Self::InvalidAnswer, Self::Busy];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::InvalidAnswer => "invalid-answer",
            Self::Busy => "busy",
        }
    }

    /// Whether the instance stopped in the middle of a call and must not be called again.
    pub const fn ends_instance(self) -> bool {
        !matches!(self, Self::InvalidAnswer | Self::Busy)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Treatment of an event whose plugin failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// Refuse the event.
    #[default]
    Closed,
    /// Continue as if the plugin had no opinion.
    Open,
}
