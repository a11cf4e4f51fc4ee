//! Disentanglement of a representation that is divided into blocks of dimensions: DCI ([`dci`]) and
//! the mutual information gap ([`mig`]), both from a matrix with one row per block and one column
//! per factor of variation.

use crate::{Error, Result};

/// Disentanglement and completeness, computed by [`dci`].
#[derive(Clone, Debug, PartialEq)]
pub struct Dci {
    /// The mean of `of_blocks`, each block weighted by its share of the total importance.
    pub disentanglement: f64,
    /// The mean of `of_factors`, each factor weighted by its share of the total importance.
    pub completeness: f64,
    /// For each block: 1 if it is important for one factor only, 0 if it is equally important for
    /// all factors or for none.
    pub of_blocks: Vec<f64>,
    /// For each factor: 1 if one block only is important for it, 0 if all blocks are equally
    /// important for it or none is.
    pub of_factors: Vec<f64>,
}

/// The mutual information gap, computed by [`mig`].
#[derive(Clone, Debug, PartialEq)]
pub struct Mig {
    /// The mean of `of_factors`.
    pub gap: f64,
    /// For each factor: how much more the most informative block contains about it than the second
    /// one, as a share of the factor's entropy.
    pub of_factors: Vec<f64>,
}

/// Computes disentanglement and completeness from the importance of each block (row) for each
/// factor (column) (Eastwood, Williams, "A framework for the quantitative evaluation of
/// disentangled representations", ICLR 2018).
///
/// For K factors and L blocks with importances R, block i has the disentanglement 1 − H_K(P_i),
/// where P_i is row i of R divided by its sum, and H_K the entropy in base K. Factor j has the
/// completeness 1 − H_L(P̃_j), where P̃_j is column j divided by its sum. The means are weighted by
/// the share of a row or column in the sum of R. A row or column of zeros counts as 0. These are
/// the conventions of disentanglement_lib (Locatello et al. 2019, arXiv 1811.12359).
///
/// ```
/// use invariances::metric::dci;
/// // Block 0 is about factor 0 only. Factor 1 is divided between two blocks.
/// let found = dci(&[vec![2.0, 0.0], vec![0.0, 1.0], vec![0.0, 1.0]])?;
/// assert_eq!(found.of_blocks, [1.0, 1.0, 1.0]);
/// let divided = 1.0 - 2f64.ln() / 3f64.ln();
/// assert!((found.of_factors[1] - divided).abs() < 1e-12);
/// assert!((found.completeness - 0.5 * (1.0 + divided)).abs() < 1e-12);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the rows differ in length, or for fewer than two blocks or factors;
/// [`Error::Invalid`] if an importance is negative, NaN or infinite.
pub fn dci(importance: &[Vec<f64>]) -> Result<Dci> {
    let (blocks, factors) = checked(importance, "importances")?;
    if blocks < 2 || factors < 2 {
        return Err(Error::shape(format!(
            "expected importances of at least two blocks for at least two factors, found {blocks} \
             and {factors}: an entropy in base 1 is not defined"
        )));
    }
    let column = |k: usize| -> Vec<f64> { importance.iter().map(|row| row[k]).collect() };
    let columns: Vec<Vec<f64>> = (0..factors).map(column).collect();
    let (disentanglement, of_blocks) = concentration(importance);
    let (completeness, of_factors) = concentration(&columns);
    Ok(Dci {
        disentanglement,
        completeness,
        of_blocks,
        of_factors,
    })
}

/// Computes the mutual information gap from the mutual information of each block (row) and each
/// factor (column), and the entropy of each factor, all in the same unit (Chen et al. 2018, section
/// 4, [arXiv 1802.04942](https://arxiv.org/abs/1802.04942)).
///
/// The gap of factor j is (I(block a; j) − I(block b; j)) / H(j), where a and b are the two blocks
/// with the most information about j. It is 1 if one block determines the factor and no other
/// block contains anything about it, and 0 if two blocks contain the same about it or none does.
///
/// ```
/// use invariances::metric::mig;
/// let found = mig(&[vec![0.6, 0.1], vec![0.2, 0.1]], &[0.8, 0.5])?;
/// assert!((found.of_factors[0] - 0.5).abs() < 1e-12 && found.of_factors[1] == 0.0);
/// assert!((found.gap - 0.25).abs() < 1e-12);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the rows differ in length, for fewer than two blocks, or unless there is one
/// entropy for each factor; [`Error::Invalid`] if a value is negative, NaN or infinite, or an
/// entropy is 0.
pub fn mig(information: &[Vec<f64>], entropies: &[f64]) -> Result<Mig> {
    let (blocks, factors) = checked(information, "values of mutual information")?;
    if blocks < 2 || entropies.len() != factors {
        return Err(Error::shape(format!(
            "expected at least two blocks and one entropy for each factor, found {blocks} blocks, \
             {factors} factors and {} entropies",
            entropies.len()
        )));
    }
    if let Some(wrong) = entropies.iter().find(|h| !(h.is_finite() && **h > 0.0)) {
        return Err(Error::invalid(format!(
            "expected finite entropies above 0, found {wrong}: leave out factors that have the \
             same class in all images"
        )));
    }
    let gap = |(k, entropy): (usize, &f64)| {
        let (mut first, mut second) = (0f64, 0f64);
        for value in information.iter().map(|row| row[k]) {
            if value > first {
                (first, second) = (value, first);
            } else {
                second = second.max(value);
            }
        }
        (first - second) / entropy
    };
    let of_factors: Vec<f64> = entropies.iter().enumerate().map(gap).collect();
    Ok(Mig {
        gap: of_factors.iter().sum::<f64>() / factors as f64,
        of_factors,
    })
}

/// Checks a matrix and returns the number of its rows and of its columns.
fn checked(matrix: &[Vec<f64>], what: &str) -> Result<(usize, usize)> {
    let columns = matrix.first().map_or(0, Vec::len);
    if columns == 0 || matrix.iter().any(|row| row.len() != columns) {
        let found: Vec<usize> = matrix.iter().map(Vec::len).collect();
        return Err(Error::shape(format!(
            "expected {what} with one row per block and one column per factor, found rows of \
             lengths {found:?}"
        )));
    }
    let mut all = matrix.iter().flatten();
    if let Some(wrong) = all.find(|value| !(value.is_finite() && **value >= 0.0)) {
        return Err(Error::invalid(format!(
            "expected {what} that are finite and not negative, found {wrong}"
        )));
    }
    Ok((matrix.len(), columns))
}

/// Returns 1 − the normalised entropy of each row, and their mean weighted by the rows' sums.
fn concentration(rows: &[Vec<f64>]) -> (f64, Vec<f64>) {
    let of_row = |row: &Vec<f64>| {
        let sum: f64 = row.iter().sum();
        if sum == 0.0 {
            return 0.0;
        }
        let shares = row.iter().map(|value| value / sum);
        let entropy: f64 = shares.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
        (1.0 - entropy / (row.len() as f64).ln()).clamp(0.0, 1.0)
    };
    let each: Vec<f64> = rows.iter().map(of_row).collect();
    let sums: Vec<f64> = rows.iter().map(|row| row.iter().sum()).collect();
    let total: f64 = sums.iter().sum();
    let weighted: f64 = each.iter().zip(&sums).map(|(value, sum)| value * sum).sum();
    let mean = if total == 0.0 { 0.0 } else { weighted / total };
    (mean, each)
}
