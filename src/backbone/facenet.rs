//! FaceNet (Inception-ResNet-v1) as in facenet-pytorch.

use super::layer::{Conv, Dense, Layer, Norm, NormKind, RELU};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{Activation, ConvConfig, PoolConfig, Scope};

const EPS: f64 = 1e-3;

/// A convolution with batch norm and ReLU. The arguments are channels, kernel, stride and
/// padding.
pub(super) fn unit(
    (inputs, outputs): (usize, usize),
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
    at: &Scope,
) -> Result<Layer> {
    let config = ConvConfig {
        stride,
        padding,
        activation: RELU,
    };
    let names = (&at.pp("conv"), NormKind::Batch(EPS), &at.pp("bn"));
    let conv = Conv::normed((inputs, outputs, kernel), config, names)?;
    Ok(Layer::Conv(conv))
}

/// Parallel branches joined by a 1×1 convolution, whose result is scaled and added to the input.
fn residual(
    branches: Vec<Layer>,
    (joined, channels): (usize, usize),
    scale: f64,
    activation: Activation,
    at: &Scope,
) -> Result<Layer> {
    let join = Conv::biased(
        (joined, channels, (1, 1)),
        ConvConfig::default(),
        &at.pp("conv2d"),
    )?;
    let body = vec![Layer::Concat(branches), Layer::Conv(join)];
    Ok(Layer::Residual {
        body: Box::new(Layer::Sequence(body)),
        shortcut: None,
        scale,
        activation,
    })
}

const ONE: (usize, usize) = (1, 1);
const THREE: (usize, usize) = (3, 3);

fn block35(at: &Scope) -> Result<Layer> {
    let narrow = |at: &Scope| unit((256, 32), ONE, 1, (0, 0), at);
    let wide = |at: &Scope| unit((32, 32), THREE, 1, ONE, at);
    let (one, two) = (at.pp("branch1"), at.pp("branch2"));
    let branches = vec![
        narrow(&at.pp("branch0"))?,
        Layer::Sequence(vec![narrow(&one.pp(0))?, wide(&one.pp(1))?]),
        Layer::Sequence(vec![
            narrow(&two.pp(0))?,
            wide(&two.pp(1))?,
            wide(&two.pp(2))?,
        ]),
    ];
    residual(branches, (96, 256), 0.17, RELU, at)
}

fn block17(at: &Scope) -> Result<Layer> {
    let one = at.pp("branch1");
    let branches = vec![
        unit((896, 128), ONE, 1, (0, 0), &at.pp("branch0"))?,
        Layer::Sequence(vec![
            unit((896, 128), ONE, 1, (0, 0), &one.pp(0))?,
            unit((128, 128), (1, 7), 1, (0, 3), &one.pp(1))?,
            unit((128, 128), (7, 1), 1, (3, 0), &one.pp(2))?,
        ]),
    ];
    residual(branches, (256, 896), 0.10, RELU, at)
}

fn block8(scale: f64, activation: Activation, at: &Scope) -> Result<Layer> {
    let one = at.pp("branch1");
    let branches = vec![
        unit((1792, 192), ONE, 1, (0, 0), &at.pp("branch0"))?,
        Layer::Sequence(vec![
            unit((1792, 192), ONE, 1, (0, 0), &one.pp(0))?,
            unit((192, 192), (1, 3), 1, (0, 1), &one.pp(1))?,
            unit((192, 192), (3, 1), 1, (1, 0), &one.pp(2))?,
        ]),
    ];
    residual(branches, (384, 1792), scale, activation, at)
}

fn mixed_6a(at: &Scope) -> Result<Layer> {
    let one = at.pp("branch1");
    Ok(Layer::Concat(vec![
        unit((256, 384), THREE, 2, (0, 0), &at.pp("branch0"))?,
        Layer::Sequence(vec![
            unit((256, 192), ONE, 1, (0, 0), &one.pp(0))?,
            unit((192, 192), THREE, 1, ONE, &one.pp(1))?,
            unit((192, 256), THREE, 2, (0, 0), &one.pp(2))?,
        ]),
        Layer::MaxPool(PoolConfig::new(3, 2)),
    ]))
}

fn mixed_7a(at: &Scope) -> Result<Layer> {
    let branch = |i: usize| at.pp(format!("branch{i}"));
    let narrow = |at: &Scope| unit((896, 256), ONE, 1, (0, 0), at);
    let (zero, one, two) = (branch(0), branch(1), branch(2));
    Ok(Layer::Concat(vec![
        Layer::Sequence(vec![
            narrow(&zero.pp(0))?,
            unit((256, 384), THREE, 2, (0, 0), &zero.pp(1))?,
        ]),
        Layer::Sequence(vec![
            narrow(&one.pp(0))?,
            unit((256, 256), THREE, 2, (0, 0), &one.pp(1))?,
        ]),
        Layer::Sequence(vec![
            narrow(&two.pp(0))?,
            unit((256, 256), THREE, 1, ONE, &two.pp(1))?,
            unit((256, 256), THREE, 2, (0, 0), &two.pp(2))?,
        ]),
        Layer::MaxPool(PoolConfig::new(3, 2)),
    ]))
}

/// Builds FaceNet (arXiv 1503.03832) as Inception-ResNet-v1 (arXiv 1602.07261), with the
/// parameter names of facenet-pytorch. Its output `embedding` has 512 elements and an L2 norm
/// of 1. The distance between the embeddings of two faces is small if they belong to the same
/// person.
///
/// # Errors
/// [`crate::Error::Shape`] if parameters exist with other shapes.
pub fn facenet(at: &Scope) -> Result<Backbone> {
    let mut net = Stack::new("facenet", Preprocess::facenet());
    let stem = |net: &mut Stack, name: &str, channels, kernel, stride, padding| -> Result<()> {
        let layer = unit(channels, kernel, stride, padding, &at.pp(name))?;
        net.push(name, layer);
        Ok(())
    };
    stem(&mut net, "conv2d_1a", (3, 32), THREE, 2, (0, 0))?;
    stem(&mut net, "conv2d_2a", (32, 32), THREE, 1, (0, 0))?;
    stem(&mut net, "conv2d_2b", (32, 64), THREE, 1, ONE)?;
    net.push("maxpool_3a", Layer::MaxPool(PoolConfig::new(3, 2)));
    stem(&mut net, "conv2d_3b", (64, 80), ONE, 1, (0, 0))?;
    stem(&mut net, "conv2d_4a", (80, 192), THREE, 1, (0, 0))?;
    stem(&mut net, "conv2d_4b", (192, 256), THREE, 2, (0, 0))?;
    let repeated = |net: &mut Stack,
                    name: &str,
                    count,
                    block: &dyn Fn(&Scope) -> Result<Layer>|
     -> Result<()> {
        for i in 0..count {
            let inner = format!("{name}.{i}");
            net.push(&inner, block(&at.pp(&inner))?);
        }
        net.alias(name);
        Ok(())
    };
    repeated(&mut net, "repeat_1", 5, &block35)?;
    net.push("mixed_6a", mixed_6a(&at.pp("mixed_6a"))?);
    repeated(&mut net, "repeat_2", 10, &block17)?;
    net.push("mixed_7a", mixed_7a(&at.pp("mixed_7a"))?);
    repeated(&mut net, "repeat_3", 5, &|at| block8(0.2, RELU, at))?;
    net.push("block8", block8(1.0, Activation::None, &at.pp("block8"))?);
    net.push("avgpool_1a", Layer::GlobalMean);
    let linear = Dense::plain(1792, 512, &at.pp("last_linear"))?;
    net.push("last_linear", Layer::Dense(linear));
    net.push(
        "last_bn",
        Layer::Norm(Norm::new(512, NormKind::Batch(EPS), &at.pp("last_bn"))?),
    );
    net.push("embedding", Layer::Normalise);
    Ok(net.done(at))
}
