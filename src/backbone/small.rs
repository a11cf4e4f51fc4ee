//! Small networks for images of 32 to 64 px, trained with this crate.

use super::layer::{Conv, Dense, Layer, RELU};
use super::resnet::{BATCH, basic, conv as normed};
use super::squeezenet::fire;
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{ConvConfig, PoolConfig, Scope};

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, at: &Scope) -> Result<Layer> {
    let config = ConvConfig {
        stride,
        padding: ((kernel - 1) / 2, (kernel - 1) / 2),
        activation: RELU,
    };
    let sizes = (inputs, outputs, (kernel, kernel));
    Ok(Layer::Conv(Conv::biased(sizes, config, at)?))
}

/// Adds the logits and the probabilities after them.
fn classifier(net: &mut Stack, inputs: usize, classes: usize, at: &Scope) -> Result<()> {
    net.push(
        "fc",
        Layer::Dense(Dense::new(inputs, classes, &at.pp("fc"))?),
    );
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(())
}

/// Builds a SqueezeNet (arXiv 1602.07360) for images of 32 to 64 px. Its layers are `conv1`, fire
/// modules with overlapping pooling (3×3, stride 2) between them, `pool` (the penultimate layer,
/// 128 elements), `fc` (logits) and `softmax`.
///
/// # Errors
/// [`crate::Error::Invalid`] if a width or the number of classes is 0; [`crate::Error::Shape`] if
/// parameters exist with other shapes.
pub fn squeezenet_small(classes: usize, at: &Scope) -> Result<Backbone> {
    let pool = || {
        Layer::MaxPool(PoolConfig {
            ceil: true,
            ..PoolConfig::new(3, 2)
        })
    };
    let mut net = Stack::new("squeezenet_small", Preprocess::none());
    net.push("conv1", conv(3, 32, 4, 2, &at.pp("conv1"))?);
    net.push("fire2", fire(32, 16, 32, &at.pp("fire2"))?);
    net.push("maxpool2", pool());
    net.push("fire3", fire(64, 32, 64, &at.pp("fire3"))?);
    net.push("maxpool3", pool());
    net.push("fire4", fire(128, 32, 64, &at.pp("fire4"))?);
    net.push("pool", Layer::GlobalMean);
    classifier(&mut net, 128, classes, at)?;
    Ok(net.done(at))
}

/// Builds a plain convolutional network. Its architecture differs from that of the network under
/// study, so it can serve as an independent classifier of generated images.
///
/// # Errors
/// [`crate::Error::Invalid`] if a width or the number of classes is 0; [`crate::Error::Shape`] if
/// parameters exist with other shapes.
pub fn plain_small(classes: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("plain_small", Preprocess::none());
    net.push("conv1", conv(3, 24, 3, 1, &at.pp("conv1"))?);
    net.push("conv2", conv(24, 48, 4, 2, &at.pp("conv2"))?);
    net.push("conv3", conv(48, 48, 3, 1, &at.pp("conv3"))?);
    net.push("conv4", conv(48, 96, 4, 2, &at.pp("conv4"))?);
    net.push("conv5", conv(96, 96, 3, 1, &at.pp("conv5"))?);
    net.push("avgpool", Layer::AvgPool(PoolConfig::new(2, 2)));
    net.push("conv6", conv(96, 128, 3, 1, &at.pp("conv6"))?);
    net.push("pool", Layer::GlobalMean);
    classifier(&mut net, 128, classes, at)?;
    Ok(net.done(at))
}

/// Builds an AlexNet (arXiv 1404.5997) for images of 32 to 64 px. Its layers have the paper's
/// names: `conv1` … `conv5`, `fc6`, `fc7`, `fc8` (logits), `softmax`, with pooling after conv1,
/// conv2 and conv5. `width` is the number of channels of conv1; 32 is a good start.
///
/// # Errors
/// [`crate::Error::Invalid`] if a width or the number of classes is 0; [`crate::Error::Shape`] if
/// parameters exist with other shapes.
pub fn alexnet_small(width: usize, classes: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("alexnet_small", Preprocess::none());
    let pool = || Layer::MaxPool(PoolConfig::new(3, 2));
    let w = width;
    net.push("conv1", conv(3, w, 5, 1, &at.pp("conv1"))?);
    net.push("pool1", pool());
    net.push("conv2", conv(w, 2 * w, 3, 1, &at.pp("conv2"))?);
    net.push("pool2", pool());
    net.push("conv3", conv(2 * w, 3 * w, 3, 1, &at.pp("conv3"))?);
    net.push("conv4", conv(3 * w, 2 * w, 3, 1, &at.pp("conv4"))?);
    net.push("conv5", conv(2 * w, 2 * w, 3, 1, &at.pp("conv5"))?);
    net.push("pool5", pool());
    net.push("avgpool", Layer::AdaptivePool(3));
    let mut dense = |name: &str, inputs: usize| -> Result<()> {
        let layer = Dense::activated(inputs, 8 * w, RELU, &at.pp(name))?;
        net.push(name, Layer::Dense(layer));
        Ok(())
    };
    dense("fc6", 2 * w * 9)?;
    dense("fc7", 8 * w)?;
    let logits = Dense::new(8 * w, classes, &at.pp("fc8"))?;
    net.push("fc8", Layer::Dense(logits));
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(net.done(at))
}

/// Builds a ResNet (arXiv 1512.03385) for images of 32 to 64 px, with batch norm. Its layers are
/// `conv1`, three stages of two basic blocks (`layer1` … `layer3`), `avgpool`, `fc` and
/// `softmax`. `width` is the number of channels of conv1; the paper uses 16 for 32 px.
///
/// # Errors
/// [`crate::Error::Invalid`] if a width or the number of classes is 0; [`crate::Error::Shape`] if
/// parameters exist with other shapes.
pub fn resnet_small(width: usize, classes: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("resnet_small", Preprocess::none());
    net.push(
        "conv1",
        normed((3, width, 3), 1, RELU, ["conv1", "bn1"], (BATCH, at))?,
    );
    let mut inputs = width;
    for stage in 1..=3 {
        let outputs = width << (stage - 1);
        for i in 0..2 {
            let name = format!("layer{stage}.{i}");
            let stride = if stage > 1 && i == 0 { 2 } else { 1 };
            net.push(
                &name,
                basic(inputs, outputs, stride, (BATCH, &at.pp(&name)))?,
            );
            inputs = outputs;
        }
        net.alias(&format!("layer{stage}"));
    }
    net.push("avgpool", Layer::GlobalMean);
    classifier(&mut net, inputs, classes, at)?;
    Ok(net.done(at))
}

/// Builds a small face recognition network in the style of FaceNet (arXiv 1503.03832) for images
/// of 32 to 64 px. Its layers are a convolution and residual blocks with batch norm (`conv1`,
/// `block1` … `block3`), `avgpool` and the `embedding` of 128 elements that represents a person.
/// It is trained as a classifier of people, so `fc` (one logit per person) and `softmax` follow.
///
/// # Errors
/// [`crate::Error::Invalid`] if a width or the number of classes is 0; [`crate::Error::Shape`] if
/// parameters exist with other shapes.
pub fn facenet_small(people: usize, at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("facenet_small", Preprocess::none());
    let stem = normed((3, 32, 4), 2, RELU, ["conv1", "bn1"], (BATCH, at))?;
    net.push("conv1", stem);
    for (name, inputs, outputs, stride) in [
        ("block1", 32, 32, 1),
        ("block2", 32, 64, 2),
        ("block3", 64, 128, 2),
    ] {
        net.push(name, basic(inputs, outputs, stride, (BATCH, &at.pp(name)))?);
    }
    net.push("avgpool", Layer::AdaptivePool(4));
    let embedding = Dense::new(128 * 16, 128, &at.pp("embedding"))?;
    net.push("embedding", Layer::Dense(embedding));
    classifier(&mut net, 128, people, at)?;
    Ok(net.done(at))
}
