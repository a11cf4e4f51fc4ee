//! Devices by name, where a network's parameters are ([`Placement`]), and values read back from
//! any device.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Opens a device by its name: `cpu`, `cuda` (the first GPU), `cuda:1`, `metal`.
///
/// A CUDA device has a stream of its own. candle's `Device::new_cuda` uses one stream per thread,
/// so operations on different threads would not wait for each other.
///
/// ```
/// use invariances_ops::{device_name, open_device};
/// assert_eq!(device_name(&open_device("cpu")?), "cpu");
/// assert!(open_device("tpu").is_err());
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unknown`] for an unknown name; [`Error::Unsupported`] for a device that this build does
/// not support or that cannot be opened.
pub fn open_device(name: &str) -> Result<Device> {
    let name = name.trim().to_ascii_lowercase();
    let (kind, number) = match name.split_once(':') {
        None => (name.as_str(), Some(0)),
        Some((kind, number)) => (kind, number.parse::<usize>().ok()),
    };
    match (kind, number) {
        ("cpu", Some(0)) => Ok(Device::Cpu),
        ("cuda", Some(number)) => cuda(number),
        ("metal", Some(number)) => metal(number),
        _ => Err(Error::unknown(format!(
            "expected a device such as cpu, cuda, cuda:1 or metal, found {name:?}"
        ))),
    }
}

/// Returns the name of a device, as [`open_device`] takes it.
pub fn device_name(device: &Device) -> String {
    use candle_core::DeviceLocation;
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id: 0 } => "cuda".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id: 0 } => "metal".into(),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

fn unsupported(name: &str) -> Error {
    Error::unsupported(format!(
        "this program was built without support for {name}: build it with `cargo build --release --features {name}` (docs/gpu.md), or use the device cpu"
    ))
}

fn cuda(number: usize) -> Result<Device> {
    if !candle_core::utils::cuda_is_available() {
        return Err(unsupported("cuda"));
    }
    let opened = Device::new_cuda_with_stream(number).map_err(|e| {
        Error::unsupported(format!(
            "cannot open the device cuda:{number}: {e}. `nvidia-smi` lists the GPUs of this machine; without a GPU, use the device cpu"
        ))
    })?;
    crate::gpu::prepare(&opened)?;
    Ok(opened)
}

fn metal(number: usize) -> Result<Device> {
    if !candle_core::utils::metal_is_available() {
        return Err(unsupported("metal"));
    }
    Device::new_metal(number)
        .map_err(|e| Error::unsupported(format!("cannot open the device metal:{number}: {e}")))
}

/// The device and the number type of a network's parameters. Its inputs are converted to them.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The device of the parameters.
    pub device: Device,
    /// The number type of the parameters.
    pub dtype: DType,
}

impl Placement {
    /// Returns the placement of a tensor, e.g. of one parameter.
    pub fn of(tensor: &Tensor) -> Self {
        Self {
            device: tensor.device().clone(),
            dtype: tensor.dtype(),
        }
    }

    /// Moves a tensor to this device and, if it has a floating-point type, converts it to this
    /// number type. Gradients pass through both. A tensor that already has this device and
    /// number type is returned unchanged.
    pub fn take(&self, x: &Tensor) -> Result<Tensor> {
        let x = moved(x, &self.device)?;
        Ok(match x.dtype().is_float() {
            true => x.to_dtype(self.dtype)?,
            false => x,
        })
    }
}

/// Moves a tensor to a device. Gradients pass through. A tensor that is already on the
/// device is returned unchanged.
pub fn moved(x: &Tensor, device: &Device) -> Result<Tensor> {
    if x.device().same_device(device) {
        return Ok(x.clone());
    }
    // candle would move all memory that a narrowed view shares.
    Ok(x.force_contiguous()?.to_device(device)?)
}

/// Returns a tensor in f32 if it has a half-precision type, otherwise as it is. Use it where half
/// precision does not suffice: sums, variances, logarithms.
pub fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    })
}

/// Copies a tensor to the CPU and converts it to f64 there. (Not every device has f64.) The result
/// is contiguous and keeps no graph.
pub fn host(t: &Tensor) -> Result<Tensor> {
    let t = moved(&t.detach(), &Device::Cpu)?;
    Ok(t.to_dtype(DType::F64)?.contiguous()?)
}

/// Returns the elements of a tensor of any device, number type and shape, row by row.
///
/// ```
/// use invariances_ops::{scalar, values};
/// use candle_core::{DType, Device, Tensor};
/// let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?.to_dtype(DType::BF16)?;
/// assert_eq!(values(&x)?, [1.0, 2.0, 3.0, 4.0]);
/// assert_eq!(scalar(&x.sum_all()?)?, 10.0);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
pub fn values(t: &Tensor) -> Result<Vec<f64>> {
    Ok(host(t)?.flatten_all()?.to_vec1()?)
}

/// Returns the value of a tensor with one element.
///
/// # Errors
/// [`Error::Shape`] unless the tensor has exactly one element.
pub fn scalar(t: &Tensor) -> Result<f64> {
    match values(t)?[..] {
        [value] => Ok(value),
        ref found => Err(Error::shape(format!(
            "expected a tensor with one element, found shape {:?} with {} elements",
            t.dims(),
            found.len()
        ))),
    }
}
