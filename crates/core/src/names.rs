//! Names in errors: how a strange one is shown, and which one was perhaps meant.

/// The longest name that is compared with others.
const COMPARED: usize = 200;

/// A name as an error shows it: without control characters, and not longer than a line or two.
pub fn shown(name: &str) -> String {
    let mut short: String = name
        .chars()
        .take(120)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(120).is_some() {
        short.push('…');
    }
    short
}

/// Whether a name is that of torch's counter of batches, which a normalization layer keeps beside its running
/// statistics and which its output in evaluation does not depend on.
pub fn is_bookkeeping(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// The candidate that was plausibly meant by `name`: one that has it behind a dot, or it has so; else one
/// that at most a fifth of the characters tell from it. Nothing where there is none.
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let inside = |long: &str, short: &str| {
        long.strip_suffix(short)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    let nested = candidates
        .iter()
        .filter(|c| inside(c, name) || inside(name, c));
    if let Some(found) = nested.min_by_key(|c| c.len().abs_diff(name.len())) {
        return Some(found);
    }
    let limit = name.len() / 5;
    let near = candidates.iter().filter_map(|c| {
        let distance = distance(name, c, limit)?;
        Some((distance, *c))
    });
    near.min().map(|(_, c)| c)
}

/// How many characters must be put in, taken out or replaced, where these are `limit` at most.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().max(b.len()) > COMPARED || a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
        if row.iter().min().is_some_and(|m| *m > limit) {
            return None;
        }
    }
    Some(row[b.len()]).filter(|d| *d <= limit)
}

#[cfg(test)]
mod tests {
    use super::{distance, is_bookkeeping, nearest, shown};

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("flow", "flow", 0),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b, 9), Some(expected), "{a} {b}");
            assert_eq!(distance(b, a, 9), Some(expected), "{b} {a}");
            assert_eq!(distance(a, b, expected), Some(expected));
            if expected > 0 {
                assert_eq!(distance(a, b, expected - 1), None);
            }
        }
    }

    #[test]
    fn only_a_plausible_name_is_near() {
        let names = ["encoder.conv1.weight", "encoder.conv1.bias", "head.weight"];
        assert_eq!(nearest("conv1.weight", &names), Some(names[0]));
        assert_eq!(nearest("net.encoder.conv1.bias", &names), Some(names[1]));
        assert_eq!(nearest("haed.weight", &names), Some(names[2]));
        assert_eq!(nearest("decoder.norm.loc", &names), None);
        assert_eq!(nearest("onv1.weight", &[]), None);
        assert_eq!(nearest("eight", &["weight"]), Some("weight"));
        assert_eq!(nearest("x", &[&"x".repeat(10_000)]), None);
    }

    #[test]
    fn counters_of_batches_are_bookkeeping() {
        assert!(is_bookkeeping("layer1.0.bn1.num_batches_tracked"));
        assert!(is_bookkeeping("num_batches_tracked"));
        assert!(!is_bookkeeping("my_num_batches_tracked"));
        assert!(!is_bookkeeping("num_batches_tracked.weight"));
    }

    #[test]
    fn strange_names_are_shown_in_a_line() {
        assert_eq!(shown("a\n\x1b[2Jb"), "a\\n\\u{1b}[2Jb");
        assert_eq!(shown(&"é".repeat(500)).chars().count(), 121);
    }
}
