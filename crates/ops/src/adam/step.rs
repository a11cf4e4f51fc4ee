//! One step of Adam: its constants, the pass over a parameter, its gradient and both moments, and
//! the norm of all gradients.

use super::{Moments, Parameter};
use crate::gpu::{self, AdamRule, AdamUpdate, AdamWorkspace};
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Storage, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;

/// Number of elements per parallel task: four arrays of this length fit into a core's cache.
pub(super) const CHUNK: usize = 1 << 14;

/// Settings that the steps of all parameters share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) betas: (f64, f64),
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) learning_rate: f64,
    /// Factor by which the gradient is multiplied.
    pub(super) scale: f64,
}

/// The constants of one step.
#[derive(Clone, Copy)]
struct Rule {
    /// Factor by which the gradient is multiplied; below 1 if it is clipped.
    scale: f64,
    beta1: f64,
    beta2: f64,
    keep: f64,
    /// Learning rate divided by the first moment's bias correction.
    step: f64,
    /// One over the square root of the second moment's bias correction.
    root: f64,
    eps: f64,
}

/// Updates parameters on a GPU, all in one launch.
pub(super) fn step_on_gpu<'a>(
    workspace: &mut AdamWorkspace,
    pairs: impl IntoIterator<Item = (&'a mut Parameter, &'a Tensor)>,
    settings: &Settings,
    clip: Option<f64>,
) -> Result<()> {
    let mut updates = Vec::new();
    for (parameter, gradient) in pairs {
        let rule = parameter.next_rule(settings);
        let Moments::Other(m, v) = &parameter.moments else {
            return Err(Error::invalid(
                "the moments of a parameter are not on its device",
            ));
        };
        updates.push(AdamUpdate {
            value: parameter.var.as_detached_tensor(),
            gradient: gradient.detach().contiguous()?,
            moments: [m.clone(), v.clone()],
            step: rule.step,
            root: rule.root,
        });
    }
    let rule = AdamRule {
        betas: settings.betas,
        keep: 1.0 - settings.learning_rate * settings.weight_decay,
        eps: settings.eps,
        clip,
    };
    workspace.step(&updates, rule)
}

impl Parameter {
    pub(super) fn is_on_gpu(&self) -> bool {
        gpu::is_available(self.var.as_tensor()) && self.var.is_contiguous()
    }

    /// Updates the parameter with this gradient.
    pub(super) fn step(&mut self, gradient: &Tensor, settings: &Settings) -> Result<()> {
        let rule = self.next_rule(settings);
        self.update(gradient, rule)
    }

    /// Counts a step and returns its constants.
    fn next_rule(&mut self, settings: &Settings) -> Rule {
        self.steps += 1;
        let t = self.steps as f64;
        let (first, second) = settings.betas;
        Rule {
            scale: settings.scale,
            beta1: first,
            beta2: second,
            keep: 1.0 - settings.learning_rate * settings.weight_decay,
            step: settings.learning_rate / (1.0 - first.powf(t)),
            root: (1.0 - second.powf(t)).sqrt().recip(),
            eps: settings.eps,
        }
    }

    fn update(&mut self, grad: &Tensor, rule: Rule) -> Result<()> {
        if let Moments::Other(m, v) = &mut self.moments {
            let grad = grad.to_dtype(m.dtype())?.affine(rule.scale, 0.0)?;
            *m = (m.affine(rule.beta1, 0.0)? + grad.affine(1.0 - rule.beta1, 0.0)?)?;
            *v = (v.affine(rule.beta2, 0.0)? + grad.sqr()?.affine(1.0 - rule.beta2, 0.0)?)?;
            let denominator = v.sqrt()?.affine(rule.root, rule.eps)?;
            let change = m.div(&denominator)?.affine(rule.step, 0.0)?;
            let value = self.var.as_detached_tensor().to_dtype(m.dtype())?;
            let kept = value.affine(rule.keep, 0.0)?;
            self.var
                .set(&(kept - change)?.to_dtype(self.var.dtype())?)?;
            return Ok(());
        }
        let pass = Pass {
            moments: RefCell::new(&mut self.moments),
            rule,
        };
        Ok(self.var.inplace_op2(grad, &pass)?)
    }
}

/// The step as one of candle's in-place operations, which can change the elements of a variable
/// in place.
struct Pass<'a> {
    moments: RefCell<&'a mut Moments>,
    rule: Rule,
}

macro_rules! pass {
    ($name:ident, $t:ty) => {
        fn $name(p: &mut [$t], g: &[$t], m: &mut [$t], v: &mut [$t], rule: Rule) {
            let chunk = |p: &mut [$t], g: &[$t], m: &mut [$t], v: &mut [$t]| {
                let scale = rule.scale as $t;
                let (beta1, new1) = (rule.beta1 as $t, (1.0 - rule.beta1) as $t);
                let (beta2, new2) = (rule.beta2 as $t, (1.0 - rule.beta2) as $t);
                let (keep, step) = (rule.keep as $t, rule.step as $t);
                let (root, eps) = (rule.root as $t, rule.eps as $t);
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = *g * scale;
                    *m = *m * beta1 + g * new1;
                    *v = *v * beta2 + g * g * new2;
                    *p = *p * keep - step * *m / (v.sqrt() * root + eps);
                }
            };
            if p.len() <= CHUNK {
                chunk(p, g, m, v);
            } else {
                p.par_chunks_mut(CHUNK)
                    .zip(g.par_chunks(CHUNK))
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(v.par_chunks_mut(CHUNK))
                    .for_each(|(((p, g), m), v)| chunk(p, g, m, v));
            }
        }
    };
}
pass!(pass_f32, f32);
pass!(pass_f64, f64);

impl InplaceOp2 for Pass<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (Some((p0, p1)), Some((g0, g1))) = (
            param_layout.contiguous_offsets(),
            grad_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("adam: parameter and gradient must be contiguous")
        };
        if p1 - p0 != g1 - g0 {
            candle_core::bail!(
                "adam: a parameter of {} elements has a gradient of {}",
                p1 - p0,
                g1 - g0
            )
        }
        match (param, grad, &mut **self.moments.borrow_mut()) {
            (CpuStorage::F32(p), CpuStorage::F32(g), Moments::F32(m, v)) => {
                pass_f32(&mut p[p0..p1], &g[g0..g1], m, v, self.rule);
            }
            (CpuStorage::F64(p), CpuStorage::F64(g), Moments::F64(m, v)) => {
                pass_f64(&mut p[p0..p1], &g[g0..g1], m, v, self.rule);
            }
            _ => candle_core::bail!("adam: parameter and gradient have different number types"),
        }
        Ok(())
    }
}

/// Returns the norm of all gradients together. The sum is in f64, and its order does not depend
/// on the number of threads.
pub(super) fn norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients.iter().flatten() {
        let (storage, layout) = gradient.storage_and_layout();
        let range = layout.contiguous_offsets();
        let squares: Vec<f64> = match (&*storage, range) {
            (Storage::Cpu(CpuStorage::F32(g)), Some((from, to))) => g[from..to]
                .par_chunks(CHUNK)
                .map(|c| c.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
                .collect(),
            (Storage::Cpu(CpuStorage::F64(g)), Some((from, to))) => g[from..to]
                .par_chunks(CHUNK)
                .map(|c| c.iter().map(|x| x * x).sum())
                .collect(),
            _ => {
                drop(storage);
                let squares = gradient.to_dtype(DType::F32)?.sqr()?.sum_all()?;
                vec![f64::from(squares.to_scalar::<f32>()?)]
            }
        };
        sum += squares.iter().sum::<f64>();
    }
    Ok(sum.sqrt())
}
