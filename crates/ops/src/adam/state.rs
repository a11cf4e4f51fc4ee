//! The state of the optimiser as tensors, for a checkpoint.

use super::{Adam, Moments};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

impl Adam {
    /// Returns the moments and step counts as tensors for a checkpoint, named `adam.m/NAME`,
    /// `adam.v/NAME` and `adam.steps`.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for p in &self.parameters {
            let shape = p.var.shape();
            let (m, v) = match &p.moments {
                Moments::F32(m, v) => (
                    Tensor::from_slice(m, shape, &Device::Cpu)?,
                    Tensor::from_slice(v, shape, &Device::Cpu)?,
                ),
                Moments::F64(m, v) => (
                    Tensor::from_slice(m, shape, &Device::Cpu)?,
                    Tensor::from_slice(v, shape, &Device::Cpu)?,
                ),
                Moments::Other(m, v) => (m.to_device(&Device::Cpu)?, v.to_device(&Device::Cpu)?),
            };
            state.push((format!("adam.m/{}", p.name), m));
            state.push((format!("adam.v/{}", p.name), v));
        }
        let steps: Vec<i64> = self.parameters.iter().map(|p| p.steps as i64).collect();
        if !steps.is_empty() {
            state.push(("adam.steps".into(), Tensor::new(steps, &Device::Cpu)?));
        }
        Ok(state)
    }

    /// Restores the values of [`Adam::state`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if a tensor is missing or has another shape, [`Error::Tensor`] if it
    /// has another number type. The optimiser has not changed then.
    pub fn set_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let find = |name: &str, dims: &[usize]| {
            let tensor = state
                .get(name)
                .ok_or_else(|| Error::invalid(format!("the optimiser's state has no {name}")))?;
            if tensor.dims() != dims {
                return Err(Error::invalid(format!(
                    "{name} of the optimiser's state has shape {:?}, expected {dims:?}",
                    tensor.dims()
                )));
            }
            Ok(tensor)
        };
        if self.parameters.is_empty() {
            return Ok(());
        }
        let steps = find("adam.steps", &[self.parameters.len()])?.to_vec1::<i64>()?;
        let mut restored = Vec::new();
        for p in &self.parameters {
            let of = |which: &str| find(&format!("adam.{which}/{}", p.name), p.var.dims());
            let (m, v) = (of("m")?, of("v")?);
            restored.push(match p.moments {
                Moments::F32(..) => {
                    Moments::F32(m.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?)
                }
                Moments::F64(..) => {
                    Moments::F64(m.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?)
                }
                Moments::Other(..) => {
                    Moments::Other(m.to_device(p.var.device())?, v.to_device(p.var.device())?)
                }
            });
        }
        for ((p, moments), steps) in self.parameters.iter_mut().zip(restored).zip(steps) {
            p.moments = moments;
            p.steps = steps.max(0) as u64;
        }
        Ok(())
    }
}
