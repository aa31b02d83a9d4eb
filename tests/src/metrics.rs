//! A page of metrics, read strictly: what a scraper would reject fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads OpenMetrics 1.0 text: every sample belongs to the family announced before it, no family and no
    /// sample comes twice, the end is marked.
    pub fn parse(page: &str) -> Result<Self, String> {
        let mut samples = BTreeMap::new();
        let mut families = BTreeSet::new();
        let mut family = Family::default();
        let body = page.strip_suffix("# EOF\n").ok_or("the page does not end with `# EOF`")?;
        for line in body.lines() {
            let wrong = |why: &str| Err(format!("{why}: {line:?}"));
            if let Some(comment) = line.strip_prefix("# ") {
                let mut parts = comment.splitn(3, ' ');
                let (Some(word), Some(name), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
                    return wrong("not HELP, TYPE or UNIT with a name and a text");
                };
                if name != family.name {
                    if !is_name(name) || !families.insert(name.to_owned()) {
                        return wrong("a family with a bad name, or for the second time");
                    }
                    family = Family { name: name.to_owned(), kind: String::new() };
                }
                match word {
                    "TYPE" if matches!(text, "counter" | "gauge" | "histogram" | "info") => {
                        family.kind = text.to_owned()
                    }
                    "UNIT" if name.ends_with(&format!("_{text}")) => (),
                    "HELP" => (),
                    _ => return wrong("an unknown or contradictory announcement"),
                }
                continue;
            }
            let Some((series, value)) = line.rsplit_once(' ') else { return wrong("not a sample") };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if !family.owns(name) {
                return wrong("a sample outside its family");
            }
            if !labels.is_empty() && !labels.strip_suffix('}').is_some_and(are_labels) {
                return wrong("bad labels");
            }
            let Ok(value) = value.parse::<f64>() else { return wrong("a value that is no number") };
            if samples.insert(series.to_owned(), value).is_some() {
                return wrong("a sample for the second time");
            }
        }
        Ok(Self(samples))
    }

    /// A sample, named as on the page.
    pub fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is not among {:?}", self.0.keys()))
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
}

impl Family {
    fn owns(&self, sample: &str) -> bool {
        let Some(suffix) = sample.strip_prefix(&*self.name) else { return false };
        match &*self.kind {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info",
            "histogram" => matches!(suffix, "_bucket" | "_sum" | "_count"),
            _ => false,
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `a="b",c="d"`. No value of ours holds a comma or needs an escape.
fn are_labels(labels: &str) -> bool {
    labels.split(',').all(|label| {
        label.split_once("=\"").is_some_and(|(name, value)| {
            is_name(name) && value.strip_suffix('"').is_some_and(|value| !value.contains(['"', '\\']))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_to_be_right_in_every_line() {
        const GOOD: &str = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 0\n# EOF\n";
        assert_eq!(Metrics::parse(GOOD).expect("good").get("a_total{x=\"1\"}"), 2.0);
        for (from, to) in [
            ("# EOF\n", ""),
            ("a_total{x=\"2\"}", "a_total{x=\"1\"}"),
            ("a_total{x=\"2\"}", "b_total"),
            ("a_total{x=\"2\"} 0", "a 0"),
            ("} 0", "} zero"),
            ("counter", "count"),
            ("x=\"2\"", "x=2"),
            ("# EOF", "# TYPE b gauge\nb 1\n# TYPE a counter\n# EOF"),
        ] {
            assert!(Metrics::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from:?} -> {to:?}");
        }
    }
}
