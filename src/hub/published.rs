//! The checkpoints that the paper's authors published: addresses, hashes and configurations.

use super::{Checkpoint, Hub};
use crate::flow::{CinnConfig, Condition, Conditioning, CouplingConfig, FlowActivation, Mixing};
use crate::{Error, Result};
use invariances_core::files::cache_dir;
use invariances_core::names::nearest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Table of the authors' published checkpoints: name, address, MD5 and configuration.
const TABLE: &str = include_str!("../../data/checkpoints.json");

/// A checkpoint that the authors published.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Published {
    /// Its name in the authors' table.
    #[serde(skip)]
    pub name: String,
    /// The address of the file.
    pub url: String,
    /// The MD5 of the file, if the authors give one.
    pub md5: Option<String>,
    /// The authors' configuration: an object with the key `Transformer` for a conditional
    /// invertible network t or `Model` for a classifier, or null.
    #[serde(default)]
    pub config: serde_json::Value,
}

/// The sizes of t, under the names that the authors use.
#[derive(Deserialize)]
struct Transformer {
    in_channels: usize,
    mid_channels: usize,
    hidden_depth: usize,
    n_flows: usize,
    conditioning_in_channels: usize,
    conditioning_spatial_size: usize,
    embedder_down: Option<usize>,
    conditioning_depth: Option<usize>,
    conditioning_option: String,
    activation: String,
}

fn table() -> Result<BTreeMap<String, Published>> {
    let table: BTreeMap<String, Published> = serde_json::from_str(TABLE)
        .map_err(|e| Error::content("data/checkpoints.json", e.to_string()))?;
    let entries = table.into_iter().map(|(name, file)| {
        let file = Published {
            name: name.clone(),
            ..file
        };
        (name, file)
    });
    Ok(entries.collect())
}

/// Returns the names of the published checkpoints, sorted.
///
/// # Errors
/// Only if the crate was built with an invalid table.
pub fn published_names() -> Result<Vec<String>> {
    Ok(table()?.into_keys().collect())
}

/// Returns the published checkpoint with this name.
///
/// ```
/// use invariances::{flow::Condition, hub::published};
/// let file = published("cinn_alexnet_aae_conv5")?;
/// let config = file.cinn()?;
/// assert_eq!((config.dim, config.hidden, config.flows), (128, 1024, 20));
/// assert_eq!(config.condition, Condition::Map { channels: 256, size: 13, down: 2 });
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unknown`] for an unknown name; the error suggests the most similar one.
pub fn published(name: &str) -> Result<Published> {
    let mut table = table()?;
    if let Some(file) = table.remove(name) {
        return Ok(file);
    }
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    let advice = match nearest(name, &names) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("available: {}", names.join(", ")),
    };
    Err(Error::unknown(format!(
        "no published checkpoint {name:?}; {advice}"
    )))
}

impl Published {
    /// Returns the configuration of a published conditional invertible network t. With it,
    /// [`crate::flow::Cinn`] has the checkpoint's names and shapes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the checkpoint is not a conditional invertible network;
    /// [`Error::Invalid`] if its configuration is invalid.
    pub fn cinn(&self) -> Result<CinnConfig> {
        let wrong = |what: String| Error::invalid(format!("{}: {what}", self.name));
        let settings = self.config.get("Transformer").ok_or_else(|| {
            Error::unsupported(format!(
                "{}: not a conditional invertible network (the names of these start with cinn_)",
                self.name
            ))
        })?;
        let settings = Transformer::deserialize(settings).map_err(|e| wrong(e.to_string()))?;
        let conditioning = match settings.conditioning_option.as_str() {
            "none" => Conditioning::Shared,
            "sequential" => Conditioning::Sequential,
            "parallel" => Conditioning::Parallel,
            other => {
                return Err(wrong(format!(
                    "expected conditioning_option none, sequential or parallel, found {other:?}"
                )));
            }
        };
        let activation = match settings.activation.as_str() {
            "none" => FlowActivation::None,
            "lrelu" => FlowActivation::Lrelu,
            other => {
                return Err(wrong(format!(
                    "expected activation none or lrelu, found {other:?}"
                )));
            }
        };
        let channels = settings.conditioning_in_channels;
        let condition = match settings.conditioning_spatial_size {
            1 => Condition::Vector(channels),
            size => Condition::Map {
                channels,
                size,
                down: settings.embedder_down.ok_or_else(|| {
                    wrong(format!(
                        "expected embedder_down for a map of {size} pixels, found none"
                    ))
                })?,
            },
        };
        Ok(CinnConfig {
            dim: settings.in_channels,
            condition,
            hidden: settings.mid_channels,
            depth: settings.hidden_depth,
            flows: settings.n_flows,
            conditioning,
            conditioning_depth: settings.conditioning_depth.unwrap_or(4),
            activation,
            coupling: CouplingConfig::default(),
            mixing: Mixing::default(),
        })
    }

    /// Returns the path of the file: `checkpoints/NAME.ckpt` in the project's cache, see
    /// [`cache_dir`]. [`Published::fetch`] downloads the file to this path.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn path(&self) -> Result<PathBuf> {
        Ok(cache_dir()?
            .join("checkpoints")
            .join(format!("{}.ckpt", self.name)))
    }

    /// Downloads the file to [`Published::path`], unless it exists there. The MD5 is checked
    /// before the file gets its final name; if the authors give none, only the length is checked.
    /// See [`Hub::download`].
    ///
    /// ```no_run
    /// use invariances::hub::{Hub, published};
    /// let file = published("cinn_alexnet_aae_fc6")?;
    /// file.fetch(&Hub::open()?)?;
    /// println!("{:?}", file.open()?);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Hub::download`] and [`cache_dir`].
    pub fn fetch(&self, hub: &Hub) -> Result<PathBuf> {
        let path = self.path()?;
        hub.download(&self.url, &path, self.md5.as_deref())?;
        Ok(path)
    }

    /// Compares a file's MD5 with the published one. If the authors give none, it checks nothing.
    ///
    /// The check detects a damaged download. It does not detect a forged file; this is not
    /// needed, because a checkpoint is read as data only.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Content`] if its MD5 is different.
    pub fn check(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let Some(expected) = &self.md5 else {
            return Ok(());
        };
        let hint = || {
            format!(
                "expected the checkpoint {} from {}: call `Published::fetch` to download it",
                self.name, self.url
            )
        };
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e).with_hint(hint()))?;
        let mut hash = md5::Context::new();
        std::io::copy(
            &mut std::io::BufReader::with_capacity(1 << 20, file),
            &mut hash,
        )
        .map_err(|e| Error::io(path, e))?;
        let found = format!("{:x}", hash.finalize());
        if &found != expected {
            return Err(Error::content(
                path,
                format!(
                    "expected {} with MD5 {expected}, found {found}: download it again from {}",
                    self.name, self.url
                ),
            ));
        }
        Ok(())
    }

    /// Checks the file at [`Published::path`] with [`Published::check`], then opens it.
    ///
    /// # Errors
    /// As [`Published::check`] and [`Checkpoint::open`].
    pub fn open(&self) -> Result<Checkpoint> {
        let path = self.path()?;
        self.check(&path)?;
        Checkpoint::open(path)
    }
}
