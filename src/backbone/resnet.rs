use super::layer::{Conv, Dense, Layer, Norm, RELU};
use super::{Backbone, Preprocess, Stack};
use crate::ops::{Activation, ConvConfig, PoolConfig, Scope};
use crate::{Error, Result};

/// torchvision's.
const EPS: f64 = 1e-5;

/// A convolution and the batch norm after it, under their names.
pub(super) fn conv(
    (inputs, outputs, kernel): (usize, usize, usize),
    stride: usize,
    activation: Activation,
    [conv, norm]: [&str; 2],
    at: &Scope,
) -> Result<Layer> {
    let padding = (kernel - 1) / 2;
    let config = ConvConfig {
        stride,
        padding: (padding, padding),
        activation,
    };
    let sizes = (inputs, outputs, (kernel, kernel));
    let names = (&at.pp(conv), EPS, &at.pp(norm));
    Ok(Layer::Conv(Conv::normed(sizes, config, names)?))
}

fn shortcut(
    inputs: usize,
    outputs: usize,
    stride: usize,
    at: &Scope,
) -> Result<Option<Box<Layer>>> {
    if stride == 1 && inputs == outputs {
        return Ok(None);
    }
    let names = ["downsample.0", "downsample.1"];
    let layer = conv((inputs, outputs, 1), stride, Activation::None, names, at)?;
    Ok(Some(Box::new(layer)))
}

/// Two 3×3 convolutions beside a shortcut.
pub(super) fn basic(inputs: usize, width: usize, stride: usize, at: &Scope) -> Result<Layer> {
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

/// A 3×3 convolution between two 1×1, beside a shortcut; the stride is the 3×3's, as torchvision has it.
fn bottleneck(inputs: usize, width: usize, stride: usize, at: &Scope) -> Result<Layer> {
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

/// ResNet (arXiv 1512.03385) of 18, 34, 50, 101 or 152 layers as torchvision has it, under its names. `layer1` … `layer4` are the last blocks
/// of the four stages, `avgpool` is (batch, channels).
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
/// [`Error::Invalid`] for another number of layers, or where parameters exist with other shapes.
pub fn resnet(depth: usize, classes: usize, at: &Scope) -> Result<Backbone> {
    type Block = fn(usize, usize, usize, &Scope) -> Result<Layer>;
    let (counts, block, expansion): ([usize; 4], Block, usize) = match depth {
        18 => ([2, 2, 2, 2], basic, 1),
        34 => ([3, 4, 6, 3], basic, 1),
        50 => ([3, 4, 6, 3], bottleneck, 4),
        101 => ([3, 4, 23, 3], bottleneck, 4),
        152 => ([3, 8, 36, 3], bottleneck, 4),
        other => {
            return Err(Error::invalid(format!(
                "no ResNet of {other} layers; there are 18, 34, 50, 101 and 152"
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
    net.push("bn1", Layer::Norm(Norm::new(64, EPS, &at.pp("bn1"))?));
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
            net.push(&name, block(inputs, width, stride, &at.pp(&name))?);
            inputs = width * expansion;
        }
        net.alias(&format!("layer{}", stage + 1));
    }
    net.push("avgpool", Layer::GlobalMean);
    net.push(
        "fc",
        Layer::Dense(Dense::new(inputs, classes, &at.pp("fc"))?),
    );
    net.output();
    net.push("softmax", Layer::Softmax);
    Ok(net.done(at.device()))
}
