//! Tests attributes in which a plugin keeps permissions, and clients whose verdict is missing because a
//! plugin failed.

use super::*;
use crate::plugin::interests::Permission;
use crate::plugin::verdict::Identity;

/// A plugin that permits messages by the patterns in these attributes.
fn permits(attributes: &[&str], steps: Vec<Step>) -> (FailurePolicy, Script) {
    let permission = |attribute: &&str| Permission { kinds: Kinds::ALL, attribute: (*attribute).into() };
    let permissions = attributes.iter().map(permission).collect();
    let interests = Interests { permissions, ..Interests::everything(ALL_HOOKS) };
    (Closed, Script { steps: Mutex::new(steps.into()), interests: Some(interests), ..Script::default() })
}

fn set(name: &'static str, then: Step) -> Step {
    Step::Set(name, Box::new(then))
}

fn attributes(effects: &[Effect]) -> Vec<&str> {
    let mut names = Vec::new();
    for effect in effects {
        names.push(if let Effect::SetAttribute { name, .. } = effect { &**name } else { "other" });
    }
    names
}

fn identity(names: &[&str]) -> Step {
    let attributes = names.iter().map(|name| ((*name).into(), "v".into())).collect();
    Step::Connect(ConnectVerdict::Accept(Box::new(Identity {
        user: "42".into(),
        attributes,
        ..Identity::default()
    })))
}

#[test]
fn only_the_plugin_that_allows_by_an_attribute_sets_it() {
    let steps =
        || vec![set("a.publish", set("b.publish", set("free", Record("c", Box::new(Step::Nothing)))))];
    let mut bench = Bench::with([
        permits(&["a.publish"], steps()),
        permits(&["b.publish", "a.publish"], steps()),
        permits(&[], steps()),
    ]);
    bench.publish();
    assert_eq!(
        attributes(&bench.effects),
        ["a.publish", "free", "other", "a.publish", "b.publish", "free", "other", "free", "other"],
        "two plugins that both allow by an attribute may both set it"
    );
    assert_eq!([0, 1, 2].map(|plugin| bench.counts(plugin).attributes_refused), [1, 0, 2]);
}

#[test]
fn an_identity_sets_no_attribute_of_another_plugin_either() {
    let forged = vec![set("a.publish", identity(&["a.publish", "free"]))];
    let mut bench = Bench::with([permits(&["a.publish"], vec![]), permits(&[], forged)]);
    let Admission::Accepted(identity) = bench.connect() else { panic!("it was accepted") };
    assert_eq!(identity.attributes, [("free".into(), "v".into())]);
    assert_eq!(attributes(&bench.effects), [] as [&str; 0]);
    assert_eq!(bench.counts(1).attributes_refused, 2);
    let mut bench = Bench::with([permits(&["a.publish"], vec![self::identity(&["a.publish"])])]);
    let Admission::Accepted(identity) = bench.connect() else { panic!("it was accepted") };
    assert_eq!(identity.attributes.len(), 1, "its own");
}

/// Accepts with these attributes.
fn accepts(attributes: &[(&str, &str)]) -> Step {
    let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Step::Connect(ConnectVerdict::Accept(Box::new(Identity { attributes, ..Identity::default() })))
}

#[test]
fn the_plugin_that_verifies_a_token_says_which_it_is_and_no_other_does() {
    let verifies = vec![accepts(&[("token.id", "t1"), ("plan", "a")])];
    let forges = vec![set("token.id", accepts(&[("token.id", "t2"), ("token.issued", "9"), ("plan", "b")]))];
    let mut bench = Bench::with([permits(&[], verifies), permits(&[], forges)]);
    let Admission::Accepted(identity) = bench.connect() else { panic!("it was accepted") };
    assert_eq!(identity.attributes, [("plan".into(), "b".into()), ("token.id".into(), "t1".into())]);
    assert_eq!(attributes(&bench.effects), [] as [&str; 0], "never as an effect");

    let mut bench = Bench::with([permits(&[], vec![set("token.issued", set("free", Step::Nothing))])]);
    bench.publish();
    assert_eq!(attributes(&bench.effects), ["free"]);
    assert_eq!(bench.counts(0).attributes_refused, 1);
}

#[test]
fn what_cannot_be_compared_is_not_taken_as_a_token() {
    let long = "x".repeat(257);
    let wrong = vec![accepts(&[("token.id", &long), ("token.issued", "today"), ("free", "v")])];
    let mut bench = Bench::with([permits(&[], wrong)]);
    let Admission::Accepted(identity) = bench.connect() else { panic!("it was accepted") };
    assert_eq!(identity.attributes, [("free".into(), "v".into())]);
    assert_eq!(bench.counts(0).attributes_refused, 2);
}

#[test]
fn a_client_that_a_failed_plugin_might_have_accepted_comes_back_later() {
    let failing = || (Open, vec![Fail(Cause::Trap)]);
    assert_eq!(Bench::new(vec![failing(), (Open, vec![])]).connect(), Admission::Doubtful);
    let accepts = (Closed, vec![self::identity(&[])]);
    assert!(matches!(Bench::new(vec![failing(), accepts]).connect(), Admission::Accepted(_)));
    assert_eq!(Bench::new(vec![(Open, vec![])]).connect(), Admission::Undecided);
}
