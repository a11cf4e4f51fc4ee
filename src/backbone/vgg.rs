//! VGG-16 as in torchvision.

use super::alexnet::head;
use super::layer::{Conv, Layer};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{ConvConfig, PoolConfig, Scope};

/// Builds VGG-16 (arXiv 1409.1556) as in torchvision, with the same parameter names. LPIPS
/// compares images by the layers `relu1_2`, `relu2_2`, `relu3_3`, `relu4_3` and `relu5_3`.
///
/// # Errors
/// [`crate::Error::Shape`] if parameters exist with other shapes.
pub fn vgg16(classes: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("vgg16", Preprocess::imagenet(224));
    let config = ConvConfig {
        padding: (1, 1),
        ..ConvConfig::default()
    };
    let (mut i, mut inputs) = (0, 3);
    let stages = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
    for (stage, (outputs, count)) in stages.into_iter().enumerate() {
        for nth in 0..count {
            let name = format!("features.{i}");
            let conv = Conv::biased((inputs, outputs, (3, 3)), config, &at.pp(&name))?;
            net.push(&name, Layer::Conv(conv));
            net.push(&format!("features.{}", i + 1), Layer::Relu);
            net.alias(&format!("relu{}_{}", stage + 1, nth + 1));
            (i, inputs) = (i + 2, outputs);
        }
        let pool = Layer::MaxPool(PoolConfig::new(2, 2));
        net.push(&format!("features.{i}"), pool);
        net.alias(&format!("pool{}", stage + 1));
        i += 1;
    }
    net.push("avgpool", Layer::AdaptivePool(7));
    head(&mut net, 512 * 49, classes, [0, 3, 6], at)?;
    Ok(net.done(at))
}
