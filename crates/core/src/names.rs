//! Names in error messages: how an unusual name is displayed, and which known name the user
//! probably meant.

/// Maximum length, in characters, of a name whose edit distance is computed.
const COMPARED: usize = 200;

/// Formats a name for an error message: control characters are escaped, and a name of more than
/// 120 characters is cut and ends with `…`, so that it takes at most a line or two.
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

/// Formats the message of another library, which may repeat a file's content at any length: control
/// characters become blanks, and a message of more than 400 characters is cut and ends with `…`.
pub fn message(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(400).map(plain).collect();
    if text.chars().nth(400).is_some() {
        short.push('…');
    }
    short
}

/// Returns whether a name is that of PyTorch's batch counter (`num_batches_tracked`).
///
/// A normalization layer stores this counter with its running statistics. Its output in
/// evaluation mode does not depend on it.
pub fn is_bookkeeping(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// Returns the candidate that the user probably meant by `name`, or `None` if there is none.
///
/// First choice: a candidate of the form `prefix.name`, or a candidate that is itself the end of
/// `name` after a dot; of several, the one with the most similar length. Second choice: the
/// candidate with the smallest edit distance, if this distance is at most a fifth of the length
/// of `name`. The distance counts inserted, deleted and replaced characters, and swapped
/// neighbours.
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
    let length = name.chars().count();
    let limit = length / 5;
    let near = candidates.iter().filter_map(|c| {
        let other = c.chars().count();
        if length.max(other) > COMPARED || length.abs_diff(other) > limit {
            return None;
        }
        let distance = strsim::osa_distance(name, c);
        (distance <= limit).then_some((distance, *c))
    });
    near.min().map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::{is_bookkeeping, message, nearest, shown};

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
    fn messages_are_bounded() {
        assert_eq!(message("line\nline \"x\""), "line line \"x\"");
        assert_eq!(message("é".repeat(500)).chars().count(), 401);
    }

    #[test]
    fn strange_names_are_shown_in_a_line() {
        assert_eq!(shown("a\n\x1b[2Jb"), "a\\n\\u{1b}[2Jb");
        assert_eq!(shown(&"é".repeat(500)).chars().count(), 121);
    }
}
