//! Prefixes such as `module.` that wrappers add to the names of a state dict: finds those that
//! all names share, and gives advice if a file's names and a network's names differ by a prefix.

use super::state::Located;
use invariances_core::names::{is_bookkeeping, shown};
use std::collections::{BTreeMap, HashMap};

/// Prefixes that wrappers add to every name: `module.` by `DataParallel` and
/// `DistributedDataParallel`, `_orig_mod.` by `torch.compile`, `model.` by Lightning and others.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// At most this many prefixes of a name are tried.
const TRIED: usize = 16;
/// No prefix is tried on names longer than this, in bytes.
const COMPARED: usize = 1000;

/// Names and shapes of a network's parameters.
pub(super) type Expected = BTreeMap<String, Vec<usize>>;

/// Returns the length in bytes of the longest prefix that all names share and that consists of
/// wrapper prefixes, in any order and repeated. The rest of a name is never empty.
pub(super) fn of_wrappers(tensors: &[Located]) -> usize {
    let mut cut = 0;
    let shared = |cut: usize, wrapper: &str| {
        let below = |t: &Located| {
            let rest = t.name[cut..].strip_prefix(wrapper);
            rest.is_some_and(|rest| !rest.is_empty())
        };
        !tensors.is_empty() && tensors.iter().all(below)
    };
    while let Some(wrapper) = WRAPPERS.iter().find(|w| shared(cut, w)) {
        cut += wrapper.len();
    }
    cut
}

/// Returns the lengths in bytes of the prefixes that all names share and that end in a dot,
/// starting with 0 for the empty prefix. The names must be sorted.
pub(super) fn shared(tensors: &[Located]) -> Vec<usize> {
    let mut cuts = vec![0];
    if let (Some(first), Some(last)) = (tensors.first(), tensors.last()) {
        let (first, last) = (first.name.as_bytes(), last.name.as_bytes());
        let alike = std::iter::zip(first, last).take_while(|(a, b)| a == b);
        let dots = alike.enumerate().filter(|(_, (a, _))| **a == b'.');
        // A name that consists of the prefix alone is sorted first, so no name becomes empty if
        // the first one does not.
        let ends = dots.map(|(i, _)| i + 1).filter(|end| *end < first.len());
        cuts.extend(ends.take(TRIED));
    }
    cuts
}

/// Counts the tensors that match the network in name and shape after `cut` bytes are removed from
/// each name. Also returns whether the match is complete: all of the network's names and all of
/// the file's names match (except counters of batches in the file).
pub(super) fn agreement(tensors: &[Located], cut: usize, expected: &Expected) -> (usize, bool) {
    let (mut agree, mut others) = (0, 0);
    for tensor in tensors {
        let name = &tensor.name[cut..];
        match expected.get(name) {
            Some(shape) if *shape == tensor.shape => agree += 1,
            None if is_bookkeeping(name) => {}
            _ => others += 1,
        }
    }
    (agree, agree == expected.len() && others == 0)
}

/// Finds the prefixes below which the file has the largest number of the network's names, with
/// equal shapes. Returns this number and the prefixes. The first `cut` bytes of every name are
/// ignored.
pub(super) fn nearest(
    tensors: &[Located],
    cut: usize,
    expected: &Expected,
) -> (usize, Vec<String>) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for tensor in tensors {
        let name = &tensor.name[cut..];
        if name.len() > COMPARED {
            continue;
        }
        for (dot, _) in name.match_indices('.').take(TRIED) {
            let (prefix, rest) = name.split_at(dot + 1);
            if expected.get(rest).is_some_and(|s| *s == tensor.shape) {
                *counts.entry(prefix).or_default() += 1;
            }
        }
    }
    let most = counts.values().copied().max().unwrap_or(0);
    let mut prefixes: Vec<String> = counts
        .into_iter()
        .filter(|(_, n)| *n == most)
        .map(|(prefix, _)| prefix.into())
        .collect();
    prefixes.sort();
    (most, prefixes)
}

/// Finds the prefix that all of the network's names share and that the file's names lack: without
/// it, the network's names and shapes are those of the file.
pub(super) fn missing<'a>(
    tensors: &[Located],
    cut: usize,
    expected: &'a Expected,
) -> Option<&'a str> {
    let first = expected.keys().next()?;
    first.match_indices('.').take(TRIED).find_map(|(dot, _)| {
        let prefix = &first[..=dot];
        let rest = |(name, shape): (&String, &Vec<usize>)| {
            Some((name.strip_prefix(prefix)?.to_owned(), shape.clone()))
        };
        let rest: Option<Expected> = expected.iter().map(rest).collect();
        agreement(tensors, cut, &rest?).1.then_some(prefix)
    })
}

/// Advice for an error message, if the file's names and the network's names differ by a prefix;
/// otherwise empty. The file may also have other names.
pub(super) fn advice(tensors: &[Located], cut: usize, expected: &Expected) -> String {
    let direct = agreement(tensors, cut, expected).0;
    let (matching, prefixes) = nearest(tensors, cut, expected);
    let quoted = |prefix: &str| format!("\"{}\"", shown(prefix));
    if matching > direct && matching * 2 >= expected.len() {
        let shared = if matching == expected.len() {
            "all"
        } else {
            "most"
        };
        let all: Vec<String> = prefixes.iter().take(4).map(|p| quoted(p)).collect();
        let under = if all.len() > 1 {
            "each of the prefixes"
        } else {
            "the prefix"
        };
        return format!(
            "\n  {shared} of the network's names ({matching} of {}) are in the file under {under} {}: \
             `checkpoint.below({})?.load_into(&params)?` loads these and skips the others",
            expected.len(),
            all.join(" and "),
            quoted(&prefixes[0]),
        );
    }
    match missing(tensors, cut, expected) {
        Some(prefix) => {
            let scope = quoted(prefix.trim_end_matches('.'));
            format!(
                "\n  the file has these names without the prefix {}: \
                 `params.root().pp({scope}).set_all(&checkpoint.tensors()?)?` loads them",
                quoted(prefix)
            )
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::Kind;

    fn tensors(names: &[&str]) -> Vec<Located> {
        let mut names = names.to_vec();
        names.sort_unstable();
        let located = |name: &&str| Located {
            name: name.to_string(),
            kind: Kind::F32,
            at: 0,
            shape: vec![2],
            stride: None,
            span: 2,
            negative: false,
        };
        names.iter().map(located).collect()
    }

    #[test]
    fn wrappers_are_found_in_any_order_and_number() {
        for (names, expected) in [
            (&["module.a", "module.b.c"][..], "module."),
            (
                &["_orig_mod.module.a", "_orig_mod.module.b"],
                "_orig_mod.module.",
            ),
            (&["module._orig_mod.model.a"], "module._orig_mod.model."),
            (&["model.model.a", "model.model.b"], "model.model."),
            (&["model.a", "loss.a"], ""),
            // No prefix: `modules.` is another word; removing `module.` would leave an empty name.
            (&["modules.a"], ""),
            (&["module.", "module.a"], ""),
            (&["encoder.a"], ""),
            (&[], ""),
        ] {
            assert_eq!(of_wrappers(&tensors(names)), expected.len(), "{names:?}");
        }
    }

    #[test]
    fn shared_prefixes_end_in_a_dot_and_leave_a_name() {
        assert_eq!(shared(&tensors(&["a.b.c", "a.b.d"])), [0, 2, 4]);
        assert_eq!(shared(&tensors(&["a.bc", "a.bd"])), [0, 2]);
        assert_eq!(shared(&tensors(&["a.", "a.b"])), [0]);
        assert_eq!(shared(&tensors(&["a.b"])), [0, 2]);
        assert_eq!(shared(&[]), [0]);
        let long = ".".repeat(1000) + "a";
        assert_eq!(shared(&tensors(&[&long])).len(), 1 + TRIED);
    }
}
