//! Which tensors the kernels of this crate support.

use crate::gpu;
use candle_core::{DType, Tensor};

/// Returns whether the CPU kernels of this crate support this tensor (f32 or f64 on the CPU). For
/// other tensors candle's operations are composed.
pub fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64) && crate::kernels_are_used()
}

/// Returns whether all tensors are supported by the CPU kernels, or all by the CUDA kernels.
pub(crate) fn have_kernel(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| has_kernel(t)) || tensors.iter().all(|t| gpu::is_available(t))
}
