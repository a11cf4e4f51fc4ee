use crate::backbone::{Backbone, Network, Preprocess};
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;

/// The layers of VGG-16 that are compared.
const LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"];

/// LPIPS (arXiv 1801.03924): how different two images look, by the features of VGG-16 at five depths, each channel weighted as people
/// judged it. Frozen, with a gradient for the images.
///
/// VGG-16 is the hub's, the five weightings are the authors' `vgg_lpips`:
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
    /// From VGG-16 and the weightings of its channels under the names of the authors' checkpoint, `lin0.model.1.weight` …
    /// `lin4.model.1.weight`, each (1, channels, 1, 1). Other names are not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the network is not VGG-16 or a weighting is missing or misshapen.
    pub fn new(vgg: &Backbone, heads: &HashMap<String, Tensor>) -> Result<Self> {
        // The network sees images in [−1, 1] as the authors' scaling layer gives them, which are ImageNet's colours.
        let colours = Preprocess {
            size: None,
            ..Preprocess::imagenet(224)
        };
        let network = vgg.frozen()?.with_preprocess(&colours);
        let shapes = network.shapes([3, 64, 64])?;
        let found = LAYERS.iter().enumerate().map(|(i, layer)| {
            let channels = shapes[network.position(layer)?].first().copied();
            let channels = channels.unwrap_or(0);
            let name = format!("lin{i}.model.1.weight");
            let head = heads.get(&name).ok_or_else(|| {
                Error::invalid(format!(
                    "no {name} among the weightings of LPIPS: take them from the checkpoint vgg_lpips"
                ))
            })?;
            if head.dims() != [1, channels, 1, 1] {
                return Err(Error::invalid(format!(
                    "{name} has shape {:?}, expected [1, {channels}, 1, 1] for {layer} of VGG-16",
                    head.dims()
                )));
            }
            Ok(head.detach())
        });
        let heads = found.collect::<Result<_>>()?;
        Ok(Self { network, heads })
    }

    /// The distance of each pair of images (batch, 3, h, w) in [−1, 1]: (batch,).
    ///
    /// # Errors
    /// [`Error::Invalid`] where the shapes differ, or the images are smaller than 16 pixels.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.dims() != b.dims() {
            return Err(Error::invalid(format!(
                "LPIPS compares images of one shape, found {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        let unit = |z: &Tensor| -> Result<Tensor> {
            // The first small number keeps the gradient finite where a place has no features at all.
            let length = ((z.sqr()?.sum_keepdim(1)? + 1e-20)?.sqrt()? + 1e-10)?;
            Ok(z.broadcast_div(&length)?)
        };
        let (fa, fb) = (
            self.network.encode_all(a, &LAYERS)?,
            self.network.encode_all(b, &LAYERS)?,
        );
        let parts = fa.iter().zip(&fb).zip(&self.heads).map(|((a, b), head)| {
            let differences = (unit(a)? - unit(b)?)?.sqr()?;
            let weighted = differences.broadcast_mul(head)?.sum(1)?;
            Ok(weighted.flatten_from(1)?.mean(1)?)
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&parts, 0)?.sum(0)?)
    }
}
