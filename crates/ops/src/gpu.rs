//! The layers of a flow, and Adam, as fused operations on a CUDA device (f32).
//!
//! As compositions of candle's operations, a coupling is about 60 small kernels forward and 150
//! backward, and the time to launch them exceeds the time that they run. Here a half-step is three
//! kernels besides its matrix products, and the nets s and t share each product.
//!
//! A *state* is (rows, code + 1): the code, with the log-determinant as the last column. The
//! functions return tensors without a graph; the caller builds the backward pass from the
//! `…_backward` functions. Without the feature `cuda` they return an error, and
//! [`is_available`] is false.

use crate::coupling::{Nets, Plan};
use crate::{Error, Result};
use candle_core::{Device, Tensor};

#[cfg(feature = "cuda")]
use crate::kernels::cuda::{self, Gpu};

/// Returns whether the functions of this module support a tensor: f32 on a CUDA device, in a
/// build with the feature `cuda`.
pub fn is_available(x: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    return Gpu::of(x).is_some();
    #[cfg(not(feature = "cuda"))]
    {
        let _ = x;
        false
    }
}

/// Keeps memory that tensors of a CUDA device free for the next tensors, and leaves out CUDA events
/// that only programs with several streams need. [`crate::open_device`] calls it.
pub(crate) fn prepare(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    cuda::keep_memory(device)?;
    #[cfg(not(feature = "cuda"))]
    let _ = device;
    Ok(())
}

/// Returns the largest number of bytes that tensors of a CUDA device have used at a time since the
/// last call, or 0 for other devices.
pub fn peak_memory(device: &Device) -> Result<u64> {
    #[cfg(feature = "cuda")]
    return Ok(cuda::peak_memory(device)?);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        Ok(0)
    }
}

#[cfg(feature = "cuda")]
fn gpu(x: &Tensor) -> Result<Gpu> {
    Gpu::of(x).ok_or_else(|| {
        Error::invalid(format!(
            "expected f32 on a CUDA device, found {:?} on {:?}",
            x.dtype(),
            x.device()
        ))
    })
}

#[cfg(not(feature = "cuda"))]
fn unsupported<T>() -> Result<T> {
    Err(Error::invalid(
        "this program was built without the feature `cuda`",
    ))
}

/// What the backward pass of a coupling needs from its forward pass.
#[derive(Debug)]
pub struct CouplingTape {
    #[cfg(feature = "cuda")]
    tape: cuda::flow::Tape,
}

/// Applies a coupling to a state. `condition` is (rows, condition).
///
/// # Errors
/// [`Error::Invalid`] unless all tensors are f32 on one CUDA device.
pub fn coupling(
    state: &Tensor,
    condition: &Tensor,
    nets: &Nets,
    plan: &Plan,
) -> Result<(Tensor, CouplingTape)> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(state)?;
        let (rows, width) = state.dims2()?;
        let (x, c) = (state.contiguous()?, whole(condition)?);
        let (out, tape) = gpu.coupling(gpu.of_tensor(&x)?, address(&gpu, &c)?, nets, plan, rows)?;
        Ok((gpu.tensor(out, (rows, width)), CouplingTape { tape }))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (state, condition, nets, plan);
        unsupported()
    }
}

/// Returns a contiguous condition. Nothing is allocated for one without columns.
#[cfg(feature = "cuda")]
fn whole(condition: &Tensor) -> Result<Tensor> {
    Ok(match condition.elem_count() {
        0 => condition.clone(),
        _ => condition.contiguous()?,
    })
}

/// The address of a condition, which may have no columns.
#[cfg(feature = "cuda")]
fn address(gpu: &Gpu, c: &Tensor) -> Result<cuda::Address> {
    Ok(match c.elem_count() {
        0 => cuda::Address::NULL,
        _ => gpu.of_tensor(c)?,
    })
}

/// Inverts a coupling: v (rows, code) to x (rows, code). Each row of the condition belongs to
/// `share` consecutive rows of v.
///
/// # Errors
/// As [`coupling`].
pub fn coupling_inverse(
    v: &Tensor,
    condition: &Tensor,
    share: usize,
    nets: &Nets,
    plan: &Plan,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(v)?;
        let (rows, code) = v.dims2()?;
        let (v, c) = (v.contiguous()?, whole(condition)?);
        let c = (address(&gpu, &c)?, share);
        let (x, _) = gpu.coupling_inverse(gpu.of_tensor(&v)?, code, c, nets, plan, rows, false)?;
        Ok(gpu.tensor(x, (rows, code)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (v, condition, share, nets, plan);
        unsupported()
    }
}

/// Inverts a coupling, and returns what its backward pass needs as well.
///
/// # Errors
/// As [`coupling`].
pub fn coupling_undo(
    v: &Tensor,
    condition: &Tensor,
    nets: &Nets,
    plan: &Plan,
) -> Result<(Tensor, CouplingTape)> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(v)?;
        let (rows, code) = v.dims2()?;
        let (v, c) = (v.contiguous()?, whole(condition)?);
        let c = (address(&gpu, &c)?, 1);
        let (x, tape) =
            gpu.coupling_inverse(gpu.of_tensor(&v)?, code, c, nets, plan, rows, true)?;
        Ok((gpu.tensor(x, (rows, code)), CouplingTape { tape }))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (v, condition, nets, plan);
        unsupported()
    }
}

/// Returns the gradient of the state before a coupling, from that of the state after it, and the
/// gradients of the parameters in the order of [`crate::coupling::parameters`]. The gradient of
/// the condition is added to `to_condition` (rows, condition) in place; no other tensor may share
/// its memory.
///
/// # Errors
/// As [`coupling`].
pub fn coupling_backward(
    tape: &CouplingTape,
    gradient: &Tensor,
    to_condition: &Tensor,
    nets: &Nets,
    plan: &Plan,
) -> Result<(Tensor, Vec<Tensor>)> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(gradient)?;
        let (rows, width) = gradient.dims2()?;
        let g = gradient.contiguous()?;
        let to_c = address(&gpu, to_condition)?;
        let found =
            gpu.coupling_backward(&tape.tape, gpu.of_tensor(&g)?, to_c, nets, plan, rows)?;
        Ok((gpu.tensor(found.state, (rows, width)), found.parameters))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (tape, gradient, to_condition, nets, plan);
        unsupported()
    }
}

/// Applies ActNorm to a state: scale·(x + loc). `loc` and `scale` have an element per column of
/// the code.
///
/// # Errors
/// As [`coupling`].
pub fn actnorm(state: &Tensor, loc: &Tensor, scale: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(state)?;
        let (rows, width) = state.dims2()?;
        let x = state.contiguous()?;
        let all = [
            gpu.of_tensor(&x)?,
            gpu.of_tensor(loc)?,
            gpu.of_tensor(scale)?,
        ];
        Ok(gpu.tensor(gpu.actnorm(all, (rows, width - 1))?, (rows, width)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (state, loc, scale);
        unsupported()
    }
}

/// Inverts ActNorm on a code (rows, n).
///
/// # Errors
/// As [`coupling`].
pub fn actnorm_inverse(v: &Tensor, loc: &Tensor, scale: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(v)?;
        let (rows, n) = v.dims2()?;
        let v = v.contiguous()?;
        let all = [
            gpu.of_tensor(&v)?,
            gpu.of_tensor(loc)?,
            gpu.of_tensor(scale)?,
        ];
        Ok(gpu.tensor(gpu.actnorm_inverse(all, (rows, n))?, (rows, n)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (v, loc, scale);
        unsupported()
    }
}

/// Returns the gradients of the state before ActNorm, of `loc` and of `scale`, from the state
/// before it and the gradient of the state after it.
///
/// # Errors
/// As [`coupling`].
pub fn actnorm_backward(
    state: &Tensor,
    loc: &Tensor,
    scale: &Tensor,
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(state)?;
        let (rows, width) = state.dims2()?;
        let (x, g) = (state.contiguous()?, gradient.contiguous()?);
        let all = [&x, loc, scale, &g].map(|t| gpu.of_tensor(t));
        let [x, l, s, g] = all;
        let all = [x?, l?, s?, g?];
        let [to_state, to_loc, to_scale] = gpu.actnorm_backward(all, (rows, width - 1))?;
        Ok([
            gpu.tensor(to_state, (rows, width)),
            gpu.tensor(to_loc, loc.shape()),
            gpu.tensor(to_scale, scale.shape()),
        ])
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (state, loc, scale, gradient);
        unsupported()
    }
}

/// Selects the first `order.len()` columns of a state or code in this order (u32); later columns
/// are copied. The caller checks that the indices are below their number.
///
/// # Errors
/// As [`coupling`].
pub fn permute(x: &Tensor, order: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let gpu = gpu(x)?;
        let (rows, pitch) = x.dims2()?;
        let (x, order) = (x.contiguous()?, order.contiguous()?);
        let sizes = (rows, order.elem_count(), pitch);
        let out = gpu.permute(gpu.of_tensor(&x)?, gpu.of_indices(&order)?, sizes)?;
        Ok(gpu.tensor(out, (rows, pitch)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (x, order);
        unsupported()
    }
}

/// A parameter that [`AdamWorkspace::step`] updates in place: contiguous f32 tensors of one size.
#[derive(Clone, Debug)]
pub struct AdamUpdate {
    /// The parameter.
    pub value: Tensor,
    /// Its gradient.
    pub gradient: Tensor,
    /// The moving averages of the gradient and of its square.
    pub moments: [Tensor; 2],
    /// The learning rate over the first moment's bias correction.
    pub step: f64,
    /// One over the square root of the second moment's bias correction.
    pub root: f64,
}

/// What the updates of all parameters have in common.
#[derive(Clone, Copy, Debug)]
pub struct AdamRule {
    /// The decay rates of the moments.
    pub betas: (f64, f64),
    /// The factor of the parameters: 1 − learning rate · weight decay.
    pub keep: f64,
    /// The number that is added to the square root of the second moment.
    pub eps: f64,
    /// The largest norm of all gradients together.
    pub clip: Option<f64>,
}

/// Adam for all parameters in one launch; see [`Adam`](crate::Adam).
#[derive(Debug, Default)]
pub struct AdamWorkspace {
    #[cfg(feature = "cuda")]
    workspace: cuda::adam::Workspace,
    #[cfg(feature = "cuda")]
    gpu: Option<Gpu>,
}

impl AdamWorkspace {
    /// Updates parameters and moments in place. With `clip`, nothing changes from the first
    /// gradient on whose norm is not finite; [`AdamWorkspace::diverged`] reports it.
    ///
    /// # Errors
    /// As [`coupling`], and if the sizes of a parameter's tensors differ.
    pub fn step(&mut self, updates: &[AdamUpdate], rule: AdamRule) -> Result<()> {
        let Some(first) = updates.first() else {
            return Ok(());
        };
        #[cfg(feature = "cuda")]
        {
            let gpu = gpu(&first.value)?;
            let updates: Vec<_> = updates
                .iter()
                .map(|u| cuda::adam::Update {
                    value: &u.value,
                    gradient: &u.gradient,
                    moments: [&u.moments[0], &u.moments[1]],
                    step: u.step,
                    root: u.root,
                })
                .collect();
            let rule = cuda::adam::Rule {
                betas: rule.betas,
                keep: rule.keep,
                eps: rule.eps,
                clip: rule.clip,
            };
            self.workspace.step(&gpu, &updates, rule)?;
            self.gpu = Some(gpu);
            Ok(())
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (first, rule);
            unsupported()
        }
    }

    /// Returns whether the norm of a clipped gradient was ever not finite. Waits for the device.
    pub fn diverged(&self) -> Result<bool> {
        #[cfg(feature = "cuda")]
        return match &self.gpu {
            Some(gpu) => Ok(self.workspace.diverged(gpu)?),
            None => Ok(false),
        };
        #[cfg(not(feature = "cuda"))]
        Ok(false)
    }
}
