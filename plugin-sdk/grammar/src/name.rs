//! Names of plugins, taken from the file names in a plugin folder.

/// The name of a plugin: its file name without the extension and without a leading number and dash, which
/// only set its place in the chain.
///
/// # Errors
///
/// Describes the error, as the end of a sentence that begins with the file name.
pub fn plugin_name(file: &str) -> Result<&str, &'static str> {
    let stem = file.strip_suffix(".wasm").unwrap_or(file);
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let name = match stem[digits..].strip_prefix('-') {
        Some(rest) if digits > 0 => rest,
        _ => stem,
    };
    if name.is_empty() {
        return Err("has no name; expected for example `10-auth.wasm`, which is the plugin `auth`");
    }
    if name.contains('.') {
        return Err("has a dot in its name; names with a dot are kept for canary and shadow versions");
    }
    if name.len() > 64
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    {
        return Err("has an unusable name; expected at most 64 letters, digits, `-` and `_`");
    }
    Ok(name)
}
