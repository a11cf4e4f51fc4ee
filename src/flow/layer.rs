use super::Flow;
use crate::Result;
use crate::ops::{Scope, backward, repeated};
use candle_core::{Tensor, Var};
use std::sync::Arc;

/// What a layer was given, from what it gave, and the gradients of it.
pub(super) struct Undone {
    pub(super) x: Tensor,
    pub(super) to_x: Tensor,
    pub(super) to_condition: Option<Tensor>,
    /// In the order of [`Layer::parameters`].
    pub(super) to_parameters: Vec<Tensor>,
}

/// A flow as part of a network of this crate.
pub(super) trait Layer: Flow + std::fmt::Debug {
    /// What training changes.
    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    /// The same layer, sharing its parameters, whose results keep no graph.
    fn detached(&self) -> Arc<dyn Layer>;

    /// Initialises the layer from data, if it is initialised so and has not been yet. Returns the
    /// columns that are constant there.
    fn initialize(&self, _x: &Tensor) -> Result<Vec<usize>> {
        Ok(Vec::new())
    }

    fn is_initialized(&self) -> Result<bool> {
        Ok(true)
    }

    /// As [`Flow::inverse`] where each row of the condition belongs to `share` rows of v side by side.
    fn inverse_shared(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        share: usize,
    ) -> Result<Tensor> {
        let each = condition.map(|c| repeated(c, share)).transpose()?;
        self.inverse(v, each.as_ref())
    }

    /// Goes back through the layer from v, with the gradients of v and, last in each row, of the log-determinant:
    /// (batch, code + 1). Nothing of the forward pass is needed. The results keep no graph.
    fn reverse(&self, v: &Tensor, condition: Option<&Tensor>, gradient: &Tensor) -> Result<Undone> {
        self.reverse_by_graph(v, condition, gradient)
    }

    /// [`Layer::reverse`] for any layer on any device: the inverse, and a graph of this layer alone.
    fn reverse_by_graph(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Undone> {
        let code = v.dim(1)?;
        let x = Var::from_tensor(&self.detached().inverse(v, condition)?)?;
        let condition = condition.map(Var::from_tensor).transpose()?;
        let (again, logdet) = self.forward(&x, condition.as_ref().map(|c| c.as_tensor()))?;
        let to_logdet = gradient.narrow(1, code, 1)?.squeeze(1)?;
        let share = (again * gradient.narrow(1, 0, code)?)?.sum_all()?;
        let mut gradients = backward(&(share + (logdet * to_logdet)?.sum_all()?)?)?;
        let mut of = |t: &Tensor| match gradients.remove(t) {
            Some(gradient) => Ok(gradient),
            None => t.zeros_like(),
        };
        let parameters = self.parameters();
        Ok(Undone {
            to_x: of(&x)?,
            to_condition: condition.as_ref().map(|c| of(c)).transpose()?,
            to_parameters: parameters
                .iter()
                .map(of)
                .collect::<candle_core::Result<_>>()?,
            x: x.as_detached_tensor(),
        })
    }
}

/// Weight (outputs, inputs, …kernel) and bias (outputs,) with PyTorch's default start.
pub(super) fn dense_parameters(
    inputs: usize,
    outputs: usize,
    kernel: &[usize],
    scope: &Scope,
) -> Result<(Tensor, Tensor)> {
    use crate::ops::Init;
    let shape = [&[outputs, inputs], kernel].concat();
    let fan_in = inputs * kernel.iter().product::<usize>();
    let bound = (fan_in.max(1) as f64).sqrt().recip();
    let weight = scope.get(shape, "weight", Init::FanIn)?;
    let bias = scope.get(outputs, "bias", Init::Uniform(bound))?;
    Ok((weight.as_tensor().clone(), bias.as_tensor().clone()))
}

/// A net of dense layers with `depth` + 1 hidden ones of this width, under `main.0`, `main.2` … (the numbers
/// between belong to the nonlinearities).
pub(super) fn net(
    inputs: usize,
    outputs: usize,
    hidden: usize,
    depth: usize,
    scope: &Scope,
) -> Result<Vec<(Tensor, Tensor)>> {
    let mut widths = vec![hidden; depth + 3];
    widths[0] = inputs;
    widths[depth + 2] = outputs;
    let layers = widths
        .windows(2)
        .enumerate()
        .map(|(l, pair)| dense_parameters(pair[0], pair[1], &[], &scope.pp("main").pp(2 * l)));
    layers.collect()
}

/// The same parameters, sharing their memory, outside of any graph.
pub(super) fn detached(layers: &[(Tensor, Tensor)]) -> Vec<(Tensor, Tensor)> {
    let both = layers.iter().map(|(w, b)| (w.detach(), b.detach()));
    both.collect()
}
