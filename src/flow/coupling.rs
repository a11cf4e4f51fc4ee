//! The affine coupling layer: each half of the code scales and shifts the other.

use super::layer::{Layer, Reversed, detached, net};
use super::{Flow, required, rows};
use crate::ops::coupling::{self, Direction, Layers, Nets, Plan, SLOPE};
use crate::ops::gpu::{self, CouplingTape};
use crate::ops::{Activation, Scope, dense, has_kernel, repeated};
use crate::{Error, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// A double affine coupling (Dinh et al. 2017,
/// [arXiv 1605.08803](https://arxiv.org/abs/1605.08803)).
///
/// The code is split into halves a and b. In each half-step the nets s and t receive one half and
/// the condition c:
///
/// b′ = b·exp(s₀(a, c)) + t₀(a, c),  a′ = a·exp(s₁(b′, c)) + t₁(b′, c),  v = (b′, a′).
///
/// log|det| = Σs₀ + Σs₁ with s = clamp·tanh(net/clamp), so that a half-step scales by at most
/// e^clamp. Clamp 1 gives the authors' tanh. A larger clamp hardly changes small log-scales and
/// bounds only large ones (the soft clamp of Ardizzone et al. 2019,
/// [arXiv 1907.02392](https://arxiv.org/abs/1907.02392), with tanh). A code of odd size has the
/// larger half first (the authors' network accepts even sizes only). The nets are chains of dense
/// layers with leaky ReLU (0.01) between them.
///
/// The parameters are `s.0`, `s.1`, `t.0` and `t.1`, each with `main.0`, `main.2`, …, each of
/// these with `weight` and `bias`. The odd indices belong to the nonlinearities.
#[derive(Clone, Debug)]
pub struct AffineCoupling {
    plan: Plan,
    /// The nets in the order s₀, t₀, s₁, t₁.
    nets: Nets,
}

impl AffineCoupling {
    /// Creates a coupling with clamp 1 for codes of size `code` and conditions of size
    /// `condition` (0 for none). The nets have width `hidden` and `depth` + 1 hidden layers.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `code` is less than 2, because it has no halves, or if `hidden` is
    /// 0.
    pub fn new(
        code: usize,
        condition: usize,
        hidden: usize,
        depth: usize,
        scope: &Scope,
    ) -> Result<Self> {
        check_sizes(code, hidden)?;
        let first = code.div_ceil(2);
        let halves = [first, code - first];
        let net = |name: &str, i: usize| {
            let (inputs, outputs) = (halves[i] + condition, halves[1 - i]);
            net(inputs, outputs, hidden, depth, &scope.pp(name).pp(i))
        };
        Ok(Self {
            plan: Plan {
                code,
                first,
                condition,
                clamp: 1.0,
            },
            nets: [net("s", 0)?, net("t", 0)?, net("s", 1)?, net("t", 1)?],
        })
    }

    /// Returns the same coupling with shared parameters and log-scales of a half-step up to
    /// ±`clamp`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `clamp` is finite and above 0.
    pub fn clamped(&self, clamp: f64) -> Result<Self> {
        if !(clamp.is_finite() && clamp > 0.0) {
            return Err(Error::invalid(format!(
                "expected a clamp above 0 for an affine coupling, found {clamp}: the authors use 1"
            )));
        }
        let mut coupling = self.clone();
        coupling.plan.clamp = clamp;
        Ok(coupling)
    }

    /// Returns the checked condition. Each of its rows belongs to `share` rows of x. It is
    /// (batch, 0) if the coupling has no condition.
    fn checked(&self, x: &Tensor, condition: Option<&Tensor>, share: usize) -> Result<Tensor> {
        let batch = rows(x, self.plan.code, "codes")?;
        if self.plan.condition == 0 {
            return Ok(x.detach().narrow(0, 0, batch / share)?.narrow(1, 0, 0)?);
        }
        let c = required(condition, "a conditional coupling")?;
        let conditions = rows(c, self.plan.condition, "conditions")?;
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
        if gpu::is_available(v) && !self.tracked(v, &c) {
            return gpu::coupling_inverse(v, &c, share, &self.nets, &self.plan);
        }
        if !has_kernel(v) {
            return self.composed_inverse(v, &repeated(&c, share)?);
        }
        coupling::coupling(v, &c, &self.nets, self.plan, share, Direction::Inverse)
    }

    /// Returns whether a result would have a graph.
    fn tracked(&self, x: &Tensor, condition: &Tensor) -> bool {
        let parameters = coupling::parameters(&self.nets);
        let mut all = parameters.iter().chain([x, condition]);
        all.any(|t| t.track_op())
    }

    /// The condition of a state on a GPU; (batch, 0) if the coupling has none.
    fn state_condition(&self, state: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        match self.plan.condition {
            0 => Ok(state.narrow(1, 0, 0)?),
            _ => Ok(required(condition, "a conditional coupling")?.contiguous()?),
        }
    }

    /// Computes s and t of half-step `i` with candle's operations.
    fn nets(&self, i: usize, half: &Tensor, condition: &Tensor) -> Result<[Tensor; 2]> {
        let input = if self.plan.condition == 0 {
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
        let clamp = self.plan.clamp;
        let s = ((run(&self.nets[2 * i])? * clamp.recip())?.tanh()? * clamp)?;
        Ok([s, run(&self.nets[2 * i + 1])?])
    }

    /// Implements [`Flow::forward`] with candle's operations, for any device.
    fn composed_forward(&self, x: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        let a = x.narrow(1, 0, self.plan.first)?;
        let b = x.narrow(1, self.plan.first, self.plan.code - self.plan.first)?;
        let [s0, t0] = self.nets(0, &a, c)?;
        let b = ((b * s0.exp()?)? + t0)?;
        let [s1, t1] = self.nets(1, &b, c)?;
        let a = ((a * s1.exp()?)? + t1)?;
        Ok((Tensor::cat(&[&b, &a], 1)?, (s0.sum(1)? + s1.sum(1)?)?))
    }

    /// Implements [`Flow::inverse`] with candle's operations, for any device.
    fn composed_inverse(&self, v: &Tensor, c: &Tensor) -> Result<Tensor> {
        let second = self.plan.code - self.plan.first;
        let b = v.narrow(1, 0, second)?;
        let a = v.narrow(1, second, self.plan.first)?;
        let [s1, t1] = self.nets(1, &b, c)?;
        let a = ((a - t1)? * s1.neg()?.exp()?)?;
        let [s0, t0] = self.nets(0, &a, c)?;
        let b = ((b - t0)? * s0.neg()?.exp()?)?;
        Ok(Tensor::cat(&[&a, &b], 1)?)
    }
}

/// Returns an error if the code has no halves or the nets have no hidden units.
pub(super) fn check_sizes(code: usize, hidden: usize) -> Result<()> {
    if code >= 2 && hidden > 0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected a code of at least 2 elements and nets with at least 1 hidden unit for a \
         coupling, found {code} and {hidden}"
    )))
}

impl Flow for AffineCoupling {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let c = self.checked(x, condition, 1)?;
        if !has_kernel(x) {
            return self.composed_forward(x, &c);
        }
        let both = coupling::coupling(x, &c, &self.nets, self.plan, 1, Direction::Forward)?;
        let logdet = both.narrow(1, self.plan.code, 1)?.squeeze(1)?;
        Ok((both.narrow(1, 0, self.plan.code)?, logdet))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.run_inverse(v, condition, 1)
    }

    fn code(&self) -> Option<usize> {
        Some(self.plan.code)
    }
}

impl Layer for AffineCoupling {
    fn state_forward(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        let c = self.state_condition(state, condition)?;
        let (state, tape) = gpu::coupling(state, &c, &self.nets, &self.plan)?;
        Ok((state, Some(tape)))
    }

    fn state_backward(
        &self,
        state: &Tensor,
        tape: Option<&CouplingTape>,
        condition: Option<&Tensor>,
        gradient: &Tensor,
        to_condition: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let c = self.state_condition(state, condition)?;
        let recomputed;
        let tape = match tape {
            Some(tape) => tape,
            None => {
                recomputed = gpu::coupling(state, &c, &self.nets, &self.plan)?.1;
                &recomputed
            }
        };
        let sum = match to_condition.take() {
            Some(sum) => sum,
            None if self.plan.condition == 0 => c.clone(),
            None => c.zeros_like()?,
        };
        let found = gpu::coupling_backward(tape, gradient, &sum, &self.nets, &self.plan)?;
        if self.plan.condition > 0 {
            *to_condition = Some(sum);
        }
        Ok(found)
    }

    fn parameters(&self) -> Vec<Tensor> {
        coupling::parameters(&self.nets)
    }

    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(Self {
            plan: self.plan,
            nets: [0, 1, 2, 3].map(|i| detached(&self.nets[i])),
        })
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
        let c = self.checked(v, condition, 1)?;
        if gpu::is_available(v) {
            let (x, tape) = gpu::coupling_undo(v, &c, &self.nets, &self.plan)?;
            let mut to_condition = None;
            let (to_state, to_parameters) =
                self.state_backward(&x, Some(&tape), condition, gradient, &mut to_condition)?;
            return Ok(Reversed {
                to_x: to_state.narrow(1, 0, self.plan.code)?.contiguous()?,
                x,
                to_condition,
                to_parameters,
            });
        }
        if !has_kernel(v) {
            return self.reverse_by_graph(v, condition, gradient);
        }
        let reversed = coupling::reverse(v, &c, &self.nets, self.plan, gradient)?;
        Ok(Reversed {
            x: reversed.x,
            to_x: reversed.to_x,
            to_condition: condition.is_some().then_some(reversed.to_condition),
            to_parameters: reversed.to_parameters,
        })
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
            let coupling = AffineCoupling::new(code, condition, 9, depth, &params.root())?;
            let coupling = coupling.clamped(clamp)?;
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
            let coupling = AffineCoupling::new(code, condition, 9, 2, &params.root())?;
            let coupling = coupling.clamped(1.5)?;
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
