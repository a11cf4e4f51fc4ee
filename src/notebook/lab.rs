use super::{Claim, ClaimBuilder, Claims, Scale};
use crate::data::Digits;
use crate::figure::{Explorer, Figure, Film, escape, show};
use crate::hub::Hub;
use crate::metric::Estimate;
use crate::ops::keep_freed_memory;
use crate::train::Store;
use crate::{Error, Result};
use candle_core::Device;
use invariances_core::files::cache_dir;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A notebook's settings, and where what it makes is kept. Every notebook begins with
/// `let lab = Lab::open("01_invariances")?;`.
///
/// | variable | what it sets | otherwise |
/// | --- | --- | --- |
/// | `INVARIANCES_SCALE` | sizes, steps, sources: smoke, quick, real, paper | quick |
/// | `INVARIANCES_SEED` | every random number | 0 |
/// | `INVARIANCES_OUT` | where figures and claims go | `out` in the project's folder |
/// | `INVARIANCES_CACHE` | where trained networks and downloads are kept | the user's cache folder |
/// | `INVARIANCES_MNIST` | the parquet file of real digits | the hub's `ylecun/mnist` |
/// | `INVARIANCES_IMAGES` | the photographs of [`Lab::images`] | |
/// | `INVARIANCES_OFFLINE` | 1: nothing is downloaded | 0 |
/// | `INVARIANCES_SET` | what a notebook asks for by [`Lab::setting`]: `name=value`, several by `;` | |
///
/// `INVARIANCES_IMAGES` names images in one of these forms:
///
/// | form | images |
/// | --- | --- |
/// | `animals` | a folder with a folder of images per class |
/// | `train.parquet` | a parquet file of images |
/// | `cifar100` | a folder of parquet files, or one whose folder `data` has them: their split `train` |
/// | `uoft-cs/cifar100` | a dataset of the hub: its split `train` |
///
/// Settings follow after a `?`, joined by `&`, such as
/// `uoft-cs/cifar100?split=test&label=coarse_label`; in a shell such a value needs quotes.
/// `image=COLUMN` and `label=COLUMN` name columns of parquet files, `label=` reads no labels,
/// `unlabelled=skip` leaves out rows without a label, and `split=NAME` chooses a split. Columns
/// that are not named are found by the rules of [`ImageColumns`](crate::data::ImageColumns), and a
/// line says which.
#[derive(Clone, Debug)]
pub struct Lab {
    notebook: String,
    scale: Scale,
    seed: u64,
    device: Device,
    out: PathBuf,
    cache: PathBuf,
    offline: bool,
    /// What was set by `--set`, and whether somebody asked for it.
    settings: Arc<Mutex<BTreeMap<String, (String, bool)>>>,
}

impl Lab {
    /// Reads the settings for a notebook, whose name becomes part of its files' names.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with other characters than letters, digits, `_` and `-`, or for a
    /// setting that cannot be used.
    pub fn open(notebook: &str) -> Result<Self> {
        check_name("a notebook", notebook)?;
        let scale = match setting("INVARIANCES_SCALE")? {
            None => Scale::default(),
            Some(text) => text
                .parse()
                .map_err(|e| Error::invalid(format!("INVARIANCES_SCALE: {e}")))?,
        };
        let seed = match setting("INVARIANCES_SEED")? {
            None => 0,
            Some(text) => text.trim().parse().map_err(|_| {
                Error::invalid(format!(
                    "INVARIANCES_SEED must be a whole number from 0 to {}, found “{text}”",
                    u64::MAX
                ))
            })?,
        };
        let offline = match setting("INVARIANCES_OFFLINE")?.as_deref() {
            None | Some("0" | "false" | "no") => false,
            Some("1" | "true" | "yes") => true,
            Some(text) => {
                return Err(Error::invalid(format!(
                    "INVARIANCES_OFFLINE must be 0 or 1, found “{text}”"
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
            seed,
            device: device()?,
            out,
            cache: cache_dir()?,
            offline,
            settings: Arc::new(Mutex::new(settings.collect())),
        })
    }

    /// The same settings at another scale.
    pub fn with_scale(&self, scale: Scale) -> Self {
        Self {
            scale,
            ..self.clone()
        }
    }

    /// The same settings with another seed.
    pub fn with_seed(&self, seed: u64) -> Self {
        Self {
            seed,
            ..self.clone()
        }
    }

    /// The same settings with another output folder.
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

    /// What decides sizes, steps and sources.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The seed of every random number.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where tensors live: the CPU, or a GPU where the crate was built for one and there is one.
    pub fn device(&self) -> &Device {
        &self.device
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

    /// The trained networks in the cache.
    pub fn store(&self) -> Store {
        Store::open(self.cache.join("trained"))
    }

    /// The hub as the environment sets it, offline where `INVARIANCES_OFFLINE` says so.
    /// A cell that fetches a file prints lines meanwhile.
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

    /// A setting of the notebook that a study can change (`invariances study 05 --set flows=20`): what was set, else `default`.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// let lab = Lab::open("example")?;
    /// let flows: usize = lab.setting("flows", 12)?;
    /// # assert_eq!(flows, 12);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where what was set is of another type.
    pub fn setting<T: std::str::FromStr + fmt::Display>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T> {
        check_name("a setting", name)?;
        let mut settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let Some((value, asked)) = settings.get_mut(name) else {
            return Ok(default);
        };
        *asked = true;
        value.parse().map_err(|_| {
            Error::invalid(format!(
                "the setting {name} was set to “{value}”, expected something like {default}"
            ))
        })
    }

    /// What was set.
    pub(super) fn settings(&self) -> BTreeMap<String, String> {
        let settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let each = settings.iter();
        each.map(|(n, (v, _))| (n.clone(), v.clone())).collect()
    }

    /// What was set and nobody asked for.
    pub(super) fn unasked(&self) -> Vec<String> {
        let settings = self.settings.lock().unwrap_or_else(|p| p.into_inner());
        let unasked = settings.iter().filter(|(_, (_, asked))| !asked);
        unasked.map(|(n, _)| n.clone()).collect()
    }

    /// The folder of the studies that come with the project.
    pub(super) fn studies(&self) -> Result<PathBuf> {
        Ok(project_folder()?.join("data").join("studies"))
    }

    /// The digits, `size` pixels wide: by the setting `digits`, `strokes` (procedural ones, at smoke and quick) or `mnist` (at real and paper),
    /// from the parquet file that `INVARIANCES_MNIST` names, else from the hub's `ylecun/mnist`.
    ///
    /// # Errors
    /// [`Error::Download`] where the hub is needed and cannot be reached; else as [`Digits::mnist`]; [`Error::Invalid`] for another setting.
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
                            Error::invalid("ylecun/mnist has no file of the split train; name one by INVARIANCES_MNIST")
                        })?
                    }
                };
                Digits::mnist(path, size, 0)
            }
            other => Err(super::subject::unknown("digits", other, &all)),
        }
    }

    /// Keeps a figure as `figures/<notebook>-<name>.png`, `.svg` and `.pdf` in the output folder, and the numbers behind it as `.csv`, with the
    /// notebook, the scale, the seed and the version in its metadata, and gives it back: as a
    /// cell's last expression (`lab.figure("samples", &figure)?`) it shows itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be a file's, [`Error::Io`] where a file cannot be written.
    pub fn figure(&self, name: &str, figure: &Figure) -> Result<Figure> {
        check_name("a figure", name)?;
        let figure = figure
            .note("notebook", &self.notebook)
            .note("scale", self.scale)
            .note("seed", self.seed)
            .note("version", crate::VERSION);
        let numbers = figure.has_numbers().then_some("csv");
        for ending in ["png", "svg", "pdf"].into_iter().chain(numbers) {
            figure.save(self.kept(name, ending))?;
        }
        Ok(figure)
    }

    /// Keeps a film as `figures/<notebook>-<name>.png`, as [`Lab::figure`] keeps a figure, and gives it back.
    ///
    /// # Errors
    /// As [`Lab::figure`] and [`Film::png`].
    pub fn film(&self, name: &str, film: &Film) -> Result<Film> {
        check_name("a figure", name)?;
        let film = film
            .note("notebook", &self.notebook)
            .note("scale", self.scale)
            .note("seed", self.seed);
        film.save(self.kept(name, "png"))?;
        Ok(film)
    }

    /// Keeps what a reader moves as `figures/<notebook>-<name>.html`, and the images of it that a paper can show as [`Lab::figure`] does; gives it back.
    ///
    /// # Errors
    /// As [`Lab::figure`] and [`Explorer::html`].
    pub fn explorer(&self, name: &str, explorer: &Explorer) -> Result<Explorer> {
        self.figure(name, &explorer.figure()?)?;
        let explorer = explorer
            .note("notebook", &self.notebook)
            .note("scale", self.scale)
            .note("seed", self.seed);
        explorer.save(self.kept(name, "html"))?;
        Ok(explorer)
    }

    /// Where a figure's file is.
    fn kept(&self, name: &str, ending: &str) -> PathBuf {
        let folder = self.out.join("figures");
        folder.join(format!("{}-{name}.{ending}", self.notebook))
    }

    /// Begins a claim: `lab.claim("samples-keep-class", kept).statement("…").at_least(0.9).state()?`.
    /// Its value is a number or an [`Estimate`] with its interval.
    pub fn claim(&self, name: &str, value: impl Into<Estimate>) -> ClaimBuilder {
        ClaimBuilder::new(self, name, value.into())
    }

    /// Several claims of one cell, shown as one table.
    pub fn claims<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> Claims {
        Claims::new(claims)
    }

    /// Shows the settings in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        show(Ok(format!("<code>{}</code>", escape(&self.to_string()))));
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
            Device::Cuda(_) => "CUDA".into(),
            Device::Metal(_) => "Metal".into(),
        };
        write!(
            f,
            "{}: scale {}, seed {}, {device}, output in {}",
            self.notebook,
            self.scale,
            self.seed,
            // The folder's name alone: a notebook that is handed on should not tell whose machine it ran on.
            Path::new(self.out.file_name().unwrap_or_default()).display()
        )
    }
}

/// `name=value;name=value`.
fn parse_settings(text: &str) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for part in text.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            Error::invalid(format!(
                "INVARIANCES_SET: expected name=value, several separated by `;`, found “{part}”"
            ))
        })?;
        check_name("a setting", name.trim())?;
        settings.insert(name.trim().into(), value.trim().into());
    }
    Ok(settings)
}

/// A name that is safe as part of a file's.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 80 || !name.chars().all(good) {
        return Err(Error::invalid(format!(
            "the name of {what} is made of at most 80 letters, digits, _ and -, found “{name}”"
        )));
    }
    Ok(())
}

fn setting(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(text)) => Err(Error::invalid(format!(
            "{name} must be plain text, found {}",
            text.display()
        ))),
    }
}

/// The folder that holds `notebooks/`, seen from the folder in which the kernel works.
fn project_folder() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::io(".", e))?;
    let inside = here
        .ancestors()
        .find(|f| f.ends_with("notebooks"))
        .and_then(Path::parent);
    Ok(inside.unwrap_or(&here).to_path_buf())
}

fn device() -> Result<Device> {
    if cfg!(feature = "cuda") {
        return Ok(Device::cuda_if_available(0)?);
    }
    if cfg!(feature = "metal") {
        return Ok(Device::metal_if_available(0)?);
    }
    Ok(Device::Cpu)
}
