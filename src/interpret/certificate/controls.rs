//! The controls of a certificate: 0.9·v and two small networks.

use super::CertificateConfig;
use super::tests::HeldOut;
use crate::Result;
use crate::flow::{Cinn, CinnConfig, Condition, Flow};
use crate::loss::nll;
use crate::ops::{Adam, Params, Placement, Rng};
use candle_core::{DType, Tensor};

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

    fn density_is_slow(&self) -> bool {
        self.0.density_is_slow()
    }
}

/// Trains a small t (4 blocks of affine coupling, width 64) on the first half of the held-out
/// images: on all of them with the z of other images, so that it learns to do without z, or on a
/// tenth of the images. `condition` is the shape of z, which codes keep flattened.
pub(super) fn small_control(
    held_out: &HeldOut,
    condition: Condition,
    without_z: bool,
    config: &CertificateConfig,
) -> Result<Cinn> {
    let small = CinnConfig {
        flows: 4,
        hidden: 64,
        ..CinnConfig::new(held_out.code.dim(1)?, condition)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes keep z of a map flattened; the control's embedder is for the map.
    #[test]
    fn controls_of_a_map_have_its_embedder() -> Result<()> {
        let mut rng = Rng::new(0);
        let on = &candle_core::Device::Cpu;
        let config = CertificateConfig {
            control_steps: 1,
            ..CertificateConfig::brief()
        };
        let (code, z) = (rng.normal((60, 4), on)?, rng.normal((60, 2 * 8 * 8), on)?);
        let held_out = HeldOut::new(&code, &z, None, &config)?;
        let map = Condition::of(&[2, 8, 8]);
        let control = small_control(&held_out, map, false, &config)?;
        assert_eq!(control.config().condition, map);
        Ok(())
    }
}
