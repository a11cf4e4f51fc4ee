//! Reads Thrift's compact protocol, as far as parquet uses it.
//!
//! No memory is allocated from a length that the bytes state: lists and strings are limited by
//! the remaining bytes, and structures nest at most [`DEPTH`] levels.

/// The reason why a structure could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end inside the structure. With more bytes it may be readable.
    Cut,
    /// The bytes are not a valid structure.
    Wrong(&'static str),
}

pub(super) type Out<T> = Result<T, Fault>;

/// Maximum nesting depth of structures; those of parquet nest six levels.
const DEPTH: usize = 16;

/// Types of fields and of list elements.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const STRUCT: u8 = 12;

/// A reader of the bytes of a structure, with its position.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn byte(&mut self) -> Out<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Out<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Wrong("an integer of more than 64 bits"))
    }

    fn signed(&mut self) -> Out<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads an integer of 8 to 64 bits.
    pub(super) fn int(&mut self, kind: u8) -> Out<i64> {
        match kind {
            3 => Ok(i64::from(self.byte()? as i8)),
            4..=6 => self.signed(),
            _ => Err(Fault::Wrong("expected an integer, found another type")),
        }
    }

    /// Returns a boolean; in a field, the type itself contains the value.
    pub(super) fn flag(kind: u8) -> Out<bool> {
        match kind {
            TRUE => Ok(true),
            FALSE => Ok(false),
            _ => Err(Fault::Wrong("expected a boolean, found another type")),
        }
    }

    /// Reads bytes or text.
    pub(super) fn binary(&mut self, kind: u8) -> Out<&'a [u8]> {
        if kind != BINARY {
            return Err(Fault::Wrong("expected text, found another type"));
        }
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| Fault::Cut)?;
        if length > self.remaining() {
            return Err(Fault::Cut);
        }
        let bytes = &self.bytes[self.at..][..length];
        self.at += length;
        Ok(bytes)
    }

    /// Calls `each` for the elements of a list, with their type.
    pub(super) fn list(
        &mut self,
        kind: u8,
        mut each: impl FnMut(&mut Self, u8) -> Out<()>,
    ) -> Out<()> {
        if kind != 9 {
            return Err(Fault::Wrong("expected a list, found another type"));
        }
        let (kind, length) = self.list_head()?;
        for _ in 0..length {
            each(self, kind)?;
        }
        Ok(())
    }

    fn list_head(&mut self) -> Out<(u8, usize)> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        // Every element takes at least one byte.
        match usize::try_from(length) {
            Ok(length) if length <= self.remaining() => Ok((head & 15, length)),
            _ => Err(Fault::Cut),
        }
    }

    /// Calls `field` with the number and the type of each field of a structure. `field` returns
    /// whether it has read the field; other fields are skipped.
    pub(super) fn structure(
        &mut self,
        kind: u8,
        field: impl FnMut(&mut Self, i64, u8) -> Out<bool>,
    ) -> Out<()> {
        if kind != STRUCT {
            return Err(Fault::Wrong("expected a struct, found another type"));
        }
        self.fields(field, 0)
    }

    /// Like [`Thrift::structure`], for a structure at the top level.
    pub(super) fn root(&mut self, field: impl FnMut(&mut Self, i64, u8) -> Out<bool>) -> Out<()> {
        self.fields(field, 0)
    }

    fn fields(
        &mut self,
        mut field: impl FnMut(&mut Self, i64, u8) -> Out<bool>,
        depth: usize,
    ) -> Out<()> {
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.signed()?,
                step => id.wrapping_add(i64::from(step)),
            };
            let kind = head & 15;
            if !field(self, id, kind)? {
                self.skip(kind, true, depth + 1)?;
            }
        }
    }

    fn skip(&mut self, kind: u8, in_field: bool, depth: usize) -> Out<()> {
        if depth > DEPTH {
            return Err(Fault::Wrong("structs are nested too deeply"));
        }
        match kind {
            TRUE | FALSE if in_field => Ok(()),
            TRUE | FALSE | 3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            DOUBLE => self.advance(8),
            BINARY => self.binary(kind).map(drop),
            9 | 10 => {
                let (kind, length) = self.list_head()?;
                for _ in 0..length {
                    self.skip(kind, false, depth + 1)?;
                }
                Ok(())
            }
            11 => {
                let length = self.varint()?;
                if length == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                if length > self.remaining() as u64 {
                    return Err(Fault::Cut);
                }
                for _ in 0..length {
                    self.skip(kinds >> 4, false, depth + 1)?;
                    self.skip(kinds & 15, false, depth + 1)?;
                }
                Ok(())
            }
            STRUCT => self.fields(|_, _, _| Ok(false), depth),
            13 => self.advance(16),
            _ => Err(Fault::Wrong("a field of unknown type")),
        }
    }

    fn advance(&mut self, count: usize) -> Out<()> {
        if count > self.remaining() {
            return Err(Fault::Cut);
        }
        self.at += count;
        Ok(())
    }
}
