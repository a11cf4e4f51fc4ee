//! Pages of a column chunk: their headers, and the values that they contain.

use super::footer::Leaf;
use super::thrift::{Fault, Out, Thrift};
use polars_parquet::parquet::compression::{Compression, DecompressionContext, decompress};
use std::ops::Range;
use std::sync::Arc;

/// Maximum size of an unpacked page in bytes. Writers aim at 1 MiB; pages of photographs on the
/// Hugging Face Hub have some hundred MiB.
pub(super) const MAX_PAGE: usize = 1 << 30;
/// The stated unpacked size of a page may be at most this many times its stored size ...
const RATIO: usize = 64;
/// ... or at most this size in any case.
const SMALL: usize = 16 << 20;

/// The header of a page.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub kind: Kind,
    /// Size in bytes, packed and unpacked.
    pub packed: usize,
    pub unpacked: usize,
    pub values: usize,
    encoding: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    /// Version 2: the lengths of the definition levels and repetition levels, which precede the
    /// packed values, and whether the values are packed.
    DataV2 {
        levels: usize,
        repetition: usize,
        packed: bool,
    },
    Dictionary,
    Other,
}

impl Header {
    /// Reads a header from the start of `bytes`; also returns its length in bytes.
    pub(super) fn read(bytes: &[u8]) -> Out<(Self, usize)> {
        let mut t = Thrift::new(bytes);
        let (mut kind, mut packed, mut unpacked) = (None, None, None);
        let (mut values, mut encoding) = (None, None);
        let (mut levels, mut repetition, mut is_packed) = (None, None, true);
        t.root(|t, id, field| {
            match id {
                1 => kind = Some(t.int(field)?),
                2 => unpacked = Some(t.int(field)?),
                3 => packed = Some(t.int(field)?),
                5 | 7 => t.structure(field, |t, id, field| {
                    match id {
                        1 => values = Some(t.int(field)?),
                        2 => encoding = Some(t.int(field)?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                8 => t.structure(field, |t, id, field| {
                    match id {
                        1 => values = Some(t.int(field)?),
                        4 => encoding = Some(t.int(field)?),
                        5 => levels = Some(t.int(field)?),
                        6 => repetition = Some(t.int(field)?),
                        7 => is_packed = Thrift::flag(field)?,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let number = |n: Option<i64>| {
            let n = n.and_then(|n| u32::try_from(n).ok());
            n.map(|n| n as usize)
                .ok_or(Fault::Wrong("a page header without a required field"))
        };
        let (packed, unpacked) = (number(packed)?, number(unpacked)?);
        let kind = match kind {
            Some(0) => Kind::Data,
            Some(2) => Kind::Dictionary,
            Some(3) => Kind::DataV2 {
                levels: number(levels)?,
                repetition: number(repetition)?,
                packed: is_packed,
            },
            _ => Kind::Other,
        };
        let (values, encoding) = match kind {
            Kind::Other => (0, 0),
            _ => (number(values)?, encoding.unwrap_or(-1)),
        };
        let header = Self {
            kind,
            packed,
            unpacked,
            values,
            encoding,
        };
        Ok((header, t.position()))
    }

    pub(super) fn needs_dictionary(&self) -> bool {
        matches!(self.encoding, 2 | 8)
    }

    /// Returns the content of the page, unpacked.
    pub(super) fn unpack(&self, mut body: Vec<u8>, codec: i64) -> Result<Vec<u8>, String> {
        // In version 2 the levels come first and are never packed.
        let plain = match self.kind {
            Kind::DataV2 {
                levels, repetition, ..
            } => levels + repetition,
            _ => 0,
        };
        let is_packed = !matches!(self.kind, Kind::DataV2 { packed: false, .. });
        if plain > body.len() || plain > self.unpacked {
            return Err("a page with levels that are longer than the page".into());
        }
        let codec = match codec {
            0 => Compression::Uncompressed,
            1 => Compression::Snappy,
            2 => Compression::Gzip,
            4 => Compression::Brotli,
            6 => Compression::Zstd,
            7 => Compression::Lz4Raw,
            other => {
                return Err(format!(
                    "unsupported compression method {other}: write the file with zstd, snappy, gzip, brotli or lz4_raw"
                ));
            }
        };
        if codec == Compression::Uncompressed || !is_packed || self.unpacked == plain {
            if body.len() < self.unpacked {
                return Err("a page that is shorter than its header states".into());
            }
            body.truncate(self.unpacked);
            return Ok(body);
        }
        if self.unpacked > MAX_PAGE || self.unpacked > SMALL.max(RATIO.saturating_mul(body.len())) {
            return Err(format!(
                "a page of {} bytes has an uncompressed size of {} bytes: the limit is {RATIO} times its size (or {SMALL} bytes, if that is more), and {MAX_PAGE} bytes",
                body.len(),
                self.unpacked
            ));
        }
        let mut out = zeros(self.unpacked)?;
        let (head, rest) = body.split_at(plain);
        let (out_head, out_rest) = out.split_at_mut(plain);
        out_head.copy_from_slice(head);
        decompress(codec, rest, out_rest, &mut DecompressionContext::Unset)
            .map_err(|e| format!("a page cannot be decompressed: {e}"))?;
        Ok(out)
    }
}

/// Returns `count` zeros, or an error message if memory is insufficient.
pub(super) fn zeros(count: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    out.try_reserve_exact(count)
        .map_err(|_| format!("not enough memory for a page of {count} bytes"))?;
    out.resize(count, 0);
    Ok(out)
}

/// The values of a column, in order.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    /// The range of each value in `data`.
    Bytes {
        data: Arc<Vec<u8>>,
        spans: Vec<Range<u32>>,
    },
}

impl Values {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Bytes { spans, .. } => spans.len(),
        }
    }

    /// Returns the values at these indices; `None` if an index is out of range.
    fn take(&self, indices: &[u32]) -> Option<Self> {
        fn pick<T: Clone>(values: &[T], indices: &[u32]) -> Option<Vec<T>> {
            let pick = indices.iter().map(|&i| values.get(i as usize).cloned());
            pick.collect()
        }
        Some(match self {
            Self::I32(v) => Self::I32(pick(v, indices)?),
            Self::I64(v) => Self::I64(pick(v, indices)?),
            Self::F32(v) => Self::F32(pick(v, indices)?),
            Self::F64(v) => Self::F64(pick(v, indices)?),
            Self::Bool(v) => Self::Bool(pick(v, indices)?),
            Self::Bytes { data, spans } => Self::Bytes {
                data: data.clone(),
                spans: pick(spans, indices)?,
            },
        })
    }
}

/// The content of a data page: for each row whether it has a value, and the values of the rows
/// that have one.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Per row: the index of its value. Empty if every row has a value.
    places: Vec<Option<u32>>,
    pub values: Values,
}

impl Page {
    /// Returns the index of a row's value.
    pub(super) fn place(&self, row: usize) -> Option<usize> {
        if self.places.is_empty() {
            return (row < self.values.len()).then_some(row);
        }
        self.places.get(row).copied().flatten().map(|p| p as usize)
    }

    /// Returns the approximate memory use in bytes.
    pub(crate) fn size(&self) -> usize {
        let data = match &self.values {
            Values::Bytes { data, .. } => data.len(),
            _ => 0,
        };
        data + 8 * (self.values.len() + self.places.len())
    }

    /// Returns the bytes of a row's value.
    pub(crate) fn bytes(&self, row: usize) -> Option<&[u8]> {
        let Values::Bytes { data, spans } = &self.values else {
            return None;
        };
        let span = spans.get(self.place(row)?)?;
        data.get(span.start as usize..span.end as usize)
    }
}

/// Decodes a dictionary from the content of its page.
pub(super) fn dictionary(leaf: &Leaf, header: &Header, data: Vec<u8>) -> Result<Values, String> {
    match header.encoding {
        0 | 2 => plain(leaf, Arc::new(data), 0, header.values),
        other => Err(format!(
            "a dictionary with the unsupported encoding {other}"
        )),
    }
}

/// Decodes a data page from its content. The caller must limit `header.values`.
pub(super) fn data(
    leaf: &Leaf,
    header: &Header,
    data: Vec<u8>,
    dictionary: Option<&Values>,
) -> Result<Page, String> {
    let rows = header.values;
    let mut at = 0;
    let mut levels = None;
    if let Kind::DataV2 {
        levels: length,
        repetition,
        ..
    } = header.kind
    {
        at = repetition + length;
        levels = Some(repetition..at);
    } else if leaf.defined > 0 {
        let length = data.first_chunk::<4>().ok_or("a page without levels")?;
        at = 4usize.saturating_add(u32::from_le_bytes(*length) as usize);
        levels = Some(4..at);
    }
    let mut places = Vec::new();
    let mut count = rows;
    if let (true, Some(levels)) = (leaf.defined > 0, levels) {
        let bytes = data
            .get(levels)
            .ok_or("a page with levels that are longer than the page")?;
        let width = 32 - leaf.defined.leading_zeros();
        let levels = runs(bytes, width, rows)?;
        count = levels.iter().filter(|&&l| l == leaf.defined).count();
        if count < rows {
            let mut next = 0;
            places = levels
                .into_iter()
                .map(|l| {
                    let place = (l == leaf.defined).then_some(next);
                    next += u32::from(l == leaf.defined);
                    place
                })
                .collect();
        }
    }
    let body = data.get(at..).ok_or("a truncated page")?;
    let values = match header.encoding {
        0 => plain(leaf, Arc::new(data), at, count)?,
        2 | 8 => {
            let dictionary = dictionary.ok_or("a page without the dictionary that it needs")?;
            let indices = match body.split_first() {
                _ if count == 0 => Vec::new(),
                Some((&width, body)) if width <= 32 => runs(body, u32::from(width), count)?,
                _ => return Err("a page without the indices of its values".into()),
            };
            dictionary
                .take(&indices)
                .ok_or("a page with values that are not in its dictionary")?
        }
        3 if leaf.physical == 0 => {
            let length = body.first_chunk::<4>().ok_or("a page without values")?;
            let end = 4usize.saturating_add(u32::from_le_bytes(*length) as usize);
            let body = body.get(4..end).ok_or("a truncated page")?;
            let bits = runs(body, 1, count)?;
            Values::Bool(bits.into_iter().map(|b| b == 1).collect())
        }
        other => {
            let name = usize::try_from(other).ok().and_then(|i| {
                let names = [
                    "delta_binary_packed",
                    "delta_length_byte_array",
                    "delta_byte_array",
                    "rle_dictionary",
                    "byte_stream_split",
                ];
                names.get(i.checked_sub(5)?).copied()
            });
            return Err(format!(
                "column {:?} has the unsupported encoding {}: write it with plain or dictionary encoding",
                leaf.path.join("."),
                name.map_or(other.to_string(), Into::into)
            ));
        }
    };
    Ok(Page { places, values })
}

/// Decodes `count` values in plain encoding, starting at byte `at`.
fn plain(leaf: &Leaf, data: Arc<Vec<u8>>, at: usize, count: usize) -> Result<Values, String> {
    fn numbers<const N: usize, T>(
        body: &[u8],
        count: usize,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, String> {
        let (chunks, _) = body.as_chunks::<N>();
        let chunks = chunks
            .get(..count)
            .ok_or("a page with fewer values than its header states")?;
        Ok(chunks.iter().map(|&c| number(c)).collect())
    }
    let body = data.get(at..).ok_or("a truncated page")?;
    Ok(match leaf.physical {
        0 => {
            if body.len() < count.div_ceil(8) {
                return Err("a page with fewer values than its header states".into());
            }
            Values::Bool(
                (0..count)
                    .map(|i| body[i / 8] >> (i % 8) & 1 == 1)
                    .collect(),
            )
        }
        1 => Values::I32(numbers(body, count, i32::from_le_bytes)?),
        2 => Values::I64(numbers(body, count, i64::from_le_bytes)?),
        4 => Values::F32(numbers(body, count, f32::from_le_bytes)?),
        5 => Values::F64(numbers(body, count, f64::from_le_bytes)?),
        6 => {
            if count > body.len() / 4 || u32::try_from(data.len()).is_err() {
                return Err("a page with fewer values than its header states".into());
            }
            let mut spans = Vec::with_capacity(count);
            let mut at = at;
            for _ in 0..count {
                let length = data.get(at..).and_then(|rest| rest.first_chunk::<4>());
                let length = length.ok_or("a truncated page")?;
                let start = at + 4;
                let end = start.saturating_add(u32::from_le_bytes(*length) as usize);
                if end > data.len() {
                    return Err("a value that is longer than its page".into());
                }
                spans.push(start as u32..end as u32);
                at = end;
            }
            Values::Bytes { data, spans }
        }
        _ => {
            return Err(format!(
                "column {:?} has an unsupported type",
                leaf.path.join(".")
            ));
        }
    })
}

/// Decodes `count` values of `width` bits from the hybrid of run-length encoding and bit packing.
fn runs(bytes: &[u8], width: u32, count: usize) -> Result<Vec<u32>, String> {
    const SHORT: &str = "runs of values that are shorter than the page header states";
    let mut out: Vec<u32> = Vec::with_capacity(count);
    if width == 0 {
        out.resize(count, 0);
        return Ok(out);
    }
    let mut at = 0;
    while out.len() < count {
        let mut head = 0u64;
        let mut shift = 0;
        loop {
            let byte = *bytes.get(at).ok_or(SHORT)?;
            at += 1;
            head |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 56 {
                return Err("a run of values that is too long".into());
            }
        }
        let remaining = count - out.len();
        let length = usize::try_from(head >> 1).unwrap_or(usize::MAX);
        if head & 1 == 0 {
            let mut value = 0u32;
            for k in 0..width.div_ceil(8) {
                value |= u32::from(*bytes.get(at).ok_or(SHORT)?) << (8 * k);
                at += 1;
            }
            out.resize(out.len() + length.min(remaining), value);
        } else {
            let take = length.saturating_mul(8).min(remaining);
            let packed = bytes.get(at..).unwrap_or_default();
            // The last run may lack the bytes of values beyond `count`.
            if packed.len() < (take * width as usize).div_ceil(8) {
                return Err(SHORT.into());
            }
            let (mut buffer, mut bits, mut next) = (0u64, 0, packed.iter());
            for _ in 0..take {
                while bits < width {
                    buffer |= u64::from(next.next().copied().unwrap_or(0)) << bits;
                    bits += 8;
                }
                out.push((buffer & ((1u64 << width) - 1)) as u32);
                buffer >>= width;
                bits -= width;
            }
            at = at.saturating_add(length.saturating_mul(width as usize));
        }
    }
    Ok(out)
}
