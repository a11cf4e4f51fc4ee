//! Similarity of two representations: cosines of rows, and centred kernel alignment (CKA).

use crate::ops::widened as wide;
use crate::ops::{Placement, host, values};
use crate::{Error, Result};
use candle_core::Tensor;

/// Computes the cosine similarity between each row of x and the same row of y, both (n, p).
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::cosines};
/// let x = Tensor::new(&[[1f32, 0.0], [0.0, 2.0]], &Device::Cpu)?;
/// let y = Tensor::new(&[[3f32, 0.0], [4.0, 0.0]], &Device::Cpu)?;
/// assert_eq!(cosines(&x, &y)?, [1.0, 0.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn cosines(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    if x.rank() != 2 || x.dims() != y.dims() {
        return Err(Error::shape(format!(
            "expected two representations of the same shape (n, p), found {:?} and {:?}",
            x.dims(),
            y.dims()
        )));
    }
    let x = wide(x)?;
    let y = Placement::of(&x).take(y)?;
    let length = |x: &Tensor| -> Result<Tensor> { Ok(x.sqr()?.sum(1)?.sqrt()?) };
    let lengths = ((length(&x)? * length(&y)?)? + 1e-12)?;
    values(&((x * y)?.sum(1)? / lengths)?)
}

/// Computes the similarity of two representations of the same images by linear centred kernel
/// alignment (CKA; arXiv 1905.00414, section 3).
///
/// Its three terms are estimated without bias (arXiv 2010.15327, section 2), so that unrelated
/// representations give a value around 0 for any number of images and features. x is (n, p) and
/// y is (n, q), with n ≥ 4. The result is 1 if one is a rotation and scaling of the other. It
/// does not change if either is rotated, scaled or shifted.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::cka, ops::Rng};
/// let x = Rng::new(0).normal((50, 8), &Device::Cpu)?;
/// assert!((cka(&x, &(&x * 3.0)?)? - 1.0).abs() < 1e-9);
/// let unrelated = Rng::new(1).normal((50, 300), &Device::Cpu)?;
/// assert!(cka(&x, &unrelated)?.abs() < 0.2);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of rows differ or are below four; [`Error::Invalid`] if one
/// representation is constant.
pub fn cka(x: &Tensor, y: &Tensor) -> Result<f64> {
    let n = match (x.dims(), y.dims()) {
        (&[n, p], &[m, q]) if n == m && n >= 4 && p > 0 && q > 0 => n,
        (x, y) => {
            return Err(Error::shape(format!(
                "expected representations of shapes (n, p) and (n, q) with the same n ≥ 4, found \
                 {x:?} and {y:?}"
            )));
        }
    };
    // Inner products of all pairs of rows in f64, without the diagonal. The estimate does not
    // need centred rows, but centring improves the numerical precision.
    let gram = |x: &Tensor| -> Result<Vec<f64>> {
        let x = host(x)?;
        let x = x.broadcast_sub(&x.mean_keepdim(0)?)?;
        let mut gram = values(&x.matmul(&x.t()?)?)?;
        (0..n).for_each(|i| gram[i * n + i] = 0.0);
        Ok(gram)
    };
    let (k, l) = (gram(x)?, gram(y)?);
    let rows = |m: &[f64]| -> Vec<f64> { m.chunks(n).map(|r| r.iter().sum()).collect() };
    let count = n as f64;
    let hsic = |k: &[f64], l: &[f64]| -> f64 {
        let trace: f64 = k.iter().zip(l).map(|(k, l)| k * l).sum();
        let (k, l) = (rows(k), rows(l));
        let sums = k.iter().sum::<f64>() * l.iter().sum::<f64>();
        let cross: f64 = k.iter().zip(&l).map(|(k, l)| k * l).sum();
        (trace + sums / ((count - 1.0) * (count - 2.0)) - 2.0 * cross / (count - 2.0))
            / (count * (count - 3.0))
    };
    let (xx, yy) = (hsic(&k, &k), hsic(&l, &l));
    if xx.is_nan() || yy.is_nan() || xx <= 0.0 || yy <= 0.0 {
        return Err(Error::invalid(
            "expected representations that vary over the images, found a nearly constant one",
        ));
    }
    Ok(hsic(&k, &l) / (xx * yy).sqrt())
}
