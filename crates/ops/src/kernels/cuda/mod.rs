//! CUDA kernels for f32 and the code that launches them.
//!
//! `kernels.cu` is compiled by NVRTC at run time, once per process, for the GPU at hand. Matrix
//! products are cuBLAS's, in full f32, or in TF32 if
//! `candle_core::cuda_backend::set_gemm_reduced_precision_f32(true)` was called.
//!
//! All launches and allocations go to the stream of the tensors' device, so they run in the order
//! of the calls, and memory that is freed is not reused before the kernels that read it have run.

mod actnorm;
pub(crate) mod adam;
pub(crate) mod convolution;
pub(crate) mod flow;
pub(crate) mod layers;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result as blas, sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg, sys as driver,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const SOURCE: &str = include_str!("kernels.cu");

/// The name under which candle keeps the compiled module of each device.
const MODULE: &str = "invariances";

/// Number of threads in a block of an element-wise kernel.
const THREADS: u32 = 256;

/// The address of an array on the GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    pub(crate) const NULL: Self = Self(0);

    /// The address `elements` f32 further.
    pub(crate) fn at(self, elements: usize) -> Self {
        Self(self.0 + 4 * elements as u64)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Array(Address),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl From<Address> for Arg {
    fn from(x: Address) -> Self {
        Self::Array(x)
    }
}

impl From<&Buffer> for Arg {
    fn from(x: &Buffer) -> Self {
        Self::Array(x.address)
    }
}

impl From<usize> for Arg {
    fn from(x: usize) -> Self {
        // The launches check the sizes of tensors, see `Gpu::small`.
        Self::Int(x as i32)
    }
}

impl From<f64> for Arg {
    fn from(x: f64) -> Self {
        Self::Float(x as f32)
    }
}

/// Memory for f32 on the GPU.
#[derive(Debug)]
pub(crate) struct Buffer {
    slice: CudaSlice<f32>,
    pub(crate) address: Address,
}

/// A CUDA device.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    device: CudaDevice,
}

/// The PTX of `kernels.cu` for a compute capability.
fn compiled(capability: (i32, i32)) -> Result<Arc<str>> {
    type Compiled = HashMap<(i32, i32), Arc<str>>;
    static PTX: Mutex<Option<Compiled>> = Mutex::new(None);
    let mut all = PTX.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    if let Some(ptx) = all.get(&capability) {
        return Ok(ptx.clone());
    }
    let options = CompileOptions {
        options: vec![format!(
            "--gpu-architecture=compute_{}{}",
            capability.0, capability.1
        )],
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(SOURCE, options).map_err(|e| {
        candle_core::Error::Msg(format!("NVRTC cannot compile the CUDA kernels: {e:?}"))
    })?;
    let ptx: Arc<str> = ptx.to_src().into();
    all.insert(capability, ptx.clone());
    Ok(ptx)
}

impl Gpu {
    /// Returns the GPU of a tensor, if the kernels support the tensor: f32 on a CUDA device.
    pub(crate) fn of(x: &Tensor) -> Option<Self> {
        match x.device() {
            Device::Cuda(device) if x.dtype() == DType::F32 && crate::kernels_are_used() => {
                Some(Self {
                    device: device.clone(),
                })
            }
            _ => None,
        }
    }

    pub(crate) fn of_storage(x: &CudaStorage) -> Self {
        Self {
            device: x.device().clone(),
        }
    }

    /// Memory whose content is undefined.
    pub(crate) fn empty(&self, elements: usize) -> Result<Buffer> {
        // SAFETY: f32 has no invalid values, and every kernel writes all elements of its output
        // before another reads them.
        let slice = unsafe { self.device.alloc::<f32>(elements.max(1))? };
        Ok(self.buffer(slice))
    }

    fn buffer(&self, slice: CudaSlice<f32>) -> Buffer {
        let address = Address(slice.device_ptr(&self.device.cuda_stream()).0);
        Buffer { slice, address }
    }

    /// Returns a buffer as a tensor without a graph.
    pub(crate) fn tensor(&self, buffer: Buffer, shape: impl Into<Shape>) -> Tensor {
        let storage = Storage::Cuda(self.storage(buffer));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }

    pub(crate) fn storage(&self, buffer: Buffer) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(buffer.slice, self.device.clone())
    }

    /// Returns the address of a contiguous f32 storage.
    pub(crate) fn address(&self, storage: &CudaStorage, layout: &Layout) -> Result<Address> {
        if layout.contiguous_offsets().is_none() {
            bail!("this kernel needs a contiguous tensor, found strides {layout:?}")
        }
        let slice = storage.as_cuda_slice::<f32>()?;
        let start = slice.device_ptr(&self.device.cuda_stream()).0;
        Ok(Address(start).at(layout.start_offset()))
    }

    /// Returns the address of a contiguous f32 tensor on this GPU. It is valid while the tensor
    /// exists.
    pub(crate) fn of_tensor(&self, x: &Tensor) -> Result<Address> {
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => self.address(storage, layout),
            _ => bail!(
                "expected a tensor on the GPU, found one on {:?}",
                x.device()
            ),
        }
    }

    /// Returns the address of a contiguous u32 tensor on this GPU.
    pub(crate) fn of_indices(&self, x: &Tensor) -> Result<Address> {
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!(
                "expected indices on the GPU, found them on {:?}",
                x.device()
            )
        };
        if layout.contiguous_offsets().is_none() {
            bail!("this kernel needs contiguous indices, found strides {layout:?}")
        }
        let slice = storage.as_cuda_slice::<u32>()?;
        let start = slice.device_ptr(&self.device.cuda_stream()).0;
        Ok(Address(start).at(layout.start_offset()))
    }

    /// Returns a kernel. It is loaded once per device.
    fn function(&self, kernel: &'static str) -> Result<CudaFunction> {
        type Loaded = HashMap<(DeviceId, &'static str), CudaFunction>;
        static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);
        let mut all = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        if let Some(function) = all.get(&(self.device.id(), kernel)) {
            return Ok(function.clone());
        }
        let capability = self.device.cuda_stream().context().compute_capability();
        let ptx = compiled(capability.w()?)?;
        let function = self.device.get_or_load_custom_func(kernel, MODULE, &ptx)?;
        let function = function.into_cuda_function();
        all.insert((self.device.id(), kernel), function.clone());
        Ok(function)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The arguments must be those of the kernel's declaration in `kernels.cu`, and its arrays
    /// must be as long as the kernel expects for this grid.
    pub(crate) unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: (u32, u32),
        block: (u32, u32),
        arguments: &[Arg],
    ) -> Result<()> {
        let stream = self.device.cuda_stream();
        let function = self.function(kernel)?;
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Arg::Array(x) => builder.arg(&x.0),
                Arg::Int(x) => builder.arg(x),
                Arg::Long(x) => builder.arg(x),
                Arg::Float(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.0, grid.1, 1),
            block_dim: (block.0, block.1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: guaranteed by the caller.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Launches an element-wise kernel with one thread per element, in `layers` layers of blocks.
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    pub(crate) unsafe fn map(
        &self,
        kernel: &'static str,
        (elements, layers): (usize, u32),
        arguments: &[Arg],
    ) -> Result<()> {
        if elements == 0 {
            return Ok(());
        }
        let blocks = elements.div_ceil(THREADS as usize);
        if blocks > i32::MAX as usize {
            bail!("{kernel}: {elements} elements are more than a GPU kernel takes")
        }
        // SAFETY: guaranteed by the caller.
        unsafe { self.launch(kernel, (blocks as u32, layers), (THREADS, 1), arguments) }
    }

    /// Computes a matrix product, or one per element of a batch.
    pub(crate) fn product(&self, p: Product) -> Result<()> {
        let Product {
            a,
            b,
            out,
            sizes: (m, n, k),
            transposed,
            batch,
            strides,
            add,
        } = p;
        if m == 0 || n == 0 {
            return Ok(());
        }
        if m.max(n).max(k) > i32::MAX as usize {
            bail!("a matrix product of {m}×{k} and {k}×{n} is more than cuBLAS takes")
        }
        if batch > 1 && strides.iter().any(|s| *s < 0) {
            // The second matrix lies before the first. cuBLAS's documentation does not say
            // whether strides may be negative.
            for i in 0..batch as i64 {
                let at = |x: Address, stride: i64| Address(x.0.wrapping_add_signed(4 * i * stride));
                self.product(Product {
                    a: at(a, strides[0]),
                    b: at(b, strides[1]),
                    out: at(out, strides[2]),
                    batch: 1,
                    ..p
                })?;
            }
            return Ok(());
        }
        let op = |t: bool| match t {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        // The length of a row as it is stored.
        let lda = if transposed.0 { m } else { k };
        let ldb = if transposed.1 { k } else { n };
        let compute = match candle_core::cuda_backend::gemm_reduced_precision_f32() {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let float = sys::cudaDataType::CUDA_R_32F;
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: the addresses are of arrays of these sizes (the callers derive both from
        // tensors or buffers that live until the call returns, and memory is freed in stream
        // order). cuBLAS stores matrices by columns: it computes outᵀ = bᵀ·aᵀ.
        unsafe {
            blas::gemm_strided_batched_ex(
                *self.device.cublas_handle().handle(),
                op(transposed.1),
                op(transposed.0),
                n as i32,
                m as i32,
                k as i32,
                (&raw const alpha).cast(),
                b.0 as *const _,
                float,
                ldb as i32,
                strides[1],
                a.0 as *const _,
                float,
                lda as i32,
                strides[0],
                (&raw const beta).cast(),
                out.0 as *mut _,
                float,
                n as i32,
                strides[2],
                batch as i32,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()
    }

    /// Copies `values` to the GPU.
    pub(crate) fn upload(&self, values: &[u64]) -> Result<CudaSlice<u64>> {
        self.device.clone_htod(values)
    }
}

/// out (m, n) = a·b, with a (m, k) and b (k, n), or their transposes as they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) a: Address,
    pub(crate) b: Address,
    pub(crate) out: Address,
    /// m, n, k.
    pub(crate) sizes: (usize, usize, usize),
    /// Whether a and b are stored transposed.
    pub(crate) transposed: (bool, bool),
    /// Number of products, and the distances in elements between consecutive a, b and out.
    pub(crate) batch: usize,
    pub(crate) strides: [i64; 3],
    /// Whether the product is added to `out`.
    pub(crate) add: bool,
}

/// Returns the largest number of bytes in use since the last call.
pub(crate) fn peak_memory(device: &Device) -> Result<u64> {
    let Device::Cuda(device) = device else {
        return Ok(0);
    };
    device.cuda_stream().synchronize().w()?;
    let Some(pool) = pool(device)? else {
        return Ok(0);
    };
    let attribute = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let (mut bytes, mut reset) = (0u64, 0u64);
    // SAFETY: the attribute is a u64, which setting to 0 resets.
    unsafe {
        driver::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast())
            .result()
            .w()?;
        driver::cuMemPoolSetAttribute(pool, attribute, (&raw mut reset).cast())
            .result()
            .w()?;
    }
    Ok(bytes)
}

/// Returns the pool that a device's tensors are allocated from, if the driver has such pools.
fn pool(device: &CudaDevice) -> Result<Option<driver::CUmemoryPool>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    context.bind_to_thread().w()?;
    let mut pool = std::mem::MaybeUninit::uninit();
    // SAFETY: the call writes the pool, or fails.
    unsafe {
        driver::cuDeviceGetDefaultMemPool(pool.as_mut_ptr(), context.cu_device())
            .result()
            .w()?;
        Ok(Some(pool.assume_init()))
    }
}

/// Keeps freed memory of a device for the next allocation. By default the driver returns it to
/// the system whenever the host waits for the GPU.
pub(crate) fn keep_memory(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else {
        return Ok(());
    };
    if let Some(pool) = pool(device)? {
        let mut threshold = u64::MAX;
        let attribute = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a u64.
        unsafe { driver::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }
            .result()
            .w()?;
    }
    // SAFETY: all tensors of this device are used on its one stream: candle's operations and the
    // kernels of this crate launch on it alone.
    unsafe { device.disable_event_tracking() };
    Ok(())
}

#[cfg(test)]
mod tests {
    /// NVRTC needs no GPU: the kernels compile for the oldest and the newest supported ones.
    #[test]
    fn kernels_compile() -> candle_core::Result<()> {
        for capability in [(8, 0), (9, 0)] {
            let ptx = super::compiled(capability)?;
            for kernel in ["couple", "adam", "im2col", "channel_affine_backward"] {
                assert!(ptx.contains(&format!(".entry {kernel}(")), "{kernel}");
            }
        }
        Ok(())
    }
}
