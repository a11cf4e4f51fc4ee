//! The elements of contiguous tensors on the CPU as slices, for the kernels.

use candle_core::{CpuStorage, Layout, Storage, Tensor, WithDType, bail};

/// Returns the elements of a contiguous tensor. The callers make their arguments contiguous
/// first.
pub(crate) fn numbers<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!(
            "expected a contiguous tensor, found layout {layout:?}: call `contiguous()` first"
        ),
    }
}

/// Returns the elements of a contiguous tensor from a storage that must be on the CPU.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a Storage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match storage {
        Storage::Cpu(storage) => numbers(storage, layout),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// Calls `f` with the elements of a contiguous tensor on the CPU.
pub(crate) fn with_numbers<T: WithDType, R>(
    x: &Tensor,
    f: impl FnOnce(&[T]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    f(slice(&storage, layout)?)
}
