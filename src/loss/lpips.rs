//! LPIPS, the learned perceptual distance between images, with VGG-16 features.

use crate::backbone::{Backbone, Network, Preprocess};
use crate::ops::widened as wide;
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;

/// The layers of VGG-16 whose features are compared.
const LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"];

/// LPIPS (arXiv 1801.03924), a perceptual distance between two images. It compares features of
/// VGG-16 at five depths; the channel weights were fitted to human judgements. The network is
/// frozen, and the images get a gradient. Images are moved and converted to the device and the
/// number type of the network; the features of a network in half precision are compared in f32.
///
/// VGG-16 comes from the hub, and the weights of the channels at the five depths are the authors'
/// `vgg_lpips`:
///
/// ```no_run
/// use invariances::{candle_core::Device, hub::{Hub, HubNetworks, published}, loss::Lpips, ops::Rng};
/// let hub = Hub::open()?;
/// let heads = published("vgg_lpips")?;
/// heads.fetch(&hub)?;
/// let lpips = Lpips::new(&hub.backbone("vgg16")?, &heads.open()?.tensors()?)?;
/// let mut rng = Rng::new(0);
/// let (a, b) = (rng.normal((2, 3, 64, 64), &Device::Cpu)?, rng.normal((2, 3, 64, 64), &Device::Cpu)?);
/// assert_eq!(lpips.distance(&a, &b)?.dims(), [2]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lpips {
    network: Backbone,
    heads: Vec<Tensor>,
}

impl Lpips {
    /// Creates the distance from VGG-16 and the channel weights. The weights have the names of
    /// the authors' checkpoint, `lin0.model.1.weight` … `lin4.model.1.weight`, each (1, channels,
    /// 1, 1). Tensors with other names are ignored.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the network is not VGG-16 or a weight is missing; [`Error::Shape`] if
    /// a weight has a wrong shape.
    pub fn new(vgg: &Backbone, heads: &HashMap<String, Tensor>) -> Result<Self> {
        // The authors' scaling layer maps images in [−1, 1] to ImageNet's normalisation.
        let colours = Preprocess {
            size: None,
            ..Preprocess::imagenet(224)
        };
        let network = vgg.frozen()?.with_preprocess(&colours);
        let shapes = network.shapes([3, 64, 64])?;
        let placement = network.placement();
        let found = LAYERS.iter().enumerate().map(|(i, layer)| {
            let channels = shapes[network.position(layer)?].first().copied();
            let channels = channels.unwrap_or(0);
            let name = format!("lin{i}.model.1.weight");
            let head = heads.get(&name).ok_or_else(|| {
                Error::unknown(format!(
                    "no {name} among the channel weights of LPIPS: load them from the checkpoint \
                     vgg_lpips"
                ))
            })?;
            if head.dims() != [1, channels, 1, 1] {
                return Err(Error::shape(format!(
                    "expected {name} of shape [1, {channels}, 1, 1] for {layer} of VGG-16, found \
                     {:?}",
                    head.dims()
                )));
            }
            Ok(match &placement {
                Some(placement) => head.detach().to_device(&placement.device)?,
                None => head.detach(),
            })
        });
        let heads = found.collect::<Result<_>>()?;
        Ok(Self { network, heads })
    }

    /// Computes the distance of each pair of images (batch, 3, h, w) in [−1, 1]; the result is
    /// (batch,).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, or if the images are smaller than 16 pixels.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.dims() != b.dims() {
            return Err(Error::shape(format!(
                "expected images of the same shape, found {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        let unit = |z: &Tensor| -> Result<Tensor> {
            let z = wide(z)?;
            // 1e-20 keeps the gradient of the root finite at positions where all features are 0.
            let length = ((z.sqr()?.sum_keepdim(1)? + 1e-20)?.sqrt()? + 1e-10)?;
            Ok(z.broadcast_div(&length)?)
        };
        let (fa, fb) = (
            self.network.encode_all(a, &LAYERS)?,
            self.network.encode_all(b, &LAYERS)?,
        );
        let parts = fa.iter().zip(&fb).zip(&self.heads).map(|((a, b), head)| {
            let differences = (unit(a)? - unit(b)?)?.sqr()?;
            let head = head.to_dtype(differences.dtype())?;
            let weighted = differences.broadcast_mul(&head)?.sum(1)?;
            Ok(weighted.flatten_from(1)?.mean(1)?)
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&parts, 0)?.sum(0)?)
    }
}
