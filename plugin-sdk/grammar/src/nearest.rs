//! The known name that somebody probably meant who wrote another one.

/// The known name that differs least from `name`, unless all differ in more than a quarter of its letters.
///
/// ```
/// # use gateway_plugin_grammar::nearest::nearest;
/// assert_eq!(nearest("chanel", ["kind", "channel"]), Some("channel"));
/// assert_eq!(nearest("color", ["kind", "channel"]), None);
/// ```
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let (distance, nearest) = known.into_iter().map(|known| (distance(name, known), known)).min()?;
    (distance <= 1 + name.chars().count() / 4).then_some(nearest)
}

/// Edit distance: the number of characters to insert, remove or change to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_names_counts_edits() {
        for (a, b, edits) in
            [("", "abc", 3), ("abc", "abc", 0), ("origns", "origins", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }

    #[test]
    fn a_name_is_near_if_few_letters_differ() {
        assert_eq!(nearest("origns", ["workers", "origins"]), Some("origins"));
        assert_eq!(nearest("colour", ["workers", "origins"]), None);
        assert_eq!(nearest("a", []), None);
    }
}
