//! [`TagFilter`]: the condition under which a subscriber wants a publication, by the publication's [`Tags`].
//!
//! A filter is a tree that a client sends. Each encoding splits a node into its [`Fields`];
//! [`TagFilter::read`] checks the tree, and bounds it before anything is built.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::tags::Tags;

/// Maximum bytes of a filter, in the encoding of the client.
pub const FILTER_BYTES_MAX: usize = 4 * 1024;

/// Maximum number of nodes and of entries of `vals`, together.
pub const FILTER_TERMS_MAX: usize = 128;

/// Maximum number of levels of nodes.
pub const FILTER_DEPTH_MAX: usize = 8;

/// A checked filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFilter(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Tag { name: Box<str>, test: Test },
}

/// What a tag must satisfy. A missing tag is different from every value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(Box<str>),
    IsNot(Box<str>),
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    Missing,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// The number compares to the text in one of these ways.
    Number(&'static [Ordering], Box<str>),
}

/// Why a filter is refused. Completes the sentence "`tf` ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Too large to be read.
    #[error("has more than {FILTER_BYTES_MAX} bytes")]
    TooLarge,
    /// Too many levels.
    #[error("has more than {FILTER_DEPTH_MAX} levels of nodes")]
    TooDeep,
    /// Too many nodes and values.
    #[error("has more than {FILTER_TERMS_MAX} nodes and values")]
    TooMany,
    /// A node is not what the encoding expects.
    #[error("has a node with a field of a wrong type")]
    Type,
    /// An unknown operator.
    #[error("has a node whose `op` is none of \"and\", \"or\", \"not\" and \"\"")]
    Op,
    /// An operator with too few or too many children.
    #[error(
        "has an `op` with the wrong number of `nodes`: \"not\" takes one, \"and\" and \"or\" at least one"
    )]
    Children,
    /// A node that is an operator and a comparison.
    #[error("has a node with both `op` and `key`, `cmp`, `val` or `vals`")]
    Mixed,
    /// A comparison with children.
    #[error("has a comparison with `nodes`, but without an `op`")]
    Nodes,
    /// A comparison without a name.
    #[error("has a comparison without a `key`")]
    Key,
    /// An unknown comparison.
    #[error(
        "has a comparison whose `cmp` is none of eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt and gte"
    )]
    Comparison,
    /// A comparison with one value lacks it, or has a list.
    #[error("has a comparison that takes a `val`, and no `vals`")]
    Value,
    /// A comparison with a list lacks it, or has one value.
    #[error("has \"in\" or \"nin\", which take `vals`, and no `val`")]
    Values,
    /// A comparison takes no value.
    #[error("has \"ex\" or \"nex\", which take neither `val` nor `vals`")]
    NoValue,
    /// A numeric comparison with something else.
    #[error("compares with a `val` that is not a decimal number")]
    Number,
}

/// The fields of a node. A field that is absent is empty.
#[derive(Debug)]
pub struct Fields<'a, N> {
    /// The operator; empty for a comparison.
    pub op: Cow<'a, str>,
    /// The name of a tag.
    pub key: Cow<'a, str>,
    /// The comparison.
    pub cmp: Cow<'a, str>,
    /// The value of most comparisons.
    pub val: Cow<'a, str>,
    /// The values of some comparisons.
    pub vals: Vec<Cow<'a, str>>,
    /// The children of an operator.
    pub nodes: Vec<N>,
}

impl<N> Default for Fields<'_, N> {
    fn default() -> Self {
        let text = || Cow::Borrowed("");
        Self { op: text(), key: text(), cmp: text(), val: text(), vals: Vec::new(), nodes: Vec::new() }
    }
}

/// Reads a tree, with a budget of further nodes and values.
struct Reader<S> {
    split: S,
    left: usize,
}

impl TagFilter {
    /// Reads the tree below a node. `bytes` is its size in the encoding. `split` reads the fields of a node;
    /// it may stop with [`InvalidFilter::TooMany`] when `vals` and `nodes` together exceed the number that it
    /// gets.
    ///
    /// # Errors
    ///
    /// If the tree is too large, or a node makes no sense.
    pub fn read<'a, N>(
        root: N,
        bytes: usize,
        split: impl Fn(N, usize) -> Result<Fields<'a, N>, InvalidFilter>,
    ) -> Result<Self, InvalidFilter> {
        if bytes > FILTER_BYTES_MAX {
            return Err(InvalidFilter::TooLarge);
        }
        Reader { split, left: FILTER_TERMS_MAX - 1 }.node(root, FILTER_DEPTH_MAX).map(Self)
    }

    /// Whether the subscriber wants a publication with these tags.
    pub fn wants(&self, tags: Option<&Tags>) -> bool {
        self.0.matches(tags)
    }
}

impl<S> Reader<S> {
    fn node<'a, N>(&mut self, node: N, levels: usize) -> Result<Node, InvalidFilter>
    where
        S: Fn(N, usize) -> Result<Fields<'a, N>, InvalidFilter>,
    {
        let levels = levels.checked_sub(1).ok_or(InvalidFilter::TooDeep)?;
        let Fields { op, key, cmp, val, vals, nodes } = (self.split)(node, self.left)?;
        self.left = self.left.checked_sub(vals.len() + nodes.len()).ok_or(InvalidFilter::TooMany)?;
        if op.is_empty() {
            return if nodes.is_empty() {
                comparison(&key, &cmp, &val, &vals)
            } else {
                Err(InvalidFilter::Nodes)
            };
        }
        if !(key.is_empty() && cmp.is_empty() && val.is_empty() && vals.is_empty()) {
            return Err(InvalidFilter::Mixed);
        }
        let is_not = match &*op {
            "and" | "or" => false,
            "not" => true,
            _ => return Err(InvalidFilter::Op),
        };
        if nodes.is_empty() || is_not && nodes.len() > 1 {
            return Err(InvalidFilter::Children);
        }
        let mut children = Vec::new();
        for node in nodes {
            children.push(self.node(node, levels)?);
        }
        Ok(match &*op {
            "and" => Node::All(children.into()),
            "or" => Node::Any(children.into()),
            _ => Node::Not(Box::new(children.pop().ok_or(InvalidFilter::Children)?)),
        })
    }
}

fn comparison(key: &str, cmp: &str, val: &str, vals: &[Cow<'_, str>]) -> Result<Node, InvalidFilter> {
    use Ordering::{Equal, Greater, Less};
    if key.is_empty() {
        return Err(InvalidFilter::Key);
    }
    let (one, list) = (!val.is_empty(), !vals.is_empty());
    let value = || if one && !list { Ok(Box::from(val)) } else { Err(InvalidFilter::Value) };
    let values = || {
        let texts = vals.iter().map(|text| Box::from(&**text)).collect();
        if list && !one { Ok(texts) } else { Err(InvalidFilter::Values) }
    };
    let nothing = |test| if one || list { Err(InvalidFilter::NoValue) } else { Ok(test) };
    let number = |accepted| {
        let text: Box<str> = value()?;
        if Decimal::parse(&text).is_none() {
            return Err(InvalidFilter::Number);
        }
        Ok(Test::Number(accepted, text))
    };
    let test = match cmp {
        "eq" => Test::Is(value()?),
        "neq" => Test::IsNot(value()?),
        "in" => Test::In(values()?),
        "nin" => Test::NotIn(values()?),
        "ex" => nothing(Test::Exists)?,
        "nex" => nothing(Test::Missing)?,
        "sw" => Test::StartsWith(value()?),
        "ew" => Test::EndsWith(value()?),
        "ct" => Test::Contains(value()?),
        "lt" => number(&[Less])?,
        "lte" => number(&[Less, Equal])?,
        "gt" => number(&[Greater])?,
        "gte" => number(&[Greater, Equal])?,
        _ => return Err(InvalidFilter::Comparison),
    };
    Ok(Node::Tag { name: Box::from(key), test })
}

impl Node {
    fn matches(&self, tags: Option<&Tags>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Tag { name, test } => test.passes(tags.and_then(|tags| tags.get(name))),
        }
    }
}

impl Test {
    fn passes(&self, tag: Option<&str>) -> bool {
        let is_in = |values: &[Box<str>]| tag.is_some_and(|tag| values.iter().any(|value| **value == *tag));
        match self {
            Self::Is(value) => tag == Some(value),
            Self::IsNot(value) => tag != Some(value),
            Self::In(values) => is_in(values),
            Self::NotIn(values) => !is_in(values),
            Self::Exists => tag.is_some(),
            Self::Missing => tag.is_none(),
            Self::StartsWith(value) => tag.is_some_and(|tag| tag.starts_with(&**value)),
            Self::EndsWith(value) => tag.is_some_and(|tag| tag.ends_with(&**value)),
            Self::Contains(value) => tag.is_some_and(|tag| tag.contains(&**value)),
            Self::Number(accepted, value) => tag
                .and_then(Decimal::parse)
                .zip(Decimal::parse(value))
                .is_some_and(|(tag, value)| accepted.contains(&tag.compare(&value))),
        }
    }
}

/// A decimal number of any length: a sign, digits, and a fraction after a point; all but some digits are
/// optional. Two of them compare exactly, which floating point numbers would not.
struct Decimal<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a str,
    /// Without trailing zeros.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (digits, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        // There is one zero.
        let negative = negative && !(whole.is_empty() && fraction.is_empty());
        Some(Self { negative, whole, fraction })
    }

    fn compare(&self, other: &Self) -> Ordering {
        if self.negative != other.negative {
            return other.negative.cmp(&self.negative);
        }
        let lengths = self.whole.len().cmp(&other.whole.len());
        let larger = lengths.then(self.whole.cmp(other.whole)).then(self.fraction.cmp(other.fraction));
        if self.negative { larger.reverse() } else { larger }
    }
}

#[cfg(test)]
mod tests;
