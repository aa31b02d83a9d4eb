//! Filters against an evaluation that follows the words of the protocol, and what is no filter.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A node as a client writes it.
#[derive(Debug, Clone, Default)]
struct Tree {
    op: &'static str,
    key: String,
    cmp: &'static str,
    val: String,
    vals: Vec<String>,
    nodes: Vec<Tree>,
}

fn split(tree: &Tree, _: usize) -> Result<Fields<'_, &Tree>, InvalidFilter> {
    Ok(Fields {
        op: tree.op.into(),
        key: (&*tree.key).into(),
        cmp: tree.cmp.into(),
        val: (&*tree.val).into(),
        vals: tree.vals.iter().map(|text| text.into()).collect(),
        nodes: tree.nodes.iter().collect(),
    })
}

fn read(tree: &Tree) -> Result<TagFilter, InvalidFilter> {
    TagFilter::read(tree, 1, split)
}

fn leaf(key: &str, cmp: &'static str, val: &str, vals: &[&str]) -> Tree {
    let vals = vals.iter().map(|text| (*text).to_owned()).collect();
    Tree { key: key.into(), cmp, val: val.into(), vals, ..Tree::default() }
}

fn inner(op: &'static str, nodes: Vec<Tree>) -> Tree {
    Tree { op, nodes, ..Tree::default() }
}

fn wants(tree: &Tree, tags: &[(&str, &str)]) -> bool {
    let tags = tags.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    read(tree).expect("a filter").wants(Tags::checked(tags).expect("tags").as_deref())
}

/// A number with at most three digits before and after the point, times a thousand.
fn thousandths(text: &str) -> Option<i64> {
    let digits = text.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = whole.parse::<i64>().ok()? * 1000 + format!("{fraction:0<3}").parse::<i64>().ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// What the protocol says of a tree, word by word.
fn naive(tree: &Tree, tags: &BTreeMap<String, String>) -> bool {
    let children: Vec<bool> = tree.nodes.iter().map(|node| naive(node, tags)).collect();
    let tag = tags.get(&tree.key);
    let numbers = || Some((thousandths(tag?)?, thousandths(&tree.val)?));
    match (tree.op, tree.cmp) {
        ("and", _) => !children.contains(&false),
        ("or", _) => children.contains(&true),
        ("not", _) => !children[0],
        (_, "eq") => tag == Some(&tree.val),
        (_, "neq") => tag != Some(&tree.val),
        (_, "in") => tree.vals.iter().any(|value| Some(value) == tag),
        (_, "nin") => !tree.vals.iter().any(|value| Some(value) == tag),
        (_, "ex") => tag.is_some(),
        (_, "nex") => tag.is_none(),
        (_, "sw") => tag.is_some_and(|tag| tag.starts_with(&tree.val)),
        (_, "ew") => tag.is_some_and(|tag| tag.ends_with(&tree.val)),
        (_, "ct") => tag.is_some_and(|tag| tag.contains(&tree.val)),
        (_, "lt") => numbers().is_some_and(|(tag, val)| tag < val),
        (_, "lte") => numbers().is_some_and(|(tag, val)| tag <= val),
        (_, "gt") => numbers().is_some_and(|(tag, val)| tag > val),
        (_, "gte") => numbers().is_some_and(|(tag, val)| tag >= val),
        other => panic!("{other:?}"),
    }
}

/// Names and values from a small set, so that they meet.
fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = String> {
    (select(vec!["", "-", "+"]), 0..30_u32, select(vec!["", ".0", ".5", ".50", ".125", ".49"]))
        .prop_map(|(sign, whole, fraction)| format!("{sign}{whole}{fraction}"))
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![number(), select(vec!["x", "xy", "yx", "h\u{e9}"]).prop_map(str::to_owned)]
}

fn comparison() -> impl Strategy<Value = Tree> {
    let one = select(vec!["eq", "neq", "sw", "ew", "ct"]);
    prop_oneof![
        (name(), one, value()).prop_map(|(key, cmp, val)| leaf(&key, cmp, &val, &[])),
        (name(), select(vec!["lt", "lte", "gt", "gte"]), number()).prop_map(|(key, cmp, val)| leaf(
            &key,
            cmp,
            &val,
            &[]
        )),
        (name(), select(vec!["ex", "nex"])).prop_map(|(key, cmp)| leaf(&key, cmp, "", &[])),
        (name(), select(vec!["in", "nin"]), vec(value(), 1..4)).prop_map(|(key, cmp, vals)| Tree {
            key,
            cmp,
            vals,
            ..Tree::default()
        }),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    comparison().prop_recursive(3, 20, 3, |node| {
        prop_oneof![
            (select(vec!["and", "or"]), vec(node.clone(), 1..4)).prop_map(|(op, nodes)| inner(op, nodes)),
            node.prop_map(|node| inner("not", vec![node])),
        ]
    })
}

proptest! {
    #[test]
    fn a_filter_decides_as_the_protocol_says(tree in tree(), tags in btree_map(name(), value(), 0..4)) {
        let entries = tags.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
        let checked = Tags::checked(entries).expect("few and short");
        let filter = read(&tree).expect("a valid tree");
        prop_assert_eq!(filter.wants(checked.as_deref()), naive(&tree, &tags));
    }

    #[test]
    fn numbers_compare_exactly(one in number(), other in number()) {
        let compared = Decimal::parse(&one).expect("a number").compare(&Decimal::parse(&other).expect("a number"));
        prop_assert_eq!(compared, thousandths(&one).cmp(&thousandths(&other)));
    }
}

#[test]
fn numbers_of_any_length_compare_exactly_and_other_text_is_no_number() {
    let near = [("9007199254740993", "9007199254740992"), ("0.30000000000000001", "0.3"), ("10", "9.99")];
    for (larger, smaller) in near {
        assert!(wants(&leaf("n", "gt", smaller, &[]), &[("n", larger)]), "{larger} > {smaller}");
        assert!(!wants(&leaf("n", "gte", larger, &[]), &[("n", smaller)]), "{smaller} < {larger}");
    }
    assert!(wants(&leaf("n", "lte", "-0.0", &[]), &[("n", "+00")]), "there is one zero");
    for text in ["", " 1", "1e3", "0x1", "1.", ".5", "--1", "1,5", "NaN", "\u{663}"] {
        assert!(Decimal::parse(text).is_none(), "{text:?}");
        assert!(!wants(&leaf("n", "lte", "1", &[]), &[("n", text)]), "{text:?}");
        assert!(!wants(&leaf("n", "gte", "1", &[]), &[("n", text)]), "{text:?}");
    }
}

#[test]
fn a_missing_tag_differs_from_every_value() {
    for tags in [&[][..], &[("other", "x")]] {
        for (cmp, val, vals, wanted) in [
            ("eq", "x", &[][..], false),
            ("neq", "x", &[], true),
            ("in", "", &["x", ""], false),
            ("nin", "", &["x", ""], true),
            ("ex", "", &[], false),
            ("nex", "", &[], true),
            ("sw", "x", &[], false),
            ("ct", "x", &[], false),
            ("lt", "1", &[], false),
        ] {
            assert_eq!(wants(&leaf("a", cmp, val, vals), tags), wanted, "{cmp}");
        }
    }
}

#[test]
fn a_tree_that_makes_no_sense_is_refused_with_the_reason() {
    let good = || leaf("a", "ex", "", &[]);
    for (tree, why) in [
        (Tree::default(), InvalidFilter::Key),
        (leaf("", "ex", "", &[]), InvalidFilter::Key),
        (leaf("a", "", "x", &[]), InvalidFilter::Comparison),
        (leaf("a", "like", "x", &[]), InvalidFilter::Comparison),
        (leaf("a", "eq", "", &[]), InvalidFilter::Value),
        (leaf("a", "eq", "x", &["y"]), InvalidFilter::Value),
        (leaf("a", "in", "", &[]), InvalidFilter::Values),
        (leaf("a", "in", "x", &["y"]), InvalidFilter::Values),
        (leaf("a", "ex", "x", &[]), InvalidFilter::NoValue),
        (leaf("a", "lt", "many", &[]), InvalidFilter::Number),
        (inner("xor", vec![good()]), InvalidFilter::Op),
        (inner("and", vec![]), InvalidFilter::Children),
        (inner("not", vec![]), InvalidFilter::Children),
        (inner("not", vec![good(), good()]), InvalidFilter::Children),
        (Tree { key: "a".into(), ..inner("and", vec![good()]) }, InvalidFilter::Mixed),
        (Tree { nodes: vec![good()], ..good() }, InvalidFilter::Nodes),
        (inner("or", vec![good(), leaf("a", "eq", "", &[])]), InvalidFilter::Value),
    ] {
        assert_eq!(read(&tree), Err(why), "{tree:?}");
    }
}

#[test]
fn a_tree_is_bounded_in_bytes_nodes_values_and_levels() {
    let nested =
        |levels: usize| (1..levels).fold(leaf("a", "ex", "", &[]), |node, _| inner("not", vec![node]));
    assert!(read(&nested(FILTER_DEPTH_MAX)).is_ok());
    assert_eq!(read(&nested(FILTER_DEPTH_MAX + 1)), Err(InvalidFilter::TooDeep));
    let wide = |nodes: usize| inner("or", vec![leaf("a", "ex", "", &[]); nodes]);
    assert!(read(&wide(FILTER_TERMS_MAX - 1)).is_ok());
    assert_eq!(read(&wide(FILTER_TERMS_MAX)), Err(InvalidFilter::TooMany));
    let values = |values: usize| leaf("a", "in", "", &vec!["x"; values]);
    assert!(read(&values(FILTER_TERMS_MAX - 1)).is_ok());
    assert_eq!(read(&values(FILTER_TERMS_MAX)), Err(InvalidFilter::TooMany));
    let small = nested(1);
    assert!(TagFilter::read(&small, FILTER_BYTES_MAX, split).is_ok());
    assert_eq!(TagFilter::read(&small, FILTER_BYTES_MAX + 1, split), Err(InvalidFilter::TooLarge));
}
