//! What came of a group, for reading.

use std::fmt;

use crate::measure::{Compared, Samples};

/// One group.
pub(crate) struct Table {
    /// What it is about, in a line.
    pub(crate) title: &'static str,
    /// What a reader has to know, a line each.
    pub(crate) notes: Vec<String>,
    pub(crate) rows: Vec<Compared>,
}

const HEAD: [&str; 5] = ["case", "gateway", "against", "baseline", "ratio"];

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 5]> = self.rows.iter().map(cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEAD[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        writeln!(f, "{}", self.title)?;
        line(f, &HEAD, &widths)?;
        for row in &rows {
            line(f, &row.each_ref().map(String::as_str), &widths)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  * {note}"))
    }
}

fn cells(row: &Compared) -> [String; 5] {
    let with_unit = |samples: &Samples| format!("{} {}", spread(samples), row.unit);
    [
        row.name.clone(),
        with_unit(&row.gateway),
        row.against.to_owned(),
        with_unit(&row.baseline),
        spread(&row.ratio),
    ]
}

fn line(f: &mut fmt::Formatter<'_>, cells: &[&str; 5], widths: &[usize; 5]) -> fmt::Result {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text += &format!("  {cell:<width$}");
    }
    writeln!(f, "{}", text.trim_end())
}

/// The median, and between which values all rounds lay if there were several.
fn spread(samples: &Samples) -> String {
    let median = number(samples.median());
    if samples.min() == samples.max() {
        return median;
    }
    format!("{median} ({}..{})", number(samples.min()), number(samples.max()))
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
