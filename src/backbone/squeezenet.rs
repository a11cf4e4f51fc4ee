//! SqueezeNet 1.0 and 1.1 as in torchvision.

use super::layer::{Conv, Layer, RELU};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{ConvConfig, PoolConfig, Scope};
use serde::{Deserialize, Serialize};

/// The version of SqueezeNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SqueezeNet {
    /// The version of the paper (arXiv 1602.07360), torchvision's `squeezenet1_0`.
    V1_0,
    /// The authors' later version with 2.4 times less computation, torchvision's `squeezenet1_1`.
    V1_1,
}

/// The fire module (arXiv 1602.07360, section 3.2): a narrow 1×1 convolution, then a 1×1 and a
/// 3×3 convolution in parallel.
pub(super) fn fire(inputs: usize, squeeze: usize, expand: usize, at: &Scope) -> Result<Layer> {
    let conv = |inputs, outputs, kernel: usize, at: &Scope| -> Result<Layer> {
        let config = ConvConfig {
            padding: ((kernel - 1) / 2, (kernel - 1) / 2),
            activation: RELU,
            ..ConvConfig::default()
        };
        let sizes = (inputs, outputs, (kernel, kernel));
        Ok(Layer::Conv(Conv::biased(sizes, config, at)?))
    };
    Ok(Layer::Sequence(vec![
        conv(inputs, squeeze, 1, &at.pp("squeeze"))?,
        Layer::Concat(vec![
            conv(squeeze, expand, 1, &at.pp("expand1x1"))?,
            conv(squeeze, expand, 3, &at.pp("expand3x3"))?,
        ]),
    ]))
}

/// Builds SqueezeNet as in torchvision, with the same parameter names. The fire modules have the
/// paper's names fire2 … fire9 as aliases. The output of `avgpool` is the logits.
///
/// # Errors
/// [`crate::Error::Shape`] if parameters exist with other shapes.
pub fn squeezenet(version: SqueezeNet, classes: usize, at: &Scope) -> Result<Backbone> {
    let pool = || {
        Layer::MaxPool(PoolConfig {
            ceil: true,
            ..PoolConfig::new(3, 2)
        })
    };
    let (name, first, kernel, pools) = match version {
        SqueezeNet::V1_0 => ("squeezenet1_0", 96, 7, [6, 11]),
        SqueezeNet::V1_1 => ("squeezenet1_1", 64, 3, [5, 8]),
    };
    let mut net = Stack::new(name, Preprocess::imagenet(224));
    let config = ConvConfig {
        stride: 2,
        ..ConvConfig::default()
    };
    let conv = Conv::biased((3, first, (kernel, kernel)), config, &at.pp("features.0"))?;
    net.push("features.0", Layer::Conv(conv));
    net.push("features.1", Layer::Relu);
    net.alias("conv1");
    net.push("features.2", pool());
    let mut inputs = first;
    let mut i = 3;
    let widths = [16, 16, 32, 32, 48, 48, 64, 64];
    for (nth, squeeze) in widths.into_iter().enumerate() {
        if pools.contains(&i) {
            net.push(&format!("features.{i}"), pool());
            i += 1;
        }
        let (name, expand) = (format!("features.{i}"), 4 * squeeze);
        net.push(&name, fire(inputs, squeeze, expand, &at.pp(&name))?);
        net.alias(&format!("fire{}", nth + 2));
        (inputs, i) = (2 * expand, i + 1);
    }
    let conv = Conv::biased(
        (inputs, classes, (1, 1)),
        ConvConfig::default(),
        &at.pp("classifier.1"),
    )?;
    net.push("classifier.1", Layer::Conv(conv));
    net.alias("conv10");
    net.push("classifier.2", Layer::Relu);
    net.push("classifier.3", Layer::GlobalMean);
    net.alias("avgpool");
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(net.done(at))
}
