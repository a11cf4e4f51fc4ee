use super::{Flow, rows};
use crate::ops::coupling::{self, Direction, Layers, SLOPE};
use crate::ops::{Activation, Init, Scope, dense, has_kernel};
use crate::{Error, Result};
use candle_core::Tensor;

/// Weight (outputs, inputs, …kernel) and bias (outputs,) with PyTorch's default start.
pub(super) fn dense_parameters(
    inputs: usize,
    outputs: usize,
    kernel: &[usize],
    scope: &Scope,
) -> Result<(Tensor, Tensor)> {
    let shape = [&[outputs, inputs], kernel].concat();
    let fan_in = inputs * kernel.iter().product::<usize>();
    let bound = (fan_in.max(1) as f64).sqrt().recip();
    let weight = scope.get(shape, "weight", Init::FanIn)?;
    let bias = scope.get(outputs, "bias", Init::Uniform(bound))?;
    Ok((weight.as_tensor().clone(), bias.as_tensor().clone()))
}

/// The same parameters, sharing their memory, outside of any graph.
pub(super) fn detached(layers: &[(Tensor, Tensor)]) -> Layers {
    let both = layers.iter().map(|(w, b)| (w.detach(), b.detach()));
    both.collect()
}

/// A double affine coupling (Dinh et al. 2017, [arXiv 1605.08803](https://arxiv.org/abs/1605.08803)).
///
/// The code is cut into halves a and b. With the nets s and t of each half-step, which see one half
/// and the condition c:
///
/// b′ = b·exp(s₀(a, c)) + t₀(a, c),  a′ = a·exp(s₁(b′, c)) + t₁(b′, c),  v = (b′, a′).
///
/// log|det| = Σs₀ + Σs₁, where s ends with tanh, so that a half-step scales by at most e. A code of odd
/// size has the larger half first (the authors' network takes even sizes only). The nets are chains of
/// dense layers with leaky ReLU (0.01) between.
///
/// Parameters `s.0`, `s.1`, `t.0`, `t.1`, each with `main.0`, `main.2` … (the numbers between belong to
/// the nonlinearities) `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct Coupling {
    code: usize,
    condition: usize,
    first: usize,
    /// s₀, t₀, s₁, t₁.
    nets: [Layers; 4],
}

impl Coupling {
    /// For a code and a condition of these sizes (0 for none), with nets of this width and depth.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a code of less than 2 numbers, which has no halves, or a width of 0.
    pub fn new(
        code: usize,
        condition: usize,
        hidden: usize,
        depth: usize,
        scope: &Scope,
    ) -> Result<Self> {
        if code < 2 || hidden == 0 {
            return Err(Error::invalid(format!(
                "a coupling needs a code of at least 2 numbers and nets of at least 1 hidden unit, found {code} and {hidden}"
            )));
        }
        let first = code.div_ceil(2);
        let halves = [first, code - first];
        let net = |name: &str, i: usize| -> Result<Layers> {
            let mut widths = vec![hidden; depth + 3];
            widths[0] = halves[i] + condition;
            widths[depth + 2] = halves[1 - i];
            let layers = widths.windows(2).enumerate().map(|(l, pair)| {
                let scope = scope.pp(name).pp(i).pp("main").pp(2 * l);
                dense_parameters(pair[0], pair[1], &[], &scope)
            });
            layers.collect()
        };
        Ok(Self {
            code,
            condition,
            first,
            nets: [net("s", 0)?, net("t", 0)?, net("s", 1)?, net("t", 1)?],
        })
    }

    /// The same layer, sharing its parameters, whose results keep no graph.
    pub(crate) fn detached(&self) -> Self {
        Self {
            nets: [0, 1, 2, 3].map(|i| detached(&self.nets[i])),
            ..*self
        }
    }

    /// The condition, (batch, 0) where the coupling has none.
    fn checked(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let batch = rows(x, self.code, "the code")?;
        if self.condition == 0 {
            return Ok(Tensor::zeros((batch, 0), x.dtype(), x.device())?);
        }
        let c = condition.ok_or_else(|| {
            Error::invalid(format!(
                "this coupling depends on a condition (batch, {}), and none was given",
                self.condition
            ))
        })?;
        let conditions = rows(c, self.condition, "the condition")?;
        if conditions != batch {
            return Err(Error::invalid(format!(
                "{batch} codes need as many conditions, found {conditions}"
            )));
        }
        Ok(c.clone())
    }

    /// s and t of half-step `i`, composed of candle's operations.
    fn nets(&self, i: usize, half: &Tensor, condition: &Tensor) -> Result<[Tensor; 2]> {
        let seen = if self.condition == 0 {
            half.contiguous()?
        } else {
            Tensor::cat(&[half, condition], 1)?
        };
        let run = |layers: &Layers| -> Result<Tensor> {
            let mut h = seen.clone();
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
        Ok([run(&self.nets[2 * i])?.tanh()?, run(&self.nets[2 * i + 1])?])
    }

    /// What [`Flow::forward`] does, on any device.
    fn composed_forward(&self, x: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        let a = x.narrow(1, 0, self.first)?;
        let b = x.narrow(1, self.first, self.code - self.first)?;
        let [s0, t0] = self.nets(0, &a, c)?;
        let b = ((b * s0.exp()?)? + t0)?;
        let [s1, t1] = self.nets(1, &b, c)?;
        let a = ((a * s1.exp()?)? + t1)?;
        Ok((Tensor::cat(&[&b, &a], 1)?, (s0.sum(1)? + s1.sum(1)?)?))
    }

    /// What [`Flow::inverse`] does, on any device.
    fn composed_inverse(&self, v: &Tensor, c: &Tensor) -> Result<Tensor> {
        let second = self.code - self.first;
        let b = v.narrow(1, 0, second)?;
        let a = v.narrow(1, second, self.first)?;
        let [s1, t1] = self.nets(1, &b, c)?;
        let a = ((a - t1)? * s1.neg()?.exp()?)?;
        let [s0, t0] = self.nets(0, &a, c)?;
        let b = ((b - t0)? * s0.neg()?.exp()?)?;
        Ok(Tensor::cat(&[&a, &b], 1)?)
    }
}

impl Flow for Coupling {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let c = self.checked(x, condition)?;
        if !has_kernel(x) {
            return self.composed_forward(x, &c);
        }
        let both = coupling::coupling(x, &c, &self.nets, self.first, Direction::Forward)?;
        let logdet = both.narrow(1, self.code, 1)?.squeeze(1)?;
        Ok((both.narrow(1, 0, self.code)?, logdet))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let c = self.checked(v, condition)?;
        if !has_kernel(v) {
            return self.composed_inverse(v, &c);
        }
        coupling::coupling(v, &c, &self.nets, self.first, Direction::Inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Params;
    use candle_core::{DType, Device, Var};

    /// The one operation of the CPU and the composition for other devices are the same map.
    #[test]
    fn both_ways_agree_in_values_and_gradients() -> Result<()> {
        for (code, condition, depth, batch) in [(6, 4, 2, 300), (5, 0, 0, 3), (3, 2, 1, 1)] {
            let params = Params::with(0, DType::F64, &Device::Cpu);
            let coupling = Coupling::new(code, condition, 9, depth, &params.root())?;
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
                    let off: f64 = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?;
                    assert!(off < 1e-9, "off by {off}");
                }
            }
        }
        Ok(())
    }
}
