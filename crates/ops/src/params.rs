//! The parameters of a network by name, with seeded initial values: [`Params`], [`Scope`] (a
//! place in the tree of names) and [`Init`] (the distribution of the initial values).
//!
//! `check` sets all values and compares names and shapes, `file` loads and saves safetensors files,
//! and `builder` gives the parameters to candle's models.

mod builder;
mod check;
mod file;
mod init;
mod scope;

pub use init::Init;
pub use scope::Scope;

use crate::{Error, Placement, Result, Rng};
use candle_core::{DType, Device, Shape, Tensor, Var};
use init::Draw;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parameters of a network, by name, with seeded initial values.
///
/// It replaces candle's `VarMap`, whose initial values cannot be seeded; [`Params::builder`]
/// returns a `VarBuilder` for models of candle-nn and candle-transformers. The initial values of a
/// parameter depend only on the seed and its name, not on the order in which a network creates its
/// parameters. A clone shares the parameters.
///
/// ```
/// use invariances_ops::{Init, Params};
/// let params = Params::new(0);
/// let w = params.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
/// assert_eq!(params.names(), ["fc.weight"]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
#[derive(Clone)]
pub struct Params {
    seed: u64,
    /// Whether every parameter starts at zero, because its value will be loaded.
    blank: bool,
    dtype: DType,
    device: Device,
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
}

#[derive(Clone)]
struct Entry {
    var: Var,
    trained: bool,
}

impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Params({} tensors, {} numbers)",
            self.names().len(),
            self.count()
        )
    }
}

impl Params {
    /// Creates an empty set of parameters. New parameters are f32 on the CPU.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, DType::F32, &Device::Cpu)
    }

    /// Creates an empty set of parameters with a dtype and a device.
    pub fn with(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            seed,
            blank: false,
            dtype,
            device: device.clone(),
            entries: Arc::default(),
        }
    }

    /// Creates an empty set of parameters whose new parameters are zeros, regardless of their
    /// [`Init`]. Use it for weights that are loaded next: a large network is then created
    /// quickly. dtype f32.
    pub fn blank(device: &Device) -> Self {
        Self {
            blank: true,
            ..Self::with(0, DType::F32, device)
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // The map is valid after every statement. It can therefore be used after another thread
        // panicked while it held the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the parameter or buffer `name`; if it does not exist, creates it with initial
    /// values from `draw`.
    fn entry(
        &self,
        name: String,
        (shape, dtype): (Shape, DType),
        draw: Draw,
        trained: bool,
    ) -> Result<Var> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&name) {
            if entry.var.shape() != &shape {
                return Err(Error::invalid(format!(
                    "parameter {name} exists with shape {:?}, asked for {:?}",
                    entry.var.dims(),
                    shape.dims()
                )));
            }
            return Ok(entry.var.clone());
        }
        let value = if self.blank {
            Tensor::zeros(shape, DType::F32, &Device::Cpu)?
        } else {
            let mut rng = Rng::named(self.seed, &name);
            Tensor::from_vec(
                draw.values(shape.elem_count(), &mut rng),
                shape,
                &Device::Cpu,
            )?
        };
        let var = Var::from_tensor(&value.to_dtype(dtype)?.to_device(&self.device)?)?;
        let entry = Entry {
            var: var.clone(),
            trained,
        };
        entries.insert(name, entry);
        Ok(var)
    }

    /// Returns the root of the tree of names.
    pub fn root(&self) -> Scope {
        Scope {
            params: self.clone(),
            prefix: String::new(),
        }
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the dtype of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the device and the dtype of the parameters.
    pub fn placement(&self) -> Placement {
        Placement {
            device: self.device.clone(),
            dtype: self.dtype,
        }
    }

    /// Returns the names of all parameters and buffers, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Returns the parameters that training changes (not the buffers), with their names.
    pub fn trained(&self) -> Vec<(String, Var)> {
        let entries = self.lock();
        let trained = entries.iter().filter(|(_, e)| e.trained);
        trained.map(|(n, e)| (n.clone(), e.var.clone())).collect()
    }

    /// Returns a parameter or buffer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name.
    pub fn var(&self, name: &str) -> Result<Var> {
        let entries = self.lock();
        let entry = entries.get(name);
        entry.map(|e| e.var.clone()).ok_or_else(|| {
            let known: Vec<_> = entries.keys().take(8).cloned().collect();
            Error::invalid(format!(
                "no parameter {name:?}; there are {} ({} …)",
                entries.len(),
                known.join(", ")
            ))
        })
    }

    /// Returns only the parameters and buffers below the given places; they are shared with this
    /// set. Use it to train or save a part of a network.
    ///
    /// ```
    /// use invariances_ops::{Init, Params};
    /// let params = Params::new(0);
    /// for place in ["encoder", "decoder"] {
    ///     params.root().pp(place).get(3, "bias", Init::Const(0.0))?;
    /// }
    /// assert_eq!(params.below(&["decoder"]).names(), ["decoder.bias"]);
    /// # Ok::<(), invariances_ops::Error>(())
    /// ```
    pub fn below(&self, places: &[&str]) -> Self {
        let inside = |name: &str| {
            places.iter().any(|place| {
                name.strip_prefix(place)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let entries = self.lock();
        let kept = entries.iter().filter(|(name, _)| inside(name));
        let kept: BTreeMap<_, _> = kept.map(|(n, e)| (n.clone(), e.clone())).collect();
        Self {
            entries: Arc::new(Mutex::new(kept)),
            ..self.clone()
        }
    }

    /// Returns the number of trainable elements.
    pub fn count(&self) -> usize {
        let entries = self.lock();
        let trained = entries.values().filter(|e| e.trained);
        trained.map(|e| e.var.elem_count()).sum()
    }

    /// Returns all parameters and buffers as tensors that share their memory.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let entries = self.lock();
        entries
            .iter()
            .map(|(n, e)| (n.clone(), e.var.as_tensor().clone()))
            .collect()
    }

    /// Returns a hash (16 hexadecimal digits of BLAKE3) of all names, shapes and values.
    /// Different weights give a different hash.
    ///
    /// # Errors
    /// [`Error::Tensor`] if values cannot be read from their device.
    pub fn digest(&self) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        let tensors: BTreeMap<String, Tensor> = self.tensors().into_iter().collect();
        for (name, tensor) in tensors {
            hash.update(format!("{name}{:?}", tensor.dims()).as_bytes());
            for value in super::values(&tensor)? {
                hash.update(&value.to_le_bytes());
            }
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }

    /// Returns all names with their shapes.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let entries = self.lock();
        let each = entries.iter();
        each.map(|(name, e)| (name.clone(), e.var.dims().to_vec()))
            .collect()
    }
}
