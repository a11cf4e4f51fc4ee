use super::{Chain, Layer};
use crate::Result;
use crate::ops::{Activation, Conv2d, ConvConfig, Init, Linear, PoolConfig, Scope};

const RELU: Activation = Activation::Leaky(0.0);

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, at: &Scope) -> Result<Conv2d> {
    let config = ConvConfig {
        stride,
        padding: ((kernel - 1) / 2, (kernel - 1) / 2),
        activation: RELU,
    };
    Conv2d::new(inputs, outputs, kernel, config, Init::He, at)
}

fn fire(inputs: usize, squeeze: usize, expand: usize, at: &Scope) -> Result<Layer> {
    Ok(Layer::Fire {
        squeeze: conv(inputs, squeeze, 1, 1, &at.pp("squeeze"))?,
        expand1: conv(squeeze, expand, 1, 1, &at.pp("expand1x1"))?,
        expand3: conv(squeeze, expand, 3, 1, &at.pp("expand3x3"))?,
    })
}

/// A SqueezeNet (arXiv 1602.07360) for images of 32 to 64 px: `conv1`, fire modules with overlapping
/// 3×3/2 pooling between, `pool` (the penultimate layer, 128 numbers), `fc` (logits), `softmax`.
pub fn squeezenet_small(classes: usize, at: &Scope) -> Result<Chain> {
    let pool = PoolConfig {
        ceil: true,
        ..PoolConfig::new(3, 2)
    };
    let named = |name: &str, layer: Layer| (name.to_string(), layer);
    Ok(Chain::new(vec![
        named("conv1", Layer::Conv(conv(3, 32, 4, 2, &at.pp("conv1"))?)),
        named("fire2", fire(32, 16, 32, &at.pp("fire2"))?),
        named("maxpool2", Layer::MaxPool(pool)),
        named("fire3", fire(64, 32, 64, &at.pp("fire3"))?),
        named("maxpool3", Layer::MaxPool(pool)),
        named("fire4", fire(128, 32, 64, &at.pp("fire4"))?),
        named("pool", Layer::GlobalMean),
        named(
            "fc",
            Layer::Linear(Linear::new(128, classes, Init::FanIn, &at.pp("fc"))?),
        ),
        named("softmax", Layer::Softmax),
    ]))
}

/// A plain convolutional network of another build than the one under study, to judge what pictures show.
pub fn plain_small(classes: usize, at: &Scope) -> Result<Chain> {
    let named = |name: &str, layer: Layer| (name.to_string(), layer);
    Ok(Chain::new(vec![
        named("conv1", Layer::Conv(conv(3, 24, 3, 1, &at.pp("conv1"))?)),
        named("conv2", Layer::Conv(conv(24, 48, 4, 2, &at.pp("conv2"))?)),
        named("conv3", Layer::Conv(conv(48, 48, 3, 1, &at.pp("conv3"))?)),
        named("conv4", Layer::Conv(conv(48, 96, 4, 2, &at.pp("conv4"))?)),
        named("conv5", Layer::Conv(conv(96, 96, 3, 1, &at.pp("conv5"))?)),
        named("avgpool", Layer::AvgPool(PoolConfig::new(2, 2))),
        named("conv6", Layer::Conv(conv(96, 128, 3, 1, &at.pp("conv6"))?)),
        named("pool", Layer::GlobalMean),
        named(
            "fc",
            Layer::Linear(Linear::new(128, classes, Init::FanIn, &at.pp("fc"))?),
        ),
    ]))
}
