//! Explains link errors: a function that is missing, or that has another signature than the gateway's.

use super::inspect::INTERFACE;
use crate::plugin::load::{LoadCode, LoadError};

/// An import that cannot be linked. `sdk` is the version of the SDK that built the plugin.
pub(super) fn import(error: &wasmtime::Error, sdk: Option<&str>) -> LoadError {
    // The linker's error quotes the interface first, then the function.
    let text = format!("{error:#}");
    let mut quoted = text.split('`').skip(1).step_by(2);
    let what = match (quoted.next(), quoted.next()) {
        (Some(interface), Some(function)) if interface.contains('/') => {
            if text.contains("implementation is missing") {
                format!(
                    "needs the function `{function}` of {interface}, which interface {INTERFACE} of this gateway does not have"
                )
            } else {
                format!(
                    "calls `{function}` of {interface} with other parameters or another result than interface {INTERFACE} \
                     of this gateway has: {}",
                    error.root_cause()
                )
            }
        }
        _ => format!("imports something with another type than the gateway offers: {text}"),
    };
    refuse(&what, sdk)
}

/// A hook that cannot be called.
pub(super) fn hook(name: &str, error: &wasmtime::Error, sdk: Option<&str>) -> LoadError {
    let what = format!(
        "exports the hook {name} with other parameters or another result than interface {INTERFACE} of this gateway has: {}",
        error.root_cause()
    );
    refuse(&what, sdk)
}

fn refuse(what: &str, sdk: Option<&str>) -> LoadError {
    let built = sdk.map(|sdk| format!("; it was built with plugin-sdk {sdk}")).unwrap_or_default();
    let message =
        format!("{what}{built}; rebuild it with a plugin-sdk for {INTERFACE}, or run a newer gateway");
    LoadError::new(LoadCode::InterfaceMismatch, message)
}
