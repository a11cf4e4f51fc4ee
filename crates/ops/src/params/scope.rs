//! [`Scope`]: a place in a network's tree of names.

use super::{Init, Params};
use crate::{Placement, Result, Rng};
use candle_core::{DType, Device, Shape, Tensor, Var};
use std::collections::HashMap;

/// A place in a network's tree of names: `scope.pp("conv1")` is the place of `conv1.weight`.
#[derive(Clone, Debug)]
pub struct Scope {
    pub(super) params: Params,
    pub(super) prefix: String,
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
    /// [`Error::Invalid`](crate::Error::Invalid) if it exists with another shape.
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
