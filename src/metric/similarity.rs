use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// The cosine of the angle between each row of x and the same row of y, both (n, p).
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
/// [`Error::Invalid`] where the two differ in shape.
pub fn cosines(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    if x.rank() != 2 || x.dims() != y.dims() {
        return Err(Error::invalid(format!(
            "cosines need two representations (n, p) of one shape, found {:?} and {:?}",
            x.dims(),
            y.dims()
        )));
    }
    let length = |x: &Tensor| -> Result<Tensor> { Ok(x.sqr()?.sum(1)?.sqrt()?) };
    let lengths = ((length(x)? * length(y)?)? + 1e-12)?;
    let cosines = ((x * y)?.sum(1)? / lengths)?;
    Ok(cosines.to_dtype(DType::F64)?.to_vec1()?)
}

/// How alike two representations of the same images are: linear centred kernel alignment (arXiv 1905.00414, section 3), with
/// the unbiased estimate of its three terms (arXiv 2010.15327, section 2), so that 0 means unrelated however few the images
/// and many the features. x is (n, p) and y (n, q) with n ≥ 4. 1 where one is a rotation and scaling of the other; rotations,
/// scaling and shifts of either do not matter.
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
/// [`Error::Invalid`] where the rows do not fit, are fewer than four, or one representation is constant.
pub fn cka(x: &Tensor, y: &Tensor) -> Result<f64> {
    let n = match (x.dims(), y.dims()) {
        (&[n, p], &[m, q]) if n == m && n >= 4 && p > 0 && q > 0 => n,
        (x, y) => {
            return Err(Error::invalid(format!(
                "comparing representations needs (n, p) and (n, q) of the same n ≥ 4 images, found {x:?} and {y:?}"
            )));
        }
    };
    // Inner products of all pairs of rows, in f64 and around the mean, for which the measure does not ask but the digits do;
    // without the diagonal.
    let gram = |x: &Tensor| -> Result<Vec<f64>> {
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let x = x.broadcast_sub(&x.mean_keepdim(0)?)?;
        let mut gram: Vec<f64> = x.matmul(&x.t()?)?.flatten_all()?.to_vec1()?;
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
            "a representation that hardly varies over the images cannot be compared",
        ));
    }
    Ok(hsic(&k, &l) / (xx * yy).sqrt())
}
