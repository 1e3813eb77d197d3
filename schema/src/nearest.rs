//! The nearest right name for a misspelt one.

/// The candidate that `name` was probably meant to be; none if nothing is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = if name.chars().count() < 6 { 2 } else { 3 };
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The setting that was probably meant, where serde's message says that a field is unknown and which ones are known.
pub fn nearest_setting(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (given, known) = rest.split_once('`')?;
    // What stands between backquotes: every second part.
    nearest(given, known.split('`').skip(1).step_by(2))
}

/// A help line: the nearest name if there is one, else everything that is allowed.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone, otherwise: &str) -> String {
    match nearest(name, candidates.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let known: Vec<String> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
            if known.is_empty() || known.len() > 14 { otherwise.to_owned() } else { format!("{otherwise}; known are {}", known.join(", ")) }
        }
    }
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour to make one word the other.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let replaced = last[column] + usize::from(a != b);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == right[column - 1] && left[row - 1] == *b {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        assert_eq!(nearest("expct", ["name", "root", "reference", "expect"]), Some("expect"));
        assert_eq!(nearest("tabel", ["table", "params"]), Some("table"));
        assert_eq!(nearest("partitons", ["partitions", "version"]), Some("partitions"));
        assert_eq!(nearest("colour", ["table", "params"]), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_misspelt_setting_finds_its_neighbour_in_the_message() {
        let message = "unknown field `lane`, expected one of `peer`, `lanes`, `queue`";
        assert_eq!(nearest_setting(message), Some("lanes"));
        assert_eq!(nearest_setting("unknown field `lanes`, expected `lane`"), Some("lane"));
        for other in ["unknown field `colour`, expected one of `peer`, `queue`", "unknown field `", "missing field `peer`", ""] {
            assert_eq!(nearest_setting(other), None, "{other}");
        }
    }
}
