//! The internal interface of a layer in a flow network, and helpers to build and detach dense
//! layers.

use super::Flow;
use crate::Result;
use crate::ops::gpu::CouplingTape;
use crate::ops::{Scope, backward, repeated};
use candle_core::{Tensor, Var};
use std::sync::Arc;

/// A layer's input, reconstructed from its output, and the gradients of the loss.
pub(super) struct Reversed {
    pub(super) x: Tensor,
    pub(super) to_x: Tensor,
    pub(super) to_condition: Option<Tensor>,
    /// In the order of [`Layer::parameters`].
    pub(super) to_parameters: Vec<Tensor>,
}

/// A flow that is used as a layer of this crate's networks.
pub(super) trait Layer: Flow + std::fmt::Debug {
    /// The trained parameters.
    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    /// Returns the same layer with shared parameters; its results keep no graph.
    fn detached(&self) -> Arc<dyn Layer>;

    /// Initialises the layer from data, if the layer is of this kind and not yet initialised.
    /// Returns the columns that are constant in the data.
    fn initialize_layer(&self, _x: &Tensor) -> Result<Vec<usize>> {
        Ok(Vec::new())
    }

    fn is_initialized(&self) -> Result<bool> {
        Ok(true)
    }

    /// Inverts as [`Flow::inverse`]; each row of the condition belongs to `share` consecutive
    /// rows of v.
    fn inverse_shared(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        share: usize,
    ) -> Result<Tensor> {
        let each = condition.map(|c| repeated(c, share)).transpose()?;
        self.inverse(v, each.as_ref())
    }

    /// Reconstructs the input from v and computes the gradients. `gradient` is (batch, code + 1):
    /// the gradient of v, and in the last column that of the log-determinant. No values of the
    /// forward pass are needed. The results keep no graph.
    fn reverse(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        self.reverse_by_graph(v, condition, gradient)
    }

    /// Applies the layer to a state (batch, code + 1) on a GPU: the code, and the log-determinant
    /// as the last column. The results have no graph; [`Layer::state_backward`] uses the tape.
    fn state_forward(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        self.state_forward_by_flow(state, condition)
    }

    /// Returns the gradient of the state before the layer from that of the state after it, and the
    /// gradients of the parameters. The gradient of the condition is added to `to_condition`.
    fn state_backward(
        &self,
        state: &Tensor,
        _: Option<&CouplingTape>,
        condition: Option<&Tensor>,
        gradient: &Tensor,
        to_condition: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        self.state_backward_by_graph(state, condition, gradient, to_condition)
    }

    /// Implements [`Layer::state_forward`] for any layer.
    fn state_forward_by_flow(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        let code = state.dim(1)? - 1;
        let x = state.narrow(1, 0, code)?.contiguous()?;
        let (v, logdet) = self.detached().forward(&x, condition)?;
        let logdet = (state.narrow(1, code, 1)? + logdet.unsqueeze(1)?)?;
        Ok((Tensor::cat(&[v, logdet], 1)?, None))
    }

    /// Implements [`Layer::state_backward`] for any layer.
    fn state_backward_by_graph(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
        to_condition: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let code = state.dim(1)? - 1;
        let x = state.narrow(1, 0, code)?.contiguous()?;
        let reversed = self.gradients_at(&x, condition, gradient)?;
        if let Some(more) = reversed.to_condition {
            *to_condition = Some(match to_condition.take() {
                Some(sum) => (sum + more)?,
                None => more,
            });
        }
        let to_state = Tensor::cat(&[&reversed.to_x, &gradient.narrow(1, code, 1)?], 1)?;
        Ok((to_state, reversed.to_parameters))
    }

    /// Implements [`Layer::reverse`] for any layer and device: it inverts the layer, then builds
    /// a graph of this layer alone.
    fn reverse_by_graph(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        let x = self.detached().inverse(v, condition)?;
        self.gradients_at(&x, condition, gradient)
    }

    /// Computes the gradients with a graph of this layer alone, from its input.
    fn gradients_at(
        &self,
        x: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        let code = x.dim(1)?;
        let x = Var::from_tensor(x)?;
        let condition = condition.map(Var::from_tensor).transpose()?;
        let (v, logdet) = self.forward(&x, condition.as_ref().map(|c| c.as_tensor()))?;
        let to_logdet = gradient.narrow(1, code, 1)?.squeeze(1)?;
        let weighted = (v * gradient.narrow(1, 0, code)?)?.sum_all()?;
        let mut gradients = backward(&(weighted + (logdet * to_logdet)?.sum_all()?)?)?;
        let mut of = |t: &Tensor| match gradients.remove(t) {
            Some(gradient) => Ok(gradient),
            None => t.zeros_like(),
        };
        let parameters = self.parameters();
        Ok(Reversed {
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

/// Weight (outputs, inputs, …kernel) and bias (outputs,) with PyTorch's default initialisation.
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

/// Builds a net of dense layers with `depth` + 1 hidden layers of width `hidden`. Its parameters
/// are named `main.0`, `main.2`, …; the odd indices belong to the nonlinearities.
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

/// Returns the same parameters with shared storage, detached from any graph.
pub(super) fn detached(layers: &[(Tensor, Tensor)]) -> Vec<(Tensor, Tensor)> {
    let both = layers.iter().map(|(w, b)| (w.detach(), b.detach()));
    both.collect()
}
