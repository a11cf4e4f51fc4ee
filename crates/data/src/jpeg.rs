//! Decodes JPEG files and rejects those that are truncated or damaged.
//!
//! By default, the decoder that `image` uses shows what it can of a damaged file and fills the
//! rest with grey. Here the same decoder runs in strict mode for the image data. Two further
//! checks are added: the file must contain its end marker, and the image data must not end before
//! the image does.

use image::RgbImage;
use image::metadata::Orientation;
use invariances_core::names::message;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Appended to the image data: bits that are all 1, which is not a valid Huffman code. A decoder
/// that still needs data at this point fails. Without these bits it would read the end of the
/// file as zeros and draw them.
const SENTINEL: [u8; 16] = [
    0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0,
];

/// The end-of-image marker.
const END: [u8; 2] = [0xFF, 0xD9];

/// A JPEG file whose header has been read.
pub(super) struct Jpeg {
    decoder: JpegDecoder<ZCursor<Vec<u8>>>,
    pub width: u32,
    pub height: u32,
    /// Maximum number of bytes that the decoder uses in addition to its output.
    pub working: u64,
    pub orientation: Orientation,
}

impl Jpeg {
    pub(super) fn open(bytes: &[u8]) -> Result<Self, String> {
        let scans = Scans::read(bytes).ok_or("the JPEG file is truncated: its end is missing")?;
        let file = [&bytes[..scans.end], &SENTINEL, &END].concat();
        let size = file.len() as u64;
        let side = usize::from(u16::MAX);
        let options = DecoderOptions::default()
            .set_strict_mode(false)
            .set_max_width(side)
            .set_max_height(side)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
        decoder.decode_headers().map_err(message)?;
        // Headers may have harmless faults, such as padding between segments. Image data may not.
        decoder.set_options(options.set_strict_mode(true));
        let (width, height) = decoder.dimensions().unwrap_or_default();
        let components = decoder.info().map_or(4, |info| info.components);
        // Sides are rounded up to the largest block of the format, 32 pixels.
        let padded = |side: usize| (side as u64).next_multiple_of(32);
        let rows = size + 512 * padded(width);
        let working = if scans.keep_all {
            rows + 2 * u64::from(components) * padded(width) * padded(height)
        } else {
            rows
        };
        let exif = decoder.exif();
        let orientation = exif.and_then(|exif| Orientation::from_exif_chunk(exif));
        Ok(Self {
            width: width as u32,
            height: height as u32,
            working,
            orientation: orientation.unwrap_or(Orientation::NoTransforms),
            decoder,
        })
    }

    pub(super) fn decode(mut self) -> Result<RgbImage, String> {
        let size = 3 * self.width as usize * self.height as usize;
        let mut pixels = vec![0; size];
        self.decoder.decode_into(&mut pixels).map_err(message)?;
        let image = RgbImage::from_raw(self.width, self.height, pixels);
        image.ok_or_else(|| "the decoder returned another size".into())
    }
}

/// The storage of the image data in a JPEG file.
#[derive(Debug, PartialEq, Eq)]
struct Scans {
    /// Position of the end-of-image marker.
    end: usize,
    /// Whether the decoder keeps the coefficients of the whole image. False only if one baseline
    /// scan contains all components.
    keep_all: bool,
}

impl Scans {
    /// Reads the segments of a file up to its end; `None` if the end is missing.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut progressive, mut components, mut first) = (false, 0, None);
        let mut at = 2;
        loop {
            // Image data lies between a scan's header and the next marker. In it, 0xFF is
            // followed by 0.
            let rest = bytes.get(at..)?;
            at += rest.iter().position(|&b| b == 0xFF)? + 1;
            let marker = *bytes.get(at)?;
            match marker {
                // A fill byte: the marker's code follows.
                0xFF => continue,
                // Escaped image data, restart markers, and other markers without a length.
                0x00 | 0x01 | 0xD0..=0xD8 => at += 1,
                0xD9 => break,
                _ => {
                    let length = bytes.get(at + 1..at + 3)?;
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                    let content = bytes.get(at + 3..)?;
                    match marker {
                        0xC0..=0xC2 => {
                            progressive |= marker == 0xC2;
                            components = *content.get(5)?;
                        }
                        0xDA => {
                            first.get_or_insert(*content.first()?);
                        }
                        _ => {}
                    }
                    at += 1 + length.max(2);
                }
            }
        }
        Some(Self {
            end: at - 1,
            keep_all: progressive || first != Some(components),
        })
    }
}
