//! Image files as pixels.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageReader, RgbImage, imageops};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The longest side of an image that is decoded.
pub(super) const LONGEST: u32 = 4096;

/// The most memory that a decoder takes: 4096×4096 pixels with four channels of 16 bits, and as much again to decode them.
const DECODER: u64 = 2 * 8 * (LONGEST as u64) * (LONGEST as u64);

/// Decodes a PNG or JPEG file of at most `longest` pixels a side; what is wrong with it, in words.
pub(super) fn decode(bytes: &[u8], longest: u32) -> std::result::Result<DynamicImage, String> {
    let expected = format!("expected PNG or JPEG of at most {longest} pixels a side");
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(longest);
        limits.max_image_height = Some(longest);
        limits.max_alloc = Some(DECODER);
        let mut reader = ImageReader::new(Cursor::new(bytes));
        reader.limits(limits);
        let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
        reader.decode().map_err(|e| e.to_string())
    }));
    attempt
        .unwrap_or_else(|_| Err("the decoder gave up".into()))
        .map_err(|e| format!("not an image that can be read, {expected}: {e}"))
}

/// In 8 bits of red, green and blue; what is transparent lies over white.
pub(super) fn rgb(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0.map(u32::from);
        let over = |c: u32| ((c * a + 255 * (255 - a) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

/// The square in the middle, resized to `size` pixels a side: the same as the shorter side resized, then cropped.
///
/// The filter is a triangle as wide as the coarser of both grids, as other libraries' antialiased bilinear.
pub(super) fn square(image: RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    let image = if width == height {
        image
    } else {
        let (x, y) = ((width - side) / 2, (height - side) / 2);
        imageops::crop_imm(&image, x, y, side, side).to_image()
    };
    if side == size {
        return image;
    }
    imageops::resize(&image, size, size, imageops::FilterType::Triangle)
}

/// Red, green and blue planes of an image in [−1, 1], written to `out`.
pub(super) fn planes(image: &RgbImage, out: &mut [f32]) {
    let area = image.width() as usize * image.height() as usize;
    for (c, plane) in out.chunks_mut(area.max(1)).enumerate().take(3) {
        for (value, pixel) in plane.iter_mut().zip(image.as_raw().chunks_exact(3)) {
            *value = f32::from(pixel[c]) / 127.5 - 1.0;
        }
    }
}

/// An image as (3, height, width), f32 in [−1, 1].
pub(super) fn tensor(image: &RgbImage) -> Result<Tensor> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut values = vec![0.0; 3 * width * height];
    planes(image, &mut values);
    Tensor::from_vec(values, (3, height, width), &Device::Cpu).map_err(Error::from)
}
