//! [`Backbone`], the networks of this crate as chains of named layers, and its builder.

use super::layer::{Layer, run};
use super::network::{in_layer, with_aliases};
use super::{Network, Preprocess};
use crate::ops::{Placement, Scope};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Whether batch norm uses its running statistics or those of the current batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Uses the running statistics collected in training.
    #[default]
    Evaluation,
    /// Uses the statistics of the batch, and updates the running statistics.
    Training,
}

/// A network of this crate: a chain of named layers. A clone shares its parameters.
///
/// It has no dropout. If the published network has dropout, it is left out both in evaluation and
/// in training. `Display` and `Debug` print the layers with their sizes and numbers of parameters.
#[derive(Clone)]
pub struct Backbone {
    name: String,
    layers: Arc<Vec<(String, Layer)>>,
    /// The aliases, each with the index of its layer.
    aliases: Arc<BTreeMap<String, usize>>,
    output: usize,
    preprocess: Preprocess,
    mode: Mode,
    placement: Placement,
}

shows_outline!(Backbone);

impl Backbone {
    /// Returns the network with the same parameters in training or evaluation mode (the default).
    pub fn with_mode(&self, mode: Mode) -> Self {
        Self {
            mode,
            ..self.clone()
        }
    }

    /// Returns the network with another preprocessing.
    pub fn with_preprocess(&self, preprocess: &Preprocess) -> Self {
        Self {
            preprocess: preprocess.clone(),
            ..self.clone()
        }
    }

    /// Returns the network with each layer replaced.
    #[cfg(test)]
    pub(super) fn map(&self, f: impl Fn(&Layer) -> Layer) -> Self {
        let layers = self.layers.iter();
        Self {
            layers: Arc::new(layers.map(|(n, l)| (n.clone(), f(l))).collect()),
            ..self.clone()
        }
    }

    /// Returns the network as a constant, in evaluation mode. Its parameters have no gradient,
    /// but its input has one. Each batch norm is folded into the convolution before it, which is
    /// faster. Freeze a network only after training: later training still changes some layers of
    /// the frozen network, but not those with a folded batch norm.
    ///
    /// # Errors
    /// [`Error::Tensor`] if memory runs out.
    pub fn frozen(&self) -> Result<Self> {
        self.frozen_as(&self.placement)
    }

    /// Same as [`Backbone::frozen`], on another device.
    ///
    /// # Errors
    /// [`Error::Tensor`] if memory runs out.
    pub fn frozen_on(&self, device: &Device) -> Result<Self> {
        self.frozen_as(&Placement {
            device: device.clone(),
            dtype: self.placement.dtype,
        })
    }

    /// Same as [`Backbone::frozen`], on another device and with another number type. For fast
    /// inference in half precision, load the weights as f32 and convert them here: the batch
    /// norms are then folded in f32.
    ///
    /// ```
    /// use invariances::backbone::{Network, resnet_small};
    /// use invariances::ops::{Params, Placement};
    /// use invariances::candle_core::{DType, Device};
    /// let network = resnet_small(8, 10, &Params::new(0).root())?;
    /// let double = network.frozen_as(&Placement { device: Device::Cpu, dtype: DType::F64 })?;
    /// assert_eq!(double.placement().unwrap().dtype, DType::F64);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensor`] if memory runs out.
    pub fn frozen_as(&self, placement: &Placement) -> Result<Self> {
        let layers = self.layers.iter();
        let frozen = layers.map(|(name, layer)| Ok((name.clone(), layer.frozen(placement)?)));
        Ok(Self {
            layers: Arc::new(frozen.collect::<Result<_>>()?),
            mode: Mode::Evaluation,
            placement: placement.clone(),
            ..self.clone()
        })
    }
}

impl Network for Backbone {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn layers(&self) -> Vec<String> {
        self.layers.iter().map(|(name, _)| name.clone()).collect()
    }

    fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.run(x, index..index + 1)
    }

    fn aliases(&self) -> Vec<(String, String)> {
        let aliases = self.aliases.iter();
        let mut aliases: Vec<_> = aliases
            .map(|(alias, index)| (*index, alias.clone(), self.layers[*index].0.clone()))
            .collect();
        // Sort from image to output, like the layers.
        aliases.sort();
        aliases.into_iter().map(|(_, a, n)| (a, n)).collect()
    }

    fn output(&self) -> usize {
        self.output
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess.clone()
    }

    fn placement(&self) -> Option<Placement> {
        Some(self.placement.clone())
    }

    fn run(&self, x: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        let x = &self.placement.take(x)?;
        let chosen = self.layers.get(layers.clone()).ok_or_else(|| {
            Error::unknown(format!(
                "no layers {layers:?} in {}, which has {} layers",
                self.name,
                self.layers.len()
            ))
        })?;
        let steps: Vec<&Layer> = chosen.iter().map(|(_, layer)| layer).collect();
        run(&steps, x, self.mode).map_err(|e| {
            // Finds the layer that failed by its shapes. If the shapes fit all layers, the error
            // is returned without a name.
            let mut shape = x.dims().get(1..).unwrap_or_default().to_vec();
            for (name, layer) in chosen {
                match layer.shape(&shape) {
                    Ok(next) => shape = next,
                    Err(why) => return in_layer(name, &self.name, why),
                }
            }
            e
        })
    }

    fn shapes(&self, image: [usize; 3]) -> Result<Vec<Vec<usize>>> {
        let mut shape = image.to_vec();
        let each = self.layers.iter().map(|(name, layer)| {
            shape = layer
                .shape(&shape)
                .map_err(|e| in_layer(name, &self.name, e))?;
            Ok(shape.clone())
        });
        each.collect()
    }

    fn parameters(&self) -> Option<Vec<usize>> {
        Some(self.layers.iter().map(|(_, l)| l.parameters()).collect())
    }

    fn outline(&self) -> Outline {
        let layers = self.layers.iter();
        let layers = layers.map(|(name, l)| l.outline().named(&with_aliases(self, name)));
        Outline::new(self.name()).with_parts(layers)
    }
}

/// A network under construction.
pub(super) struct Stack {
    name: String,
    layers: Vec<(String, Layer)>,
    aliases: BTreeMap<String, usize>,
    output: Option<usize>,
    preprocess: Preprocess,
}

impl Stack {
    pub(super) fn new(name: &str, preprocess: Preprocess) -> Self {
        Self {
            name: name.into(),
            layers: Vec::new(),
            aliases: BTreeMap::new(),
            output: None,
            preprocess,
        }
    }

    /// Adds a layer at the end.
    pub(super) fn push(&mut self, name: &str, layer: Layer) {
        self.layers.push((name.into(), layer));
    }

    fn last(&self) -> usize {
        self.layers.len().saturating_sub(1)
    }

    /// Adds an alias for the last layer.
    pub(super) fn alias(&mut self, name: &str) {
        self.aliases.insert(name.into(), self.last());
    }

    /// Marks the last layer as the output f(x).
    pub(super) fn output(&mut self) {
        self.output = Some(self.last());
    }

    /// Returns the network, whose parameters are those of `at`.
    pub(super) fn done(self, at: &Scope) -> Backbone {
        Backbone {
            output: self.output.unwrap_or(self.last()),
            name: self.name,
            layers: Arc::new(self.layers),
            aliases: Arc::new(self.aliases),
            preprocess: self.preprocess,
            mode: Mode::default(),
            placement: at.placement(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::{Family, Greybox, Pooling, TransformerConfig, resnet_small, transformer};
    use crate::ops::{Params, Rng, values};
    use candle_core::DType;

    /// Asserts that values differ by at most a share of the largest one.
    fn assert_near(a: &Tensor, b: &Tensor, share: f64) -> Result<()> {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (values(a)?, values(b)?);
        let largest = b.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
        let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        let difference = differences.fold(0.0, f64::max);
        assert!(a.iter().all(|v| v.is_finite()) && largest > 0.0);
        assert!(difference <= share * largest, "{difference} of {largest}");
        Ok(())
    }

    fn placement(dtype: DType) -> Placement {
        Placement {
            device: Device::Cpu,
            dtype,
        }
    }

    #[test]
    fn a_network_prints_its_layers() -> Result<()> {
        let network = resnet_small(4, 10, &Params::new(0).root())?;
        let text = network.to_string();
        let expected = "\
resnet_small
  conv1: Conv2d(3, 4, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(4, eps=1e-5), ReLU    116
  layer1.0: Residual, ReLU                                                                             304
    Conv2d(4, 4, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(4, eps=1e-5), ReLU         152
    Conv2d(4, 4, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(4, eps=1e-5)               152
  layer1.1 (layer1): Residual, ReLU                                                                    304
    Conv2d(4, 4, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(4, eps=1e-5), ReLU         152
    Conv2d(4, 4, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(4, eps=1e-5)               152
  layer2.0: Residual, ReLU                                                                             944
    Conv2d(4, 8, kernel_size=3, stride=2, padding=1, bias=False), BatchNorm(8, eps=1e-5), ReLU         304
    Conv2d(8, 8, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(8, eps=1e-5)               592
    shortcut: Conv2d(4, 8, kernel_size=1, stride=2, bias=False), BatchNorm(8, eps=1e-5)                 48
  layer2.1 (layer2): Residual, ReLU                                                                  1,184
    Conv2d(8, 8, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(8, eps=1e-5), ReLU         592
    Conv2d(8, 8, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(8, eps=1e-5)               592
  layer3.0: Residual, ReLU                                                                           3,680
    Conv2d(8, 16, kernel_size=3, stride=2, padding=1, bias=False), BatchNorm(16, eps=1e-5), ReLU     1,184
    Conv2d(16, 16, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(16, eps=1e-5)          2,336
    shortcut: Conv2d(8, 16, kernel_size=1, stride=2, bias=False), BatchNorm(16, eps=1e-5)              160
  layer3.1 (layer3): Residual, ReLU                                                                  4,672
    Conv2d(16, 16, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(16, eps=1e-5), ReLU    2,336
    Conv2d(16, 16, kernel_size=3, stride=1, padding=1, bias=False), BatchNorm(16, eps=1e-5)          2,336
  avgpool: GlobalAvgPool2d()
  fc: Linear(in_features=16, out_features=10, bias=True)                                               170
  softmax: Softmax()
Parameters: 11,374";
        assert_eq!(text, expected);
        assert_eq!(format!("{network:?}"), expected);
        let greybox = Greybox::new(&network, "layer1.0")?.with_pooling(Pooling::Mean);
        let text = greybox.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "resnet_small, split at layer1.0");
        let mark = lines.iter().position(|l| l.contains("z = Φ(x)"));
        let mark = mark.ok_or_else(|| Error::invalid("no mark"))?;
        assert_eq!(lines[mark], "  ──── z = Φ(x), mean over all positions ────");
        assert!(lines[mark + 1].starts_with("  layer1.1 (layer1): Residual, ReLU"));
        // The numbers of parameters are those of the layers, also after freezing.
        let config = TransformerConfig {
            image: 32,
            patch: 8,
            width: 24,
            depth: 2,
            heads: 3,
            hidden: 48,
            outputs: 7,
            family: Family::Dinov2,
        };
        let vit = transformer(&config, &Params::new(0).root())?;
        assert!(
            vit.to_string()
                .contains("\n  embeddings: PatchEmbedding(3, 24, patch=8, tokens=17)")
        );
        let block = "\n  encoder.layer.0 (block0): TransformerBlock(24, heads=3, hidden=48)";
        assert!(vit.to_string().contains(block));
        for network in [network.frozen()?, network, vit] {
            let counts = network.parameters().unwrap_or_default();
            assert_eq!(
                network.outline().parameters(),
                Some(counts.iter().sum::<usize>())
            );
        }
        Ok(())
    }

    #[test]
    fn images_are_converted_to_the_type_of_the_parameters() -> Result<()> {
        let network = resnet_small(4, 10, &Params::new(0).root())?;
        let x = Rng::new(1).normal((2, 3, 32, 32), &Device::Cpu)?;
        let y = network.forward(&x)?;
        let same = network.forward(&x.to_dtype(DType::F64)?)?;
        assert_eq!(same.dtype(), DType::F32);
        assert_near(&same, &y, 0.0)?;
        let z = network.encode(&x, "layer2")?.to_dtype(DType::F64)?;
        assert_near(&network.decode(&z, "layer2")?, &y, 1e-6)?;
        let double = network.frozen_as(&placement(DType::F64))?;
        let precise = double.forward(&x)?;
        assert_eq!(precise.dtype(), DType::F64);
        assert_near(&precise, &y, 1e-4)
    }

    #[test]
    fn networks_run_in_half_precision() -> Result<()> {
        type Build = fn(&Scope) -> Result<Backbone>;
        let vit: Build = |at| {
            let config = TransformerConfig {
                image: 32,
                patch: 8,
                width: 24,
                depth: 2,
                heads: 3,
                hidden: 48,
                outputs: 7,
                family: Family::Vit,
            };
            transformer(&config, at)
        };
        let resnet: Build = |at| resnet_small(4, 10, at);
        let x = Rng::new(1).normal((2, 3, 32, 32), &Device::Cpu)?;
        for build in [resnet, vit] {
            let network = build(&Params::new(0).root())?;
            let y = network.forward(&x)?;
            // candle has no matrix products in bf16 on the CPU.
            let dtype = DType::F16;
            let converted = network.frozen_as(&placement(dtype))?.forward(&x)?;
            assert_eq!(converted.dtype(), dtype);
            assert_near(&converted, &y, 0.1)?;
            // Parameters that are created in half precision.
            let params = Params::with(0, dtype, &Device::Cpu);
            let half = build(&params.root())?.forward(&x)?;
            assert_eq!(half.dtype(), dtype);
            assert_near(&half, &y, 0.1)?;
        }
        Ok(())
    }
}
