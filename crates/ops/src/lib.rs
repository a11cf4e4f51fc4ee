//! Operations that candle lacks or runs slowly, with their gradients: convolution, dense layers,
//! normalization, pooling, resizing, splines and coupling layers. Also a seeded random number
//! generator ([`Rng`]), parameters by name ([`Params`]) and the optimiser [`Adam`].
//!
//! Layers, parameters and optimiser implement candle's traits: the layers `candle_nn::Module`
//! (batch norm `ModuleT`), [`Adam`] `candle_nn::Optimizer`, and [`Params::builder`] returns a
//! `candle_nn::VarBuilder`, so a model of candle-nn or candle-transformers can be built on
//! [`Params`].

#![deny(unsafe_code)]

mod activation;
mod adam;
mod adaptive;
mod conv;
pub mod coupling;
mod dense;
mod device;
pub mod gpu;
pub mod gradients;
// The only unsafe code of the project's libraries.
#[allow(unsafe_code)]
mod kernels;
mod layers;
mod norm;
mod params;
mod pool;
mod repeat;
mod resize;
mod rng;
mod slices;
pub mod spline;
mod support;

pub use activation::{Activation, add, leaky_relu};
pub use adam::{Adam, AdamConfig};
pub use adaptive::adaptive_layer_norm;
pub use conv::{ConvConfig, conv_transpose2d, conv2d};
pub use dense::dense;
pub use device::{Placement, device_name, host, moved, open_device, scalar, values, widened};
pub use gradients::backward;
pub use kernels::memory::keep_freed_memory;
pub use layers::{BatchNorm, Conv2d, ConvTranspose2d, LayerNorm, Linear};
pub use norm::{BatchNormed, batch_norm, batch_norm_training, layer_norm, softmax};
pub use params::{Init, Params, Scope};
pub use pool::{PoolConfig, avg_pool2d, max_pool2d};
pub use repeat::repeated;
pub use resize::{adaptive_avg_pool2d, resize_bicubic, resize_bilinear, resize_nearest};
pub use rng::Rng;
pub use support::has_kernel;

pub use invariances_core::{Error, Result};

/// Converts an error for a method of one of candle's traits.
pub(crate) fn candle_error(error: Error) -> candle_core::Error {
    match error {
        Error::Tensor(error) => error,
        other => candle_core::Error::wrap(other),
    }
}

/// Whether the kernels of this crate are used at all.
static KERNELS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);

/// Switches the kernels of this crate on (the default) or off for the whole process. Without
/// them every operation is composed of candle's operations, as on devices for which there are no
/// kernels. Tests use it to compare both.
pub fn use_kernels(on: bool) {
    KERNELS.store(on, std::sync::atomic::Ordering::Relaxed);
}

/// Returns whether the kernels are switched on, see [`use_kernels`]. The environment variable
/// `INVARIANCES_COMPOSE=1` switches them off at the start.
pub fn kernels_are_used() -> bool {
    static COMPOSE: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var("INVARIANCES_COMPOSE").is_ok_and(|v| v == "1"));
    KERNELS.load(std::sync::atomic::Ordering::Relaxed) && !*COMPOSE
}

/// Returns the machine epsilon of a dtype: the distance from 1 to the next larger number. For
/// dtypes that are not floating point it is that of f32.
pub fn epsilon(dtype: candle_core::DType) -> f64 {
    use candle_core::DType;
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::BF16 => 2f64.powi(-7),
        DType::F16 => 2f64.powi(-10),
        _ => f64::from(f32::EPSILON),
    }
}

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
