//! Writes lines to the gateway's log.
//!
//! ```
//! use gateway_plugin_sdk::prelude::*;
//! # let limit = 3;
//! log::warn!("more than {limit} rooms");
//! ```
//!
//! `println!` writes a line at level info, `eprintln!` a warning, both when the hook has ended.
//!
//! The gateway adds the plugin's name. It drops and counts lines above the plugin's rate, so log lines cannot
//! slow the gateway down. Never log a token or a payload of a client, because logs are stored in files.

use std::fmt;

/// The level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// An error: somebody must act.
    Error,
    /// A warning: somebody should know.
    Warn,
    /// An event of normal operation.
    Info,
    /// A detail for debugging.
    Debug,
}

impl Level {
    /// The number of the interface.
    pub const fn number(self) -> u32 {
        match self {
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
        }
    }
}

/// Writes one line. The macros of this module are easier to use.
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => crate::host::log(level, text),
        None => crate::host::log(level, &message.to_string()),
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($arg:tt)+) => { $crate::log::line($crate::log::Level::Error, ::core::format_args!($($arg)+)) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($arg:tt)+) => { $crate::log::line($crate::log::Level::Warn, ::core::format_args!($($arg)+)) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($arg:tt)+) => { $crate::log::line($crate::log::Level::Info, ::core::format_args!($($arg)+)) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($arg:tt)+) => { $crate::log::line($crate::log::Level::Debug, ::core::format_args!($($arg)+)) }; }

#[doc(inline)]
pub use {__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};
