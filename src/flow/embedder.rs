//! The embedder: maps the representation z to a vector of the code's size, the condition of the
//! couplings.

use super::layer::{dense_parameters, detached};
use super::{ActNorm, check_finite};
use crate::ops::{Activation, ConvConfig, Init, Scope, conv2d, dense};
use crate::outline::{activation, convolution, linear, parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// The slope of the leaky ReLU between the layers of an embedder.
const SLOPE: f64 = 0.2;

/// Settings of the convolutions that halve a map.
const STRIDED: ConvConfig = ConvConfig {
    stride: 2,
    padding: (1, 1),
    activation: Activation::None,
};

/// The shape of z, on which t is conditioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A vector of this length: z is (batch, length).
    Vector(usize),
    /// A square map: z is (batch, channels, size, size) and is halved `down` times by strided
    /// convolutions.
    Map {
        /// Channels of z.
        channels: usize,
        /// Height and width of z in pixels.
        size: usize,
        /// Number of strided convolutions; each halves height and width.
        down: usize,
    },
}

impl Condition {
    /// Returns the condition for z of this shape (without the batch dimension). A square map
    /// stays a map and is halved until it is at most 4 × 4. All other shapes, 1 × 1 maps
    /// included, become vectors.
    ///
    /// ```
    /// use invariances::flow::Condition;
    /// assert_eq!(Condition::of(&[48, 15, 15]), Condition::Map { channels: 48, size: 15, down: 2 });
    /// assert_eq!(Condition::of(&[192]), Condition::Vector(192));
    /// ```
    pub fn of(shape: &[usize]) -> Self {
        match *shape {
            [channels, size, width] if size == width && size > 1 => {
                let mut down = 0;
                while size >> down > 4 {
                    down += 1;
                }
                Self::Map {
                    channels,
                    size,
                    down,
                }
            }
            _ => Self::Vector(shape.iter().product()),
        }
    }
}

/// Maps z to a vector of the code's size, the condition of every coupling.
///
/// A vector passes through `depth` − 1 dense layers (1×1 convolutions in the authors' network).
/// Their widths change linearly from the input's to the code's, with ActNorm and LeakyReLU(0.2)
/// between them. A map passes through `down` strided 4×4 convolutions with 64·2ⁱ channels, at
/// most 1024, each followed by ActNorm and LeakyReLU(0.2). A dense layer then takes all positions
/// of the last map.
#[derive(Clone)]
pub struct Embedder {
    condition: Condition,
    code: usize,
    /// Strided convolutions and their norms, for a map.
    convolutions: Vec<(Tensor, ActNorm)>,
    /// Dense layers; each but the last is followed by a norm.
    dense: Vec<(Tensor, Tensor)>,
    norms: Vec<ActNorm>,
}

impl Embedder {
    /// Creates an embedder for this z and code. `depth` is the number of widths for a vector,
    /// input and output included.
    ///
    /// # Errors
    /// [`Error::Invalid`] if z is empty, a map is too small to be halved `down` times, or `depth`
    /// is less than 2.
    pub fn new(condition: Condition, code: usize, depth: usize, scope: &Scope) -> Result<Self> {
        let mut embedder = Self {
            condition,
            code,
            convolutions: Vec::new(),
            dense: Vec::new(),
            norms: Vec::new(),
        };
        match condition {
            Condition::Vector(dims) => {
                if dims == 0 || depth < 2 {
                    return Err(Error::invalid(format!(
                        "expected z with at least 1 element and a conditioning depth of at least 2 \
                         (input and output), found {dims} and {depth}"
                    )));
                }
                let widths = widths(dims, code, depth);
                let net = scope.pp("net");
                for (i, pair) in widths.windows(2).enumerate() {
                    // In the authors' network, convolution, norm and nonlinearity each have an
                    // index.
                    let layer = dense_parameters(pair[0], pair[1], &[1, 1], &net.pp(3 * i))?;
                    embedder.dense.push(layer);
                    if i + 2 < widths.len() {
                        embedder
                            .norms
                            .push(ActNorm::new(pair[1], &net.pp(3 * i + 1))?);
                    }
                }
            }
            Condition::Map {
                channels,
                size,
                down,
            } => {
                let smallest = size.checked_shr(down as u32).unwrap_or(0);
                if channels == 0 || smallest == 0 {
                    return Err(Error::invalid(format!(
                        "expected z with at least 1 channel and a size that can be halved {down} \
                         times, found {channels} channels and {size}×{size} pixels: use a smaller \
                         `down`"
                    )));
                }
                let mut inputs = channels;
                for i in 0..down {
                    let outputs = 64 << i.min(4);
                    let layer = scope.pp("feature_layers").pp(i).pp("sub_layers");
                    let weight = layer
                        .pp(0)
                        .get((outputs, inputs, 4, 4), "weight", Init::FanIn)?;
                    let norm = ActNorm::new(outputs, &layer.pp(1))?;
                    embedder
                        .convolutions
                        .push((weight.as_tensor().clone(), norm));
                    inputs = outputs;
                }
                let last = scope.pp("dense_encode").pp("sub_layers").pp(0);
                embedder.dense.push(dense_parameters(
                    inputs,
                    code,
                    &[smallest, smallest],
                    &last,
                )?);
            }
        }
        Ok(embedder)
    }

    /// Returns the same network with shared parameters; its results keep no graph.
    pub(crate) fn detached(&self) -> Self {
        let convolutions = self.convolutions.iter();
        Self {
            condition: self.condition,
            code: self.code,
            convolutions: convolutions
                .map(|(w, n)| (w.detach(), n.detached()))
                .collect(),
            dense: detached(&self.dense),
            norms: self.norms.iter().map(ActNorm::detached).collect(),
        }
    }

    /// Returns the embedding of z, (batch, code). A map may also be flattened to
    /// (batch, channels · size · size).
    ///
    /// # Errors
    /// [`Error::Shape`] if z does not have the shape of the [`Condition`] or the number type of
    /// the network; [`Error::Invalid`] if z contains NaN or infinity.
    pub fn forward(&self, z: &Tensor) -> Result<Tensor> {
        self.run(z, false)
    }

    /// Initialises every ActNorm that is not yet initialised from this batch; see
    /// [`ActNorm::initialize`].
    pub(crate) fn initialize(&self, z: &Tensor) -> Result<()> {
        self.run(z, true).map(|_| ())
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        let normed = |text: String, norm: &ActNorm| {
            let after = activation(Activation::Leaky(SLOPE));
            format!("{text}, ActNorm({}){after}", norm.channels())
        };
        let convolutions = self.convolutions.iter().map(|(weight, norm)| {
            let own = weight.elem_count() + 2 * norm.channels();
            Outline::new(normed(convolution(weight, &STRIDED, false, false), norm))
                .with_parameters(own)
        });
        let dense = self.dense.iter().enumerate().map(|(i, (weight, bias))| {
            let (text, own) = (linear(weight, true), parameters_of([weight, bias]));
            match self.norms.get(i) {
                Some(norm) => {
                    let own = own + 2 * norm.channels();
                    Outline::new(normed(text, norm)).with_parameters(own)
                }
                None => Outline::new(text).with_parameters(own),
            }
        });
        Outline::new(format!("Embedder({:?}, {})", self.condition, self.code))
            .with_parts(convolutions)
            .with_parts(dense)
    }

    pub(crate) fn norms(&self) -> impl Iterator<Item = &ActNorm> {
        self.convolutions.iter().map(|(_, n)| n).chain(&self.norms)
    }

    fn run(&self, z: &Tensor, start: bool) -> Result<Tensor> {
        // Maps are also accepted in flattened form, in which collections of z are stored.
        let z = &match (self.condition, z.dims()) {
            (Condition::Map { channels, size, .. }, &[batch, n]) if n == channels * size * size => {
                z.reshape((batch, channels, size, size))?
            }
            _ => z.clone(),
        };
        self.check(z)?;
        let normalized = |norm: &ActNorm, h: Tensor| -> Result<Tensor> {
            if start {
                norm.initialize_with_notice(&h, "a layer of the embedder of z")?;
            }
            norm.activated(&h, Activation::Leaky(SLOPE))
        };
        let mut h = z.clone();
        for (weight, norm) in &self.convolutions {
            // These convolutions have no bias, because a norm follows.
            let none = Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?;
            h = normalized(norm, conv2d(&h, weight, &none, STRIDED)?)?;
        }
        h = h.flatten_from(1)?;
        for (i, (weight, bias)) in self.dense.iter().enumerate() {
            let product = dense(&h, weight, bias, Activation::None)?;
            h = match self.norms.get(i) {
                Some(norm) => normalized(norm, product)?,
                None => product,
            };
        }
        Ok(h)
    }

    fn check(&self, z: &Tensor) -> Result<()> {
        let (fits, expected) = match self.condition {
            Condition::Vector(dims) => (
                matches!(z.dims(), [_, d] if *d == dims),
                format!("(batch, {dims})"),
            ),
            Condition::Map { channels, size, .. } => (
                matches!(z.dims(), [_, c, h, w] if *c == channels && *h == size && *w == size),
                format!("(batch, {channels}, {size}, {size})"),
            ),
        };
        if !fits {
            return Err(Error::shape(format!(
                "expected z of shape {expected} for the condition {:?}, found {:?}",
                self.condition,
                z.dims()
            )));
        }
        if let Some((weight, _)) = self.dense.first()
            && weight.dtype() != z.dtype()
        {
            return Err(Error::shape(format!(
                "expected z of number type {:?}, that of the network, found {:?}: convert z with \
                 `to_dtype`",
                weight.dtype(),
                z.dtype()
            )));
        }
        check_finite(z, "z")
    }
}

shows_outline!(Embedder);

/// Returns `depth` integers that change linearly from `from` to `to`, truncated. The arithmetic
/// follows the order of numpy's `linspace`, which determined the widths of the published
/// checkpoints.
fn widths(from: usize, to: usize, depth: usize) -> Vec<usize> {
    let step = (to as f64 - from as f64) / (depth - 1) as f64;
    let mut widths: Vec<usize> = (0..depth)
        .map(|i| (i as f64 * step + from as f64) as usize)
        .collect();
    widths[depth - 1] = to;
    widths
}
