//! AlexNet as in torchvision, and the dense layers that it shares with VGG-16.

use super::layer::{Conv, Dense, Layer};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{ConvConfig, PoolConfig, Scope};

/// Builds AlexNet as in torchvision (arXiv 1404.5997), with the same parameter names, for images
/// of at least 63 pixels. [`Preprocess::apply`] resizes images to 227 pixels, as in the paper, with
/// [`resize_bilinear`](crate::ops::resize_bilinear). The paper's names mean the layers after
/// their ReLU: `conv5` is `features.11`, `fc6` is `classifier.2` and `fc7` is `classifier.5`.
/// `fc8` is the layer of the logits.
///
/// # Errors
/// [`crate::Error::Shape`] if parameters exist with other shapes.
pub fn alexnet(classes: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("alexnet", Preprocess::imagenet(227));
    // Index in `features`, input and output channels, kernel, stride, padding, and whether a
    // pooling follows.
    let convolutions = [
        (0, 3, 64, 11, 4, 2, true),
        (3, 64, 192, 5, 1, 2, true),
        (6, 192, 384, 3, 1, 1, false),
        (8, 384, 256, 3, 1, 1, false),
        (10, 256, 256, 3, 1, 1, true),
    ];
    for (nth, (i, inputs, outputs, kernel, stride, padding, pooled)) in
        convolutions.into_iter().enumerate()
    {
        let config = ConvConfig {
            stride,
            padding: (padding, padding),
            ..ConvConfig::default()
        };
        let name = format!("features.{i}");
        let sizes = (inputs, outputs, (kernel, kernel));
        net.push(
            &name,
            Layer::Conv(Conv::biased(sizes, config, &at.pp(&name))?),
        );
        net.push(&format!("features.{}", i + 1), Layer::Relu);
        net.alias(&format!("conv{}", nth + 1));
        if pooled {
            let pool = Layer::MaxPool(PoolConfig::new(3, 2));
            net.push(&format!("features.{}", i + 2), pool);
            net.alias(&format!("pool{}", nth + 1));
        }
    }
    net.push("avgpool", Layer::AdaptivePool(6));
    head(&mut net, 256 * 36, classes, [1, 4, 6], at)?;
    Ok(net.done(at))
}

/// Adds the three dense layers at the end of AlexNet and VGG-16. The array holds their indices in
/// `classifier`.
pub(super) fn head(
    net: &mut Stack,
    inputs: usize,
    classes: usize,
    [fc6, fc7, fc8]: [usize; 3],
    at: &Scope,
) -> Result<()> {
    let mut dense = |i: usize, inputs: usize, outputs: usize, alias: &str| -> Result<()> {
        let name = format!("classifier.{i}");
        let last = alias == "fc8";
        net.push(
            &name,
            Layer::Dense(Dense::new(inputs, outputs, &at.pp(&name))?),
        );
        if !last {
            net.push(&format!("classifier.{}", i + 1), Layer::Relu);
        }
        net.alias(alias);
        Ok(())
    };
    dense(fc6, inputs, 4096, "fc6")?;
    dense(fc7, 4096, 4096, "fc7")?;
    dense(fc8, 4096, classes, "fc8")?;
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(())
}
