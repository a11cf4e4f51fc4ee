//! Comparison of lists of predicted classes, item by item.

use crate::{Error, Result};

/// Returns, per item, 1 if two lists of answers are equal and 0 otherwise. Answers are class
/// indices, for example from [`IndependentClassifier::names`](super::IndependentClassifier::names).
///
/// # Errors
/// [`Error::Invalid`] if the lists differ in length.
pub fn same_answers(a: &[u32], b: &[u32]) -> Result<Vec<f64>> {
    fits(&[a, b])?;
    Ok(a.iter().zip(b).map(|(a, b)| f64::from(a == b)).collect())
}

/// Measures whether a change from `from` to `to` took effect. For each item whose answers `from`
/// and `to` differ, the result is 1 if `observed` equals `to`, else 0. Items with equal answers are
/// omitted, because they cannot show a change.
///
/// ```
/// use invariances::metric::taken_over;
/// assert_eq!(taken_over(&[0, 0, 1, 2], &[1, 1, 1, 0], &[1, 0, 0, 0])?, [1.0, 0.0, 1.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if the lists differ in length.
pub fn taken_over(from: &[u32], to: &[u32], observed: &[u32]) -> Result<Vec<f64>> {
    fits(&[from, to, observed])?;
    let all = from.iter().zip(to).zip(observed);
    let differ = all.filter(|((from, to), _)| from != to);
    Ok(differ
        .map(|((_, to), observed)| f64::from(observed == to))
        .collect())
}

fn fits(lists: &[&[u32]]) -> Result<()> {
    let counts: Vec<usize> = lists.iter().map(|l| l.len()).collect();
    match counts.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "expected lists of answers of the same length, found lengths {counts:?}"
        ))),
    }
}
