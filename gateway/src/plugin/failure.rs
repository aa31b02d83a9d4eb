//! [`Failure`]: why a call of a plugin failed.

use std::fmt;

/// Why one call had no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct Failure {
    /// The class, for counters and for what happens to the instance.
    pub cause: Cause,
    /// What the plugin or the runtime said; for the log.
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
    /// The plugin panicked, executed an illegal instruction, exited, or asked for something it may not have.
    Trap,
    /// The call took longer than the plugin's deadline.
    Deadline,
    /// The plugin wanted more memory than its limit.
    Memory,
    /// The plugin answered, but not with something that can be carried out.
    InvalidAnswer,
    /// The plugin was not asked: more clients wait for its instances than there is room for, or none became free in time.
    Busy,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Trap, Self::Deadline, Self::Memory, Self::InvalidAnswer, Self::Busy];

    /// The word for it in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::InvalidAnswer => "invalid-answer",
            Self::Busy => "busy",
        }
    }

    /// Whether the instance stopped in the middle of something and must not be called again.
    pub const fn ends_instance(self) -> bool {
        !matches!(self, Self::InvalidAnswer | Self::Busy)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an event meets whose plugin failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// It is refused.
    #[default]
    Closed,
    /// It goes on as if the plugin had no opinion.
    Open,
}
