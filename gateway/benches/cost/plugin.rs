//! One call of one plugin.

use anyhow::anyhow;
use gateway::plugin::chain::Plugin;
use gateway::plugin::event::{Kind, Message};
use wasmtime::component::{Component, Instance, Linker, TypedFunc};
use wasmtime::{Config, Engine, Store};

use crate::Scale;
use crate::fixture::{LARGE, Plugins, SMALL, message};
use crate::measure::{Case, Measure, compare, ns_per_call};
use crate::native::{self, Native};
use crate::table::Table;

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let plugins = Plugins::new()?;
    let call = |mut plugin: Box<dyn Plugin>, mut message: Message| {
        let mut effects = Vec::new();
        ns_per_call(scale.batch, move || plugin.on_message(&mut message, &mut effects))
    };
    let bare = |measure: wasmtime::Result<Measure<'static>>| {
        measure.map_err(|error| anyhow!("failed to make the smallest component: {error:#}"))
    };
    let mut cases = Vec::new();
    for bytes in [SMALL, LARGE] {
        cases.push(Case {
            name: format!("reply with the payload (echo), raw, {bytes} B"),
            unit: "ns",
            gateway: call(plugins.instance("echo")?, message(Kind::Raw, bytes)),
            against: "native trait object",
            baseline: call(Native::instance(native::echo), message(Kind::Raw, bytes)),
        });
        cases.push(Case {
            name: format!("look at the payload, next (guest-trap), {bytes} B"),
            unit: "ns",
            gateway: call(plugins.instance("guest-trap")?, message(Kind::Publish, bytes)),
            against: "native trait object",
            baseline: call(Native::instance(native::look), message(Kind::Publish, bytes)),
        });
        cases.push(Case {
            name: format!("next (guest-no-sdk), {bytes} B"),
            unit: "ns",
            gateway: call(plugins.instance("guest-no-sdk")?, message(Kind::Publish, bytes)),
            against: "bare wasmtime, same arguments",
            baseline: bare(bare_call(scale, &message(Kind::Publish, bytes).content.payload))?,
        });
    }
    cases.push(Case {
        name: format!("next (guest-no-sdk), {SMALL} B"),
        unit: "ns",
        gateway: call(plugins.instance("guest-no-sdk")?, message(Kind::Publish, SMALL)),
        against: "bare wasmtime, no arguments",
        baseline: bare(bare_noop(scale))?,
    });
    let rows = compare(scale.rounds, cases)?;
    let notes = vec![
        "gateway: `Plugin::on_message` of a plugin from the real loader, deadline and limits on".to_owned(),
        "bare wasmtime: a component of a few lines in the text format, on an engine set up likewise"
            .to_owned(),
    ];
    Ok(Table::compared("one call of one plugin", notes, &rows))
}

/// The smallest component with a function like `on-message.call`, and one with a function of nothing. Memory
/// for the payload is always at the same place.
const SMALLEST: &str = r#"
(component
  (core module $module
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "call") (param i64 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "noop")))
  (core instance $instance (instantiate $module))
  (func (export "noop") (canon lift (core func $instance "noop")))
  (func (export "call") (param "connection" u64) (param "kind" u32) (param "payload" (list u8)) (result u32)
    (canon lift (core func $instance "call")
      (memory $instance "memory") (realloc (func $instance "realloc")))))
"#;

/// The deadline of a call in ticks of a clock that stands still here: setting it is part of the price.
const DEADLINE: u64 = 6;

fn bare_call(scale: &Scale, payload: &[u8]) -> wasmtime::Result<Measure<'static>> {
    let payload = payload.to_vec();
    let (mut store, instance) = smallest()?;
    let function: TypedFunc<(u64, u32, &[u8]), (u32,)> = instance.get_typed_func(&mut store, "call")?;
    Ok(ns_per_call(scale.batch, move || {
        store.set_epoch_deadline(DEADLINE);
        function.call(&mut store, (7, Kind::Publish as u32, payload.as_slice()))
    }))
}

fn bare_noop(scale: &Scale) -> wasmtime::Result<Measure<'static>> {
    let (mut store, instance) = smallest()?;
    let function: TypedFunc<(), ()> = instance.get_typed_func(&mut store, "noop")?;
    Ok(ns_per_call(scale.batch, move || {
        store.set_epoch_deadline(DEADLINE);
        function.call(&mut store, ())
    }))
}

fn smallest() -> wasmtime::Result<(Store<()>, Instance)> {
    let mut config = Config::new();
    config.concurrency_support(false).epoch_interruption(true);
    let engine = Engine::new(&config)?;
    let component = Component::new(&engine, wat::parse_str(SMALLEST)?)?;
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(DEADLINE);
    let instance = Linker::new(&engine).instantiate(&mut store, &component)?;
    Ok((store, instance))
}
