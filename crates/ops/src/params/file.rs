//! Loads and saves parameters as safetensors files.

use super::Params;
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::collections::{HashMap, HashSet};
use std::path::Path;

impl Params {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use candle_core::Tensor;

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
}
