//! The coupling layer: each half of the code transforms the other, element by element.
//!
//! Its values, its log-determinant and their gradients are computed in these functions:
//!
//! | coupling, device | values and log-determinant | gradients |
//! | --- | --- | --- |
//! | affine, CPU | `half_step` in `crates/ops/src/coupling.rs` | `half_step_backward`, same file |
//! | affine, CUDA | `couple` in `kernels.cu` | `couple_backward`, same file |
//! | spline, CPU | `crates/ops/src/spline.rs` | same file |
//! | affine, otherwise | [`Affine`] in `univariate.rs`, from candle's operations | candle |
//!
//! `fused.rs` connects this file with the kernels of the affine coupling. On CUDA devices it calls
//! `crates/ops/src/gpu.rs`, which launches the kernels of `kernels/cuda/kernels.cu` through
//! `kernels/cuda/flow.rs`.

use super::fused::Fused;
use super::layer::{Layer, Reversed, detached, net};
use super::{Affine, Flow, RationalQuadratic, Univariate, required, rows};
use crate::ops::coupling::{Layers, Plan, SLOPE};
use crate::ops::gpu::{self, CouplingTape};
use crate::ops::{Activation, Placement, Scope, dense, has_kernel, repeated};
use crate::outline::{Outline, parameters_of};
use crate::{Error, Result};
use candle_core::Tensor;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The nets of a [`Coupling`], which predict the parameters of its transform: chains of dense
/// layers with leaky ReLU (0.01) between them.
///
/// ```
/// use invariances::flow::CouplingNets;
/// let nets = CouplingNets { hidden: 64, ..Default::default() };
/// assert_eq!((nets.condition, nets.depth), (0, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CouplingNets {
    /// Number of elements of the condition; 0 for none.
    pub condition: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Number of hidden layers after the first.
    pub depth: usize,
}

impl Default for CouplingNets {
    fn default() -> Self {
        Self {
            condition: 0,
            hidden: 128,
            depth: 2,
        }
    }
}

/// A double coupling (Dinh et al. 2017, [arXiv 1605.08803](https://arxiv.org/abs/1605.08803)) with
/// any element-wise transform.
///
/// The code is split into halves a and b. In each half-step the nets receive one half and the
/// condition c, and predict the parameters of the transform f of the other half:
///
/// b′ = f(b; nets₀(a, c)),  a′ = f(a; nets₁(b′, c)),  v = (b′, a′).
///
/// A code of odd size has the larger half first (the authors' network accepts even sizes only).
/// The log-determinant is the sum of those of all elements.
///
/// The parameters are below the names of [`Univariate::nets`], with the number of the half-step:
/// `s.0`, `s.1`, `t.0` and `t.1` for [`Affine`], `spline.0` and `spline.1` for
/// [`RationalQuadratic`]. Below each are `main.0`, `main.2`, …, each of these with `weight` and
/// `bias`. The odd indices belong to the nonlinearities. A coupling with [`Affine`] is computed by
/// fused kernels on the CPU and on CUDA devices.
#[derive(Clone)]
pub struct Coupling<T> {
    dim: usize,
    first: usize,
    condition: usize,
    transform: T,
    /// The nets of both half-steps, in the order of [`Univariate::nets`].
    nets: [Vec<Layers>; 2],
    /// The same nets for the kernels, if there are kernels for the transform.
    fused: Option<Fused>,
}

/// The coupling of RealNVP, which scales and shifts each element. It is the authors' coupling.
pub type AffineCoupling = Coupling<Affine>;

/// A coupling that transforms each element by its own monotone spline.
pub type SplineCoupling = Coupling<RationalQuadratic>;

impl<T: Univariate> Coupling<T> {
    /// Creates a coupling for codes of size `dim`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `dim` is less than 2, because such a code has no halves, or if the
    /// nets have no hidden units; [`Error::Shape`] if parameters of these names exist with another
    /// shape.
    pub fn new(dim: usize, transform: T, nets: &CouplingNets, scope: &Scope) -> Result<Self> {
        let CouplingNets {
            condition,
            hidden,
            depth,
        } = *nets;
        if dim < 2 || hidden == 0 {
            return Err(Error::invalid(format!(
                "expected a code of at least 2 elements and nets with at least 1 hidden unit for a \
                 coupling, found {dim} and {hidden}"
            )));
        }
        let first = dim.div_ceil(2);
        let halves = [first, dim - first];
        let step = |i: usize| -> Result<Vec<Layers>> {
            let (inputs, changed) = (halves[i] + condition, halves[1 - i]);
            let nets = transform.nets().into_iter().map(|(name, parameters)| {
                let scope = scope.pp(name).pp(i);
                net(inputs, changed * parameters, hidden, depth, &scope)
            });
            nets.collect()
        };
        let nets = [step(0)?, step(1)?];
        Ok(Self::from_nets((dim, condition), transform, nets))
    }

    fn from_nets((dim, condition): (usize, usize), transform: T, nets: [Vec<Layers>; 2]) -> Self {
        let first = dim.div_ceil(2);
        let fused = match (
            (&transform as &dyn Any).downcast_ref::<Affine>(),
            &nets[0][..],
            &nets[1][..],
        ) {
            (Some(affine), [s0, t0], [s1, t1]) => Some(Fused {
                plan: Plan {
                    code: dim,
                    first,
                    condition,
                    clamp: affine.clamp(),
                },
                nets: [s0.clone(), t0.clone(), s1.clone(), t1.clone()],
            }),
            _ => None,
        };
        Self {
            dim,
            first,
            condition,
            transform,
            nets,
            fused,
        }
    }

    /// Returns the transform of the elements.
    pub fn transform(&self) -> &T {
        &self.transform
    }

    /// Returns the checked condition. Each of its rows belongs to `share` rows of x. It is
    /// (batch, 0) if the coupling has no condition.
    fn checked(&self, x: &Tensor, condition: Option<&Tensor>, share: usize) -> Result<Tensor> {
        let batch = rows(x, self.dim, "codes")?;
        if self.condition == 0 {
            return Ok(x.detach().narrow(0, 0, batch / share)?.narrow(1, 0, 0)?);
        }
        let c = required(condition, "a conditional coupling")?;
        let conditions = rows(c, self.condition, "conditions")?;
        if conditions * share != batch {
            return Err(Error::shape(format!(
                "expected one condition per code, found {conditions} conditions for {} codes",
                batch / share
            )));
        }
        Ok(c.clone())
    }

    fn run_inverse(&self, v: &Tensor, condition: Option<&Tensor>, share: usize) -> Result<Tensor> {
        let c = self.checked(v, condition, share)?;
        if let Some(fused) = &self.fused {
            if gpu::is_available(v) && !self.tracked(v, &c) {
                return fused.inverse_on_gpu(v, &c, share);
            }
            if has_kernel(v) {
                return fused.inverse(v, &c, share);
            }
        }
        match self.condition {
            0 => self.composed_inverse(v, &c),
            _ => self.composed_inverse(v, &repeated(&c, share)?),
        }
    }

    /// Returns whether a result would have a graph.
    fn tracked(&self, x: &Tensor, condition: &Tensor) -> bool {
        let parameters = self.parameters();
        let mut all = parameters.iter().chain([x, condition]);
        all.any(|t| t.track_op())
    }

    /// Computes the parameters of the transform in half-step `i` with candle's operations.
    fn predicted(&self, i: usize, half: &Tensor, condition: &Tensor) -> Result<Vec<Tensor>> {
        let input = if self.condition == 0 {
            half.contiguous()?
        } else {
            Tensor::cat(&[half, condition], 1)?
        };
        let run = |layers: &Layers| -> Result<Tensor> {
            let mut h = input.clone();
            for (l, (weight, bias)) in layers.iter().enumerate() {
                let activation = if l + 1 < layers.len() {
                    Activation::Leaky(SLOPE)
                } else {
                    Activation::None
                };
                h = dense(&h, weight, bias, activation)?;
            }
            Ok(h)
        };
        self.nets[i].iter().map(run).collect()
    }

    /// Implements [`Flow::forward`] for any transform and device.
    fn composed_forward(&self, x: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        let a = x.narrow(1, 0, self.first)?;
        let b = x.narrow(1, self.first, self.dim - self.first)?;
        let (b, logdet0) = self.transform.forward(&b, &self.predicted(0, &a, c)?)?;
        let (a, logdet1) = self.transform.forward(&a, &self.predicted(1, &b, c)?)?;
        let logdet = (logdet0.sum(1)? + logdet1.sum(1)?)?;
        Ok((Tensor::cat(&[b, a], 1)?, logdet))
    }

    /// Implements [`Flow::inverse`] for any transform and device.
    fn composed_inverse(&self, v: &Tensor, c: &Tensor) -> Result<Tensor> {
        let second = self.dim - self.first;
        let b = v.narrow(1, 0, second)?;
        let a = v.narrow(1, second, self.first)?;
        let a = self.transform.inverse(&a, &self.predicted(1, &b, c)?)?;
        let b = self.transform.inverse(&b, &self.predicted(0, &a, c)?)?;
        Ok(Tensor::cat(&[a, b], 1)?)
    }
}

impl<T: Univariate> Flow for Coupling<T> {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let c = self.checked(x, condition, 1)?;
        match &self.fused {
            Some(fused) if has_kernel(x) => fused.forward(x, &c),
            _ => self.composed_forward(x, &c),
        }
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.run_inverse(v, condition, 1)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.dim)
    }

    fn placement(&self) -> Option<Placement> {
        self.parameters().first().map(Placement::of)
    }

    fn outline(&self) -> Outline {
        let (dim, condition) = (self.dim, self.condition);
        let condition = match condition {
            0 => String::new(),
            n => format!(", condition={n}"),
        };
        let mut parts = Vec::new();
        for (i, nets) in self.nets.iter().enumerate() {
            for ((name, _), layers) in self.transform.nets().iter().zip(nets) {
                let inputs = layers.first().map(|(w, _)| w.dims()[1]);
                let outputs = layers.iter().map(|(w, _)| w.dims()[0]);
                let widths: Vec<String> = inputs
                    .into_iter()
                    .chain(outputs)
                    .map(|w| w.to_string())
                    .collect();
                let own = parameters_of(layers.iter().flat_map(|(w, b)| [w, b]));
                parts.push(
                    Outline::new(format!("{name}.{i}: MLP({})", widths.join(" → ")))
                        .with_parameters(own),
                );
            }
        }
        let text = format!("Coupling({dim}{condition}, {:?})", self.transform);
        Outline::new(text).with_parts(parts)
    }
}

impl<T: Univariate> fmt::Display for Coupling<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.outline(), f)
    }
}

impl<T: Univariate> fmt::Debug for Coupling<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.outline(), f)
    }
}

impl<T: Univariate> Layer for Coupling<T> {
    fn state_forward(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        match &self.fused {
            Some(fused) => fused.state_forward(state, condition),
            None => self.state_forward_by_flow(state, condition),
        }
    }

    fn state_backward(
        &self,
        state: &Tensor,
        tape: Option<&CouplingTape>,
        condition: Option<&Tensor>,
        gradient: &Tensor,
        to_condition: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        match &self.fused {
            Some(fused) => fused.state_backward(state, tape, condition, gradient, to_condition),
            None => self.state_backward_by_graph(state, condition, gradient, to_condition),
        }
    }

    fn parameters(&self) -> Vec<Tensor> {
        let layers = self.nets.iter().flatten().flatten();
        layers.flat_map(|(w, b)| [w.clone(), b.clone()]).collect()
    }

    fn detached(&self) -> Arc<dyn Layer> {
        let nets = [0usize, 1].map(|i| {
            let nets: &[Layers] = &self.nets[i];
            nets.iter().map(|layers| detached(layers)).collect()
        });
        let sizes = (self.dim, self.condition);
        Arc::new(Self::from_nets(sizes, self.transform.clone(), nets))
    }

    fn inverse_shared(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        share: usize,
    ) -> Result<Tensor> {
        self.run_inverse(v, condition, share)
    }

    fn reverse(
        &self,
        v: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        if let Some(fused) = &self.fused {
            let c = self.checked(v, condition, 1)?;
            if gpu::is_available(v) {
                return fused.reverse_on_gpu(v, &c, condition, gradient);
            }
            if has_kernel(v) {
                return fused.reverse(v, &c, condition, gradient);
            }
        }
        self.reverse_by_graph(v, condition, gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Params;
    use candle_core::{DType, Device, Var};

    /// The fused CPU operation and the composition of candle's operations for other devices
    /// agree.
    #[test]
    fn both_ways_agree_in_values_and_gradients() -> Result<()> {
        for (code, condition, depth, batch, clamp) in
            [(6, 4, 2, 300, 1.0), (5, 0, 0, 3, 2.5), (3, 2, 1, 1, 0.7)]
        {
            let params = Params::with(0, DType::F64, &Device::Cpu);
            let nets = CouplingNets {
                condition,
                hidden: 9,
                depth,
            };
            let affine = Affine::clamped(clamp)?;
            let coupling = Coupling::new(code, affine, &nets, &params.root())?;
            let mut rng = crate::ops::Rng::new(1);
            let mut normal = |width: usize| -> Result<Var> {
                let x = rng.normal((batch, width), &Device::Cpu)?;
                Ok(Var::from_tensor(&x.to_dtype(DType::F64)?)?)
            };
            let (x, c, weights) = (normal(code)?, normal(condition)?, normal(code)?);
            let given = (condition > 0).then(|| c.as_tensor());
            let forward = |(v, logdet): (Tensor, Tensor)| -> Result<Tensor> {
                Ok(((v * weights.as_tensor())?.sum_all()? + logdet.sqr()?.sum_all()?)?)
            };
            let inverse =
                |x: Tensor| -> Result<Tensor> { Ok((x * weights.as_tensor())?.sum_all()?) };
            for (one, other) in [
                (
                    forward(coupling.forward(&x, given)?)?,
                    forward(coupling.composed_forward(&x, &c)?)?,
                ),
                (
                    inverse(coupling.inverse(&x, given)?)?,
                    inverse(coupling.composed_inverse(&x, &c)?)?,
                ),
            ] {
                let (a, b): (f64, f64) = (one.to_scalar()?, other.to_scalar()?);
                assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{a} {b}");
                let (ours, theirs) = (one.backward()?, other.backward()?);
                let mut vars: Vec<Var> = params.trained().into_iter().map(|(_, v)| v).collect();
                vars.push(x.clone());
                if condition > 0 {
                    vars.push(c.clone());
                }
                for var in vars {
                    let (Some(a), Some(b)) = (ours.get(&var), theirs.get(&var)) else {
                        panic!("a gradient is missing");
                    };
                    let difference: f64 = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?;
                    assert!(difference < 1e-9, "the difference is {difference}");
                }
            }
        }
        Ok(())
    }

    /// The fused backward kernel and the implementation for any layer and device agree.
    #[test]
    fn both_ways_back_agree() -> Result<()> {
        for (code, condition, batch) in [(6, 4, 300), (5, 0, 1)] {
            let params = Params::with(0, DType::F64, &Device::Cpu);
            let nets = CouplingNets {
                condition,
                hidden: 9,
                depth: 2,
            };
            let affine = Affine::clamped(1.5)?;
            let coupling = Coupling::new(code, affine, &nets, &params.root())?;
            let mut rng = crate::ops::Rng::new(1);
            let mut normal = |width: usize| -> Result<Tensor> {
                Ok(rng
                    .normal((batch, width), &Device::Cpu)?
                    .to_dtype(DType::F64)?)
            };
            let (v, gradient, c) = (normal(code)?, normal(code + 1)?, normal(condition)?);
            let given = (condition > 0).then_some(&c);
            let kernel = coupling.reverse(&v, given, &gradient)?;
            let graph = coupling.reverse_by_graph(&v, given, &gradient)?;
            let mut pairs = vec![(kernel.x, graph.x), (kernel.to_x, graph.to_x)];
            pairs.extend(kernel.to_condition.zip(graph.to_condition));
            assert_eq!(pairs.len(), 2 + usize::from(condition > 0));
            pairs.extend(kernel.to_parameters.into_iter().zip(graph.to_parameters));
            for (a, b) in pairs {
                let difference: f64 = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?;
                assert!(difference < 1e-9, "the difference is {difference}");
            }
        }
        Ok(())
    }
}
