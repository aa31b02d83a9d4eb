//! [`inspect`] identifies the contents of a file before compilation, so that a refusal can explain what the
//! file is.

use bytes::Bytes;
use serde::Deserialize;
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};
use wasmtime::Engine;

use super::sockets;
use crate::digest::hex;
use crate::plugin::load::{LoadCode, LoadError};
use gateway_plugin_script::SELF_TEST_BYTES_MAX;

/// Supported version of the interface.
pub(super) const INTERFACE: &str = "0.1";

/// The package of the plugin interface.
pub(super) const PACKAGE: &str = "gateway:plugin";
/// Hooks that a plugin can export.
const HOOKS: [&str; 6] = ["configure", "on-connect", "on-message", "on-deliver", "on-disconnect", "on-timer"];
/// Interfaces that a plugin can import from the package.
const HOST: [&str; 9] =
    ["types", "context", "effects", "interests", "buckets", "key-value", "log", "environment", "http"];
/// Interfaces of WASI 0.2 that a plugin can import, in addition to those of [`sockets`].
const WASI: [&str; 20] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/wall-clock",
    "wasi:clocks/monotonic-clock",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
];
/// The custom section in which the SDK describes a plugin.
const STAMP_SECTION: &str = "gateway-plugin";
/// The custom section with the embedded test.
const SELF_TEST_SECTION: &str = "gateway-self-test";
/// The custom section in which `wit-bindgen` describes a core module's interface; more may follow the name.
const INTERFACE_SECTION: &str = "component-type";
/// The custom sections in which compilers put debug information begin like this.
const DEBUG_SECTIONS: &str = ".debug_";
/// Most names in one message.
const NAMES_MAX: usize = 6;

/// A valid WebAssembly file.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) form: Form,
    pub(super) stamp: Stamp,
    /// Whether a core module can be converted to a component.
    pub(super) describes_interface: bool,
    /// The raw section; it is parsed when the test runs.
    pub(super) self_test: Option<Bytes>,
    core_exports: Vec<String>,
}

/// The two kinds of WebAssembly files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    CoreModule,
    Component,
}

/// Metadata that the SDK writes into a plugin. Absent in plugins made with other tools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Stamp {
    pub(super) name: Option<Box<str>>,
    pub(super) version: Option<Box<str>>,
    pub(super) sdk: Option<Box<str>>,
    pub(super) interface: Option<Box<str>>,
    /// Origins, upstreams and environment variables that the author declares as required.
    pub(super) http: Vec<Box<str>>,
    pub(super) upstreams: Vec<Box<str>>,
    pub(super) environment: Vec<Box<str>>,
}

/// Reads the whole file, to reject one that was copied in part.
pub(super) fn inspect(bytes: &[u8]) -> Result<Inspected, LoadError> {
    let form = sniff(bytes)?;
    let mut inspected = Inspected {
        form,
        stamp: Stamp::default(),
        describes_interface: false,
        self_test: None,
        core_exports: Vec::new(),
    };
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| damaged(&error))? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // A component may be composed of several plugins' modules; the first one names it. An unreadable
            // stamp counts as absent.
            Payload::CustomSection(section)
                if section.name() == STAMP_SECTION && inspected.stamp == Stamp::default() =>
            {
                inspected.stamp = serde_json::from_slice(section.data()).unwrap_or_default();
            }
            Payload::CustomSection(section)
                if section.name() == SELF_TEST_SECTION && inspected.self_test.is_none() =>
            {
                // One byte more than permitted marks it as too large.
                let kept = section.data().len().min(SELF_TEST_BYTES_MAX + 1);
                inspected.self_test = Some(Bytes::copy_from_slice(&section.data()[..kept]));
            }
            Payload::CustomSection(section) if depth == 1 => {
                inspected.describes_interface |= section.name().starts_with(INTERFACE_SECTION);
            }
            Payload::ExportSection(exports) if depth == 1 => {
                for export in exports {
                    inspected.core_exports.push(export.map_err(|error| damaged(&error))?.name.into());
                }
            }
            Payload::UnknownSection { id, .. } => {
                return Err(LoadError::new(
                    LoadCode::Malformed,
                    format!("is damaged WebAssembly: there is no section {id}; copy or build it again"),
                ));
            }
            _ => {}
        }
    }
    Ok(inspected)
}

/// The bytes of debug information in a file, also in the modules of a component. For its author: it makes the
/// file large and has no effect.
pub fn debug_bytes(file: &[u8]) -> usize {
    let sections = Parser::new(0).parse_all(file).filter_map(|payload| match payload {
        Ok(Payload::CustomSection(section)) if section.name().starts_with(DEBUG_SECTIONS) => {
            Some(section.data().len())
        }
        _ => None,
    });
    sections.sum()
}

/// Compares a component's imports and exports with what the gateway offers and calls.
pub(super) fn check_world(component: &[u8], stamp: &Stamp) -> Result<(), LoadError> {
    let (imports, exports) = world(component).map_err(|error| damaged(&error))?;
    let other_interface: Vec<&String> = imports
        .iter()
        .chain(&exports)
        .filter(|name| matches!(Name::of(name), Name::Plugin { compatible: false, .. }))
        .collect();
    let has_hook = exports
        .iter()
        .any(|name| matches!(Name::of(name), Name::Plugin { compatible: true, interface } if HOOKS.contains(&interface)));
    if imports.iter().any(|name| other_interface.contains(&name)) || !has_hook && !other_interface.is_empty()
    {
        return Err(other_version(stamp, &other_interface));
    }
    let missing: Vec<&String> = imports.iter().filter(|name| !Name::of(name).is_offered()).collect();
    if !missing.is_empty() {
        return Err(not_offered(&missing));
    }
    if has_hook { Ok(()) } else { Err(no_hooks()) }
}

/// A component without hooks is never called, so it is refused.
pub(super) fn no_hooks() -> LoadError {
    let message = format!(
        "exports none of the hooks {} of {PACKAGE}@{INTERFACE}; implement at least one; in Rust, put `#[plugin]` above \
         `impl Plugin for ...`",
        HOOKS.join(", ")
    );
    LoadError::new(LoadCode::NoHooks, message)
}

impl Inspected {
    /// Explains why a core module without an interface description is not a plugin.
    pub(super) fn core_module_in_words(&self) -> String {
        let exports = |name: &str| self.core_exports.iter().any(|export| export.starts_with(name));
        if self.stamp.sdk.is_some() {
            "was built with gateway-plugin-sdk, but its component-type section was removed afterwards; keep custom \
             sections when stripping or optimising it"
                .into()
        } else if exports("proxy_abi_version") {
            "is a proxy-wasm filter; this gateway runs plugins built with gateway-plugin-sdk".into()
        } else if exports("_start") {
            "is a program and not a plugin: it exports `_start`; build a library (crate-type = [\"cdylib\"]) with \
             gateway-plugin-sdk"
                .into()
        } else {
            format!(
                "is a core module that was not built with gateway-plugin-sdk: it has no component-type section; in Rust, put \
                 `#[plugin]` above `impl Plugin for ...`; in other languages, build a component for the world {PACKAGE}/plugin"
            )
        }
    }
}

/// Identifies the file by its first bytes.
fn sniff(bytes: &[u8]) -> Result<Form, LoadError> {
    let refuse = |code, message: &str| Err(LoadError::new(code, message));
    if bytes.is_empty() {
        return refuse(LoadCode::Empty, "is empty; copy it again");
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return refuse(
            LoadCode::Precompiled,
            "was compiled for one machine already; drop the .wasm file it was made from, the gateway compiles itself",
        );
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => return Ok(Form::CoreModule),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(Form::Component),
        [0, b'a', b's', b'm', version @ ..] if version.len() >= 4 => {
            return refuse(
                LoadCode::Malformed,
                "is WebAssembly of a version that this gateway does not know; build it with current tools",
            );
        }
        start if b"\0asm".starts_with(start) || start.starts_with(b"\0asm") => {
            return refuse(LoadCode::Truncated, "ends within the first eight bytes; copy it again");
        }
        _ => {}
    }
    let text = bytes.trim_ascii_start();
    let what = if text.starts_with(b"<") {
        "is an HTML or XML page and not WebAssembly: a download has probably answered with an error page"
            .into()
    } else if text.starts_with(b"(") {
        "is WebAssembly as text; translate it into the binary form first".into()
    } else if bytes.starts_with(b"\x1f\x8b")
        || bytes.starts_with(b"PK")
        || bytes.starts_with(b"\x28\xb5\x2f\xfd")
    {
        "is a compressed archive; unpack it first".into()
    } else if bytes.starts_with(b"\x7fELF")
        || bytes.starts_with(b"MZ")
        || bytes.starts_with(b"\xcf\xfa\xed\xfe")
    {
        "is a native program or library; build it for the target wasm32-wasip1 or wasm32-wasip2".into()
    } else if bytes.iter().take(64).all(|byte| *byte == 0) {
        "begins with zeros only; copying it was probably interrupted, copy it again".into()
    } else {
        let start = hex(&bytes[..bytes.len().min(8)]);
        format!("is not WebAssembly: it begins with {start} instead of 0061736d")
    };
    Err(LoadError::new(LoadCode::NotWasm, what))
}

pub(super) fn damaged(error: &BinaryReaderError) -> LoadError {
    if error.message().contains("unexpected end") {
        let message = format!(
            "ends too early, at byte {}; copying it was probably interrupted, copy it again",
            error.offset()
        );
        return LoadError::new(LoadCode::Truncated, message);
    }
    let message = format!("is damaged WebAssembly: {}; copy or build it again", error.message());
    LoadError::new(LoadCode::Malformed, message)
}

/// Names of the component's own imports and exports, not those of nested components.
fn world(component: &[u8]) -> Result<(Vec<String>, Vec<String>), BinaryReaderError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { encoding: Encoding::Component | Encoding::Module, .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// A parsed name of an import or export.
enum Name<'a> {
    Plugin { interface: &'a str, compatible: bool },
    Wasi { interface: &'a str, compatible: bool },
    Other,
}

impl<'a> Name<'a> {
    fn of(name: &'a str) -> Self {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let of = |minor: &str| {
            version.strip_prefix(minor).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match interface.split_once('/') {
            Some((PACKAGE, interface)) => Self::Plugin { interface, compatible: of(INTERFACE) },
            Some((package, _)) if package.starts_with("wasi:") => {
                Self::Wasi { interface, compatible: of("0.2") }
            }
            _ => Self::Other,
        }
    }

    fn is_offered(&self) -> bool {
        match self {
            Self::Plugin { interface, compatible } => *compatible && HOST.contains(interface),
            Self::Wasi { interface, compatible } => {
                *compatible && (WASI.contains(interface) || interface.starts_with(sockets::PACKAGE))
            }
            Self::Other => false,
        }
    }
}

fn other_version(stamp: &Stamp, names: &[&String]) -> LoadError {
    let version =
        names.first().and_then(|name| name.split_once('@')).map_or("without version", |(_, version)| version);
    let interface = stamp.interface.as_deref().unwrap_or(version);
    let sdk = stamp.sdk.as_deref().map(|sdk| format!("with plugin-sdk {sdk} ")).unwrap_or_default();
    let message = format!(
        "was built {sdk}for interface {interface}; this gateway offers {INTERFACE}; missing: {}; rebuild it with a \
         plugin-sdk for {INTERFACE}, or run a gateway that offers {interface}",
        list(names)
    );
    LoadError::new(LoadCode::InterfaceMismatch, message)
}

fn not_offered(names: &[&String]) -> LoadError {
    let all = |test: fn(&Name<'_>) -> bool| names.iter().all(|name| test(&Name::of(name)));
    if all(|name| matches!(name, Name::Plugin { .. })) {
        let message = format!(
            "needs {}, which interface {INTERFACE} of this gateway does not have; run a newer gateway",
            list(names)
        );
        return LoadError::new(LoadCode::InterfaceMismatch, message);
    }
    let why = if names.iter().any(|name| name.starts_with("wasi:http/")) {
        "plugins have no network"
    } else {
        "plugins have clocks, random numbers, output, and the interfaces of gateway:plugin"
    };
    let message = format!("imports {}, which is not offered: {why}; build it without", list(names));
    LoadError::new(LoadCode::ImportNotOffered, message)
}

/// Some names of a list, for a message.
fn list(names: &[&String]) -> String {
    let mut text = names.iter().take(NAMES_MAX).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMES_MAX));
    }
    text
}
