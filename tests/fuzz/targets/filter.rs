//! Filters by tags: the text of `tf`, and trees that mean the same in both encodings.

use gateway::protocol::Encoding;
use gateway::protocol::command::{Command, Malformed, Request};
use gateway::protocol::tags::Tags;
use serde_json::{Value, json};

use super::commands::read;
use super::encode::Record;

/// A subscribe command with the bytes as the text of `tf`.
fn in_json(data: &[u8]) -> Vec<u8> {
    [br#"{"id":1,"subscribe":{"channel":"news","tf":"#, data, b"}}"].concat()
}

/// The same with the bytes as the message of the filter.
fn in_protobuf(filter: &[u8]) -> Vec<u8> {
    let (mut subscribe, mut command, mut message) = (Record::default(), Record::default(), Record::default());
    subscribe.text(1, "news").bytes(13, filter);
    command.number(1, 1).message(5, &subscribe);
    message.record(&command);
    message.0
}

pub(super) fn filter(data: &[u8]) {
    let _ = read(Encoding::Json, &in_json(data));
    let _ = read(Encoding::Protobuf, &in_protobuf(data));
}

pub(super) fn check_filter(data: &[u8]) {
    for (encoding, message) in [(Encoding::Json, in_json(data)), (Encoding::Protobuf, in_protobuf(data))] {
        let all = read(encoding, &message);
        assert_eq!(all, read(encoding, &message), "the same bytes mean the same");
        all.iter().for_each(decide);
    }
    let tree = Tree { bytes: data, nodes: 0 }.node(0);
    let json = read(Encoding::Json, &in_json(tree.json.to_string().as_bytes()));
    let protobuf = read(Encoding::Protobuf, &in_protobuf(&tree.protobuf.0));
    // An empty filter is none.
    if tree.json.to_string().len().max(tree.protobuf.0.len()) < 4096 {
        assert_eq!(json, protobuf, "{}", tree.json);
    }
}

/// A filter that was accepted decides about any publication, and the same each time.
fn decide(command: &Result<Command, Malformed>) {
    let Ok(Command { request: Request::Subscribe(subscribe), .. }) = command else { return };
    let Some(filter) = &subscribe.filter else { return };
    for tags in [&[][..], &[("a", "1")], &[("a", "-0.50"), ("b", "x"), ("key", "value")]] {
        let tags = Tags::of(tags.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        assert_eq!(filter.wants(tags.as_deref()), filter.wants(tags.as_deref()));
    }
}

/// A tree in both encodings, as the bytes say.
struct Written {
    json: Value,
    protobuf: Record,
}

struct Tree<'a> {
    bytes: &'a [u8],
    nodes: usize,
}

impl Tree<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first)
    }

    fn choice(&mut self, of: &[&'static str]) -> &'static str {
        of[self.byte() % of.len()]
    }

    fn node(&mut self, level: usize) -> Written {
        self.nodes += 1;
        let op = self.choice(&["", "", "and", "or", "not", "nand"]);
        let (mut key, mut cmp, mut val) = ("", "", "");
        let (mut vals, mut nodes) = (Vec::new(), Vec::new());
        if op.is_empty() || self.byte() == 7 {
            key = self.choice(&["a", "b", "key", "", "\u{e9}"]);
            cmp = self.choice(&[
                "eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte", "", "EQ",
            ]);
            val = self.choice(&["", "x", "-0.5", "1", "1e3", "\"\\\u{0}", "00.10"]);
            for _ in 0..self.byte() % 4 {
                vals.push(self.choice(&["", "x", "y", "1"]));
            }
        }
        if !op.is_empty() || self.byte() == 7 {
            for _ in 0..self.byte() % 4 {
                if level < 10 && self.nodes < 200 {
                    nodes.push(self.node(level + 1));
                }
            }
        }
        let mut protobuf = Record::default();
        protobuf.text(1, op).text(2, key).text(3, cmp).text(4, val);
        vals.iter().for_each(|val| _ = protobuf.field(5, val.as_bytes()));
        nodes.iter().for_each(|node| _ = protobuf.message(6, &node.protobuf));
        let nodes: Vec<_> = nodes.into_iter().map(|node| node.json).collect();
        let mut json = json!({ "op": op, "key": key, "cmp": cmp, "val": val, "vals": vals, "nodes": nodes });
        // What is empty may be left out, and as a whole it has to be: an object with empty fields is a node.
        if let Value::Object(fields) = &mut json {
            fields.retain(|_, value| value != "" && value != &json!([]));
        }
        Written { json, protobuf }
    }
}
