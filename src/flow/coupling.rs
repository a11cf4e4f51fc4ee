use super::{Flow, rows};
use crate::ops::{Activation, Init, Scope, dense};
use crate::{Error, Result};
use candle_core::Tensor;

/// The slope of the leaky ReLU between the dense layers.
const SLOPE: f64 = 0.01;

/// A chain of dense layers: in, `depth` hidden ones, out. Names `main.0`, `main.2`, … (the numbers
/// between belong to the nonlinearities).
#[derive(Clone, Debug)]
struct Mlp {
    layers: Vec<(Tensor, Tensor)>,
}

impl Mlp {
    fn new(widths: &[usize], scope: &Scope) -> Result<Self> {
        let layer = |(i, pair): (usize, &[usize])| -> Result<(Tensor, Tensor)> {
            let scope = scope.pp("main").pp(2 * i);
            dense_parameters(pair[0], pair[1], &[], &scope)
        };
        let layers = widths.windows(2).enumerate().map(layer);
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
        })
    }

    fn detached(&self) -> Self {
        Self {
            layers: detached(&self.layers),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let last = self.layers.len() - 1;
        let mut h = x.clone();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            let activation = if i < last {
                Activation::Leaky(SLOPE)
            } else {
                Activation::None
            };
            h = dense(&h, weight, bias, activation)?;
        }
        Ok(h)
    }
}

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
pub(super) fn detached(layers: &[(Tensor, Tensor)]) -> Vec<(Tensor, Tensor)> {
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
/// size has the larger half first (the authors' network takes even sizes only).
///
/// Parameters `s.0`, `s.1`, `t.0`, `t.1`, each with `main.0`, `main.2` … `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct Coupling {
    code: usize,
    condition: usize,
    first: usize,
    s: [Mlp; 2],
    t: [Mlp; 2],
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
        let net = |name: &str, i: usize| {
            let mut widths = vec![hidden; depth + 3];
            widths[0] = halves[i] + condition;
            widths[depth + 2] = halves[1 - i];
            Mlp::new(&widths, &scope.pp(name).pp(i))
        };
        Ok(Self {
            code,
            condition,
            first,
            s: [net("s", 0)?, net("s", 1)?],
            t: [net("t", 0)?, net("t", 1)?],
        })
    }

    /// The same layer, sharing its parameters, whose results keep no graph.
    pub(crate) fn detached(&self) -> Self {
        Self {
            s: [self.s[0].detached(), self.s[1].detached()],
            t: [self.t[0].detached(), self.t[1].detached()],
            ..*self
        }
    }

    /// What the nets see: a half, and the condition beside it.
    fn seen(&self, half: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        match condition {
            _ if self.condition == 0 => Ok(half.contiguous()?),
            Some(c) => Ok(Tensor::cat(&[half, c], 1)?),
            None => Err(Error::invalid(format!(
                "this coupling depends on a condition (batch, {}), and none was given",
                self.condition
            ))),
        }
    }

    fn check(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        let batch = rows(x, self.code, "the code")?;
        let Some(c) = condition.filter(|_| self.condition > 0) else {
            return Ok(());
        };
        let conditions = rows(c, self.condition, "the condition")?;
        if conditions != batch {
            return Err(Error::invalid(format!(
                "{batch} codes need as many conditions, found {conditions}"
            )));
        }
        Ok(())
    }

    /// The half that half-step `i` changes, given what its nets see; and the step's log-scale.
    fn step(&self, i: usize, seen: &Tensor, half: &Tensor) -> Result<(Tensor, Tensor)> {
        let (s, t) = (self.s[i].forward(seen)?.tanh()?, self.t[i].forward(seen)?);
        Ok((((half * s.exp()?)? + t)?, s))
    }

    fn undo(&self, i: usize, seen: &Tensor, half: &Tensor) -> Result<Tensor> {
        let (s, t) = (self.s[i].forward(seen)?.tanh()?, self.t[i].forward(seen)?);
        Ok(((half - t)? * s.neg()?.exp()?)?)
    }
}

impl Flow for Coupling {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        self.check(x, condition)?;
        let a = x.narrow(1, 0, self.first)?;
        let b = x.narrow(1, self.first, self.code - self.first)?;
        let (b, s0) = self.step(0, &self.seen(&a, condition)?, &b)?;
        let (a, s1) = self.step(1, &self.seen(&b, condition)?, &a)?;
        Ok((Tensor::cat(&[&b, &a], 1)?, (s0.sum(1)? + s1.sum(1)?)?))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.check(v, condition)?;
        let second = self.code - self.first;
        let b = v.narrow(1, 0, second)?;
        let a = v.narrow(1, second, self.first)?;
        let a = self.undo(1, &self.seen(&b, condition)?, &a)?;
        let b = self.undo(0, &self.seen(&a, condition)?, &b)?;
        Ok(Tensor::cat(&[&a, &b], 1)?)
    }
}
