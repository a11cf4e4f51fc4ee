//! The layers of the patch discriminator.

use super::layer::{Conv, Layer, NormKind};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{Activation, ConvConfig, Scope};

/// The layers of the patch discriminator ([`crate::loss::PatchDiscriminator`]), numbered as in
/// the authors' code.
pub(crate) fn patch_layers(at: &Scope) -> Result<Backbone> {
    let at = at.pp("main");
    let mut net = Stack::new("patch_discriminator", Preprocess::none());
    let config = |stride, activation| ConvConfig {
        stride,
        padding: (1, 1),
        activation,
    };
    let leaky = Activation::Leaky(0.2);
    let size = |inputs, outputs| (inputs, outputs, (4, 4));
    let first = Conv::biased(size(3, 64), config(2, leaky), &at.pp(0))?;
    net.push("main.0", Layer::Conv(first));
    for (i, outputs, stride) in [(2, 128, 2), (5, 256, 2), (8, 512, 1)] {
        let names = (&at.pp(i), NormKind::Batch(1e-5), &at.pp(i + 1));
        let conv = Conv::normed(size(outputs / 2, outputs), config(stride, leaky), names)?;
        net.push(&format!("main.{i}"), Layer::Conv(conv));
    }
    let last = Conv::biased(size(512, 1), config(1, Activation::None), &at.pp(11))?;
    net.push("main.11", Layer::Conv(last));
    Ok(net.done(&at))
}
