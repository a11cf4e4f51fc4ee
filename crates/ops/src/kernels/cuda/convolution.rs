//! Convolutions on the GPU as products with the matrix of all patches, as on the CPU.

use super::{Address, Arg, Buffer, Gpu, Product};
use crate::kernels::convolution::Geometry;
use candle_core::Result;

/// The largest number of elements of a matrix of patches. Larger batches are computed in parts.
const MOST: usize = 1 << 27;

/// The sizes that the kernels need.
#[derive(Clone, Copy)]
struct Sizes {
    /// The image that patches are taken from: channels, height, width.
    image: (usize, usize, usize),
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
    /// The number of patches in each direction.
    patches: (usize, usize),
    /// The channels on the other side.
    channels: usize,
}

impl Sizes {
    fn of(g: &Geometry) -> Self {
        let p = &g.patches;
        Self {
            image: (p.channels, p.height, p.width),
            kernel: p.kernel,
            stride: p.stride,
            padding: p.padding,
            patches: (p.out_height, p.out_width),
            channels: g.channels,
        }
    }

    /// The number of elements of a patch.
    fn patch(&self) -> usize {
        self.image.0 * self.kernel.0 * self.kernel.1
    }

    /// The number of patches of an image.
    fn plane(&self) -> usize {
        self.patches.0 * self.patches.1
    }

    fn image(&self) -> usize {
        self.image.0 * self.image.1 * self.image.2
    }

    /// Ranges of images whose matrix of patches is not too large.
    fn parts(&self, batch: usize) -> Vec<(usize, usize)> {
        let each = (MOST / (self.patch() * self.plane()).max(1)).max(1);
        let starts = (0..batch).step_by(each);
        starts.map(|at| (at, each.min(batch - at))).collect()
    }

    fn arguments(&self, batch: usize) -> [Arg; 12] {
        [
            batch.into(),
            self.image.0.into(),
            self.image.1.into(),
            self.image.2.into(),
            self.kernel.0.into(),
            self.kernel.1.into(),
            self.stride.into(),
            self.padding.0.into(),
            self.padding.1.into(),
            self.patches.0.into(),
            self.patches.1.into(),
            Arg::Int(0),
        ]
    }
}

impl Gpu {
    /// The matrix of patches of `batch` images, (patch, batch·plane).
    fn im2col(&self, x: Address, batch: usize, sizes: &Sizes) -> Result<Buffer> {
        let n = sizes.patch() * batch * sizes.plane();
        let columns = self.empty(n)?;
        let mut arguments = vec![x.into(), (&columns).into()];
        arguments.extend(&sizes.arguments(batch)[..11]);
        // SAFETY: x has `batch` images, and `columns` n elements.
        unsafe { self.map("im2col", (n, 1), &arguments)? };
        Ok(columns)
    }

    fn col2im(
        &self,
        columns: &Buffer,
        x: Address,
        batch: usize,
        sizes: &Sizes,
        (bias, slope): (Address, f64),
    ) -> Result<()> {
        let mut arguments = vec![columns.into(), x.into()];
        arguments.extend(&sizes.arguments(batch)[..11]);
        arguments.extend([Arg::from(bias), Arg::from(slope)]);
        // SAFETY: x has `batch` images, and `columns` their patches.
        unsafe { self.map("col2im", (batch * sizes.image(), 1), &arguments) }
    }

    /// (channels, batch·plane) to (batch, channels, plane), with bias and leaky ReLU.
    fn channels_second(
        &self,
        y: &Buffer,
        out: Address,
        (batch, channels, plane): (usize, usize, usize),
        (bias, slope): (Address, f64),
    ) -> Result<()> {
        let arguments = [
            y.into(),
            bias.into(),
            out.into(),
            batch.into(),
            channels.into(),
            plane.into(),
            slope.into(),
        ];
        // SAFETY: y and out have batch·channels·plane elements.
        unsafe { self.map("channels_second", (batch * channels * plane, 1), &arguments) }
    }

    /// (batch, channels, plane) to (channels, batch·plane).
    fn channels_first(
        &self,
        x: Address,
        (batch, channels, plane): (usize, usize, usize),
    ) -> Result<Buffer> {
        let out = self.empty(batch * channels * plane)?;
        let arguments = [
            x.into(),
            Address::NULL.into(),
            (&out).into(),
            batch.into(),
            channels.into(),
            plane.into(),
            Arg::Float(1.0),
        ];
        // SAFETY: x and out have batch·channels·plane elements.
        unsafe { self.map("channels_first", (batch * channels * plane, 1), &arguments)? };
        Ok(out)
    }

    /// Projects images to their patches' products with a weight (channels, patch): the forward
    /// pass of a convolution, and the backward pass of a transposed one.
    pub(crate) fn project(
        &self,
        g: &Geometry,
        x: Address,
        w: Address,
        finish: (Address, f64),
    ) -> Result<Buffer> {
        let sizes = Sizes::of(g);
        let (o, patch, plane) = (sizes.channels, sizes.patch(), sizes.plane());
        let out = self.empty(g.batch * o * plane)?;
        for (at, count) in sizes.parts(g.batch) {
            let columns = self.im2col(x.at(at * sizes.image()), count, &sizes)?;
            let y = self.empty(o * count * plane)?;
            self.product(Product {
                a: w,
                b: columns.address,
                out: y.address,
                sizes: (o, count * plane, patch),
                transposed: (false, false),
                batch: 1,
                strides: [0; 3],
                add: false,
            })?;
            let to = out.address.at(at * o * plane);
            self.channels_second(&y, to, (count, o, plane), finish)?;
        }
        Ok(out)
    }

    /// The adjoint of [`Gpu::project`]: the backward pass of a convolution, and the forward pass
    /// of a transposed one.
    pub(crate) fn spread(
        &self,
        g: &Geometry,
        y: Address,
        w: Address,
        finish: (Address, f64),
    ) -> Result<Buffer> {
        let sizes = Sizes::of(g);
        let (o, patch, plane) = (sizes.channels, sizes.patch(), sizes.plane());
        let out = self.empty(g.batch * sizes.image())?;
        for (at, count) in sizes.parts(g.batch) {
            let rows = self.channels_first(y.at(at * o * plane), (count, o, plane))?;
            let columns = self.empty(patch * count * plane)?;
            self.product(Product {
                a: w,
                b: rows.address,
                out: columns.address,
                sizes: (patch, count * plane, o),
                transposed: (true, false),
                batch: 1,
                strides: [0; 3],
                add: false,
            })?;
            let to = out.address.at(at * sizes.image());
            self.col2im(&columns, to, count, &sizes, finish)?;
        }
        Ok(out)
    }

    /// The gradient of the weight, (channels, patch), from images x and y (batch, channels,
    /// plane).
    pub(crate) fn correlate(&self, g: &Geometry, x: Address, y: Address) -> Result<Buffer> {
        let sizes = Sizes::of(g);
        let (o, patch, plane) = (sizes.channels, sizes.patch(), sizes.plane());
        let out = self.empty(o * patch)?;
        for (at, count) in sizes.parts(g.batch) {
            let columns = self.im2col(x.at(at * sizes.image()), count, &sizes)?;
            let rows = self.channels_first(y.at(at * o * plane), (count, o, plane))?;
            self.product(Product {
                a: rows.address,
                b: columns.address,
                out: out.address,
                sizes: (o, patch, count * plane),
                transposed: (false, true),
                batch: 1,
                strides: [0; 3],
                add: at > 0,
            })?;
        }
        Ok(out)
    }
}
