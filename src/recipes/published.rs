//! The networks that the paper's authors published: AlexNet, BigAE, and t for AlexNet's layers.

use super::cpu;
use crate::Result;
use crate::autoencoder::{BigAe, BigAeConfig};
use crate::backbone::Backbone;
use crate::data::Attribute;
use crate::hub::{Hub, Published, Weights, published, weights};
use crate::metric::IndependentClassifier;
use crate::ops::{Params, Placement};
use candle_core::DType;
use std::collections::BTreeMap;

/// The layers of AlexNet in Figure 2 of the paper.
pub(crate) const ALEXNET: [&str; 5] = ["conv5", "fc6", "fc7", "fc8", "softmax"];

/// The sources of [`PublishedNetworks`] and of the published t, for users with their own copies.
///
/// ```no_run
/// use invariances::prelude::*;
/// use invariances::hub::{Weights, weights};
/// use invariances::notebook::Subject;
/// use invariances::recipes::Sources;
/// let mine = Weights { repository: Some("me/alexnet".into()), ..weights("alexnet")? };
/// let sources = Sources { network: mine, ..Sources::authors()? };
/// let subject = Subject::published(&Images::folder("animals")?, &sources, &Hub::open()?)?;
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sources {
    /// The network under study: an AlexNet.
    pub network: Weights,
    /// The independent classifier, with 1000 classes.
    pub independent: Weights,
    /// The network whose layer `pool` measures how natural images are.
    pub eye: Weights,
    /// BigAE.
    pub autoencoder: Published,
    /// The t of each layer, named `cinn_alexnet_aae_<layer>`.
    pub cinns: Vec<Published>,
}

impl Sources {
    /// The authors' files, for AlexNet's layers conv5, fc6, fc7, fc8 and softmax.
    ///
    /// # Errors
    /// None, if the crate was built from its own table of weights.
    pub fn authors() -> Result<Self> {
        let cinns = ALEXNET.map(|layer| published(&format!("cinn_alexnet_aae_{layer}")));
        Ok(Self {
            network: weights("alexnet")?,
            independent: weights("resnet50")?,
            eye: weights("fid_inception")?,
            autoencoder: published("bigae_animals")?,
            cinns: cinns.into_iter().collect::<Result<_>>()?,
        })
    }
}

/// The paper's own networks for photographs of 128 px, downloaded from their [`Sources`]. t is not
/// among them: a notebook needs the t of few layers.
///
/// ```no_run
/// use invariances::prelude::*;
/// use invariances::recipes::{PublishedNetworks, Sources};
/// let networks = PublishedNetworks::load(&Sources::authors()?, &Hub::open()?)?;
/// let photographs = Photographs::new(&Images::folder("animals")?, 128, 0)?;
/// let x = photographs.batch(Split::Test, 0, 2)?.images;
/// assert_eq!(networks.autoencoder.reconstruct(&x)?.dims(), x.dims());
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PublishedNetworks {
    /// The encoder E and the decoder D: the authors' BigAE for animals.
    pub autoencoder: BigAe,
    /// The network under study: an AlexNet.
    pub network: Backbone,
    /// The independent classifier of ImageNet's 1000 classes.
    pub independent: IndependentClassifier,
    /// The network whose layer `pool` measures how natural images are.
    pub eye: Backbone,
    /// The MD5 of each of the authors' files, or its address if they give none, and where the
    /// weights of the other networks come from.
    pub weights: BTreeMap<String, String>,
}

impl PublishedNetworks {
    /// Downloads and loads the networks, in f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Download`](crate::Error::Download) if a file cannot be downloaded;
    /// [`Error::Content`](crate::Error::Content) if a file has unexpected content.
    pub fn load(sources: &Sources, hub: &Hub) -> Result<Self> {
        Self::load_on(sources, hub, &cpu())
    }

    /// Downloads the networks and loads them on a device and in a number type.
    ///
    /// # Errors
    /// As [`PublishedNetworks::load`].
    pub fn load_on(sources: &Sources, hub: &Hub, placement: &Placement) -> Result<Self> {
        let independent = sources.independent.fetch_on(hub, placement)?;
        let classes: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
        let params = to_load(placement);
        let bigae = BigAe::new(&BigAeConfig::animals(), &params.root())?;
        sources.autoencoder.fetch(hub)?;
        sources.autoencoder.open()?.load_into(&params)?;
        let files = std::iter::once(&sources.autoencoder).chain(&sources.cinns);
        let hash = |p: &Published| p.md5.clone().unwrap_or_else(|| p.url.clone());
        let files = files.map(|p| (p.name.clone(), hash(p)));
        let source = |w: &Weights| {
            let file = (&w.repository, &w.revision, &w.file, &w.url, &w.sha256);
            format!("{} {file:?}", w.network)
        };
        let networks = [
            (STUDIED, &sources.network),
            ("judge", &sources.independent),
            ("eye", &sources.eye),
        ];
        let networks = networks.map(|(name, w)| (name.to_string(), source(w)));
        Ok(Self {
            autoencoder: bigae.frozen()?,
            network: sources.network.fetch_on(hub, placement)?,
            independent: IndependentClassifier::new(
                &independent,
                &[Attribute::class("class", &classes)],
            )?,
            eye: sources.eye.fetch_on(hub, placement)?,
            weights: files.chain(networks).collect(),
        })
    }
}

/// The name of the network under study in [`PublishedNetworks::weights`].
pub(crate) const STUDIED: &str = "network under study";

/// Parameters whose values are loaded next. They are created without random numbers where possible.
pub(crate) fn to_load(placement: &Placement) -> Params {
    match placement.dtype {
        DType::F32 => Params::blank(&placement.device),
        dtype => Params::with(0, dtype, &placement.device),
    }
}
