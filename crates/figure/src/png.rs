//! PNG files with text in them, and JPEG for what a page holds many of.

use super::canvas::Pixels;
use crate::{Error, Result};

/// Encodes pixels as JPEG, `quality` up to 100.
pub(crate) fn jpeg(pixels: &Pixels, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = (pixels.width as u32, pixels.height as u32);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(&pixels.rgb, width, height, image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::Drawing(format!("JPEG: {e}")))?;
    Ok(bytes)
}

/// Encodes pixels; `drawn` says that they show no image, `density` is in pixels per inch, `texts` are keywords (ASCII) and what they say.
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
    encoder.set_compression(png::Compression::Balanced);
    if drawn {
        // Lines and text repeat themselves: differences to what lies beside them would hide that.
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

/// Encodes pictures of one size, each shown for so many milliseconds, again and again.
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
