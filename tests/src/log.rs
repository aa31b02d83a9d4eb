//! The log of a gateway, line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::wait::{PATIENCE, within_time};

/// What a gateway has logged so far. It is read on a thread of its own: a test that is busy does not hold up
/// the gateway.
#[derive(Debug, Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    count: watch::Receiver<usize>,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// As it was written.
    pub text: String,
    /// Upper case; empty if the line is not from the logger.
    pub level: String,
    /// Without fields.
    pub message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn parse(text: String) -> Self {
        let mut object = match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => object,
            _ => return Self::parse_text(text),
        };
        let mut fields = match object.remove("fields") {
            Some(Value::Object(fields)) => fields,
            _ => object.clone(),
        };
        let take = |map: &mut Map<String, Value>, key| match map.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        Self { level: take(&mut object, "level"), message: take(&mut fields, "message"), fields, text }
    }

    /// A line for people: time, level, module, then the message and `name=value` for each field.
    fn parse_text(text: String) -> Self {
        let mut words = text.split_ascii_whitespace();
        let (level, rest) = match (words.next(), words.next(), words.next()) {
            (Some(_), Some(level), Some(module)) if module.ends_with(':') => {
                (level, words.collect::<Vec<_>>())
            }
            _ => return Self { message: text.clone(), text, level: String::new(), fields: Map::new() },
        };
        let fields_begin = rest.iter().position(|word| word.contains('=')).unwrap_or(rest.len());
        let (message, named) = rest.split_at(fields_begin);
        let mut fields = Map::new();
        for (name, value) in named.iter().filter_map(|word| word.split_once('=')) {
            fields.insert(name.to_owned(), value.trim_matches('"').into());
        }
        Self { level: level.to_owned(), message: message.join(" "), fields, text: text.clone() }
    }

    /// A field as text; empty if there is none.
    pub fn field(&self, name: &str) -> String {
        match self.fields.get(name) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Whether the line contains all of these texts, fields included.
    pub fn says(&self, texts: &[&str]) -> bool {
        texts.iter().all(|text| self.text.contains(text))
    }
}

impl Log {
    /// Reads until the other end is closed.
    pub(crate) fn follow(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let (counted, count) = watch::channel(0);
        let log = Self { lines: lines.clone(), count };
        std::thread::spawn(move || {
            for text in BufReader::new(source).lines() {
                let Ok(text) = text else { break };
                let mut lines = lines.lock().expect("nobody panics with the lock");
                lines.push(Line::parse(text));
                counted.send_replace(lines.len());
            }
        });
        log
    }

    /// Everything so far.
    pub fn lines(&self) -> Vec<Line> {
        self.since(0)
    }

    /// How many lines there are: a place to [`wait`](Self::wait_since) from.
    pub fn mark(&self) -> usize {
        *self.count.borrow()
    }

    /// The lines after a mark.
    pub fn since(&self, mark: usize) -> Vec<Line> {
        self.lines.lock().expect("nobody panics with the lock")[mark..].to_vec()
    }

    /// The lines so far that contain all of these texts.
    pub fn matching(&self, texts: &[&str]) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.says(texts)).collect()
    }

    /// The lines so far that ask for attention: warnings and errors.
    pub fn complaints(&self) -> Vec<String> {
        let complains = |line: &Line| matches!(&*line.level, "WARN" | "ERROR");
        self.lines().into_iter().filter(complains).map(|line| line.text).collect()
    }

    /// The first line that contains all of these texts, now or soon.
    pub async fn wait(&self, texts: &[&str]) -> Line {
        self.wait_since(0, texts).await
    }

    /// The first line after a mark that contains all of these texts.
    pub async fn wait_since(&self, mark: usize, texts: &[&str]) -> Line {
        self.find(mark, PATIENCE, &format!("a log line with {texts:?}"), |line| line.says(texts)).await
    }

    /// The same, where it may take longer.
    pub async fn wait_within(&self, limit: Duration, mark: usize, texts: &[&str]) -> Line {
        self.find(mark, limit, &format!("a log line with {texts:?}"), |line| line.says(texts)).await
    }

    /// The first line after a mark that is wanted.
    pub(crate) async fn find(
        &self,
        mark: usize,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Line) -> bool,
    ) -> Line {
        let mut count = self.count.clone();
        within_time(limit, what, async {
            loop {
                count.borrow_and_update();
                if let Some(line) = self.since(mark).into_iter().find(&wanted) {
                    return line;
                }
                if count.changed().await.is_err() {
                    panic!("the gateway has ended without {what}; its last lines:\n{}", self.tail(20));
                }
            }
        })
        .await
    }

    /// The last lines as one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        let tail = &lines[lines.len().saturating_sub(count)..];
        tail.iter().map(|line| format!("    {}\n", line.text)).collect()
    }
}
