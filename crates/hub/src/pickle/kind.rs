//! Element types of tensors, and torch's storage classes.

use candle_core::DType;

/// The element type of a tensor that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    U16,
    U32,
}

impl Kind {
    /// Bytes per element.
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The element type of the loaded tensor: candle has no bool, i8 or u16.
    pub fn dtype(self) -> DType {
        match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 | Self::I8 => DType::I16,
            Self::U8 | Self::Bool => DType::U8,
            Self::U16 | Self::U32 => DType::U32,
        }
    }

    /// Parses the name of a dtype, such as `torch.float32`.
    pub fn of_dtype(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("torch.")? {
            "float64" => Self::F64,
            "float32" => Self::F32,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "int64" => Self::I64,
            "int32" => Self::I32,
            "int16" => Self::I16,
            "int8" => Self::I8,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            "uint16" => Self::U16,
            "uint32" => Self::U32,
            _ => return None,
        })
    }

    /// Negates every element of a buffer in place, as `torch.neg` does: integers wrap around.
    pub fn negate(self, bytes: &mut [u8]) {
        let elements = bytes.chunks_exact_mut(self.size() as usize);
        match self {
            // The sign is the highest bit of the last byte.
            Self::F64 | Self::F32 | Self::F16 | Self::Bf16 => {
                elements.for_each(|e| e[e.len() - 1] ^= 0x80);
            }
            // Two's complement: invert, then add one.
            _ => elements.for_each(|e| {
                let mut carry = true;
                for byte in e {
                    (*byte, carry) = (!*byte).overflowing_add(carry.into());
                }
            }),
        }
    }
}

/// Content of a torch storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Of(Kind),
    /// Bytes; the element type is given by the tensor.
    Untyped,
    /// Complex numbers of this many bytes; candle does not support them.
    Complex(u64),
    /// Quantized numbers of this many bytes.
    Quantized(u64),
}

impl Class {
    /// Parses the name of a storage class, such as `torch.FloatStorage`.
    pub fn of(name: &str) -> Option<Self> {
        let (module, class) = name.rsplit_once('.')?;
        if !matches!(module, "torch" | "torch.cuda" | "torch.storage") {
            return None;
        }
        Some(match class {
            "DoubleStorage" => Self::Of(Kind::F64),
            "FloatStorage" => Self::Of(Kind::F32),
            "HalfStorage" => Self::Of(Kind::F16),
            "BFloat16Storage" => Self::Of(Kind::Bf16),
            "LongStorage" => Self::Of(Kind::I64),
            "IntStorage" => Self::Of(Kind::I32),
            "ShortStorage" => Self::Of(Kind::I16),
            "CharStorage" => Self::Of(Kind::I8),
            "ByteStorage" => Self::Of(Kind::U8),
            "BoolStorage" => Self::Of(Kind::Bool),
            "UntypedStorage" => Self::Untyped,
            "ComplexFloatStorage" => Self::Complex(8),
            "ComplexDoubleStorage" => Self::Complex(16),
            "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => {
                Self::Quantized(1)
            }
            "QInt32Storage" => Self::Quantized(4),
            _ => return None,
        })
    }

    /// Bytes per element. The file gives the size of a storage in these elements.
    pub fn size(self) -> u64 {
        match self {
            Self::Of(kind) => kind.size(),
            Self::Untyped => 1,
            Self::Complex(size) | Self::Quantized(size) => size,
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Of(kind) => write!(f, "{kind:?}"),
            Self::Untyped => write!(f, "bytes"),
            Self::Complex(size) => write!(f, "complex, {size} bytes"),
            Self::Quantized(size) => write!(f, "quantized, {size} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn negation_is_that_of_each_element_type() {
        let negated = |kind: Kind, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            kind.negate(&mut bytes);
            bytes
        };
        let floats: Vec<u8> = [1.5f32, -0.0, f32::INFINITY]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let expected: Vec<u8> = [-1.5f32, 0.0, f32::NEG_INFINITY]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        assert_eq!(negated(Kind::F32, &floats), expected);
        // 1 in bf16 is 0x3f80, -1 is 0xbf80.
        assert_eq!(negated(Kind::Bf16, &[0x80, 0x3f]), [0x80, 0xbf]);
        for v in [0i64, 1, -1, 256, i64::MIN, i64::MAX] {
            let expected = v.wrapping_neg().to_le_bytes();
            assert_eq!(negated(Kind::I64, &v.to_le_bytes()), expected, "{v}");
        }
        // torch.neg(torch.tensor([1, 0, 200], dtype=torch.uint8)) is [255, 0, 56].
        assert_eq!(negated(Kind::U8, &[1, 0, 200]), [255, 0, 56]);
    }
}
