//! [`hsic`], a test of independence between two sets of features.

use crate::ops::{Rng, values};
use crate::{Error, Result};
use candle_core::Tensor;
use rayon::prelude::*;

/// The largest number of rows; two kernel matrices of this size take 256 MiB.
const MAX_ROWS: usize = 4096;

/// The result of [`hsic`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hsic {
    /// The biased estimate of the Hilbert–Schmidt independence criterion, 0 or more.
    pub value: f64,
    /// HSIC(a, b) / √(HSIC(a, a) HSIC(b, b)), in [0, 1]: centred kernel alignment (CKA) with
    /// Gaussian kernels.
    pub normalized: f64,
    /// The p-value of the hypothesis that both are independent.
    pub p: f64,
    /// Mean and 95 % quantile of `normalized` for permuted rows. Even for independent features it
    /// is above 0, more so for few rows and many columns: compare `normalized` with it.
    pub null: (f64, f64),
}

/// Tests if two sets of features of the same images are independent, with the Hilbert–Schmidt
/// independence criterion (HSIC; Gretton et al. 2007, "A Kernel Statistical Test of
/// Independence", equation 4).
///
/// a is (n, f) and b is (n, g), with n from 4 to 4096. HSIC is tr(KHLH)/n², where K and L are the
/// kernel matrices and H subtracts the mean. The kernels are Gaussian, exp(−d²/2σ²), where σ is
/// the median of the distances d between pairs of different rows. Unlike a correlation, it
/// responds to any kind of dependence. The normalized value is CKA with these kernels (arXiv
/// 1905.00414, section 3).
///
/// The p-value is (1 + m)/(1 + permutations), where m permutations of the rows of b have at least
/// this HSIC. The order of permutation i is that of `Rng::at(seed, "HSIC", i)`.
///
/// Distances add up over columns, so columns of larger scale have more weight. Standardize
/// columns of different units first. Time and memory grow with n².
///
/// ```
/// use invariances::{candle_core::Device, metric::hsic, ops::Rng};
/// let a = Rng::new(0).normal((60, 2), &Device::Cpu)?;
/// let squares = a.sqr()?; // uncorrelated with a, but not independent
/// assert_eq!(hsic(&a, &squares, 199, 0)?.p, 0.005);
/// let other = Rng::new(1).normal((60, 2), &Device::Cpu)?;
/// assert!(hsic(&a, &other, 199, 0)?.normalized < hsic(&a, &squares, 199, 0)?.normalized);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of rows differ or are not from 4 to 4096; [`Error::Invalid`]
/// for no permutations, for a value that is NaN or infinite, and if all rows of an input are
/// equal.
pub fn hsic(a: &Tensor, b: &Tensor, permutations: usize, seed: u64) -> Result<Hsic> {
    let n = match (a.dims(), b.dims()) {
        (&[n, f], &[m, g]) if n == m && n >= 4 && f > 0 && g > 0 => n,
        (a, b) => {
            return Err(Error::shape(format!(
                "expected features of shapes (n, f) and (n, g) with the same n ≥ 4, found {a:?} \
                 and {b:?}"
            )));
        }
    };
    if n > MAX_ROWS {
        return Err(Error::shape(format!(
            "expected at most {MAX_ROWS} rows for HSIC (its matrices have n² elements), found {n}: \
             pass fewer rows, for example with `narrow(0, 0, {MAX_ROWS})`"
        )));
    }
    if permutations == 0 {
        return Err(Error::invalid(
            "expected at least one permutation for HSIC, found 0: 199 are enough for p = 0.005",
        ));
    }
    let (k, l) = (centred_kernel(a, "first")?, centred_kernel(b, "second")?);
    let same: Vec<u32> = (0..n as u32).collect();
    let both = product(&k, &l, &same);
    let scale = (product(&k, &k, &same) * product(&l, &l, &same)).sqrt();
    let normalized = both / scale;
    let mut null: Vec<f64> = (0..permutations)
        .into_par_iter()
        .map(|index| {
            let order = Rng::at(seed, "HSIC", index as u64).permutation(n);
            product(&k, &l, &order) / scale
        })
        .collect();
    // Sums in another order differ by rounding, also where the values are equal.
    let extreme = null.iter().filter(|&&v| v >= normalized - 1e-12).count();
    let mean = null.iter().sum::<f64>() / permutations as f64;
    null.sort_unstable_by(f64::total_cmp);
    let quantile = null[(permutations * 95).div_ceil(100) - 1];
    Ok(Hsic {
        value: both / (n as f64).powi(2),
        normalized,
        p: (1 + extreme) as f64 / (1 + permutations) as f64,
        null: (mean, quantile),
    })
}

/// The Gaussian kernel of all pairs of rows, centred: HKH, row by row.
fn centred_kernel(x: &Tensor, which: &str) -> Result<Vec<f64>> {
    let (n, features) = x.dims2()?;
    let elements = values(x)?;
    if elements.iter().any(|v| !v.is_finite()) {
        return Err(Error::invalid(format!(
            "expected finite features for HSIC, found NaN or infinity in the {which} input"
        )));
    }
    let rows: Vec<&[f64]> = elements.chunks_exact(features).collect();
    // Squared distances, below the diagonal only.
    let mut kernel = vec![0f64; n * n];
    kernel.par_chunks_mut(n).enumerate().for_each(|(i, line)| {
        for (distance, other) in line.iter_mut().zip(&rows[..i]) {
            let squares = rows[i].iter().zip(*other).map(|(a, b)| (a - b).powi(2));
            *distance = squares.sum::<f64>();
        }
    });
    let mut distances: Vec<f64> = kernel
        .iter()
        .filter(|&&d| d > 0.0)
        .map(|d| d.sqrt())
        .collect();
    if distances.is_empty() {
        return Err(Error::invalid(format!(
            "expected features that vary over the rows for HSIC, found equal rows in the {which} \
             input: a constant is independent of everything"
        )));
    }
    let bandwidth = median(&mut distances);
    if !bandwidth.is_finite() {
        return Err(Error::invalid(format!(
            "expected features whose squared distances are finite for HSIC, found larger values \
             in the {which} input: divide it by its standard deviation"
        )));
    }
    for i in 0..n {
        kernel[i * n + i] = 1.0;
        for j in 0..i {
            let value = (-0.5 * (kernel[i * n + j] / bandwidth) / bandwidth).exp();
            kernel[i * n + j] = value;
            kernel[j * n + i] = value;
        }
    }
    let means: Vec<f64> = kernel
        .chunks_exact(n)
        .map(|row| row.iter().sum::<f64>() / n as f64)
        .collect();
    let mean = means.iter().sum::<f64>() / n as f64;
    for (row, row_mean) in kernel.chunks_exact_mut(n).zip(&means) {
        for (value, column_mean) in row.iter_mut().zip(&means) {
            *value -= row_mean + column_mean - mean;
        }
    }
    Ok(kernel)
}

/// The median; `values` has at least one element and is reordered.
fn median(values: &mut [f64]) -> f64 {
    let (middle, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if even {
        let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        0.5 * (lower + upper)
    } else {
        upper
    }
}

/// The sum of the products of the elements of k and of l, whose rows and columns are in this
/// order.
fn product(k: &[f64], l: &[f64], order: &[u32]) -> f64 {
    let n = order.len();
    let rows = k.chunks_exact(n).zip(order).enumerate();
    rows.map(|(i, (k, &row))| {
        let row = row as usize;
        let l = &l[row * n..][..n];
        let below = k.iter().zip(&order[..i]);
        let below: f64 = below.map(|(k, &j)| k * l[j as usize]).sum();
        // Both are symmetric.
        2.0 * below + k[i] * l[row]
    })
    .sum()
}
