//! Functions that answer the paper's questions: what a layer leaves free, what can be read from
//! v, and how the results compare with those of other methods.

mod attack;
mod codes;
mod digest;
mod features;
mod free;
mod inversion;
mod mix;
mod natural;
mod probe;
mod semantics;
mod training;

use crate::Result;
use crate::backbone::Network;
use candle_core::{Device, Tensor};

pub use attack::{Attack, Attacked};
pub use codes::Codes;
pub use digest::network_digest;
pub use features::Features;
pub use free::{Reencoded, Samples, free_share};
pub use inversion::{Descent, Inverted, Inverter, Regression};
pub use mix::mix;
pub use natural::Fid;
pub use probe::{Probe, chance, unread_share};
pub use semantics::{FactorTraining, Semantics};
pub use training::CinnTraining;

/// The device of a network's parameters, or that of `x` if the network does not report one.
fn device_of(network: &dyn Network, x: &Tensor) -> Device {
    let placement = network.placement();
    placement.map_or_else(|| x.device().clone(), |p| p.device)
}

/// Rows `start` to `start + count` of `x` on a device, in the number type of `x`.
///
/// A view is copied before it is moved to another device: candle would move all rows of the tensor
/// that it belongs to.
fn rows_on(device: &Device, x: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    let rows = x.narrow(0, start, count)?;
    Ok(match rows.device().same_device(device) {
        true => rows,
        false => rows.force_contiguous()?.to_device(device)?,
    })
}
