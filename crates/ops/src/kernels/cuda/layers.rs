//! Dense layers, element-wise operations and normalisation of channels on the GPU.

use super::{Address, Arg, Buffer, Gpu, Product};
use candle_core::{Result, Tensor};

/// The slope that a kernel multiplies negative values by: 1 for no activation.
pub(crate) fn slope_of(activation: crate::Activation) -> f64 {
    match activation {
        crate::Activation::None => 1.0,
        crate::Activation::Leaky(slope) => slope,
    }
}

impl Gpu {
    pub(crate) fn leaky(&self, x: Address, n: usize, slope: f64) -> Result<Buffer> {
        let y = self.empty(n)?;
        let arguments = [x.into(), (&y).into(), Arg::Long(n as i64), slope.into()];
        // SAFETY: x and y have n elements.
        unsafe { self.map("leaky", (n, 1), &arguments)? };
        Ok(y)
    }

    /// The gradient before leaky ReLU, from its result y and the gradient g after it.
    pub(crate) fn slope(&self, y: Address, g: Address, n: usize, slope: f64) -> Result<Buffer> {
        let out = self.empty(n)?;
        let arguments = [
            y.into(),
            g.into(),
            (&out).into(),
            Arg::Long(n as i64),
            slope.into(),
        ];
        // SAFETY: y, g and out have n elements.
        unsafe { self.map("slope", (n, 1), &arguments)? };
        Ok(out)
    }

    pub(crate) fn add_leaky(&self, a: Address, b: Address, n: usize, slope: f64) -> Result<Buffer> {
        let y = self.empty(n)?;
        let arguments = [
            a.into(),
            b.into(),
            (&y).into(),
            Arg::Long(n as i64),
            slope.into(),
        ];
        // SAFETY: a, b and y have n elements.
        unsafe { self.map("add_leaky", (n, 1), &arguments)? };
        Ok(y)
    }

    /// A dense layer: leaky(x·wᵀ + b), (rows, outputs).
    pub(crate) fn dense(
        &self,
        [x, w, b]: [Address; 3],
        (rows, inputs, outputs): (usize, usize, usize),
        slope: f64,
    ) -> Result<Buffer> {
        let y = self.empty(rows * outputs)?;
        self.product(Product {
            a: x,
            b: w,
            out: y.address,
            sizes: (rows, outputs, inputs),
            transposed: (false, true),
            batch: 1,
            strides: [0; 3],
            add: false,
        })?;
        self.bias_leaky(&y, [b, b], (1, rows, outputs), slope)?;
        Ok(y)
    }

    /// Adds biases to h (nets, rows, n) in place, then leaky ReLU. There are one or two nets.
    pub(crate) fn bias_leaky(
        &self,
        h: &Buffer,
        biases: [Address; 2],
        (nets, rows, n): (usize, usize, usize),
        slope: f64,
    ) -> Result<()> {
        let arguments = [
            h.into(),
            biases[0].into(),
            biases[1].into(),
            n.into(),
            rows.into(),
            slope.into(),
        ];
        // SAFETY: h has nets·rows·n elements and each bias n.
        unsafe { self.map("bias_leaky", (rows * n, nets as u32), &arguments) }
    }

    /// Multiplies d (nets, rows, n) in place by the slope of leaky ReLU at its results h (null:
    /// no activation), and returns the sums over the rows, (nets, n).
    pub(crate) fn slope_bias(
        &self,
        d: Address,
        h: Address,
        (nets, rows, n): (usize, usize, usize),
        slope: f64,
    ) -> Result<Buffer> {
        let sums = self.empty(nets * n)?;
        let arguments = [
            d.into(),
            h.into(),
            (&sums).into(),
            n.into(),
            rows.into(),
            slope.into(),
        ];
        let grid = (n.div_ceil(32) as u32, nets as u32);
        // SAFETY: d and h have nets·rows·n elements, and the blocks cover all n columns.
        unsafe { self.launch("slope_bias", grid, (32, 8), &arguments)? };
        Ok(sums)
    }

    /// leaky(x·a + b) with one a and b per channel of x (batch, channels, plane).
    pub(crate) fn channel_affine(
        &self,
        [x, a, b]: [Address; 3],
        (batch, channels, plane): (usize, usize, usize),
        slope: f64,
    ) -> Result<Buffer> {
        let n = batch * channels * plane;
        let y = self.empty(n)?;
        let arguments = [
            x.into(),
            a.into(),
            b.into(),
            (&y).into(),
            channels.into(),
            plane.into(),
            Arg::Long(n as i64),
            slope.into(),
        ];
        // SAFETY: x and y have n elements, a and b one per channel.
        unsafe { self.map("channel_affine", (n, 1), &arguments)? };
        Ok(y)
    }

    /// The gradients of x, a and b of [`Gpu::channel_affine`].
    pub(crate) fn channel_affine_backward(
        &self,
        [x, a, y, g]: [Address; 4],
        (batch, channels, plane): (usize, usize, usize),
        slope: f64,
    ) -> Result<[Buffer; 3]> {
        let to_x = self.empty(batch * channels * plane)?;
        let (to_a, to_b) = (self.empty(channels)?, self.empty(channels)?);
        let arguments = [
            x.into(),
            a.into(),
            y.into(),
            g.into(),
            (&to_x).into(),
            (&to_a).into(),
            (&to_b).into(),
            batch.into(),
            channels.into(),
            plane.into(),
            slope.into(),
        ];
        let grid = (channels as u32, 1);
        // SAFETY: the tensors have batch·channels·plane elements, and there is a block per channel.
        unsafe { self.launch("channel_affine_backward", grid, (512, 1), &arguments)? };
        Ok([to_x, to_a, to_b])
    }

    /// The sums of the channels of x (batch, channels, plane).
    pub(crate) fn channel_sum(
        &self,
        x: Address,
        (batch, channels, plane): (usize, usize, usize),
    ) -> Result<Buffer> {
        let sums = self.empty(channels)?;
        let arguments = [
            x.into(),
            (&sums).into(),
            batch.into(),
            channels.into(),
            plane.into(),
        ];
        // SAFETY: x has batch·channels·plane elements, and there is a block per channel.
        unsafe { self.launch("channel_sum", (channels as u32, 1), (512, 1), &arguments)? };
        Ok(sums)
    }
}

/// Returns the gradients of x, weight and bias of a dense layer that `wanted` selects.
pub(crate) fn dense_backward(
    gpu: &Gpu,
    [x, w, b]: [&Tensor; 3],
    (y, grad): (&Tensor, &Tensor),
    slope: Option<f64>,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let (rows, inputs) = x.dims2()?;
    let outputs = b.elem_count();
    let d = match slope {
        Some(slope) => {
            let n = rows * outputs;
            let d = gpu.slope(gpu.of_tensor(y)?, gpu.of_tensor(grad)?, n, slope)?;
            gpu.tensor(d, (rows, outputs))
        }
        None => grad.clone(),
    };
    let at = gpu.of_tensor(&d)?;
    let to_x = if wanted[0] {
        let to_x = gpu.empty(rows * inputs)?;
        gpu.product(Product {
            a: at,
            b: gpu.of_tensor(w)?,
            out: to_x.address,
            sizes: (rows, inputs, outputs),
            transposed: (false, false),
            batch: 1,
            strides: [0; 3],
            add: false,
        })?;
        Some(gpu.tensor(to_x, x.shape()))
    } else {
        None
    };
    let to_w = if wanted[1] {
        let to_w = gpu.empty(outputs * inputs)?;
        gpu.product(Product {
            a: at,
            b: gpu.of_tensor(x)?,
            out: to_w.address,
            sizes: (outputs, inputs, rows),
            transposed: (true, false),
            batch: 1,
            strides: [0; 3],
            add: false,
        })?;
        Some(gpu.tensor(to_w, w.shape()))
    } else {
        None
    };
    let to_b = if wanted[2] {
        let to_b = gpu.slope_bias(at, Address::NULL, (1, rows, outputs), 1.0)?;
        Some(gpu.tensor(to_b, b.shape()))
    } else {
        None
    };
    Ok([to_x, to_w, to_b])
}
