//! Compares the chart of hooks and verdicts in the SDK's documentation with the interface.

use std::collections::{BTreeMap, BTreeSet};

use wit_parser::{Resolve, Type, TypeDefKind, WorldItem};

use super::guest::WIT;

type Chart = BTreeMap<String, BTreeSet<String>>;

/// Hooks and the cases of their verdicts. Of a result only the error is drawn, because otherwise the chain
/// continues.
fn interface() -> Chart {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("gateway-plugin.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let mut chart = Chart::new();
    for export in resolve.worlds[world].exports.values() {
        let WorldItem::Interface { id, .. } = export else { panic!("every hook is an interface") };
        let hook = &resolve.interfaces[*id];
        let cases = match hook.functions["call"].result {
            Some(Type::Id(id)) => cases(&resolve, id),
            _ => BTreeSet::new(),
        };
        chart.insert(hook.name.as_ref().unwrap().replace('-', "_"), cases);
    }
    chart
}

fn cases(resolve: &Resolve, id: wit_parser::TypeId) -> BTreeSet<String> {
    match &resolve.types[id].kind {
        TypeDefKind::Variant(variant) => variant.cases.iter().map(|case| case.name.clone()).collect(),
        TypeDefKind::Result(_) => ["error".to_owned()].into(),
        TypeDefKind::Type(Type::Id(other)) => cases(resolve, *other),
        other => panic!("an answer of another shape: {other:?}"),
    }
}

/// A hook is on the line where its verdicts begin. A verdict that ends the chain is drawn `---- word`, one
/// that continues it `| word  ->`.
fn drawn(documentation: &str) -> Chart {
    let (_, chart) = documentation.split_once("//! # Hooks and verdicts").expect("the chapter");
    let (_, chart) = chart.split_once("```text").expect("the chart");
    let (chart, _) = chart.split_once("```").expect("its end");
    let mut found = Chart::new();
    let mut hook = String::new();
    for line in chart.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(name) = words.iter().find(|word| **word == "configure" || word.starts_with("on_")) {
            hook = (*name).to_owned();
            found.insert(hook.clone(), BTreeSet::new());
        }
        let mut answer = None;
        for pair in words.windows(2) {
            if pair[0] == "----" && answer.is_none() {
                answer = Some(pair[1]);
            }
        }
        for three in words.windows(3) {
            if three[0] == "|" && three[2] == "->" {
                answer = Some(three[1]);
            }
        }
        if let Some(answer) = answer {
            found.get_mut(&hook).expect("an answer of a hook").insert(answer.to_owned());
        }
    }
    found
}

#[test]
fn the_chart_of_hooks_and_verdicts_is_that_of_the_interface() {
    let documentation = include_str!("../../../../plugin-sdk/src/lib.rs");
    assert_eq!(drawn(documentation), interface());
    let without = documentation.replacen("---- drop", "---- ", 1);
    assert_ne!(drawn(&without), interface(), "what is missing is noticed");
}
