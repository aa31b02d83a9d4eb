//! A page of metrics, read strictly: what a scraper would reject fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads OpenMetrics 1.0 text: every sample belongs to the family announced before it, no family and no
    /// sample comes twice, histograms are whole, the end is marked.
    pub fn parse(page: &str) -> Result<Self, String> {
        let mut samples = BTreeMap::new();
        let mut families = BTreeSet::new();
        let mut family = Family::default();
        let mut histograms = BTreeMap::<(String, String), Histogram>::new();
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
                    family = Family { name: name.to_owned(), ..Family::default() };
                }
                match word {
                    "TYPE" if matches!(text, "counter" | "gauge" | "histogram" | "info") => {
                        family.kind = text.to_owned()
                    }
                    "UNIT" if name.ends_with(&format!("_{text}")) => family.has_unit = true,
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
            if family.kind == "histogram" {
                if !family.has_unit {
                    return wrong("a histogram without a unit");
                }
                let labels = labels.trim_end_matches('}').split(',');
                let (bound, others): (Vec<_>, Vec<_>) = labels.partition(|label| label.starts_with("le="));
                let bound = bound.first().map_or("", |le| le.trim_start_matches("le=").trim_matches('"'));
                let histogram = histograms.entry((family.name.clone(), others.join(","))).or_default();
                if let Err(why) = histogram.add(&name[family.name.len()..], bound, value) {
                    return wrong(why);
                }
            }
            if samples.insert(series.to_owned(), value).is_some() {
                return wrong("a sample for the second time");
            }
        }
        match histograms.iter().find(|(_, histogram)| !histogram.is_whole()) {
            Some((name, histogram)) => Err(format!("{name:?} is no whole histogram: {histogram:?}")),
            None => Ok(Self(samples)),
        }
    }

    /// How many observations of a histogram with these labels, such as `hook="on-message"`, are above one
    /// bound and not above another, both as on the page.
    pub fn between(&self, histogram: &str, labels: &str, above: &str, bound: &str) -> f64 {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = |le: &str| self.get(&format!("{histogram}_bucket{{le=\"{le}\"{comma}{labels}}}"));
        bucket(bound) - bucket(above)
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
    has_unit: bool,
}

/// The samples of a histogram with the same labels.
#[derive(Debug, Default)]
struct Histogram {
    sum: Option<f64>,
    count: Option<f64>,
    /// Upper bounds and cumulative counts, as on the page.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    fn add(&mut self, suffix: &str, le: &str, value: f64) -> Result<(), &'static str> {
        match suffix {
            "_sum" => self.sum = Some(value),
            "_count" => self.count = Some(value),
            _ => {
                let bound = if le == "+Inf" { Ok(f64::INFINITY) } else { le.parse() };
                let bound = bound.map_err(|_| "a bucket whose bound is no number")?;
                if self.buckets.last().is_some_and(|(last, count)| *last >= bound || *count > value) {
                    return Err("a bucket that does not include the one before it");
                }
                self.buckets.push((bound, value));
            }
        }
        Ok(())
    }

    /// The last bucket has everything.
    fn is_whole(&self) -> bool {
        let last = self.buckets.last();
        self.sum.is_some()
            && last.is_some_and(|last| Some(*last) == self.count.map(|all| (f64::INFINITY, all)))
    }
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
            ("# EOF", "# TYPE h_seconds histogram\nh_seconds_sum 1.0\n# EOF"),
            ("# EOF", "# TYPE b gauge\nb 1\n# TYPE a counter\n# EOF"),
        ] {
            assert!(Metrics::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn a_histogram_has_to_be_whole() {
        const GOOD: &str = "# HELP h_seconds H.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\n\
                            h_seconds_sum{x=\"1\"} 0.5\nh_seconds_count{x=\"1\"} 3\n\
                            h_seconds_bucket{le=\"0.1\",x=\"1\"} 1\nh_seconds_bucket{le=\"+Inf\",x=\"1\"} 3\n# EOF\n";
        let good = Metrics::parse(GOOD).expect("good");
        assert_eq!(good.between("h_seconds", "x=\"1\"", "0.1", "+Inf"), 2.0);
        for (from, to) in [
            ("# UNIT h_seconds seconds\n", ""),
            ("h_seconds_sum{x=\"1\"} 0.5\n", ""),
            ("_count{x=\"1\"} 3", "_count{x=\"1\"} 2"),
            ("le=\"+Inf\"", "le=\"0.2\""),
            ("le=\"0.1\",x=\"1\"} 1", "le=\"0.1\",x=\"1\"} 4"),
            ("le=\"0.1\"", "le=\"+Inf\""),
            ("le=\"0.1\"", "le=\"little\""),
        ] {
            assert!(Metrics::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from:?} -> {to:?}");
        }
    }
}
