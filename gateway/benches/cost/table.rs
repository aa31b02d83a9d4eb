//! What came of a group, for reading.

use std::fmt;

use crate::measure::{Compared, Samples};

/// One group.
pub(crate) struct Table {
    /// What it is about, in a line.
    title: &'static str,
    /// What a reader has to know, a line each.
    notes: Vec<String>,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A row for each case.
    pub(crate) fn compared(title: &'static str, notes: Vec<String>, cases: &[Compared]) -> Self {
        let head = ["case", "gateway", "against", "baseline", "ratio"];
        Self::of(title, notes, &head, cases.iter().map(cells).collect())
    }

    /// Rows of as many cells as the head has.
    pub(crate) fn of(
        title: &'static str,
        notes: Vec<String>,
        head: &[&'static str],
        rows: Vec<Vec<String>>,
    ) -> Self {
        Self { title, notes, head: head.to_vec(), rows }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |(column, name): (usize, &&str)| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([name.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.head.iter().enumerate().map(width).collect();
        writeln!(f, "{}", self.title)?;
        line(f, self.head.iter().copied(), &widths)?;
        for row in &self.rows {
            line(f, row.iter().map(String::as_str), &widths)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  * {note}"))
    }
}

fn cells(row: &Compared) -> Vec<String> {
    let with_unit = |samples: &Samples| format!("{} {}", spread(samples), row.unit);
    vec![
        row.name.clone(),
        with_unit(&row.gateway),
        row.against.to_owned(),
        with_unit(&row.baseline),
        spread(&row.ratio),
    ]
}

fn line<'a>(
    f: &mut fmt::Formatter<'_>,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
) -> fmt::Result {
    let mut text = String::new();
    for (cell, width) in cells.zip(widths) {
        text += &format!("  {cell:<width$}");
    }
    writeln!(f, "{}", text.trim_end())
}

/// The median, and between which values all rounds lay if there were several.
pub(crate) fn spread(samples: &Samples) -> String {
    let median = number(samples.median());
    if samples.min() == samples.max() {
        return median;
    }
    format!("{median} ({}..{})", number(samples.min()), number(samples.max()))
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
