//! Leaky ReLU, and sums with an activation, each in one pass over memory forward and one backward.

use crate::kernels::Real;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Gpu, layers::slope_of};
use crate::kernels::elementwise::{map, map2};
use crate::slices::numbers;
use crate::support::have_kernel;
use crate::{Error, Result};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, bail};

/// The activation that is applied after a layer, in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// No activation.
    None,
    /// Leaky ReLU: max(x, slope·x) with a slope in [0, 1]. Slope 0 is the ordinary ReLU.
    Leaky(f64),
}

struct LeakyRelu(f64);

impl LeakyRelu {
    fn kernel<T: Real>(&self, x: &[T]) -> Vec<T> {
        let slope = T::from_f64(self.0);
        map(x, move |x| x * if x > T::zero() { T::one() } else { slope })
    }
}

impl CustomOp1 for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(x, l)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(x, l)?)),
            other => bail!("leaky_relu has no kernel for {:?}", other.dtype()),
        };
        Ok((y, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(x);
        let y = gpu.leaky(gpu.address(x, l)?, l.shape().elem_count(), self.0)?;
        Ok((gpu.storage(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The slope depends only on the sign of the argument.
        let op = Slope(Activation::Leaky(self.0));
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &op)?))
    }
}

/// grad · activation′, where the derivative is computed from the activation's *result*.
pub(crate) struct Slope(pub(crate) Activation);

impl Slope {
    fn kernel<T: Real>(&self, y: &[T], grad: &[T]) -> Vec<T> {
        match self.0 {
            Activation::None => grad.to_vec(),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                // The factor is selected first, then multiplied, and the closure owns the slope:
                // this is the form that the compiler vectorises.
                map2(y, grad, move |y, g| {
                    g * if y > T::zero() { T::one() } else { slope }
                })
            }
        }
    }
}

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation_gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        l: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match y {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(y, l)?, numbers(grad, lg)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(y, l)?, numbers(grad, lg)?)),
            other => bail!("activation_gradient has no kernel for {:?}", other.dtype()),
        };
        Ok((out, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        l: &Layout,
        grad: &CudaStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(y);
        let (y, grad) = (gpu.address(y, l)?, gpu.address(grad, lg)?);
        let slope = slope_of(self.0);
        let out = gpu.slope(y, grad, l.shape().elem_count(), slope)?;
        Ok((gpu.storage(out), l.shape().clone()))
    }
}

/// The sum of two tensors, then the activation.
struct Sum(Activation);

impl Sum {
    fn kernel<T: Real>(&self, a: &[T], b: &[T]) -> Vec<T> {
        match self.0 {
            Activation::None => map2(a, b, |a, b| a + b),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                map2(a, b, move |a, b| {
                    let x = a + b;
                    x * if x > T::zero() { T::one() } else { slope }
                })
            }
        }
    }
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = match a {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(a, la)?, numbers(b, lb)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(a, la)?, numbers(b, lb)?)),
            other => bail!("add has no kernel for {:?}", other.dtype()),
        };
        Ok((y, la.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(a);
        let (a, b) = (gpu.address(a, la)?, gpu.address(b, lb)?);
        let y = gpu.add_leaky(a, b, la.shape().elem_count(), slope_of(self.0))?;
        Ok((gpu.storage(y), la.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grad = match self.0 {
            Activation::None => grad,
            other => y.apply_op2_no_bwd(&grad, &Slope(other))?,
        };
        Ok((Some(grad.clone()), Some(grad)))
    }
}

/// Computes activation(a + b) for two tensors of the same shape, as at the end of a residual
/// block. One pass over memory forward and one backward.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if the slope is negative or not
/// finite.
pub fn add(a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::shape(format!(
            "expected two tensors of the same shape, found {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    check_activation(activation)?;
    if have_kernel(&[a, b]) && a.dtype() == b.dtype() {
        return Ok(a
            .contiguous()?
            .apply_op2(&b.contiguous()?, Sum(activation))?);
    }
    let sum = (a + b)?;
    match activation {
        Activation::None => Ok(sum),
        Activation::Leaky(slope) => leaky_relu(&sum, slope),
    }
}

/// Applies leaky ReLU to a tensor of any shape: x where x > 0, otherwise slope·x. One pass over
/// memory forward and one backward.
///
/// # Errors
/// [`Error::Invalid`] if the slope is negative or not finite. With a negative slope the sign of x
/// could not be recovered from the result.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    check_slope(slope)?;
    if have_kernel(&[x]) {
        return Ok(x.contiguous()?.apply_op1(LeakyRelu(slope))?);
    }
    Ok((x.relu()? - (x.neg()?.relu()? * slope)?)?)
}

/// Returns an error for an activation whose slope is negative or not finite.
pub(crate) fn check_activation(activation: Activation) -> Result<()> {
    match activation {
        Activation::None => Ok(()),
        Activation::Leaky(slope) => check_slope(slope),
    }
}

/// Returns an error for a slope of leaky ReLU that is negative or not finite: gradients are
/// computed from the sign of the result.
fn check_slope(slope: f64) -> Result<()> {
    if slope >= 0.0 && slope.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "leaky ReLU: expected a finite slope of at least 0, found {slope}"
    )))
}
