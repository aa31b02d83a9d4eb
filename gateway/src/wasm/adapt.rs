//! [`adapt`] turns a core module for `wasm32-wasip1` into a component.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::Validator;
use wit_component::ComponentEncoder;

use super::inspect::{Inspected, damaged};
use crate::plugin::load::{LoadCode, LoadError};

/// Wraps a module that describes its interface. Takes milliseconds.
pub(super) fn adapt(module: &[u8], inspected: &Inspected) -> Result<Vec<u8>, LoadError> {
    if !inspected.describes_interface {
        return Err(LoadError::new(LoadCode::CoreModuleWithoutInterface, inspected.core_module_in_words()));
    }
    // Validates first, so that later errors are about the interface.
    Validator::new().validate_all(module).map_err(|error| damaged(&error))?;
    let encode = || {
        ComponentEncoder::default()
            .validate(true)
            .module(module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .encode()
    };
    encode().map_err(|error| {
        let message = format!(
            "cannot be made a component: {error:#}; build it with gateway-plugin-sdk for wasm32-wasip1 or wasm32-wasip2"
        );
        LoadError::new(LoadCode::InterfaceMismatch, message)
    })
}
