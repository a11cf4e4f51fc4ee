//! Updates parameters within a backward pass, as soon as their gradients are complete.

use super::Parameter;
use super::step::{Settings, step_on_gpu};
use crate::gpu::AdamWorkspace;
use crate::gradients::Sink;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};
use std::collections::HashMap;

/// Collects gradients during a backward pass and updates the parameters whose gradients are
/// complete.
pub(super) struct InBackward {
    pub(super) settings: Settings,
    pub(super) parameters: Vec<Parameter>,
    pub(super) places: HashMap<TensorId, usize>,
    pub(super) gradients: HashMap<usize, Tensor>,
    pub(super) done: Vec<bool>,
    pub(super) gpu: AdamWorkspace,
}

impl InBackward {
    fn step(&mut self, places: Vec<usize>) -> Result<()> {
        let mut gradients: HashMap<usize, Tensor> = HashMap::new();
        for place in places {
            gradients.extend(self.gradients.remove(&place).map(|g| (place, g)));
            self.done[place] = true;
        }
        let settings = self.settings;
        let parameters = self.parameters.iter_mut().enumerate();
        let mut pairs: Vec<_> = parameters
            .filter_map(|(i, p)| Some((p, gradients.get(&i)?)))
            .collect();
        if pairs.iter().all(|(p, _)| p.is_on_gpu()) {
            return step_on_gpu(&mut self.gpu, pairs, &settings, None);
        }
        // The small parameters of a layer are not worth parallel tasks; the update of a large one
        // is parallel by itself.
        pairs
            .iter_mut()
            .try_for_each(|(p, gradient)| p.step(gradient, &settings))
    }

    /// Updates the parameters whose gradients the backward pass left in the store.
    pub(super) fn rest(&mut self, store: &GradStore) -> Result<()> {
        let left = self.parameters.iter().map(|p| p.var.as_tensor().clone());
        for parameter in left.collect::<Vec<_>>() {
            if let Some(gradient) = store.get(&parameter) {
                self.take(&parameter, gradient.detach().contiguous()?)?;
            }
        }
        let places = self.gradients.keys().copied().collect();
        self.step(places)
    }
}

impl Sink for InBackward {
    fn take(&mut self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        // This optimiser does not train the parameter, so its gradient is dropped.
        let Some(&place) = self.places.get(&parameter.id()) else {
            return Ok(());
        };
        if self.done[place] {
            return Err(Error::invalid(format!(
                "{} was updated before its gradient was complete: use `step_at` for a loss that uses a flow in several ways",
                self.parameters[place].name
            )));
        }
        let sum = match self.gradients.remove(&place) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        self.gradients.insert(place, sum);
        Ok(())
    }

    fn finish(&mut self, parameters: &[Tensor]) -> Result<()> {
        let places = parameters.iter().filter_map(|p| self.places.get(&p.id()));
        let places = places.copied().collect();
        self.step(places)
    }
}
