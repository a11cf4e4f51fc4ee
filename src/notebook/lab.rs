//! [`Lab`], a notebook's settings, and the device, parameters, networks and digits that they
//! select.
//!
//! What a lab saves and shows is in `output.rs`, its images in `images.rs`, its subject in
//! `subject.rs`, and the table of a study in `comparison.rs`.

use super::Scale;
use super::environment::{chosen_device, parse_settings, project_folder, setting};
use crate::data::{Batch, Digits};
use crate::hub::Hub;
use crate::ops::{Params, Placement, device_name, keep_freed_memory};
use crate::train::{Store, retrains};
use crate::{Error, Result};
use candle_core::{DType, Device};
use invariances_core::files::cache_dir;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A notebook's settings, and the folders for its results. Every notebook begins with
/// `let lab = Lab::open("01_invariances")?;`.
///
/// | variable | sets | default |
/// | --- | --- | --- |
/// | `INVARIANCES_SCALE` | sizes, steps, data sources: smoke, quick, real, paper | quick |
/// | `INVARIANCES_SEED` | the seed of every random number but those of the network under study | 0 |
/// | `INVARIANCES_NETWORK_SEED` | the seed of the network under study ([`Lab::network_seed`]) | 0 |
/// | `INVARIANCES_DEVICE` | the device of the networks: cpu, cuda:1, metal | [`chosen_device`] |
/// | `INVARIANCES_OUT` | the folder of figures and claims | `out` in the project's folder |
/// | `INVARIANCES_CACHE` | the folder of trained networks and downloads | the user's cache folder |
/// | `INVARIANCES_MNIST` | the parquet file of real digits | the hub's `ylecun/mnist` |
/// | `INVARIANCES_IMAGES` | the photographs of [`Lab::images`] | |
/// | `INVARIANCES_OFFLINE` | 1: nothing is downloaded | 0 |
/// | `INVARIANCES_RETRAIN` | 1: networks in the cache are trained again ([`Lab::store`]) | 0 |
/// | `INVARIANCES_SET` | values of [`Lab::setting`]: `name=value`, several separated by `;` | |
///
/// `INVARIANCES_IMAGES` specifies images in one of these forms:
///
/// | form | images |
/// | --- | --- |
/// | `animals` | a folder with one folder of images per class |
/// | `train.parquet` | a parquet file of images |
/// | `cifar100` | a folder with parquet files in it or in its folder `data`: the split `train` |
/// | `uoft-cs/cifar100` | a dataset of the hub: the split `train` |
///
/// Options follow after a `?`, separated by `&`, for example
/// `uoft-cs/cifar100?split=test&label=coarse_label`. In a shell such a value needs quotes.
/// `image=COLUMN` and `label=COLUMN` give the columns of parquet files, `label=` reads no labels,
/// `unlabelled=skip` leaves out rows without a label, and `split=NAME` selects a split. Other
/// columns are found by the rules of [`ImageColumns`](crate::data::ImageColumns), and a printed
/// line states which columns were chosen.
#[derive(Clone, Debug)]
pub struct Lab {
    notebook: String,
    scale: Scale,
    seed: u64,
    network_seed: u64,
    device: Device,
    dtype: DType,
    out: PathBuf,
    cache: PathBuf,
    offline: bool,
    retrain: bool,
    /// The values set by `--set`, each with a flag: whether the notebook has read it.
    settings: Arc<Mutex<BTreeMap<String, (String, bool)>>>,
    /// The names of the claims that were stated since this lab was opened. In a notebook that was
    /// changed, the file of claims can contain others of an earlier run.
    pub(super) stated: Arc<Mutex<BTreeSet<String>>>,
}

impl Lab {
    /// Reads the settings for a notebook. Its name becomes part of its files' names.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with characters other than letters, digits, `_` and `-`, or
    /// for an invalid setting.
    pub fn open(notebook: &str) -> Result<Self> {
        check_name("a notebook", notebook)?;
        let scale = match setting("INVARIANCES_SCALE")? {
            None => Scale::default(),
            Some(text) => text
                .parse()
                .map_err(|e| Error::invalid(format!("INVARIANCES_SCALE: {e}")))?,
        };
        let offline = match setting("INVARIANCES_OFFLINE")?.as_deref() {
            None | Some("0" | "false" | "no") => false,
            Some("1" | "true" | "yes") => true,
            Some(text) => {
                return Err(Error::invalid(format!(
                    "INVARIANCES_OFFLINE: expected 0 or 1, found “{text}”"
                )));
            }
        };
        let settings = match setting("INVARIANCES_SET")? {
            None => BTreeMap::new(),
            Some(text) => parse_settings(&text)?,
        };
        let settings = settings.into_iter().map(|(n, v)| (n, (v, false)));
        let out = match std::env::var_os("INVARIANCES_OUT").filter(|v| !v.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => project_folder()?.join("out"),
        };
        let out = std::path::absolute(&out).map_err(|e| Error::io(&out, e))?;
        keep_freed_memory();
        Ok(Self {
            notebook: notebook.into(),
            scale,
            seed: seed("INVARIANCES_SEED")?,
            network_seed: seed("INVARIANCES_NETWORK_SEED")?,
            device: chosen_device()?,
            dtype: DType::F32,
            out,
            cache: cache_dir()?,
            offline,
            retrain: retrains()?,
            settings: Arc::new(Mutex::new(settings.collect())),
            stated: Arc::default(),
        })
    }

    /// Returns the same settings with another scale.
    pub fn with_scale(&self, scale: Scale) -> Self {
        Self {
            scale,
            ..self.clone()
        }
    }

    /// Returns the same settings with another seed.
    pub fn with_seed(&self, seed: u64) -> Self {
        Self {
            seed,
            ..self.clone()
        }
    }

    /// Returns the same settings with another seed of the network under study.
    pub fn with_network_seed(&self, network_seed: u64) -> Self {
        Self {
            network_seed,
            ..self.clone()
        }
    }

    /// Returns the same settings with another device and number type of the networks.
    pub fn with_placement(&self, placement: &Placement) -> Self {
        Self {
            device: placement.device.clone(),
            dtype: placement.dtype,
            ..self.clone()
        }
    }

    /// Returns the same settings with another output folder.
    pub fn with_out(&self, out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            ..self.clone()
        }
    }

    /// The notebook's name.
    pub fn notebook(&self) -> &str {
        &self.notebook
    }

    /// The scale, which decides sizes, steps and data sources.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The seed of every random number but those of the network under study: of t, of samples and
    /// of resamples.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The seed of the network under study, for a notebook that trains this network. A study
    /// varies it independently of [`Lab::seed`] (`invariances study 06 --networks 3`).
    pub fn network_seed(&self) -> u64 {
        self.network_seed
    }

    /// The device of the networks ([`chosen_device`]).
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type of the networks: f32, unless [`Lab::with_placement`] set another.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device and the number type of the networks.
    pub fn placement(&self) -> Placement {
        Placement {
            device: self.device.clone(),
            dtype: self.dtype,
        }
    }

    /// An empty set of parameters with the lab's seed, device and number type.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::backbone::squeezenet_small;
    /// let lab = Lab::open("example")?;
    /// let network = squeezenet_small(10, &lab.params().root())?;
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn params(&self) -> Params {
        self.params_with_seed(self.seed)
    }

    /// An empty set of parameters with another seed, and the lab's device and number type.
    pub fn params_with_seed(&self, seed: u64) -> Params {
        Params::with(seed, self.dtype, &self.device)
    }

    /// The batch with its images and labels on the lab's device, the images in its number type.
    /// Use it for images that are shown next to what the networks make of them.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// let lab = Lab::open("example")?;
    /// let test = lab.on_device(Digits::strokes(32, 0)?.batch(Split::Test, 0, 4)?)?;
    /// assert_eq!(test.images.dims(), [4, 3, 32, 32]);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensor`] if the images do not fit the device's memory.
    pub fn on_device(&self, batch: Batch) -> Result<Batch> {
        Ok(Batch {
            images: self.placement().take(&batch.images)?,
            labels: batch.labels.to_device(&self.device)?,
            ..batch
        })
    }

    /// The folder of figures and claims.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The folder of trained networks and downloads.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether nothing may be downloaded.
    pub fn offline(&self) -> bool {
        self.offline
    }

    /// The trained networks in the cache, on the lab's device. If `INVARIANCES_RETRAIN` is 1, each
    /// network is trained again once per process ([`Store::without_reuse`]).
    pub fn store(&self) -> Store {
        let store = Store::open(self.cache.join("trained")).on(&self.placement());
        match self.retrain {
            true => store.without_reuse_in_process(),
            false => store,
        }
    }

    /// The hub as configured by the environment variables, offline if `INVARIANCES_OFFLINE` is
    /// set. A cell that downloads a file prints its progress.
    ///
    /// # Errors
    /// As [`Hub::open`].
    pub fn hub(&self) -> Result<Hub> {
        let hub = Hub::open()?;
        Ok(match self.offline {
            true => hub.with_offline_for("INVARIANCES_OFFLINE"),
            false => hub,
        })
    }

    /// The value of a setting that a study can change (`invariances study 05 --set steps=8000`), or
    /// `default` if it is not set.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// let lab = Lab::open("example")?;
    /// let steps: u64 = lab.setting("steps", 4000)?;
    /// # assert_eq!(steps, 4000);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if the value cannot be parsed as type `T`.
    pub fn setting<T: std::str::FromStr + fmt::Display>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T> {
        check_name("a setting", name)?;
        let mut settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let Some((value, was_read)) = settings.get_mut(name) else {
            return Ok(default);
        };
        *was_read = true;
        value.parse().map_err(|_| {
            Error::invalid(format!(
                "setting {name}: expected a value like {default}, found “{value}”"
            ))
        })
    }

    /// All values that are set.
    pub(super) fn settings(&self) -> BTreeMap<String, String> {
        let settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let each = settings.iter();
        each.map(|(n, (v, _))| (n.clone(), v.clone())).collect()
    }

    /// The names of settings that the notebook has not read.
    pub(super) fn unread_settings(&self) -> Vec<String> {
        let settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let unread = settings.iter().filter(|(_, (_, was_read))| !was_read);
        unread.map(|(n, _)| n.clone()).collect()
    }

    /// The folder of the studies that are part of the project.
    pub(super) fn studies(&self) -> Result<PathBuf> {
        Ok(project_folder()?.join("data").join("studies"))
    }

    /// The digits dataset with images of `size` × `size` pixels. The setting `digits` selects
    /// `strokes` (synthetic digits, the default at smoke and quick) or `mnist`
    /// (the default at real and paper). MNIST is read from the parquet file in
    /// `INVARIANCES_MNIST`, or from the hub's `ylecun/mnist`.
    ///
    /// # Errors
    /// [`Error::Download`] if the hub is needed and cannot be reached; [`Error::Invalid`] for
    /// another value of the setting; [`Error::Unknown`] if the dataset has no training split; also
    /// as [`Digits::mnist`].
    pub fn digits(&self, size: usize) -> Result<Digits> {
        let all = ["strokes", "mnist"];
        let default = self.scale.pick(all[0], all[0], all[1], all[1]);
        let source: String = self.setting("digits", default.to_string())?;
        match source.as_str() {
            "strokes" => Digits::strokes(size, 0),
            "mnist" => {
                let path = match setting("INVARIANCES_MNIST")? {
                    Some(path) => PathBuf::from(path),
                    None => {
                        let shards = self.hub()?.dataset("ylecun/mnist")?.parquet("train")?;
                        shards.into_iter().next().ok_or_else(|| {
                            Error::unknown(
                                "no parquet file of the split train in the dataset ylecun/mnist: set INVARIANCES_MNIST to a parquet file",
                            )
                        })?
                    }
                };
                Digits::mnist(path, size, 0)
            }
            other => Err(super::subject::unknown("digits", other, &all)),
        }
    }
}

impl fmt::Display for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match &self.device {
            Device::Cpu => {
                let threads = candle_core::utils::get_num_threads();
                format!(
                    "CPU, {threads} thread{}",
                    if threads == 1 { "" } else { "s" }
                )
            }
            other => device_name(other),
        };
        let network = match self.network_seed {
            0 => String::new(),
            seed => format!("seed of the network {seed}, "),
        };
        write!(
            f,
            "{}: scale {}, seed {}, {network}{device}, output in {}",
            self.notebook,
            self.scale,
            self.seed,
            // Only the name of the folder: a shared notebook should not reveal paths of the
            // user's machine.
            Path::new(self.out.file_name().unwrap_or_default()).display()
        )
    }
}

/// Reads a seed from an environment variable; 0 if it is not set.
fn seed(variable: &str) -> Result<u64> {
    let Some(text) = setting(variable)? else {
        return Ok(0);
    };
    text.trim().parse().map_err(|_| {
        Error::invalid(format!(
            "{variable}: expected a whole number from 0 to {}, found “{text}”",
            u64::MAX
        ))
    })
}

/// Checks that a name is safe as part of a file name.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 80 || !name.chars().all(is_allowed) {
        return Err(Error::invalid(format!(
            "expected a name of {what} with 1 to 80 letters, digits, _ and -, found “{name}”"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The store and the parameters of a lab have its device, number type and seed.
    #[test]
    fn a_lab_places_its_networks() -> Result<()> {
        let exact = Placement {
            device: Device::Cpu,
            dtype: DType::F64,
        };
        let lab = Lab::open("example")?.with_placement(&exact).with_seed(7);
        assert_eq!(lab.params().dtype(), DType::F64);
        assert_eq!(lab.store().params(1).dtype(), DType::F64);
        assert_eq!(lab.placement().dtype, lab.dtype());
        let init = crate::ops::Init::Normal(1.0);
        let draw = |params: Params| -> Result<Vec<f64>> {
            crate::ops::values(&params.root().get(3, "w", init)?.as_detached_tensor())
        };
        assert_eq!(draw(lab.params())?, draw(lab.store().params(7))?);
        assert_ne!(draw(lab.params())?, draw(lab.params_with_seed(8))?);
        let batch = Digits::strokes(32, 0)?;
        let batch = crate::data::Dataset::batch(&batch, crate::data::Split::Test, 0, 2)?;
        assert_eq!(lab.on_device(batch)?.images.dtype(), DType::F64);
        Ok(())
    }

    /// The two seeds are set apart from each other, and a lab names the second if it is not 0.
    #[test]
    fn the_network_has_a_seed_of_its_own() -> Result<()> {
        let lab = Lab::open("example")?.with_seed(3).with_network_seed(7);
        assert_eq!((lab.seed(), lab.network_seed()), (3, 7));
        let text = lab.to_string();
        assert!(text.contains("seed 3, seed of the network 7, "), "{text}");
        let text = lab.with_network_seed(0).to_string();
        assert!(!text.contains("network"), "{text}");
        Ok(())
    }
}
