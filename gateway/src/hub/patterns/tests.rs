//! The index against a comparison with each pattern.

use std::collections::BTreeSet;

use gateway_plugin_grammar::{address, wildcard};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn channel(name: &str) -> Channel {
    Channel::parse_subscription(name).expect("valid")
}

/// An index of patterns, and the number of them.
fn index(patterns: impl IntoIterator<Item = String>) -> PatternIndex {
    let mut index = PatternIndex::default();
    for pattern in patterns {
        index.insert(&channel(&pattern));
    }
    index
}

fn found(index: &PatternIndex, name: &str) -> (Vec<String>, usize) {
    let mut found = Vec::new();
    let visited = index.find(&channel(name), &mut found);
    (found.iter().map(Channel::to_string).collect(), visited)
}

fn name(segments: Vec<&'static str>) -> impl Strategy<Value = String> {
    (select(vec!["n", "m"]), vec(select(segments), 1..5))
        .prop_map(|(namespace, segments)| format!("{namespace}:{}", segments.join(".")))
}

fn pattern() -> impl Strategy<Value = String> {
    let (texts, last) = (vec!["a", "b", "*"], vec!["a", "*", "**"]);
    let joined = (name(texts), select(last)).prop_map(|(start, last)| format!("{start}.{last}"));
    prop_oneof![joined, select(vec!["n:*", "n:**", "m:**"]).prop_map(str::to_owned)]
        .prop_filter("a pattern", |pattern| wildcard::check(pattern).is_ok())
}

fn published() -> impl Strategy<Value = String> {
    name(vec!["a", "b", "c", "", "a#"]).prop_filter("a channel", |name| address::is_valid(name))
}

proptest! {
    #[test]
    fn the_index_finds_what_a_comparison_with_each_pattern_finds(
        patterns in vec((pattern(), any::<bool>()), 0..40),
        channels in vec(published(), 1..20),
    ) {
        let mut index = index(patterns.iter().map(|(pattern, _)| pattern.clone()));
        let mut left: BTreeSet<_> = patterns.iter().map(|(pattern, _)| pattern.as_str()).collect();
        prop_assert_eq!(index.len(), left.len());
        for (pattern, _) in patterns.iter().filter(|(_, removed)| *removed) {
            let namespace = &pattern[..2];
            let others = |left: &BTreeSet<&str>| left.iter().any(|other| other.starts_with(namespace));
            let was_there = left.remove(pattern.as_str());
            prop_assert_eq!(index.remove(&channel(pattern)), was_there && !others(&left));
        }
        prop_assert_eq!(index.len(), left.len());
        for name in channels {
            let matching = left.iter().filter(|pattern| wildcard::matches(pattern, &name));
            let expected: BTreeSet<_> = matching.map(|pattern| pattern.to_string()).collect();
            let (found, _) = found(&index, &name);
            prop_assert_eq!(found.len(), expected.len(), "each once");
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}

#[test]
fn patterns_that_do_not_match_cost_a_publication_nothing() {
    let one = index(["n:x.*".to_owned()]);
    let mut patterns: Vec<_> = (0..1000).map(|number| format!("n:room{number}.*.messages")).collect();
    patterns.extend((0..1000).map(|number| format!("m{number}:**")));
    let many = index(patterns);
    assert_eq!(many.len(), 2000);
    for name in ["n:other.1.messages", "n:room1", "n:room1000.1.messages", "n:", "other:room1.1.messages"] {
        let (found, visited) = found(&many, name);
        assert!(found.is_empty() && visited <= 2, "{name}: {visited} nodes, {found:?}");
    }
    assert_eq!(found(&many, "n:room7.1.messages"), (vec!["n:room7.*.messages".to_owned()], 4));
    assert_eq!(found(&one, "n:y.1").1, 1);
}

#[test]
fn the_first_and_the_last_pattern_of_a_namespace_are_known() {
    let mut index = PatternIndex::default();
    assert!(
        index.insert(&channel("n:*")) && !index.insert(&channel("n:a.**")) && index.insert(&channel("m:*"))
    );
    assert!(!index.insert(&channel("n:*")), "it is there");
    assert_eq!(index.len(), 3);
    assert!(!index.remove(&channel("n:b.*")), "it is not there");
    assert!(!index.remove(&channel("n:*")) && index.remove(&channel("n:a.**")));
    assert!(!index.remove(&channel("n:a.**")));
    assert_eq!((index.len(), found(&index, "n:a.b").1), (1, 0));
}
