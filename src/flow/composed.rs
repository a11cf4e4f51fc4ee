//! Flows made of flows: [`Composed`] applies several in sequence, [`Inverse`] uses one backwards.

use super::Flow;
use crate::ops::Placement;
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// Flows applied in sequence. The log-determinants add up, the inverse runs the flows in reverse
/// order, and every flow receives the same condition. Gradients pass through.
///
/// A small RealNVP, trained on correlated points:
///
/// ```
/// use invariances::flow::*;
/// use invariances::{candle_core::Device, loss::nll, ops::{Params, Rng, backward}, train::Adam};
/// use std::sync::Arc;
/// let params = Params::new(0);
/// let (at, nets) = (params.root(), CouplingNets { hidden: 16, ..Default::default() });
/// let layers: Vec<Arc<dyn Flow>> = vec![
///     Arc::new(ActNorm::new(2, &at.pp("norm"))?),
///     Arc::new(AffineCoupling::new(2, Affine::default(), &nets, &at.pp("coupling"))?),
///     Arc::new(Permutation::new(2, &at.pp("mixing"))?),
/// ];
/// let flow = Composed::new(layers)?;
///
/// let mut rng = Rng::new(1);
/// let noise = rng.normal((256, 2), &Device::Cpu)?;
/// let x = noise.cumsum(1)?;
/// flow.initialize(&x, None)?;
/// let before = flow.log_prob(&x, None)?.mean_all()?.to_scalar::<f32>()?;
/// let mut adam = Adam::named(params.trained())?;
/// for _ in 0..30 {
///     let (v, logdet) = flow.forward(&x, None)?;
///     adam.step_at(&backward(&nll(&v, &logdet)?)?, 1e-2)?;
/// }
/// assert!(flow.log_prob(&x, None)?.mean_all()?.to_scalar::<f32>()? > before);
/// assert_eq!(flow.sample(None, 5, &mut rng)?.dims(), [5, 2]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Composed {
    flows: Vec<Arc<dyn Flow>>,
    dim: Option<usize>,
}

impl Composed {
    /// Composes flows; the first one is applied first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no flows; [`Error::Shape`] if their dimensions differ.
    pub fn new(flows: Vec<Arc<dyn Flow>>) -> Result<Self> {
        if flows.is_empty() {
            return Err(Error::invalid(
                "expected at least 1 flow to compose, found 0: add a layer",
            ));
        }
        let mut dim = None;
        for (i, flow) in flows.iter().enumerate() {
            match (dim, flow.dim()) {
                (Some(expected), Some(found)) if expected != found => {
                    return Err(Error::shape(format!(
                        "expected flows of the same dimension, found {expected} and then {found} \
                         in flow number {i} (from 0)"
                    )));
                }
                (None, found) => dim = found,
                _ => {}
            }
        }
        Ok(Self { flows, dim })
    }

    /// Returns the flows, in the order of the forward pass.
    pub fn flows(&self) -> &[Arc<dyn Flow>] {
        &self.flows
    }
}

impl Flow for Composed {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let mut v = x.clone();
        let mut total: Option<Tensor> = None;
        for flow in &self.flows {
            let (next, logdet) = flow.forward(&v, condition)?;
            v = next;
            total = Some(match total {
                Some(total) => (total + logdet)?,
                None => logdet,
            });
        }
        let total = match total {
            Some(total) => total,
            None => Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?,
        };
        Ok((v, total))
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let mut flows = self.flows.iter();
        flows.try_fold(x.clone(), |x, flow| flow.latent(&x, condition))
    }

    fn density_is_slow(&self) -> bool {
        self.flows.iter().any(|flow| flow.density_is_slow())
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let mut flows = self.flows.iter().rev();
        flows.try_fold(v.clone(), |x, flow| flow.inverse(&x, condition))
    }

    fn dim(&self) -> Option<usize> {
        self.dim
    }

    fn placement(&self) -> Option<Placement> {
        self.flows.iter().find_map(|flow| flow.placement())
    }

    /// Initialises each flow from the output of the flows before it.
    fn initialize(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        let condition = condition.map(Tensor::detach);
        let mut h = x.detach();
        for flow in &self.flows {
            flow.initialize(&h, condition.as_ref())?;
            h = flow.latent(&h, condition.as_ref())?.detach();
        }
        Ok(())
    }

    fn outline(&self) -> Outline {
        let text = match self.dim {
            Some(dim) => format!("Composed({dim})"),
            None => "Composed".into(),
        };
        Outline::new(text).with_parts(self.flows.iter().map(|flow| flow.outline()))
    }
}

/// A flow used backwards: its forward pass is the inverse of the given flow.
///
/// The log-determinant is that of the given flow at the result, with the opposite sign. Gradients
/// pass through. A flow that is fast in one direction only can thus be trained in that direction
/// and sampled from in the other.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, flow::*, ops::Params};
/// let norm = ActNorm::new(2, &Params::new(0).root())?;
/// let x = Tensor::new(&[[1f32, 5.0], [3.0, 9.0]], &Device::Cpu)?;
/// norm.initialize(&x)?;
/// let (v, logdet) = norm.forward(&x, None)?;
/// let inverse = Inverse::new(&norm);
/// let (back, opposite) = inverse.forward(&v, None)?;
/// assert!((back - &x)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
/// assert_eq!((logdet + opposite)?.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Inverse {
    flow: Arc<dyn Flow>,
}

impl Inverse {
    /// Creates the inverse of a flow, with which it shares its parameters.
    ///
    /// [`Flow::initialize`] does nothing here: initialise the given flow, from its own inputs.
    pub fn new(flow: &(impl Flow + Clone + 'static)) -> Self {
        Self {
            flow: Arc::new(flow.clone()),
        }
    }
}

impl Flow for Inverse {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let v = self.flow.inverse(x, condition)?;
        let (_, logdet) = self.flow.forward(&v, condition)?;
        Ok((v, logdet.neg()?))
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.flow.inverse(x, condition)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.flow.latent(v, condition)
    }

    fn density_is_slow(&self) -> bool {
        self.flow.density_is_slow()
    }

    fn dim(&self) -> Option<usize> {
        self.flow.dim()
    }

    fn placement(&self) -> Option<Placement> {
        self.flow.placement()
    }

    fn outline(&self) -> Outline {
        Outline::new("Inverse").with_parts([self.flow.outline()])
    }
}

shows_outline!(Composed, Inverse);
