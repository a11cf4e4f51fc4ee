use crate::{Error, Result};

/// 1 where two lists of answers (classes, or what [`Judge::names`](super::Judge::names) gives) are the same, else 0.
///
/// # Errors
/// [`Error::Invalid`] where they are not as many.
pub fn same_answers(a: &[u32], b: &[u32]) -> Result<Vec<f64>> {
    fits(&[a, b])?;
    Ok(a.iter().zip(b).map(|(a, b)| f64::from(a == b)).collect())
}

/// Whether a change from one to the other arrived: of the items where the answers `from` and `to` differ, 1 where `seen` is `to`, else 0. The
/// others, of which nothing can be said, are left out.
///
/// ```
/// use invariances::metric::taken_over;
/// assert_eq!(taken_over(&[0, 0, 1, 2], &[1, 1, 1, 0], &[1, 0, 0, 0])?, [1.0, 0.0, 1.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] where they are not as many.
pub fn taken_over(from: &[u32], to: &[u32], seen: &[u32]) -> Result<Vec<f64>> {
    fits(&[from, to, seen])?;
    let all = from.iter().zip(to).zip(seen);
    let differ = all.filter(|((from, to), _)| from != to);
    Ok(differ
        .map(|((_, to), seen)| f64::from(seen == to))
        .collect())
}

fn fits(lists: &[&[u32]]) -> Result<()> {
    let counts: Vec<usize> = lists.iter().map(|l| l.len()).collect();
    match counts.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "answers are compared item by item, found lists of {counts:?}"
        ))),
    }
}
