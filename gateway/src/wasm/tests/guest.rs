//! Plugins for one test: a core module as text, with the description of its interface as `wit-bindgen` writes
//! it.

use wasm_encoder::{CustomSection, Section as _};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The released interface.
pub(super) const WIT: &str = include_str!("../../../../plugin-sdk/wit/v0.1/gateway-plugin.wit");

/// Memory and an allocator that never frees, which every guest with strings or lists needs. Text begins at
/// 1024.
const PRELUDE: &str = r#"
    (memory (export "memory") 8)
    (global $next (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
"#;

/// A plugin with this world and this code; `imports` is code that must precede the memory.
pub(super) fn guest(world: &str, imports: &str, code: &str) -> Vec<u8> {
    guest_of(WIT, world, imports, code)
}

/// The same for another version of the interface.
pub(super) fn guest_of(wit: &str, world: &str, imports: &str, code: &str) -> Vec<u8> {
    let mut module = wat::parse_str(format!("(module {imports} {PRELUDE} {code})")).unwrap();
    let mut resolve = Resolve::default();
    resolve.push_str("gateway-plugin.wit", wit).unwrap();
    let package =
        resolve.push_str("guest.wit", &format!("package test:guest; world guest {{ {world} }}")).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// A plugin that exports `on-message` with this body. `$kind`, `$payload` and `$length` are its parameters;
/// the result is the address of the verdict.
pub(super) fn on_message(world: &str, imports: &str, data: &str, body: &str) -> Vec<u8> {
    let world = format!("{world} export gateway:plugin/on-message@0.1.0;");
    let code = format!(
        r#"{data}
        (func (export "gateway:plugin/on-message@0.1.0#call")
            (param $connection i64) (param $kind i32) (param $payload i32) (param $length i32) (result i32)
            {body})"#
    );
    guest(&world, imports, &code)
}

/// A plugin that returns one verdict for every message: the number of its case, and the following words as in
/// memory. Text in `data` begins at 1024.
pub(super) fn answers(case: u8, words: &[u32], data: &str) -> Vec<u8> {
    let words: String =
        words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let memory = format!(
        r#"(data (i32.const 512) "\{case:02x}\00\00\00{words}") (data (i32.const 1024) {})"#,
        wat_string(data)
    );
    on_message("", "", &memory, "(i32.const 512)")
}

/// Text as a literal.
pub(super) fn wat_string(text: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!("\"{escaped}\"")
}

/// A custom section at the end of a module.
pub(super) fn with_section(mut module: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    CustomSection { name: name.into(), data: data.into() }.append_to(&mut module);
    module
}
