//! [`mix`], an image with the invariances of one image and the representation of another.

use crate::autoencoder::Autoencoder;
use crate::backbone::Greybox;
use crate::flow::Flow;
use crate::{Error, Result};
use candle_core::Tensor;

/// Combines v of one image with z of another: D(t⁻¹(t(E(a) | Φ(a)) | Φ(b))). Φ is the `greybox`
/// for whose z t was trained. This shows what a layer discards of a, and what it keeps of b (the
/// "mixing" in the demonstrations of arXiv 2008.01777). Images are (batch, 3, h, w) in [−1, 1],
/// `v_of` and `z_of` row by row. If one of them is a single image, it is combined with all images
/// of the other. The resulting images are clamped and have no graph.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::ConvVaeConfig;
/// use invariances::backbone::squeezenet_small;
/// use invariances::interpret::mix;
/// let (digits, network) = (Digits::strokes(32, 0)?, squeezenet_small(10, &Params::new(0).root())?);
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let pool = network.at("pool")?;
/// let codes = Codes::of(&vae, &pool, &digits, Split::Test, 8)?;
/// let config = CinnTraining { flows: 2, ..Default::default() };
/// let t = Cinn::new(&config.config(&codes), &Params::new(0).root())?;
/// let x = digits.batch(Split::Test, 0, 4)?.images;
/// // With its own v, an image gives its reconstruction by E and D.
/// let same = (mix(&t, &vae, &pool, &x, &x)? - vae.reconstruct(&x)?)?;
/// assert!(same.abs()?.max_all()?.to_scalar::<f32>()? < 1e-3);
/// assert_eq!(mix(&t, &vae, &pool, &x.narrow(0, 0, 1)?, &x)?.dims(), x.dims());
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of images differ and neither is one, or if z does not fit t.
pub fn mix(
    t: &dyn Flow,
    autoencoder: &dyn Autoencoder,
    greybox: &Greybox,
    v_of: &Tensor,
    z_of: &Tensor,
) -> Result<Tensor> {
    let (v_count, z_count) = (v_of.dims4()?.0, z_of.dims4()?.0);
    if v_count == 0 || z_count == 0 || (v_count != z_count && v_count != 1 && z_count != 1) {
        return Err(Error::shape(format!(
            "expected the same number of images for v and for z, or a single image for one of them, found {v_count} and {z_count}"
        )));
    }
    let frozen = t.frozen();
    let t = frozen.as_deref().unwrap_or(t);
    let v = t.latent(&autoencoder.codes_of(v_of)?, Some(&greybox.features(v_of)?))?;
    let count = v_count.max(z_count);
    let all = |rows: Tensor| -> Result<Tensor> {
        match rows.dim(0)? == count {
            true => Ok(rows),
            false => Ok(rows.repeat((count, 1))?),
        }
    };
    let code = t.inverse(&all(v)?, Some(&all(greybox.features(z_of)?)?))?;
    autoencoder.images_of(&code.detach())
}
