//! The Inception-v3 network that defines the Fréchet inception distance (FID).

use super::facenet::unit;
use super::layer::{Dense, Layer};
use super::{Backbone, Preprocess, Stack};
use crate::Result;
use crate::ops::{PoolConfig, Scope};

const ONE: (usize, usize) = (1, 1);
const THREE: (usize, usize) = (3, 3);
const NONE: (usize, usize) = (0, 0);

/// A 3×3 average pooling that does not count the padding, as in the FID network.
fn mean() -> Layer {
    Layer::AvgPool(PoolConfig {
        padding: 1,
        count_padding: false,
        ..PoolConfig::new(3, 1)
    })
}

fn reduce() -> Layer {
    Layer::MaxPool(PoolConfig::new(3, 2))
}

/// Consecutive units: name, output channels, kernel, stride, padding.
type Units<'a> = &'a [(&'a str, usize, (usize, usize), usize, (usize, usize))];

fn units(inputs: usize, units: Units, at: &Scope) -> Result<Vec<Layer>> {
    let mut inputs = inputs;
    let each = units
        .iter()
        .map(|&(name, outputs, kernel, stride, padding)| {
            let layer = unit((inputs, outputs), kernel, stride, padding, &at.pp(name))?;
            inputs = outputs;
            Ok(layer)
        });
    each.collect()
}

fn branch(inputs: usize, all: Units, at: &Scope) -> Result<Layer> {
    Ok(Layer::Sequence(units(inputs, all, at)?))
}

fn pooled(pool: Layer, inputs: usize, outputs: usize, at: &Scope) -> Result<Layer> {
    let conv = unit((inputs, outputs), ONE, 1, NONE, &at.pp("branch_pool"))?;
    Ok(Layer::Sequence(vec![pool, conv]))
}

fn inception_a(inputs: usize, pool: usize, at: &Scope) -> Result<Layer> {
    Ok(Layer::Concat(vec![
        branch(inputs, &[("branch1x1", 64, ONE, 1, NONE)], at)?,
        branch(
            inputs,
            &[
                ("branch5x5_1", 48, ONE, 1, NONE),
                ("branch5x5_2", 64, (5, 5), 1, (2, 2)),
            ],
            at,
        )?,
        branch(
            inputs,
            &[
                ("branch3x3dbl_1", 64, ONE, 1, NONE),
                ("branch3x3dbl_2", 96, THREE, 1, ONE),
                ("branch3x3dbl_3", 96, THREE, 1, ONE),
            ],
            at,
        )?,
        pooled(mean(), inputs, pool, at)?,
    ]))
}

fn inception_b(inputs: usize, at: &Scope) -> Result<Layer> {
    Ok(Layer::Concat(vec![
        branch(inputs, &[("branch3x3", 384, THREE, 2, NONE)], at)?,
        branch(
            inputs,
            &[
                ("branch3x3dbl_1", 64, ONE, 1, NONE),
                ("branch3x3dbl_2", 96, THREE, 1, ONE),
                ("branch3x3dbl_3", 96, THREE, 2, NONE),
            ],
            at,
        )?,
        reduce(),
    ]))
}

fn inception_c(inputs: usize, width: usize, at: &Scope) -> Result<Layer> {
    let (flat, tall) = ((1, 7), (7, 1));
    let (pad_width, pad_height) = ((0, 3), (3, 0));
    Ok(Layer::Concat(vec![
        branch(inputs, &[("branch1x1", 192, ONE, 1, NONE)], at)?,
        branch(
            inputs,
            &[
                ("branch7x7_1", width, ONE, 1, NONE),
                ("branch7x7_2", width, flat, 1, pad_width),
                ("branch7x7_3", 192, tall, 1, pad_height),
            ],
            at,
        )?,
        branch(
            inputs,
            &[
                ("branch7x7dbl_1", width, ONE, 1, NONE),
                ("branch7x7dbl_2", width, tall, 1, pad_height),
                ("branch7x7dbl_3", width, flat, 1, pad_width),
                ("branch7x7dbl_4", width, tall, 1, pad_height),
                ("branch7x7dbl_5", 192, flat, 1, pad_width),
            ],
            at,
        )?,
        pooled(mean(), inputs, 192, at)?,
    ]))
}

fn inception_d(inputs: usize, at: &Scope) -> Result<Layer> {
    Ok(Layer::Concat(vec![
        branch(
            inputs,
            &[
                ("branch3x3_1", 192, ONE, 1, NONE),
                ("branch3x3_2", 320, THREE, 2, NONE),
            ],
            at,
        )?,
        branch(
            inputs,
            &[
                ("branch7x7x3_1", 192, ONE, 1, NONE),
                ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
                ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)),
                ("branch7x7x3_4", 192, THREE, 2, NONE),
            ],
            at,
        )?,
        reduce(),
    ]))
}

fn inception_e(inputs: usize, pool: Layer, at: &Scope) -> Result<Layer> {
    // A 1×3 and a 3×1 convolution of the same input, concatenated.
    let cross = |a: &str, b: &str| -> Result<Layer> {
        Ok(Layer::Concat(vec![
            unit((384, 384), (1, 3), 1, (0, 1), &at.pp(a))?,
            unit((384, 384), (3, 1), 1, (1, 0), &at.pp(b))?,
        ]))
    };
    let mut single = units(inputs, &[("branch3x3_1", 384, ONE, 1, NONE)], at)?;
    single.push(cross("branch3x3_2a", "branch3x3_2b")?);
    let mut double = units(
        inputs,
        &[
            ("branch3x3dbl_1", 448, ONE, 1, NONE),
            ("branch3x3dbl_2", 384, THREE, 1, ONE),
        ],
        at,
    )?;
    double.push(cross("branch3x3dbl_3a", "branch3x3dbl_3b")?);
    Ok(Layer::Concat(vec![
        branch(inputs, &[("branch1x1", 320, ONE, 1, NONE)], at)?,
        Layer::Sequence(single),
        Layer::Sequence(double),
        pooled(pool, inputs, 192, at)?,
    ]))
}

/// Builds the Inception-v3 (arXiv 1512.00567) that defines the Fréchet inception distance
/// (arXiv 1706.08500): the TensorFlow network of 2015 as in pytorch-fid, with the same parameter
/// names. The distance compares the outputs of `pool` (2048 elements). `block0` … `block3` are
/// the block names of pytorch-fid.
///
/// # Errors
/// [`crate::Error::Shape`] if parameters exist with other shapes.
pub fn fid_inception(at: &Scope) -> Result<Backbone> {
    let preprocess = Preprocess {
        // The FID is defined with resizing that does not antialias.
        antialias: false,
        ..Preprocess::half(299)
    };
    let mut net = Stack::new("fid_inception", preprocess);
    let stem: Units = &[
        ("Conv2d_1a_3x3", 32, THREE, 2, NONE),
        ("Conv2d_2a_3x3", 32, THREE, 1, NONE),
        ("Conv2d_2b_3x3", 64, THREE, 1, ONE),
        ("Conv2d_3b_1x1", 80, ONE, 1, NONE),
        ("Conv2d_4a_3x3", 192, THREE, 1, NONE),
    ];
    for (i, (layer, (name, ..))) in units(3, stem, at)?.into_iter().zip(stem).enumerate() {
        net.push(name, layer);
        if i == 2 {
            net.push("maxpool1", reduce());
            net.alias("block0");
        }
    }
    net.push("maxpool2", reduce());
    net.alias("block1");
    let mut mixed = |name: &str, alias: &str, layer: &dyn Fn(&Scope) -> Result<Layer>| {
        net.push(name, layer(&at.pp(name))?);
        if !alias.is_empty() {
            net.alias(alias);
        }
        Ok::<(), crate::Error>(())
    };
    mixed("Mixed_5b", "", &|at| inception_a(192, 32, at))?;
    mixed("Mixed_5c", "", &|at| inception_a(256, 64, at))?;
    mixed("Mixed_5d", "", &|at| inception_a(288, 64, at))?;
    mixed("Mixed_6a", "", &|at| inception_b(288, at))?;
    mixed("Mixed_6b", "", &|at| inception_c(768, 128, at))?;
    mixed("Mixed_6c", "", &|at| inception_c(768, 160, at))?;
    mixed("Mixed_6d", "", &|at| inception_c(768, 160, at))?;
    mixed("Mixed_6e", "block2", &|at| inception_c(768, 192, at))?;
    mixed("Mixed_7a", "", &|at| inception_d(768, at))?;
    mixed("Mixed_7b", "", &|at| inception_e(1280, mean(), at))?;
    // The network's last pooling is a max pooling. This was a mistake, but every FID since then
    // uses it.
    let largest = || {
        Layer::MaxPool(PoolConfig {
            padding: 1,
            ..PoolConfig::new(3, 1)
        })
    };
    mixed("Mixed_7c", "", &|at| inception_e(2048, largest(), at))?;
    net.push("pool", Layer::GlobalMean);
    net.alias("block3");
    net.output();
    net.push("fc", Layer::Dense(Dense::new(2048, 1008, &at.pp("fc"))?));
    Ok(net.done(at))
}
