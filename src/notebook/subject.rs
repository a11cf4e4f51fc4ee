//! [`Subject`], the network under study of a notebook with its autoencoder, images and
//! independent classifier, and the settings of [`Lab`] that select it.

use super::Lab;
use crate::autoencoder::Decoder;
use crate::backbone::{Greybox, Network};
use crate::data::{Creatures, Dataset, Images, Photographs, Split};
use crate::flow::{Cinn, Flow};
use crate::hub::{Hub, Published};
use crate::interpret::{Codes, Fid, FlowTraining, mix, network_digest};
use crate::metric::IndependentClassifier;
use crate::ops::Placement;
use crate::recipes::{
    ALEXNET, CreaturesNetworks, FacesNetworks, PhotographsNetworks, PublishedNetworks, STUDIED,
    Sources, cpu, to_load,
};
use crate::train::Store;
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::names::nearest;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Side length of the images of the small synthetic datasets, in pixels.
const SIZE: usize = 64;
/// Side length of BigAE's images, in pixels.
const BIG: usize = 128;
/// The number of images whose outputs identify a network.
const DIGEST_IMAGES: usize = 8;

/// The subject of a notebook: a network under study, E and D, images, and an independent
/// classifier (`independent`). It is selected when the notebook runs ([`Lab::subject`]). The cells of
/// the notebook are the same for all subjects.
///
/// | | network | E and D | images | judge | naturalness |
/// | --- | --- | --- | --- | --- | --- |
/// | faces | shipped small FaceNet | shipped | synthetic, 64 px, 200 people | shipped | judge |
/// | creatures | shipped small AlexNet | shipped | synthetic, 64 px | shipped | judge |
/// | photographs | small AlexNet, trained | trained | yours, 64 px | trained | judge |
/// | published | the hub's AlexNet | BigAE `animals` | yours, 128 px | the hub's ResNet-50 | FID |
///
/// "Trained" means trained on your images when the notebook runs. The creatures combine any shape
/// with any texture. Naturalness is measured by a Fréchet distance of the judge's features, or by
/// the FID.
///
/// ```
/// use invariances::prelude::*;
/// let lab = Lab::open("example")?;
/// let subject = lab.subject()?;
/// let x = subject.dataset.batch(Split::Test, 0, 2)?.images;
/// assert_eq!(subject.network.at("fc6")?.encode(&x)?.dims()[0], 2);
/// assert_eq!(subject.autoencoder.reconstruct(&x)?.dims(), x.dims());
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Subject {
    /// The subject's name, as in the table.
    pub name: String,
    /// The network under study, frozen; [`Subject::with_network`] replaces it.
    pub network: Arc<dyn Network>,
    /// The layers to study first, from shallow to deep; for your own network its last three
    /// layers.
    pub layers: Vec<String>,
    /// E and D.
    pub autoencoder: Arc<dyn Decoder>,
    /// The images.
    pub dataset: Arc<dyn Dataset>,
    /// The independent classifier. It took no part in making any image.
    pub independent: IndependentClassifier,
    /// The factors of the images that the network's predictions can be compared with: those whose
    /// values have the same indices as the network's classes.
    pub answers: Vec<String>,
    /// What identifies the weights of the networks, for the notebook's configuration
    /// ([`Lab::study`]). After [`Subject::with_network`] it contains the digest of your network.
    pub weights: BTreeMap<String, String>,
    /// The features that measure how natural images are.
    naturalness: Greybox,
    /// Whether naturalness is in units of the variance of these features.
    in_units: bool,
    /// The smaller number of test and validation images, if the dataset is finite.
    max_held_out: Option<usize>,
    /// The published t for the network's layers.
    published: Vec<Published>,
    hub: Option<Hub>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dataset = self.dataset.id();
        write!(
            f,
            "Subject({}, {} on {dataset})",
            self.name,
            self.network.name()
        )
    }
}

impl Subject {
    /// Synthetic faces, and the networks for them that are shipped with the project. The network
    /// under study classifies 200 people. They are in f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Content`] if the shipped weights are missing.
    pub fn faces() -> Result<Self> {
        Self::faces_on(&cpu())
    }

    /// Same as [`Subject::faces`], with the networks on a device and in a number type.
    ///
    /// # Errors
    /// As [`Subject::faces`].
    pub fn faces_on(placement: &Placement) -> Result<Self> {
        let networks = FacesNetworks::load_on(placement)?;
        let weights = networks.cards.into_iter();
        Ok(Self {
            name: "faces".into(),
            network: Arc::new(networks.recogniser.frozen()?),
            layers: vec!["block3".into(), "embedding".into()],
            autoencoder: Arc::new(networks.autoencoder),
            dataset: Arc::new(networks.people),
            naturalness: networks.independent.network().at("pool")?,
            in_units: true,
            max_held_out: None,
            independent: networks.independent,
            answers: Vec::new(),
            weights: weights.map(|(name, card)| (name, card.weights)).collect(),
            published: Vec::new(),
            hub: None,
        })
    }

    /// Synthetic creatures, and the networks for them that are shipped with the project, in f32 on
    /// the CPU.
    ///
    /// # Errors
    /// [`Error::Content`] if the shipped weights are missing.
    pub fn creatures() -> Result<Self> {
        Self::creatures_on(&cpu())
    }

    /// Same as [`Subject::creatures`], with the networks on a device and in a number type.
    ///
    /// # Errors
    /// As [`Subject::creatures`].
    pub fn creatures_on(placement: &Placement) -> Result<Self> {
        let networks = CreaturesNetworks::load_on(placement)?;
        let weights = networks.cards.into_iter();
        Ok(Self {
            name: "creatures".into(),
            network: Arc::new(networks.classifier.frozen()?),
            layers: ALEXNET.map(String::from).to_vec(),
            autoencoder: Arc::new(networks.autoencoder),
            // The effects of shape and texture can be separated only if any shape can have any
            // texture.
            dataset: Arc::new(Creatures::new(SIZE, 0)?.stylized()),
            naturalness: networks.independent.network().at("pool")?,
            in_units: true,
            max_held_out: None,
            independent: networks.independent,
            answers: vec!["shape".into(), "texture".into()],
            weights: weights.map(|(name, card)| (name, card.weights)).collect(),
            published: Vec::new(),
            hub: None,
        })
    }

    /// Photographs, and small networks that are trained on them, on the store's device. E and D are
    /// trained for `steps` steps.
    ///
    /// # Errors
    /// As [`PhotographsNetworks::fit`].
    pub fn photographs(images: &Images, steps: u64, store: &Store) -> Result<Self> {
        let dataset = Photographs::new(images, SIZE, 0)?;
        let start = CreaturesNetworks::load_on(&store.placement())?.autoencoder;
        let networks = PhotographsNetworks::fit(&dataset, &start, steps, store)?;
        let weights = networks.cards.into_iter();
        let max_held_out = dataset.len(Split::Test).min(dataset.len(Split::Validation));
        Ok(Self {
            name: "photographs".into(),
            network: Arc::new(networks.classifier),
            layers: ALEXNET.map(String::from).to_vec(),
            autoencoder: Arc::new(networks.autoencoder),
            dataset: Arc::new(dataset),
            naturalness: networks.independent.network().at("pool")?,
            in_units: true,
            max_held_out: Some(max_held_out),
            independent: networks.independent,
            answers: vec!["class".into()],
            weights: weights.map(|(name, card)| (name, card.weights)).collect(),
            published: Vec::new(),
            hub: None,
        })
    }

    /// Photographs, the hub's AlexNet, and the authors' BigAE and t: the paper's own networks.
    /// Each t is downloaded when it is first needed. The networks are in f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Download`] if a file cannot be downloaded; [`Error::Content`] if a file has
    /// unexpected content.
    pub fn published(images: &Images, sources: &Sources, hub: &Hub) -> Result<Self> {
        Self::published_on(images, sources, hub, &cpu())
    }

    /// Same as [`Subject::published`], with the networks on a device and in a number type.
    ///
    /// # Errors
    /// As [`Subject::published`].
    pub fn published_on(
        images: &Images,
        sources: &Sources,
        hub: &Hub,
        placement: &Placement,
    ) -> Result<Self> {
        let networks = PublishedNetworks::load_on(sources, hub, placement)?;
        let dataset = Photographs::new(images, BIG, 0)?;
        Ok(Self {
            name: "published".into(),
            network: Arc::new(networks.network),
            layers: ALEXNET.map(String::from).to_vec(),
            autoencoder: Arc::new(networks.autoencoder),
            max_held_out: Some(dataset.len(Split::Test).min(dataset.len(Split::Validation))),
            dataset: Arc::new(dataset),
            naturalness: networks.eye.at("pool")?,
            in_units: false,
            independent: networks.independent,
            // The classes of the network are those of ImageNet; the classes of the images are the
            // user's.
            answers: Vec::new(),
            weights: networks.weights,
            published: sources.cinns.clone(),
            hub: Some(hub.clone()),
        })
    }

    /// Returns the same subject with your own network on images of the same size. Pass a frozen
    /// network. No published t exists for it, so each t is trained.
    ///
    /// The digest of the network ([`network_digest`], on images of the subject) is added to
    /// [`Subject::weights`], so a study of another network is not current for this one.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::notebook::Subject;
    /// let mine = Custom::new("mine").layer("mean", |x: &Tensor| x.flatten_from(2)?.mean(2));
    /// let subject = Subject::creatures()?.with_network(&mine)?;
    /// assert_eq!(subject.network.layers(), ["mean"]);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the network cannot process the images of this subject; errors of candle
    /// modules are [`Error::Tensor`].
    pub fn with_network(&self, network: &(impl Network + Clone + 'static)) -> Result<Self> {
        let all = network.layers();
        let last = all[all.len().saturating_sub(3)..].to_vec();
        let images = self.dataset.batch(Split::Train, 0, DIGEST_IMAGES)?.images;
        let mut weights = self.weights.clone();
        weights.insert(STUDIED.into(), network_digest(network, &images)?);
        Ok(Self {
            network: Arc::new(network.clone()),
            layers: last,
            // Its classes may differ from those of the images.
            answers: Vec::new(),
            weights,
            published: Vec::new(),
            hub: None,
            ..self.clone()
        })
    }

    /// Returns `wanted`, or the number of held-out images if that is smaller.
    pub fn held_out(&self, wanted: usize) -> usize {
        self.max_held_out.map_or(wanted, |max| wanted.min(max))
    }

    /// t of a layer of the network: the published one if it exists. Otherwise t is trained on
    /// `codes` and stored in `store` under the settings `config`. t is on the store's device.
    ///
    /// # Errors
    /// As [`FlowTraining::train`]; [`Error::Download`] and [`Error::Content`] for a published t.
    pub fn t(
        &self,
        greybox: &Greybox,
        codes: &Codes,
        config: &dyn FlowTraining,
        store: &Store,
    ) -> Result<Arc<dyn Flow>> {
        for file in &self.published {
            let file_layer = file.name.rsplit('_').next().unwrap_or_default();
            if self.network.at(file_layer)?.id() != greybox.id() {
                continue;
            }
            if let Some(hub) = &self.hub {
                file.fetch(hub)?;
            }
            let params = to_load(&store.placement());
            let t = Cinn::new(&file.cinn()?, &params.root())?;
            file.open()?.load_into(&params)?;
            return Ok(Arc::new(t));
        }
        Ok(config
            .train(
                &format!("{}-t-{}", self.name, greybox.layer()),
                codes,
                store,
            )?
            .0)
    }

    /// Combines v of one image with z of another, at a layer with its t ([`mix`]).
    ///
    /// # Errors
    /// As [`mix`].
    pub fn mix(
        &self,
        t: &dyn Flow,
        greybox: &Greybox,
        v_of: &Tensor,
        z_of: &Tensor,
    ) -> Result<Tensor> {
        mix(t, &self.autoencoder, greybox, v_of, z_of)
    }

    /// Generates a film if none is given. It interpolates linearly between the codes of three
    /// held-out images in turn, and back to the first. Returns `count` frames
    /// (count, 3, size, size).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0.
    pub fn wander(&self, count: usize) -> Result<Tensor> {
        const IMAGES: usize = 3;
        let code = self
            .autoencoder
            .codes_of(&self.dataset.batch(Split::Test, 0, IMAGES)?.images)?;
        let mut codes = Vec::new();
        for k in 0..count {
            let (from, part) = (
                IMAGES * k / count,
                (IMAGES * k % count) as f64 / count as f64,
            );
            let (current, next) = (
                code.narrow(0, from, 1)?,
                code.narrow(0, (from + 1) % IMAGES, 1)?,
            );
            codes.push(((current * (1.0 - part))? + (next * part)?)?);
        }
        if codes.is_empty() {
            return Err(Error::invalid("expected at least one frame, found 0"));
        }
        self.autoencoder.images_of(&Tensor::cat(&codes, 0)?)
    }

    /// Measures how far images are from these real images: the FID for the published networks,
    /// and a Fréchet distance of the independent classifier's features for the small networks.
    ///
    /// # Errors
    /// As [`Fid::new`].
    pub fn fid(&self, real: &Tensor) -> Result<Fid> {
        let fid = Fid::new(&self.naturalness, real)?;
        match self.in_units {
            true => fid.in_units(),
            false => Ok(fid),
        }
    }
}

impl Lab {
    /// The subject of the notebook. The setting `images` selects `creatures`
    /// (the default at smoke and quick), `faces`, `photographs` (the default at real) or
    /// `published` (the default at paper). The photographs are those in the variable
    /// `INVARIANCES_IMAGES` ([`Lab::images`]). The networks are on the lab's device.
    ///
    /// # Errors
    /// As [`Subject::creatures`], [`Subject::faces`], [`Subject::photographs`] and
    /// [`Subject::published`]; [`Error::Invalid`] for another value of the setting.
    pub fn subject(&self) -> Result<Subject> {
        self.subject_in("creatures")
    }

    /// Same as [`Lab::subject`], with another default at smoke and quick: `faces` or `creatures`.
    ///
    /// # Errors
    /// As [`Lab::subject`].
    pub fn subject_in(&self, dataset: &str) -> Result<Subject> {
        let all = ["creatures", "faces", "photographs", "published"];
        let default = self.scale().pick(dataset, dataset, all[2], all[3]);
        let source: String = self.setting("images", default.to_string())?;
        let placement = self.placement();
        match source.as_str() {
            "creatures" => Subject::creatures_on(&placement),
            "faces" => Subject::faces_on(&placement),
            "photographs" => {
                // At smoke, enough steps for the classifier to predict different classes for two
                // images. If all predictions are equal, a free share is not defined.
                let steps = self.scale().pick(40, 2500, 20_000, 40_000);
                Subject::photographs(&self.images()?, steps, &self.store())
            }
            "published" => Subject::published_on(
                &self.images()?,
                &Sources::authors()?,
                &self.hub()?,
                &placement,
            ),
            other => Err(unknown("images", other, &all)),
        }
    }
}

/// The error for an unknown value of a setting.
pub(super) fn unknown(setting: &str, found: &str, known: &[&str]) -> Error {
    let advice = match nearest(found, known) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    Error::invalid(format!(
        "setting {setting}: expected one of {}, found {found:?}{advice}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::Custom;

    /// Two networks with the same name and layers have different weights for a study; the same
    /// network has the same weights.
    #[test]
    fn another_network_is_another_subject() -> Result<()> {
        let shipped = Subject::creatures()?;
        let with = |factor: f64| {
            let network = Custom::new("mine")
                .layer("mean", |x: &Tensor| x.flatten_from(2)?.mean(2))
                .layer("scaled", move |x: &Tensor| x * factor);
            shipped.with_network(&network)
        };
        let (one, two) = (with(1.0)?, with(2.0)?);
        assert_eq!(one.network.layers(), two.network.layers());
        assert_ne!(one.weights, shipped.weights);
        assert_ne!(one.weights, two.weights);
        assert_eq!(one.weights, with(1.0)?.weights);
        // The other networks are the same.
        for (name, weights) in &shipped.weights {
            assert_eq!(one.weights.get(name), Some(weights));
        }
        let small = Custom::new("mine").layer("row", |x: &Tensor| x.narrow(3, 0, 999));
        assert!(shipped.with_network(&small).is_err());
        Ok(())
    }

    #[test]
    fn an_unknown_value_of_a_setting_is_answered_with_the_known_values() {
        let text = unknown("images", "creature", &["creatures", "photographs"]).to_string();
        assert!(
            text.contains("expected one of creatures, photographs")
                && text.contains("did you mean"),
            "{text}"
        );
    }
}
