use super::Rng;
use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor, Var};
use invariances_core::names::{is_bookkeeping, nearest, shown};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many faults an error lists.
const LISTED: usize = 20;
/// With how many names of its shape a missing one is compared.
const COMPARED: usize = 500;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same number everywhere.
    Const(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// PyTorch's default for linear and convolutional weights: uniform in ±1/√fan_in.
    FanIn,
    /// He et al. 2015 for leaky ReLU of slope 0.2 and the like: normal with standard deviation √(2/fan_in).
    He,
}

/// The parameters of a network, by name, with a seeded start.
///
/// It stands in for candle's `VarMap` and `VarBuilder`, whose initialisers cannot be seeded and whose
/// builder does not survive a notebook cell. A parameter's start depends on the seed and its name alone,
/// not on the order in which a network asks for its parameters. Cloning shares the parameters.
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
    /// Whether everything starts at zero, since it will be loaded.
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

/// A place in a network's tree of names: `scope.pp("conv1")` is where `conv1.weight` lives.
#[derive(Clone, Debug)]
pub struct Scope {
    params: Params,
    prefix: String,
}

impl Params {
    /// No parameters yet; those made from it are f32 on the CPU.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, DType::F32, &Device::Cpu)
    }

    /// No parameters yet, for a number type and a device.
    pub fn with(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            seed,
            blank: false,
            dtype,
            device: device.clone(),
            entries: Arc::default(),
        }
    }

    /// No parameters yet; those made from it are zeros, whatever start a network asks for: for weights that are
    /// loaded next, a large network is there at once. f32.
    pub fn blank(device: &Device) -> Self {
        Self {
            blank: true,
            ..Self::with(0, DType::F32, device)
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // The map is whole between two statements, so a panic elsewhere while it was held harms nothing.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root of the tree of names.
    pub fn root(&self) -> Scope {
        Scope {
            params: self.clone(),
            prefix: String::new(),
        }
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// All names, parameters and buffers, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The parameters that training changes (not the buffers), by name.
    pub fn trained(&self) -> Vec<(String, Var)> {
        let entries = self.lock();
        let trained = entries.iter().filter(|(_, e)| e.trained);
        trained.map(|(n, e)| (n.clone(), e.var.clone())).collect()
    }

    /// A parameter or buffer.
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

    /// Those below some places alone, shared with these: to train a part of a network, or to keep it.
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

    /// How many numbers training changes.
    pub fn count(&self) -> usize {
        let entries = self.lock();
        let trained = entries.values().filter(|e| e.trained);
        trained.map(|e| e.var.elem_count()).sum()
    }

    /// All parameters and buffers as tensors that share their memory.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let entries = self.lock();
        entries
            .iter()
            .map(|(n, e)| (n.clone(), e.var.as_tensor().clone()))
            .collect()
    }

    /// A short word for all names and values: other weights, another word.
    ///
    /// # Errors
    /// [`Error::Tensor`] where values cannot be read from their device.
    pub fn digest(&self) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        let tensors: BTreeMap<String, Tensor> = self.tensors().into_iter().collect();
        for (name, tensor) in tensors {
            hash.update(format!("{name}{:?}", tensor.dims()).as_bytes());
            for value in tensor
                .flatten_all()?
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()?
            {
                hash.update(&value.to_le_bytes());
            }
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }

    /// All names with their shapes.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let entries = self.lock();
        let each = entries.iter();
        each.map(|(name, e)| (name.clone(), e.var.dims().to_vec()))
            .collect()
    }

    /// Takes every value from `tensors`, by name, converted to this number type and device.
    /// All or nothing: names and shapes are compared before the first value changes. Counters of batches
    /// (`num_batches_tracked`), which evaluation does not need, are ignored where these have none.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every missing, unexpected and misshapen name, and for a missing one the
    /// unexpected one that is perhaps meant by it.
    pub fn set_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.check_all(tensors)?;
        for (name, entry) in self.lock().iter() {
            let value = tensors[name]
                .to_dtype(self.dtype)?
                .to_device(&self.device)?;
            // A copy: a value that shares memory with this very variable cannot be set.
            entry.var.set(&value.copy()?)?;
        }
        Ok(())
    }

    /// Whether [`Params::set_all`] would take these; changes nothing.
    pub fn check_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let shapes = tensors.iter().map(|(n, t)| (n.as_str(), t.dims()));
        self.check_shapes(&shapes.collect())
    }

    /// Whether [`Params::set_all`] would take tensors of these names and shapes.
    pub fn check_shapes(&self, shapes: &BTreeMap<&str, &[usize]>) -> Result<()> {
        let entries = self.lock();
        let mut unexpected: Vec<&str> = shapes
            .keys()
            .copied()
            .filter(|n| !entries.contains_key(*n) && !is_bookkeeping(n))
            .collect();
        let mut faults = Vec::new();
        for (name, entry) in entries.iter() {
            let expected = entry.var.dims();
            match shapes.get(name.as_str()) {
                None if faults.len() < LISTED => {
                    // Perhaps it is there under another name, which then has its shape.
                    let alike: Vec<&str> = unexpected
                        .iter()
                        .copied()
                        .filter(|n| shapes[n] == expected)
                        .take(COMPARED)
                        .collect();
                    let near = nearest(name, &alike);
                    unexpected.retain(|n| Some(*n) != near);
                    let near = near.map_or(String::new(), |n| {
                        format!("; perhaps the unexpected {} is meant", shown(n))
                    });
                    faults.push(format!("missing {name} {expected:?}{near}"));
                }
                None => faults.push(format!("missing {name} {expected:?}")),
                Some(dims) if *dims != expected => {
                    faults.push(format!("{name} has shape {dims:?}, expected {expected:?}"));
                }
                Some(_) => {}
            }
        }
        faults.extend(
            unexpected
                .iter()
                .map(|n| format!("unexpected {}", shown(n))),
        );
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(LISTED);
            faults.truncate(LISTED);
            let tail = if more > 0 {
                format!("\n  … and {more} more")
            } else {
                String::new()
            };
            return Err(Error::invalid(format!(
                "these weights are of another network:\n  {}{tail}",
                faults.join("\n  ")
            )));
        }
        Ok(())
    }

    /// Reads every value from a safetensors file. The crate `invariances-hub` reads torch's formats.
    ///
    /// # Errors
    /// [`Error::Content`] where the file is not safetensors or of another network.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| Error::content(path, format!("not a safetensors file: {e}")))?;
        self.set_all(&tensors)
            .map_err(|e| Error::content(path, e.to_string()))
    }

    /// Writes every value to a safetensors file, whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path, self.dtype, &HashMap::new())
    }

    /// As [`Params::save`], with the parameters in another number type (f16 halves a file) and with text metadata. Buffers (running
    /// statistics, permutations) keep theirs.
    pub fn save_as(
        &self,
        path: impl AsRef<Path>,
        dtype: DType,
        metadata: &HashMap<String, String>,
    ) -> Result<()> {
        let trained: HashSet<String> = self.trained().into_iter().map(|(name, _)| name).collect();
        let mut tensors = Vec::new();
        for (name, tensor) in self.tensors() {
            let mut tensor = tensor.to_device(&Device::Cpu)?;
            if trained.contains(&name) {
                tensor = tensor.to_dtype(dtype)?;
            }
            tensors.push((name, tensor));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let path = path.as_ref();
        let metadata = (!metadata.is_empty()).then(|| metadata.clone());
        let bytes = safetensors::serialize(tensors, metadata)
            .map_err(|e| Error::content(path, format!("cannot be written as safetensors: {e}")))?;
        invariances_core::files::write_atomic(path, &bytes)
    }
}

impl Scope {
    /// The place `name` below this one.
    pub fn pp(&self, name: impl std::fmt::Display) -> Scope {
        Scope {
            params: self.params.clone(),
            prefix: self.path(&name.to_string()),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.into()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// The name of this place: that of its parameters without their last part.
    pub fn name(&self) -> String {
        self.prefix.clone()
    }

    /// The parameters that this is a place in.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// As [`Params::set_all`] for what is below this place, by names from here.
    ///
    /// # Errors
    /// As [`Params::set_all`].
    pub fn set_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let whole = tensors.iter().map(|(n, t)| (self.path(n), t.clone()));
        let part = match self.prefix.as_str() {
            "" => self.params.clone(),
            place => self.params.below(&[place]),
        };
        part.set_all(&whole.collect())
    }

    /// What is below this place, by names from here, as tensors that share their memory.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let start = self.path("");
        let all = self.params.tensors().into_iter();
        all.filter_map(|(name, tensor)| Some((name.strip_prefix(&start)?.to_owned(), tensor)))
            .collect()
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.params.device
    }

    /// The number type of the parameters.
    pub fn dtype(&self) -> DType {
        self.params.dtype
    }

    /// The generator of this seed that belongs to the place `name` here, for a start that no [`Init`] describes.
    pub fn rng(&self, name: &str) -> Rng {
        Rng::named(self.params.seed, &self.path(name))
    }

    /// The parameter `name` here: the one that exists, or a new one started by `init`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it exists with another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Var> {
        self.entry(shape.into(), name, init, true)
    }

    /// As [`Scope::get`] for what is kept and saved but not trained: a permutation, a running mean, a flag.
    pub fn buffer(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Var> {
        self.entry(shape.into(), name, init, false)
    }

    /// A buffer that starts with the values of `value`; one that exists keeps its own.
    pub fn buffer_from(&self, value: &Tensor, name: &str) -> Result<Var> {
        let fresh = !self.params.lock().contains_key(&self.path(name));
        let var = self.buffer(value.shape().clone(), name, Init::Const(0.0))?;
        if fresh {
            var.set(
                &value
                    .to_dtype(self.dtype())?
                    .to_device(self.device())?
                    .copy()?,
            )?;
        }
        Ok(var)
    }

    fn entry(&self, shape: Shape, name: &str, init: Init, trained: bool) -> Result<Var> {
        let path = self.path(name);
        let mut entries = self.params.lock();
        if let Some(entry) = entries.get(&path) {
            if entry.var.shape() != &shape {
                return Err(Error::invalid(format!(
                    "parameter {path} exists with shape {:?}, asked for {:?}",
                    entry.var.dims(),
                    shape.dims()
                )));
            }
            return Ok(entry.var.clone());
        }
        let count = shape.elem_count();
        let fan_in = (count / shape.dims().first().copied().unwrap_or(1).max(1)).max(1) as f64;
        let mut rng = Rng::named(self.params.seed, &path);
        let mut draw = |init: Init| -> Vec<f32> {
            let uniform = |rng: &mut Rng, b: f64| {
                (0..count).map(|_| rng.range(-b as f32, b as f32)).collect()
            };
            let normal =
                |rng: &mut Rng, s: f64| (0..count).map(|_| rng.normal_f32() * s as f32).collect();
            match init {
                Init::Const(c) => vec![c as f32; count],
                Init::Normal(s) => normal(&mut rng, s),
                Init::Uniform(b) => uniform(&mut rng, b),
                Init::FanIn => uniform(&mut rng, fan_in.sqrt().recip()),
                Init::He => normal(&mut rng, (2.0 / fan_in).sqrt()),
            }
        };
        let value = if self.params.blank {
            Tensor::zeros(shape, DType::F32, &Device::Cpu)?
        } else {
            Tensor::from_vec(draw(init), shape, &Device::Cpu)?
        };
        let var = Var::from_tensor(
            &value
                .to_dtype(self.params.dtype)?
                .to_device(&self.params.device)?,
        )?;
        let entry = Entry {
            var: var.clone(),
            trained,
        };
        entries.insert(path, entry);
        Ok(var)
    }
}
