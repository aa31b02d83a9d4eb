//! Tests that plugins for a released interface still load: no part of it may be removed or changed.

use std::collections::BTreeMap;

use wit_parser::{Function, Resolve, Type, TypeDefKind, WorldItem};

use super::guest;
use super::support::{Running, channel, component, connect_event, module, start};
use crate::plugin::event::Kind;
use crate::plugin::verdict::{ConnectVerdict, Effect, Verdict};
use crate::protocol::Encoding;

/// Interface 0.1 as released; see `tests/frozen/v0.1`.
const RELEASED: &str = include_str!("../../../../tests/frozen/v0.1/wit/gateway-plugin.wit");

/// All items of an interface: functions, types and the interfaces of the world, each with its exact shape. A
/// named type is expanded where it is used, because the component model compares its structure.
fn promises(wit: &str) -> BTreeMap<String, String> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("gateway-plugin.wit", wit).unwrap();
    let mut promises = BTreeMap::new();
    for (name, id) in &resolve.packages[package].interfaces {
        let interface = &resolve.interfaces[*id];
        for (function, shape) in &interface.functions {
            promises.insert(format!("{name}.{function}"), signature(&resolve, shape));
        }
        for (of, id) in &interface.types {
            promises.insert(format!("{name}.{of}"), shape(&resolve, &Type::Id(*id)));
        }
    }
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let world = &resolve.worlds[world];
    for (direction, items) in [("import", &world.imports), ("export", &world.exports)] {
        for item in items.values() {
            let WorldItem::Interface { id, .. } = item else { continue };
            let name = resolve.interfaces[*id].name.clone().unwrap();
            promises.insert(format!("{direction} {name}"), String::new());
        }
    }
    promises
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameters = function.params.iter();
    let parameters: Vec<_> = parameters
        .map(|parameter| format!("{}: {}", parameter.name, shape(resolve, &parameter.ty)))
        .collect();
    let result = function.result.as_ref().map(|result| shape(resolve, result));
    format!("{:?} ({}) -> {}", function.kind, parameters.join(", "), result.unwrap_or_default())
}

fn shape(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else { return format!("{ty:?}").to_lowercase() };
    let of = |ty: &Type| shape(resolve, ty);
    let optional = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), |ty| shape(resolve, ty));
    match &resolve.types[*id].kind {
        TypeDefKind::Type(ty) => of(ty),
        TypeDefKind::List(ty) => format!("list<{}>", of(ty)),
        TypeDefKind::Option(ty) => format!("option<{}>", of(ty)),
        TypeDefKind::Result(result) => {
            format!("result<{}, {}>", optional(&result.ok), optional(&result.err))
        }
        TypeDefKind::Tuple(tuple) => {
            format!("tuple<{}>", tuple.types.iter().map(of).collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter().map(|field| format!("{}: {}", field.name, of(&field.ty)));
            format!("record {{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| format!("{}({})", case.name, optional(&case.ty)));
            format!("variant {{ {} }}", cases.collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Enum(cases) => {
            let cases = cases.cases.iter().map(|case| case.name.as_str());
            format!("enum {{ {} }}", cases.collect::<Vec<_>>().join(", "))
        }
        // An unknown shape must not count as equal.
        other => panic!("teach this test to compare {other:?}"),
    }
}

/// Items that plugins of `released` would miss in `now`.
fn broken(released: &str, now: &str) -> Vec<String> {
    let now = promises(now);
    let missing = |(name, shape): (String, String)| match now.get(&name) {
        None => Some(format!("{name} was removed")),
        Some(found) if *found != shape => Some(format!("{name} was {shape} and is {found}")),
        Some(_) => None,
    };
    promises(released).into_iter().filter_map(missing).collect()
}

#[test]
fn nothing_of_a_released_interface_is_removed_or_changed() {
    let broken = broken(RELEASED, guest::WIT);
    assert!(
        broken.is_empty(),
        "plugins that are out there would not load any more; add instead of changing, or begin version 0.2:\n{}",
        broken.join("\n")
    );
}

#[test]
fn what_may_be_added_and_what_would_break_plugins() {
    let change = |from: &str, to: &str| {
        assert!(RELEASED.contains(from), "{from}");
        broken(RELEASED, &RELEASED.replacen(from, to, 1))
    };
    let function = "interface context {";
    assert_eq!(change(function, &format!("{function} size: func() -> u64;")), [""; 0], "a function");
    let interface = "interface sizes { size: func() -> u64; } ";
    assert_eq!(change(function, &format!("{interface}{function}")), [""; 0], "an interface");
    for (from, to, word) in [
        ("    user: func() -> string;", "", "context.user was removed"),
        ("user: func() -> string;", "user: func() -> list<u8>;", "context.user was"),
        ("attribute: func(name: string)", "attribute: func(key: string)", "context.attribute was"),
        ("        code: u32,\n", "        code: u32,\n        more: u32,\n", "types.refusal was"),
        ("        pass,\n", "        pass,\n        ask,\n", "types.connect-verdict was"),
        ("    import log;\n", "", "import log was removed"),
    ] {
        let broken = change(from, to);
        assert!(broken.iter().any(|line| line.contains(word)), "{word} in {broken:?}");
    }
}

#[test]
fn a_plugin_of_the_released_interface_loads_and_works() {
    for wasm in [module("guest_frozen_0_1.wasm"), component("guest_frozen_0_1.wasm")] {
        let refused = start(&wasm, "[config]\nmode = 'refuse'").map(drop).unwrap_err();
        assert!(refused.message().contains("told to refuse"), "{refused}");

        let started = || start(&wasm, "").map_err(|error| error.to_string()).unwrap();
        let mut frozen: Running = started();
        let connect = |frozen: &mut Running, token: &str| {
            frozen.plugin.on_connect(&connect_event(Encoding::Raw, token), &mut Vec::new()).unwrap()
        };
        assert_eq!(connect(&mut frozen, ""), ConnectVerdict::Pass);
        assert!(matches!(connect(&mut frozen, "no"), ConnectVerdict::Refuse(why) if why.code == 3500));
        let ConnectVerdict::Accept(identity) = connect(&mut frozen, "eve") else { panic!("accepted") };
        assert_eq!((&*identity.user, identity.expires_at), ("eve", Some(2_000_000_000)));
        assert_eq!(identity.attributes, [("plan".into(), "free".into())]);

        assert_eq!(frozen.raw("who").unwrap(), Verdict::Reply("ann raw".into()));
        assert_eq!(frozen.raw("away").unwrap(), Verdict::Route(vec![channel("#42")]));
        assert_eq!(frozen.raw("change").unwrap(), Verdict::Replace("changed".into()));
        assert_eq!(frozen.raw("else").unwrap(), Verdict::Next);
        assert_eq!(frozen.message(Kind::Publish, "news", b"hi").unwrap(), Verdict::Allow);
        assert!(matches!(&frozen.effects[..], [Effect::Publish { payload, .. }] if payload == "hi"));
        assert!(!frozen.plugin.interests().wants_message(Kind::Publish, Some(&channel("other"))));
        // A kind of a later interface: it has not asked for it, and has no opinion.
        assert!(!frozen.plugin.interests().wants_message(Kind::SubRefresh, Some(&channel("news"))));
        assert_eq!(frozen.message(Kind::SubRefresh, "news", b"").unwrap(), Verdict::Next);
    }
}
