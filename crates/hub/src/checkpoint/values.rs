//! Reads the values of one tensor of a checkpoint.

use super::Checkpoint;
use crate::Result;
use crate::pickle::Kind;
use crate::state::Located;
use candle_core::{Device, Tensor};
use invariances_core::names::shown;

impl Checkpoint {
    /// Reads one tensor.
    pub(super) fn load(&self, tensor: &Located) -> Result<Tensor> {
        let size = tensor.kind.size();
        let what = shown(&tensor.name);
        let mut bytes = self.source.read(tensor.at, tensor.span * size, &what)?;
        if let Some(stride) = &tensor.stride {
            bytes = gather(&bytes, &tensor.shape, stride, size as usize);
        }
        if tensor.negative {
            tensor.kind.negate(&mut bytes);
        }
        let (shape, cpu) = (tensor.shape.as_slice(), &Device::Cpu);
        Ok(match tensor.kind {
            Kind::I8 => {
                let wide: Vec<i16> = bytes.iter().map(|b| i16::from(b.cast_signed())).collect();
                Tensor::from_vec(wide, shape, cpu)?
            }
            Kind::U16 => {
                let wide = bytes.chunks_exact(2);
                let wide: Vec<u32> = wide
                    .map(|b| u16::from_le_bytes([b[0], b[1]]).into())
                    .collect();
                Tensor::from_vec(wide, shape, cpu)?
            }
            kind => Tensor::from_raw_buffer(&bytes, kind.dtype(), shape, cpu)?,
        })
    }
}

/// Copies the elements of a strided tensor into contiguous order. All of them must be in `bytes`.
fn gather(bytes: &[u8], shape: &[usize], stride: &[u64], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        gathered.extend_from_slice(&bytes[at..at + size]);
        // Advance to the next index; the last dimension changes fastest.
        for (d, i) in index.iter_mut().enumerate().rev() {
            let step = stride[d] as usize * size;
            *i += 1;
            at += step;
            if *i < shape[d] {
                break;
            }
            at -= *i * step;
            *i = 0;
        }
    }
    gathered
}
