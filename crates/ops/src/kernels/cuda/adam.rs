//! One Adam step for many parameters on the GPU, in one launch, or three with clipping.

use super::{Address, Arg, Gpu};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{Result, Tensor, bail};

/// Number of elements that a block updates; `CHUNK` in `kernels.cu`.
const CHUNK: usize = 16384;

/// Number of u64 per parameter in the table of `kernels.cu`.
const ROW: usize = 6;

/// A parameter that is updated: all four tensors are contiguous, f32 and of the same size.
pub(crate) struct Update<'a> {
    pub(crate) value: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) moments: [&'a Tensor; 2],
    /// Learning rate over the first moment's bias correction.
    pub(crate) step: f64,
    /// One over the square root of the second moment's bias correction.
    pub(crate) root: f64,
}

/// What all updates of a step share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) betas: (f64, f64),
    pub(crate) keep: f64,
    pub(crate) eps: f64,
    pub(crate) clip: Option<f64>,
}

/// Arrays on the GPU that are reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// The parameters' sizes for which `chunks` was made.
    sizes: Vec<usize>,
    chunks: Option<CudaSlice<u32>>,
    count: usize,
    sums: Option<CudaSlice<f64>>,
    /// The sum of squares of all gradients, and whether it was ever not finite.
    total: Option<CudaSlice<f64>>,
}

impl Workspace {
    fn prepare(&mut self, gpu: &Gpu, sizes: Vec<usize>) -> Result<()> {
        if self.total.is_none() {
            self.total = Some(gpu.device.alloc_zeros::<f64>(2)?);
        }
        if self.sizes == sizes && self.chunks.is_some() {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            for part in 0..size.div_ceil(CHUNK) {
                chunks.extend([i as u32, part as u32]);
            }
        }
        self.count = chunks.len() / 2;
        self.chunks = Some(gpu.device.clone_htod(&chunks)?);
        self.sums = Some(gpu.device.alloc_zeros::<f64>(self.count.max(1))?);
        self.sizes = sizes;
        Ok(())
    }

    /// Returns whether the norm of a gradient was ever not finite; the parameters have not changed
    /// since. Waits for the GPU.
    pub(crate) fn diverged(&self, gpu: &Gpu) -> Result<bool> {
        match &self.total {
            Some(total) => Ok(gpu.device.clone_dtoh(total)?[1] != 0.0),
            None => Ok(false),
        }
    }

    /// Updates all parameters.
    pub(crate) fn step(&mut self, gpu: &Gpu, updates: &[Update], rule: Rule) -> Result<()> {
        let mut table = Vec::with_capacity(ROW * updates.len());
        for update in updates {
            let n = update.value.elem_count();
            let tensors = [
                update.value,
                update.gradient,
                update.moments[0],
                update.moments[1],
            ];
            for tensor in tensors {
                if tensor.elem_count() != n {
                    bail!(
                        "adam: a parameter of {n} elements has a gradient or moment of {}",
                        tensor.elem_count()
                    )
                }
                table.push(gpu.of_tensor(tensor)?.0);
            }
            table.push(n as u64);
            let bits = |x: f64| u64::from((x as f32).to_bits());
            table.push(bits(update.step) | bits(update.root) << 32);
        }
        self.prepare(gpu, updates.iter().map(|u| u.value.elem_count()).collect())?;
        let (Some(chunks), Some(sums), Some(total)) = (&self.chunks, &self.sums, &self.total)
        else {
            bail!("adam: no workspace")
        };
        if self.count == 0 {
            return Ok(());
        }
        let table = gpu.upload(&table)?;
        let stream = gpu.device.cuda_stream();
        let table = Address(table_address(&table, gpu));
        let chunks = Address(chunks.device_ptr(&stream).0);
        let sums = Address(sums.device_ptr(&stream).0);
        let total = Address(total.device_ptr(&stream).0);
        let grid = (self.count as u32, 1);
        if rule.clip.is_some() {
            let arguments = [table.into(), chunks.into(), sums.into()];
            // SAFETY: the table has a row per parameter, `chunks` a pair and `sums` an element per
            // block.
            unsafe { gpu.launch("squares", grid, (256, 1), &arguments)? };
            let arguments = [sums.into(), self.count.into(), total.into()];
            // SAFETY: `sums` has `count` elements, `total` two; one block of 256 threads.
            unsafe { gpu.launch("sum_squares", (1, 1), (256, 1), &arguments)? };
        }
        let arguments: [Arg; 10] = [
            table.into(),
            chunks.into(),
            rule.betas.0.into(),
            (1.0 - rule.betas.0).into(),
            rule.betas.1.into(),
            (1.0 - rule.betas.1).into(),
            rule.keep.into(),
            rule.eps.into(),
            rule.clip.unwrap_or(0.0).into(),
            match rule.clip {
                Some(_) => total.into(),
                None => Address::NULL.into(),
            },
        ];
        // SAFETY: as above. Values and moments change in place: they are the optimiser's own, and
        // the caller holds its variables for the call, as candle's in-place operations do.
        unsafe { gpu.launch("adam", grid, (256, 1), &arguments) }
    }
}

fn table_address(table: &CudaSlice<u64>, gpu: &Gpu) -> u64 {
    table.device_ptr(&gpu.device.cuda_stream()).0
}
