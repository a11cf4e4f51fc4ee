//! The parameters of a network by name, with seeded initial values: [`Params`], [`Scope`] (a
//! place in the tree of names) and [`Init`] (the distribution of the initial values).

mod builder;

use super::{Placement, Rng};
use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor, Var};
use invariances_core::names::{is_bookkeeping, nearest, shown};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum number of faults that an error lists.
const LISTED: usize = 20;
/// Maximum number of names, with the same shape, that a missing name is compared with.
const COMPARED: usize = 500;

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Const(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between −bound and bound.
    Uniform(f64),
    /// PyTorch's default for linear and convolutional weights: uniform between −1/√fan_in and
    /// 1/√fan_in.
    FanIn,
    /// He et al. 2015, for layers before a leaky ReLU with a slope such as 0.2: normal with
    /// standard deviation √(2/fan_in).
    He,
}

impl Init {
    /// Returns the distribution of a parameter of this shape.
    fn draw(self, shape: &Shape) -> Draw {
        let outputs = shape.dims().first().copied().unwrap_or(1).max(1);
        let fan_in = (shape.elem_count() / outputs).max(1) as f64;
        let normal = |deviation| Draw::Normal {
            mean: 0.0,
            deviation,
        };
        let uniform = |bound: f64| Draw::Uniform {
            low: -bound,
            high: bound,
        };
        match self {
            Self::Const(value) => Draw::Const(value),
            Self::Normal(deviation) => normal(deviation),
            Self::Uniform(bound) => uniform(bound),
            Self::FanIn => uniform(fan_in.sqrt().recip()),
            Self::He => normal((2.0 / fan_in).sqrt()),
        }
    }
}

/// A distribution of initial values, the same for every element.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Draw {
    Const(f64),
    Normal { mean: f64, deviation: f64 },
    Uniform { low: f64, high: f64 },
}

impl Draw {
    fn values(self, count: usize, rng: &mut Rng) -> Vec<f32> {
        match self {
            Self::Const(value) => vec![value as f32; count],
            Self::Normal { mean, deviation } => {
                let (mean, deviation) = (mean as f32, deviation as f32);
                let normal = (0..count).map(|_| rng.normal_f32() * deviation);
                // Adding 0 would change the sign of −0.
                if mean == 0.0 {
                    normal.collect()
                } else {
                    normal.map(|v| v + mean).collect()
                }
            }
            Self::Uniform { low, high } => {
                let (low, high) = (low as f32, high as f32);
                (0..count).map(|_| rng.range(low, high)).collect()
            }
        }
    }
}

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

/// A place in a network's tree of names: `scope.pp("conv1")` is the place of `conv1.weight`.
#[derive(Clone, Debug)]
pub struct Scope {
    params: Params,
    prefix: String,
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

    /// Sets every value from `tensors`, by name, converted to the dtype and device of these
    /// parameters.
    ///
    /// All names and shapes are compared, and all values converted, before the first value changes. Batch
    /// counters in
    /// `tensors` (`num_batches_tracked`), which evaluation does not need, are ignored if this set
    /// has none.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every missing name, every unexpected name and every wrong shape.
    /// For a missing name it suggests the unexpected name that is probably meant.
    pub fn set_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.check_all(tensors)?;
        let entries = self.lock();
        // All values are converted before the first is set: a conversion can fail on a device.
        let convert = |(name, entry): (&String, &Entry)| {
            let value = tensors[name]
                .to_dtype(entry.var.dtype())?
                .to_device(&self.device)?;
            // The copy is needed: a variable cannot be set from a value that shares its memory.
            Ok((entry.var.clone(), value.copy()?))
        };
        let values: Vec<(Var, Tensor)> = entries.iter().map(convert).collect::<Result<_>>()?;
        for (var, value) in values {
            var.set(&value)?;
        }
        Ok(())
    }

    /// Checks whether [`Params::set_all`] would accept these tensors; changes nothing.
    ///
    /// # Errors
    /// As [`Params::set_all`].
    pub fn check_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let shapes = tensors.iter().map(|(n, t)| (n.as_str(), t.dims()));
        self.check_shapes(&shapes.collect())
    }

    /// Checks whether [`Params::set_all`] would accept tensors with these names and shapes.
    ///
    /// # Errors
    /// As [`Params::set_all`].
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
                    // The parameter may be present under another name; that tensor then has the
                    // same shape.
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

    /// Loads every value from a safetensors file. Each value is converted to the dtype of its
    /// parameter: a file in F64, F32, F16 or BF16 loads into parameters of any of these types, as
    /// with `invariances_hub::load`, which also reads PyTorch's formats.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Content`] if it is not a safetensors
    /// file or belongs to another network.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| Error::content(path, format!("not a safetensors file: {e}")))?;
        self.set_all(&tensors)
            .map_err(|e| Error::content(path, e.to_string()))
    }

    /// Saves every value to a safetensors file. The write is atomic.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path, self.dtype, &HashMap::new())
    }

    /// Saves every value as [`Params::save`] does, with the parameters converted to `dtype` (f16
    /// halves the file) and with text metadata. Buffers (running statistics, permutations) keep
    /// their dtype.
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
    /// Returns the place `name` below this one.
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

    /// Returns the name of this place: the name of its parameters without the last part.
    pub fn name(&self) -> String {
        self.prefix.clone()
    }

    /// Returns the parameters that this place belongs to.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Sets all values below this place, as [`Params::set_all`]. Names are relative to this
    /// place.
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

    /// Returns all parameters and buffers below this place as tensors that share their memory.
    /// Names are relative to this place.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let start = self.path("");
        let all = self.params.tensors().into_iter();
        all.filter_map(|(name, tensor)| Some((name.strip_prefix(&start)?.to_owned(), tensor)))
            .collect()
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> &Device {
        &self.params.device
    }

    /// Returns the dtype of the parameters.
    pub fn dtype(&self) -> DType {
        self.params.dtype
    }

    /// Returns the device and the dtype of the parameters.
    pub fn placement(&self) -> Placement {
        self.params.placement()
    }

    /// Returns the random number generator for `name` at this place, seeded by the parameters'
    /// seed. Use it for initial values that no [`Init`] describes.
    pub fn rng(&self, name: &str) -> Rng {
        Rng::named(self.params.seed, &self.path(name))
    }

    /// Returns the parameter `name` at this place; if it does not exist, creates it with initial
    /// values from `init`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it exists with another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Var> {
        self.entry((shape.into(), self.dtype()), name, init, true)
    }

    /// Returns a buffer, as [`Scope::get`] does: a value that is stored and saved but not
    /// trained, such as a permutation, a running mean or a flag.
    pub fn buffer(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Var> {
        self.entry((shape.into(), self.dtype()), name, init, false)
    }

    /// Returns a buffer of indices that starts with `value`. A buffer that already exists keeps its
    /// value. The indices are stored as f32 (exact up to 2²⁴), or as f64 if that is the number type
    /// of the parameters: half precision is exact up to 256 only.
    pub fn indices_from(&self, value: &Tensor, name: &str) -> Result<Var> {
        let fresh = !self.params.lock().contains_key(&self.path(name));
        let dtype = match self.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let shape = value.shape().clone();
        let var = self.entry((shape, dtype), name, Init::Const(0.0), false)?;
        if fresh {
            var.set(&value.to_dtype(dtype)?.to_device(self.device())?.copy()?)?;
        }
        Ok(var)
    }

    fn entry(
        &self,
        (shape, dtype): (Shape, DType),
        name: &str,
        init: Init,
        trained: bool,
    ) -> Result<Var> {
        let draw = init.draw(&shape);
        let path = self.path(name);
        self.params.entry(path, (shape, dtype), draw, trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_floating_type_loads_into_parameters_of_any() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
        let path = folder.path().join("t.safetensors");
        let types = [DType::F64, DType::F32, DType::F16, DType::BF16];
        for of_file in types {
            // Powers of two are exact in all four types.
            let value = Tensor::new(&[[1.0, -0.5], [4.0, 0.0]], &Device::Cpu)?;
            let tensors = HashMap::from([("fc.weight", value.to_dtype(of_file)?)]);
            candle_core::safetensors::save(&tensors, &path)?;
            for of_params in types {
                let params = Params::with(0, of_params, &Device::Cpu);
                let weight = params.root().pp("fc").get((2, 2), "weight", Init::He)?;
                params.load(&path)?;
                assert_eq!(weight.dtype(), of_params);
                assert_eq!(crate::values(&weight)?, [1.0, -0.5, 4.0, 0.0]);
            }
        }
        Ok(())
    }

    #[test]
    fn initial_values_are_those_of_their_distribution() -> Result<()> {
        let at = Params::new(1).root();
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.1);
        let square = |t: &Var| -> Result<f64> {
            let all = crate::values(t)?;
            Ok((all.iter().map(|v| v * v).sum::<f64>() / all.len() as f64).sqrt())
        };
        let shape = (16, 8, 3, 3);
        near(square(&at.get(shape, "normal", Init::Normal(0.3))?)?, 0.3);
        let fan_in = 72.0f64;
        near(
            square(&at.get(shape, "he", Init::He)?)?,
            (2.0 / fan_in).sqrt(),
        );
        let bound = fan_in.sqrt().recip();
        let uniform = at.get(shape, "fan_in", Init::FanIn)?;
        near(square(&uniform)?, bound / 3f64.sqrt());
        assert!(
            crate::values(&uniform)?
                .iter()
                .all(|v| v.abs() <= bound + 1e-6)
        );
        // The generator of a name alone decides its values.
        let mut rng = at.rng("normal");
        let first = f64::from(rng.normal_f32() * 0.3);
        let found = crate::values(at.get(shape, "normal", Init::Normal(0.3))?.as_tensor())?[0];
        assert_eq!(found, first);
        Ok(())
    }
}
