//! [`noop_plugin`]: the smallest plugin, which measures the cost of a call alone.

use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, MemorySection, MemoryType, Module,
    TypeSection, ValType,
};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::inspect::{INTERFACE, PACKAGE};

const WIT: &str = include_str!("../../../plugin-sdk/wit/v0.1/gateway-plugin.wit");

/// Hooks, each with the number of its function.
const HOOKS: [(u32, &str); 3] = [(1, "on-connect"), (2, "on-message"), (3, "on-disconnect")];
/// Address for arguments. Each call overwrites the previous ones.
const ARGUMENTS: i32 = 1024;
/// Address of the result: zeros, which is the verdict without an opinion.
const ANSWER: i32 = 16;
/// Memory for arguments in units of 64 KiB: more than the largest message.
const PAGES: u64 = 32;

/// A core module that answers every client with `pass` and every message with `next`.
pub fn noop_plugin() -> Vec<u8> {
    let i32s = |count| vec![ValType::I32; count];
    let mut types = TypeSection::new();
    // The allocator; on-connect: connection, token, data; on-message: connection, kind, payload.
    types.ty().function(i32s(4), [ValType::I32]);
    types.ty().function([vec![ValType::I64], i32s(4)].concat(), [ValType::I32]);
    types.ty().function([vec![ValType::I64], i32s(3)].concat(), [ValType::I32]);
    // on-disconnect: connection, code, reason, duration.
    types.ty().function([vec![ValType::I64], i32s(3), vec![ValType::I64]].concat(), []);
    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    for (kind, answer) in [(0, Some(ARGUMENTS)), (1, Some(ANSWER)), (2, Some(ANSWER)), (3, None)] {
        functions.function(kind);
        let mut body = Function::new([]);
        if let Some(answer) = answer {
            body.instructions().i32_const(answer);
        }
        body.instructions().end();
        code.function(&body);
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: PAGES,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("cabi_realloc", ExportKind::Func, 0);
    for (index, hook) in HOOKS {
        exports.export(&format!("{PACKAGE}/{hook}@{INTERFACE}.0#call"), ExportKind::Func, index);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&exports).section(&code);
    let mut module = module.finish();
    describe(&mut module).expect("the interface is part of this program, and a test makes this plugin");
    module
}

fn describe(module: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    resolve.push_str("gateway-plugin.wit", WIT)?;
    let exports: String =
        HOOKS.iter().map(|(_, hook)| format!("export {PACKAGE}/{hook}@{INTERFACE}.0;")).collect();
    let world = format!("package gateway:empty; world empty {{ {exports} }}");
    let package = resolve.push_str("empty.wit", &world)?;
    let world = resolve.select_world(&[package], Some("empty"))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}
