//! Writes PNG files with text entries, animated PNG files, and JPEG for pages with many images.

use super::canvas::Pixels;
use crate::{Error, Result};

/// Encodes pixels as JPEG. `quality` is at most 100.
pub(crate) fn jpeg(pixels: &Pixels, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = (pixels.width as u32, pixels.height as u32);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(&pixels.rgb, width, height, image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::Drawing(format!("JPEG: {e}")))?;
    Ok(bytes)
}

/// Encodes pixels as PNG. `drawn` is true if the figure contains no image, `density` is in pixels
/// per inch, and `texts` are pairs of a keyword (ASCII) and a text.
pub(crate) fn encode(
    pixels: &Pixels,
    drawn: bool,
    density: Option<f64>,
    texts: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::Drawing(format!("PNG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width as u32, pixels.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // 5 to 10 % smaller than `Balanced`, in at most a tenth of a second: notebooks keep these files.
    encoder.set_compression(png::Compression::High);
    if drawn {
        // Lines and text contain many repeated bytes. Filters store differences between
        // neighbouring pixels and would hide the repetition from the compressor.
        encoder.set_filter(png::Filter::NoFilter);
    }
    if let Some(density) = density {
        let per_metre = (density / 0.0254).round() as u32;
        encoder.set_pixel_dims(Some(png::PixelDimensions {
            xppu: per_metre,
            yppu: per_metre,
            unit: png::Unit::Meter,
        }));
    }
    for (keyword, text) in texts {
        let (keyword, text) = (keyword.to_string(), text.to_string());
        encoder.add_itxt_chunk(keyword, text).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&pixels.rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Encodes frames of equal size as an animated PNG that repeats forever. Each frame is shown for
/// `milliseconds`.
pub(crate) fn animate(
    frames: &[Pixels],
    milliseconds: u16,
    texts: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::Drawing(format!("PNG: {e}"));
    let (width, height) = frames.first().map_or((0, 0), |f| (f.width, f.height));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    encoder
        .set_animated(frames.len() as u32, 0)
        .map_err(failed)?;
    encoder
        .set_frame_delay(milliseconds, 1000)
        .map_err(failed)?;
    for (keyword, text) in texts {
        let (keyword, text) = (keyword.to_string(), text.to_string());
        encoder.add_itxt_chunk(keyword, text).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    for frame in frames {
        writer.write_image_data(&frame.rgb).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(bytes)
}
