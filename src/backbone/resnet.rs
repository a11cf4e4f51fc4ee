//! ResNets as in torchvision, and the blocks that the small networks share with them.

use super::layer::{Conv, Dense, Layer, Norm, NormKind, RELU};
use super::{Backbone, Preprocess, Stack};
use crate::ops::{Activation, ConvConfig, PoolConfig, Scope};
use crate::{Error, Result};

/// torchvision's batch norm.
pub(super) const BATCH: NormKind = NormKind::Batch(1e-5);

/// The kind of normalization, and the scope of the parameters.
type Place<'a> = (NormKind, &'a Scope);

/// A convolution and the normalization after it, with their names in the checkpoint.
pub(super) fn conv(
    (inputs, outputs, kernel): (usize, usize, usize),
    stride: usize,
    activation: Activation,
    [conv, norm]: [&str; 2],
    (kind, at): Place,
) -> Result<Layer> {
    let padding = (kernel - 1) / 2;
    let config = ConvConfig {
        stride,
        padding: (padding, padding),
        activation,
    };
    let sizes = (inputs, outputs, (kernel, kernel));
    let names = (&at.pp(conv), kind, &at.pp(norm));
    Ok(Layer::Conv(Conv::normed(sizes, config, names)?))
}

fn shortcut(inputs: usize, outputs: usize, stride: usize, at: Place) -> Result<Option<Box<Layer>>> {
    if stride == 1 && inputs == outputs {
        return Ok(None);
    }
    let names = ["downsample.0", "downsample.1"];
    let layer = conv((inputs, outputs, 1), stride, Activation::None, names, at)?;
    Ok(Some(Box::new(layer)))
}

/// Two 3×3 convolutions with a shortcut.
pub(super) fn basic(inputs: usize, width: usize, stride: usize, at: Place) -> Result<Layer> {
    let first = conv((inputs, width, 3), stride, RELU, ["conv1", "bn1"], at)?;
    let names = ["conv2", "bn2"];
    let second = conv((width, width, 3), 1, Activation::None, names, at)?;
    Ok(Layer::Residual {
        body: Box::new(Layer::Sequence(vec![first, second])),
        shortcut: shortcut(inputs, width, stride, at)?,
        scale: 1.0,
        activation: RELU,
    })
}

/// A 3×3 convolution between two 1×1 convolutions, with a shortcut. The 3×3 convolution has the
/// stride, as in torchvision.
fn bottleneck(inputs: usize, width: usize, stride: usize, at: Place) -> Result<Layer> {
    let outputs = 4 * width;
    let body = vec![
        conv((inputs, width, 1), 1, RELU, ["conv1", "bn1"], at)?,
        conv((width, width, 3), stride, RELU, ["conv2", "bn2"], at)?,
        conv(
            (width, outputs, 1),
            1,
            Activation::None,
            ["conv3", "bn3"],
            at,
        )?,
    ];
    Ok(Layer::Residual {
        body: Box::new(Layer::Sequence(body)),
        shortcut: shortcut(inputs, outputs, stride, at)?,
        scale: 1.0,
        activation: RELU,
    })
}

/// Builds a ResNet (arXiv 1512.03385) with 18, 34, 50, 101 or 152 layers as in torchvision, with
/// the same parameter names. `layer1` … `layer4` are the last blocks of the four stages.
/// `avgpool` has shape (batch, channels).
///
/// ```
/// use invariances::{backbone::{Network, resnet}, ops::Params};
/// let network = resnet(18, 1000, &Params::new(0).root())?;
/// let layer4 = &network.describe(224)?[network.position("layer4")?];
/// assert_eq!((layer4.name.as_str(), &layer4.shape[..]), ("layer4.1", &[512, 7, 7][..]));
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for another number of layers; [`Error::Shape`] if parameters exist with
/// other shapes.
pub fn resnet(depth: usize, classes: usize, at: &Scope) -> Result<Backbone> {
    let (mut net, channels) = features(depth, BATCH, at)?;
    net.push(
        "fc",
        Layer::Dense(Dense::new(channels, classes, &at.pp("fc"))?),
    );
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(net.done(at))
}

/// A ResNet up to `avgpool` with a chosen normalization, the encoder of the authors' BigAE.
pub(crate) fn resnet_features(depth: usize, kind: NormKind, at: &Scope) -> Result<Backbone> {
    let (net, _) = features(depth, kind, at)?;
    Ok(net.done(at).with_preprocess(&Preprocess::none()))
}

/// The layers up to `avgpool`, and the number of output channels.
fn features(depth: usize, kind: NormKind, at: &Scope) -> Result<(Stack, usize)> {
    type Block = fn(usize, usize, usize, Place) -> Result<Layer>;
    let (counts, block, expansion): ([usize; 4], Block, usize) = match depth {
        18 => ([2, 2, 2, 2], basic, 1),
        34 => ([3, 4, 6, 3], basic, 1),
        50 => ([3, 4, 6, 3], bottleneck, 4),
        101 => ([3, 4, 23, 3], bottleneck, 4),
        152 => ([3, 8, 36, 3], bottleneck, 4),
        other => {
            return Err(Error::invalid(format!(
                "expected a ResNet depth of 18, 34, 50, 101 or 152, found {other}"
            )));
        }
    };
    let mut net = Stack::new(&format!("resnet{depth}"), Preprocess::imagenet(224));
    let config = ConvConfig {
        stride: 2,
        padding: (3, 3),
        ..ConvConfig::default()
    };
    let first = Conv::plain((3, 64, (7, 7)), config, &at.pp("conv1"))?;
    net.push("conv1", Layer::Conv(first));
    net.push("bn1", Layer::Norm(Norm::new(64, kind, &at.pp("bn1"))?));
    net.push("relu", Layer::Relu);
    let pool = PoolConfig {
        padding: 1,
        ..PoolConfig::new(3, 2)
    };
    net.push("maxpool", Layer::MaxPool(pool));
    let mut inputs = 64;
    for (stage, (count, width)) in counts.into_iter().zip([64, 128, 256, 512]).enumerate() {
        for i in 0..count {
            let name = format!("layer{}.{i}", stage + 1);
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            net.push(&name, block(inputs, width, stride, (kind, &at.pp(&name)))?);
            inputs = width * expansion;
        }
        net.alias(&format!("layer{}", stage + 1));
    }
    net.push("avgpool", Layer::GlobalMean);
    Ok((net, inputs))
}
