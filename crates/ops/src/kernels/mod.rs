//! Kernels for the CPU, on slices, and for CUDA (`cuda`): matrix products, convolutions,
//! normalisation, pooling; and the element types that they support. All `unsafe` code that computes
//! is in this folder; the modules above it check shapes and call it.

pub(crate) mod convolution;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod elementwise;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod patches;
mod pool;
pub(crate) mod product;

use candle_core::{CpuStorage, WithDType};
use std::cell::RefCell;

/// The element types that the matrix product supports.
pub(crate) trait Number:
    WithDType + Default + Copy + std::ops::AddAssign + std::ops::Mul<Output = Self> + PartialOrd
{
    const ONE: Self;
    fn take_scratch(length: usize) -> Vec<Self>;
    fn give_scratch(buffer: Vec<Self>);
    fn storage(values: Vec<Self>) -> CpuStorage;
}

macro_rules! number {
    ($t:ty, $variant:ident, $pool:ident) => {
        thread_local! { static $pool: RefCell<Vec<Vec<$t>>> = const { RefCell::new(Vec::new()) }; }
        impl Number for $t {
            const ONE: Self = 1.0;
            // Patch matrices are as large as a layer. They are reused, because page faults cost
            // more than the copy.
            fn take_scratch(length: usize) -> Vec<Self> {
                let mut buffer = $pool.with(|p| p.borrow_mut().pop()).unwrap_or_default();
                if buffer.len() < length {
                    buffer.resize(length, 0.0);
                }
                buffer
            }
            fn give_scratch(buffer: Vec<Self>) {
                $pool.with(|p| p.borrow_mut().push(buffer));
            }
            fn storage(values: Vec<Self>) -> CpuStorage {
                CpuStorage::$variant(values)
            }
        }
    };
}
number!(f32, F32, SCRATCH32);
number!(f64, F64, SCRATCH64);

/// The element types that the kernels support.
pub(crate) trait Real: Number {
    fn tanh(self) -> Self;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
}

impl Real for f32 {
    fn tanh(self) -> Self {
        f32::tanh(self)
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
}
