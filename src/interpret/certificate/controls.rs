//! The flows that a certificate tests: t with its condition computed once, 0.9·v, and the two small
//! control networks.

use super::CertificateConfig;
use super::tests::HeldOut;
use crate::Result;
use crate::flow::{Cinn, CinnConfig, Flow};
use crate::loss::nll;
use crate::ops::{Adam, Params, Placement, Rng};
use candle_core::{DType, Tensor};

/// t as a flow whose condition is the embedded z ([`Cinn::embed`]), so that z is embedded once.
pub(super) struct Embedded(Cinn);

impl Embedded {
    pub(super) fn new(t: &Cinn) -> Self {
        Self(t.detached())
    }

    /// Returns the embedding of all z (n, …), computed in batches on the device of t.
    pub(super) fn conditions(&self, z: &Tensor) -> Result<Tensor> {
        let n = z.dim(0)?;
        let mut parts = Vec::new();
        for start in (0..n).step_by(256) {
            let z = z.narrow(0, start, 256.min(n - start))?.contiguous()?;
            parts.push(self.0.embed(&z)?.detach());
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl Flow for Embedded {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        match condition {
            Some(embedding) => self.0.forward_embedded(x, embedding),
            None => Flow::forward(&self.0, x, None),
        }
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        match condition {
            Some(embedding) => self.0.inverse_embedded(v, embedding),
            None => Flow::inverse(&self.0, v, None),
        }
    }

    fn dim(&self) -> Option<usize> {
        Flow::dim(&self.0)
    }

    fn placement(&self) -> Option<Placement> {
        self.0.placement()
    }
}

/// A flow whose v is multiplied by a number.
pub(super) struct Scaled<'a>(pub(super) &'a dyn Flow, pub(super) f64);

impl Flow for Scaled<'_> {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (v, logdet) = self.0.forward(x, condition)?;
        let added = v.dims().get(1).copied().unwrap_or(1) as f64 * self.1.ln();
        Ok(((v * self.1)?, (logdet + added)?))
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok((self.0.latent(x, condition)? * self.1)?)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.0.inverse(&(v / self.1)?, condition)
    }

    fn dim(&self) -> Option<usize> {
        self.0.dim()
    }

    fn placement(&self) -> Option<Placement> {
        self.0.placement()
    }
}

/// Trains a small t (at most 4 flows of width 64) on the first half of the held-out images: on all
/// of them with the z of other images, so that it learns to do without z, or on a tenth of the
/// images.
pub(super) fn small_control(
    t: &Cinn,
    held_out: &HeldOut,
    without_z: bool,
    config: &CertificateConfig,
) -> Result<Cinn> {
    let small = CinnConfig {
        flows: t.config().flows.min(4),
        hidden: t.config().hidden.min(64),
        ..t.config().clone()
    };
    // In f32 also for a t in half precision, in which training is not tested.
    let at = Placement {
        device: held_out.components.device().clone(),
        dtype: DType::F32,
    };
    let params = Params::with(config.seed, at.dtype, &at.device);
    let control = Cinn::new(&small, &params.root())?;
    let half = held_out.half();
    let images = match without_z {
        true => half,
        false => (held_out.len() / 10).clamp(2, half),
    };
    let mut rng = Rng::named(config.seed, "control");
    let draw = |count: usize, rng: &mut Rng| -> Result<(Tensor, Tensor)> {
        let rows: Vec<u32> = (0..count).map(|_| rng.below(images) as u32).collect();
        let others: Vec<u32> = match without_z {
            true => (0..count).map(|_| rng.below(images) as u32).collect(),
            false => rows.clone(),
        };
        let device = held_out.z.device();
        let z = held_out.z.index_select(&Tensor::new(others, device)?, 0)?;
        let rows = Tensor::new(rows, held_out.code.device())?;
        let code = held_out.code.index_select(&rows, 0)?;
        Ok((at.take(&code)?, at.take(&z)?))
    };
    let (code, z) = draw(256.max(images.min(512)), &mut rng)?;
    control.initialize(&code, &z)?;
    let mut adam = Adam::named(params.trained())?
        .betas(0.9, 0.99)
        .clip(Some(100.0));
    for step in 0..config.control_steps {
        let (code, z) = draw(128, &mut rng)?;
        let (v, logdet) = control.forward(&code, &z)?;
        let rate = 2e-3 * (1.0 - step as f64 / config.control_steps as f64);
        adam.step_at(&nll(&v, &logdet)?.backward()?, rate)?;
    }
    Ok(control)
}
