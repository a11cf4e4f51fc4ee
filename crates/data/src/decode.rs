//! Decodes image files into pixels and tensors, within a memory limit.

use super::jpeg::Jpeg;
use super::memory::{LIMIT, Share};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, imageops,
};
use invariances_core::names::message;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The formats that can be read, for messages.
pub(super) const FORMATS: &str = "PNG, JPEG, WebP, BMP, TIFF, GIF or PNM";

/// Maximum number of bytes for metadata in a file: colour profile, EXIF and so on.
const METADATA: u64 = 64 << 20;

/// Decodes an image file of one of the [`FORMATS`] and rotates it according to its EXIF
/// orientation. The format is detected from the content.
///
/// `longest` is the maximum side length in pixels. `resized` is the size to which `f` resizes the
/// image, if it does; it is needed to estimate the memory. An error message describes the problem
/// with the file.
pub(super) fn decode<T>(
    bytes: &[u8],
    longest: u32,
    resized: Option<u32>,
    f: impl FnOnce(DynamicImage) -> T,
) -> std::result::Result<T, String> {
    let attempt = catch_unwind(AssertUnwindSafe(|| attempt(bytes, longest, resized, f)));
    attempt
        .unwrap_or_else(|_| Err("the decoder panicked".into()))
        .map_err(|e| {
            format!("cannot decode the image: {e} (`Images::readable` leaves such images out)")
        })
}

fn attempt<T>(
    bytes: &[u8],
    longest: u32,
    resized: Option<u32>,
    f: impl FnOnce(DynamicImage) -> T,
) -> std::result::Result<T, String> {
    let format = image::guess_format(bytes).ok();
    if format == Some(ImageFormat::Jpeg) {
        let file = Jpeg::open(bytes)?;
        let plan = Plan {
            width: file.width,
            height: file.height,
            colour: ColorType::Rgb8,
            working: file.working,
            orientation: file.orientation,
        };
        let _share = plan.share(longest, resized)?;
        let mut image = DynamicImage::ImageRgb8(file.decode()?);
        image.apply_orientation(plan.orientation);
        return Ok(f(image));
    }
    let Some(format) = format.filter(ImageFormat::reading_enabled) else {
        return Err(format!("expected {FORMATS}, found {}", foreign(bytes)));
    };
    if format == ImageFormat::WebP && !webp_is_complete(bytes) {
        return Err("the WebP file is truncated".into());
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits(METADATA));
    let mut decoder = reader.into_decoder().map_err(message)?;
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    if matches!(colour, ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err("expected pixels of 8 or 16 bits, found floating-point numbers".into());
    }
    let area = u64::from(width) * u64::from(height);
    let plan = Plan {
        width,
        height,
        colour,
        working: match format {
            ImageFormat::Png => (1 << 20) + 32 * u64::from(width),
            // WebP and GIF compose frames of four channels. TIFF decodes into a separate buffer.
            _ => (1 << 20) + 2 * area * u64::from(colour.bytes_per_pixel().max(4)),
        },
        // A file with damaged EXIF data is shown as stored, as other tools do.
        orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    let _share = plan.share(longest, resized)?;
    let limit = plan.output() + plan.working;
    let limited = decoder.set_limits(limits(limit));
    limited.map_err(message)?;
    let image = DynamicImage::from_decoder(decoder);
    let mut image = image.map_err(message)?;
    image.apply_orientation(plan.orientation);
    Ok(f(image))
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// The memory needed to decode an image, computed from its header.
struct Plan {
    width: u32,
    height: u32,
    colour: ColorType,
    /// Bytes that the decoder uses in addition to its output.
    working: u64,
    orientation: Orientation,
}

impl Plan {
    fn area(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Returns the size of the decoded image in bytes.
    fn output(&self) -> u64 {
        self.area()
            .saturating_mul(u64::from(self.colour.bytes_per_pixel()))
    }

    /// Returns the maximum number of bytes in use at any time: while decoding, rotating,
    /// converting to RGB or resizing.
    fn need(&self, resized: Option<u32>) -> u64 {
        let (area, output) = (self.area(), self.output());
        let decoding = output.saturating_add(self.working);
        let turning = output.saturating_mul(2);
        let rgb = area.saturating_mul(3);
        let converting = match self.colour {
            ColorType::Rgb8 => 0,
            colour if colour.has_alpha() => output.saturating_add(area.saturating_mul(7)),
            _ => output.saturating_add(rgb),
        };
        // The intermediate image between the two resizing passes has four f32 channels per pixel.
        let resizing = resized.map_or(0, |size| {
            let (side, size) = (u64::from(self.width.min(self.height)), u64::from(size));
            rgb.saturating_add(16 * side * size + 3 * size * size)
        });
        decoding.max(turning).max(converting).max(resizing)
    }

    /// Checks the size and waits until the memory is available.
    fn share(&self, longest: u32, resized: Option<u32>) -> std::result::Result<Share, String> {
        let (width, height) = (self.width, self.height);
        if width == 0 || height == 0 {
            return Err(format!(
                "expected at least one pixel, found {width}×{height}"
            ));
        }
        if width.max(height) > longest {
            return Err(format!(
                "expected at most {longest} pixels per side, found {width}×{height}"
            ));
        }
        let need = self.need(resized);
        Share::take(need).ok_or_else(|| {
            format!(
                "decoding {width}×{height} pixels needs {need} bytes of memory, \
                 the limit is {LIMIT}: \
                 use a smaller image"
            )
        })
    }
}

/// Whether all chunks of a WebP file lie within the file. The decoder allocates memory for a
/// chunk's stated length without this check.
fn webp_is_complete(bytes: &[u8]) -> bool {
    let length = |at: usize| {
        let length = bytes.get(at..at.checked_add(4)?)?;
        let length: [u8; 4] = length.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(length)).ok()
    };
    let Some(end) = length(4).and_then(|l| l.checked_add(8)) else {
        return false;
    };
    let mut at = 12usize;
    while at < end {
        let next = length(at + 4).and_then(|l| (at + 8).checked_add(l));
        match next {
            // The padding byte that makes a chunk's length even may be missing at the end.
            Some(next) if next <= bytes.len().min(end) => at = next.next_multiple_of(2),
            _ => return false,
        }
    }
    true
}

/// Describes a file that has none of the [`FORMATS`].
fn foreign(bytes: &[u8]) -> &'static str {
    let text = bytes.trim_ascii_start();
    match bytes.get(4..12) {
        _ if bytes.is_empty() => "an empty file",
        _ if text.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer (download the file itself with `git lfs pull`)"
        }
        _ if text.starts_with(b"<") => {
            "HTML, XML or SVG, which may be the message of a failed download"
        }
        Some(b"ftypavif" | b"ftypavis") => "AVIF (convert it)",
        Some(b"ftypheic" | b"ftypheix" | b"ftyphevc" | b"ftypmif1" | b"ftypmsf1") => {
            "HEIC (convert it)"
        }
        Some(header) if header.starts_with(b"ftyp") => "a video",
        _ => "another format",
    }
}

/// Converts an image to 8-bit RGB. Transparent pixels are blended with white.
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

/// Crops the central square and resizes it to `size` pixels per side. This is equivalent to
/// resizing the shorter side first and then cropping.
///
/// The filter is a triangle with the width of the coarser of the two grids, as in the antialiased
/// bilinear resizing of other libraries.
pub(super) fn square(image: RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    if width == height && side == size {
        return image;
    }
    // A view instead of a copy: copying a large photograph would double the memory.
    let (x, y) = ((width - side) / 2, (height - side) / 2);
    let view = imageops::crop_imm(&image, x, y, side, side);
    if side == size {
        return view.to_image();
    }
    imageops::resize(&*view, size, size, imageops::FilterType::Triangle)
}

/// Writes the red, green and blue planes of an image to `out`, with values in [−1, 1].
pub(super) fn planes(image: &RgbImage, out: &mut [f32]) {
    let area = image.width() as usize * image.height() as usize;
    for (c, plane) in out.chunks_mut(area.max(1)).enumerate().take(3) {
        for (value, pixel) in plane.iter_mut().zip(image.as_raw().chunks_exact(3)) {
            *value = f32::from(pixel[c]) / 127.5 - 1.0;
        }
    }
}

/// Returns an image as a tensor of shape (3, height, width), f32 in [−1, 1].
pub(super) fn tensor(image: &RgbImage) -> Result<Tensor> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut values = Vec::new();
    let count = 3 * width * height;
    if values.try_reserve_exact(count).is_err() {
        return Err(Error::invalid(format!(
            "not enough memory for an image of {width}×{height} pixels: \
             read it at a smaller size with `batch`"
        )));
    }
    values.resize(count, 0.0);
    planes(image, &mut values);
    Tensor::from_vec(values, (3, height, width), &Device::Cpu).map_err(Error::from)
}
