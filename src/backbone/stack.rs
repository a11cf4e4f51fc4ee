use super::layer::{Layer, run};
use super::{Network, Preprocess};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Whether batch norms take the statistics that they have seen, or those of the batch at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The statistics that were gathered in training.
    #[default]
    Evaluation,
    /// The statistics of the batch, which are gathered.
    Training,
}

/// A network of this crate: a chain of named layers. Cloning shares its parameters.
///
/// It has no dropout: where the published network has one, evaluation leaves it out, and so does training here.
#[derive(Clone)]
pub struct Backbone {
    name: String,
    layers: Arc<Vec<(String, Layer)>>,
    /// Other names, and the layers that they mean.
    aliases: Arc<BTreeMap<String, usize>>,
    output: usize,
    preprocess: Preprocess,
    mode: Mode,
    device: Device,
}

impl fmt::Debug for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: usize = self.layers.iter().map(|(_, l)| l.parameters()).sum();
        write!(
            f,
            "Backbone({}, {} layers, {parameters} parameters)",
            self.name,
            self.layers.len()
        )
    }
}

impl Backbone {
    /// The same network, the same parameters, in training or evaluation mode (the default).
    pub fn with_mode(&self, mode: Mode) -> Self {
        Self {
            mode,
            ..self.clone()
        }
    }

    /// The same network with another preprocessing.
    pub fn with_preprocess(&self, preprocess: &Preprocess) -> Self {
        Self {
            preprocess: preprocess.clone(),
            ..self.clone()
        }
    }

    /// The network with other layers in the same places.
    #[cfg(test)]
    pub(super) fn map(&self, f: impl Fn(&Layer) -> Layer) -> Self {
        let layers = self.layers.iter();
        Self {
            layers: Arc::new(layers.map(|(n, l)| (n.clone(), f(l))).collect()),
            ..self.clone()
        }
    }

    /// The network as a constant, in evaluation mode: no gradient for its parameters (that for its input is there),
    /// and batch norms taken into the convolutions before them, which is quicker. Freeze a network when it is trained: what training
    /// changes afterwards reaches some of its layers, and those with a folded batch norm not.
    ///
    /// # Errors
    /// [`Error::Tensor`] where memory runs out.
    pub fn frozen(&self) -> Result<Self> {
        self.frozen_as(None)
    }

    /// As [`Backbone::frozen`], on another device.
    ///
    /// # Errors
    /// [`Error::Tensor`] where memory runs out.
    pub fn frozen_on(&self, device: &Device) -> Result<Self> {
        self.frozen_as(Some(device))
    }

    fn frozen_as(&self, device: Option<&Device>) -> Result<Self> {
        let device = device.unwrap_or(&self.device);
        let layers = self.layers.iter();
        let frozen = layers.map(|(name, layer)| Ok((name.clone(), layer.frozen(device)?)));
        Ok(Self {
            layers: Arc::new(frozen.collect::<Result<_>>()?),
            mode: Mode::Evaluation,
            device: device.clone(),
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
        let named = self.aliases.iter();
        let mut named: Vec<_> = named
            .map(|(alias, index)| (*index, alias.clone(), self.layers[*index].0.clone()))
            .collect();
        // From image to output, as the layers are.
        named.sort();
        named.into_iter().map(|(_, a, n)| (a, n)).collect()
    }

    fn output(&self) -> usize {
        self.output
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess.clone()
    }

    fn run(&self, x: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        let chosen = self.layers.get(layers.clone()).ok_or_else(|| {
            Error::invalid(format!(
                "layers {layers:?} of {}, which has {}",
                self.name,
                self.layers.len()
            ))
        })?;
        let steps: Vec<&Layer> = chosen.iter().map(|(_, layer)| layer).collect();
        run(&steps, x, self.mode).map_err(|e| {
            // Which one it was, found by shapes; what has none is told without a name.
            let mut shape = x.dims().get(1..).unwrap_or_default().to_vec();
            for (name, layer) in chosen {
                match layer.shape(&shape) {
                    Ok(next) => shape = next,
                    Err(why) => {
                        return Error::invalid(format!("layer {name} of {}: {why}", self.name));
                    }
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
                .map_err(|e| Error::invalid(format!("layer {name} of {}: {e}", self.name)))?;
            Ok(shape.clone())
        });
        each.collect()
    }

    fn parameters(&self) -> Option<Vec<usize>> {
        Some(self.layers.iter().map(|(_, l)| l.parameters()).collect())
    }
}

/// A network being built.
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

    /// The next layer.
    pub(super) fn push(&mut self, name: &str, layer: Layer) {
        self.layers.push((name.into(), layer));
    }

    fn last(&self) -> usize {
        self.layers.len().saturating_sub(1)
    }

    /// Another name of the layer that was pushed last.
    pub(super) fn alias(&mut self, name: &str) {
        self.aliases.insert(name.into(), self.last());
    }

    /// The layer that was pushed last is the output f(x).
    pub(super) fn output(&mut self) {
        self.output = Some(self.last());
    }

    /// The network, whose parameters are on `device`.
    pub(super) fn done(self, device: &Device) -> Backbone {
        Backbone {
            output: self.output.unwrap_or(self.last()),
            name: self.name,
            layers: Arc::new(self.layers),
            aliases: Arc::new(self.aliases),
            preprocess: self.preprocess,
            mode: Mode::default(),
            device: device.clone(),
        }
    }
}
