//! [`of`] names the functions of a guest in which a call failed.

use wasmtime::WasmBacktrace;

/// Functions shown: the innermost ones.
const FUNCTIONS_MAX: usize = 8;
/// Bytes of the name of one function.
const NAME_BYTES_MAX: usize = 120;

/// The functions in which a call failed, the innermost first, if the plugin was built with their names. A
/// plugin that was stripped has none.
pub(super) fn of(error: &wasmtime::Error) -> Option<String> {
    let trace = error.downcast_ref::<WasmBacktrace>()?;
    let names = trace.frames().iter().filter_map(|frame| frame.func_name());
    let names = names.map(readable).filter(|name| !is_of_the_runtime(name));
    let mut shown: Vec<String> = names.take(FUNCTIONS_MAX).collect();
    // A recursion is told once.
    shown.dedup();
    (!shown.is_empty()).then(|| shown.join(" < "))
}

/// A name as in the source, without the hash that the compiler appends.
fn readable(name: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(name));
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    super::output::cut(&name, NAME_BYTES_MAX).to_owned()
}

/// What every panic of a Rust plugin passes through says nothing of the plugin.
fn is_of_the_runtime(name: &str) -> bool {
    let name = name.trim_start_matches('<');
    ["core::", "std::", "alloc::", "__rust", "rust_", "abort", "__wasi"]
        .iter()
        .any(|begin| name.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_in_the_source() {
        assert_eq!(readable("_ZN6polite4find17h0123456789abcdefE"), "polite::find");
        assert_eq!(readable("on_message"), "on_message");
        assert_eq!(readable("a\u{1b}[31m"), "a[31m");
        assert_eq!(readable(&"x".repeat(500)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn functions_of_every_panic_are_left_out() {
        for name in [
            "core::panicking::panic_fmt",
            "std::process::abort",
            "rust_panic",
            "<alloc::string::String as X>::y",
        ] {
            assert!(is_of_the_runtime(name), "{name}");
        }
        assert!(!is_of_the_runtime("polite::find"));
    }
}
