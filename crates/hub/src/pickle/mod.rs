//! Reads the part of Python's pickle language that torch writes, as data.
//!
//! A pickle is a program for a small stack machine, and unpickling it in Python may call any
//! function. Here, objects are only described, in flat tables, and no function is called. Nested
//! objects need no recursion, an object that contains itself is a repeated index, and the number
//! of steps is limited.
//!
//! This file has the state of the machine, `run` its operations, `call` the calls that it
//! describes, and `objects` the tables.

mod call;
mod kind;
mod objects;
mod run;

pub(super) use kind::{Class, Kind};
pub(super) use objects::{Objects, Value};

use super::source::Source;
use crate::{Error, Result};
use std::collections::HashMap;

/// Longest pickle that is read, in bytes. The values of the tensors are outside the pickle.
const LONGEST: u64 = 64 << 20;
/// Largest number of steps. Each step needs at most about 100 bytes of memory.
const STEPS: u64 = 4_000_000;
/// Number of bytes that are read at once.
const WINDOW: u64 = 64 << 10;

/// Reads the pickle that begins at byte `start` of a file and ends at byte `end` or before.
/// Returns the tables of all objects, the pickle's object, and the byte after the pickle.
pub(super) fn read(source: &Source, start: u64, end: u64) -> Result<(Objects, Value, u64)> {
    let mut machine = Machine {
        source,
        window: Vec::new(),
        offset: 0,
        loaded: start,
        end: end.min(source.len()),
        limit: start.saturating_add(LONGEST),
        steps: STEPS,
        opcode: start,
        objects: Objects::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let value = machine.run()?;
    let end = machine.at();
    Ok((machine.objects, value, end))
}

struct Machine<'a> {
    source: &'a Source,
    window: Vec<u8>,
    /// Index in the window of the next byte.
    offset: usize,
    /// Position in the file at which the window ends.
    loaded: u64,
    end: u64,
    limit: u64,
    steps: u64,
    /// Position in the file of the current step.
    opcode: u64,
    objects: Objects,
    stack: Vec<Value>,
    /// Heights of the stack at which marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    /// Returns the position in the file of the next byte.
    fn at(&self) -> u64 {
        self.loaded - (self.window.len() - self.offset) as u64
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.source.wrong(format!(
            "invalid pickle operation at byte {}: {what}",
            self.opcode
        ))
    }

    fn spend(&mut self, steps: usize) -> Result<()> {
        match self.steps.checked_sub(steps as u64) {
            Some(remaining) => {
                self.steps = remaining;
                Ok(())
            }
            None => Err(self.wrong(format!(
                "expected a checkpoint of at most {STEPS} pickle operations, found more"
            ))),
        }
    }

    /// Takes the next `count` bytes.
    fn take(&mut self, count: u64) -> Result<&[u8]> {
        let at = self.at();
        match at.checked_add(count) {
            Some(end) if end <= self.end => {
                if end > self.limit {
                    return Err(self.wrong(format!(
                        "expected a pickle of at most {LONGEST} bytes, found more"
                    )));
                }
            }
            end => {
                let what = format!("the pickle operation at byte {}", self.opcode);
                return Err(if self.end < self.source.len() {
                    self.wrong("it extends past the end of its zip entry")
                } else {
                    self.source.cut(&what, end)
                });
            }
        }
        let have = (self.window.len() - self.offset) as u64;
        if have < count {
            self.window.drain(..self.offset);
            self.offset = 0;
            let more = (count - have).max(WINDOW).min(self.end - self.loaded);
            self.source
                .append(&mut self.window, self.loaded, more, "the pickle")?;
            self.loaded += more;
        }
        // Within the window, which now has at least `count` bytes.
        let from = self.offset;
        self.offset += count as usize;
        Ok(&self.window[from..self.offset])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a line that contains a Python name.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                byte => line.push(byte),
            }
            if line.len() > 1000 {
                return Err(self.wrong("expected a name of at most 1000 bytes, found more"));
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value> {
        // Values below the last mark are not available until the mark is removed.
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor {
            self.stack.pop()
        } else {
            None
        };
        value.ok_or_else(|| self.wrong("expected an object on the stack, found none"))
    }

    fn top(&mut self) -> Result<Value> {
        let top = self.pop()?;
        self.push(top);
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.wrong("expected a mark on the stack, found none"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Converts a table's length to the index of the next entry. The limits on steps and bytes
    /// keep it below 2³².
    fn place(len: usize) -> u32 {
        len as u32
    }

    fn push_text(&mut self, count: u64) -> Result<()> {
        // Python 2 wrote bytes instead of text; names are ASCII in both versions.
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        let value = Value::Text(Self::place(self.objects.texts.len()));
        self.objects.texts.push(text);
        self.push(value);
        Ok(())
    }

    fn sequence(&mut self, items: Vec<Value>) -> u32 {
        self.objects.sequences.push(items);
        Self::place(self.objects.sequences.len() - 1)
    }

    fn push_tuple(&mut self, count: usize) -> Result<()> {
        let mut items = vec![Value::None; count];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        let tuple = self.sequence(items);
        self.push(Value::Tuple(tuple));
        Ok(())
    }

    fn dict(&mut self, pairs: Vec<(Value, Value)>) -> Value {
        self.objects.dicts.push(pairs);
        Value::Dict(Self::place(self.objects.dicts.len() - 1))
    }

    fn global(&mut self, name: String) -> Value {
        self.objects.globals.push(name);
        Value::Global(Self::place(self.objects.globals.len() - 1))
    }

    fn pairs(&self, items: Vec<Value>) -> Result<Vec<(Value, Value)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self
                .wrong("expected pairs of key and value for a dict, found a key without a value"));
        }
        Ok(items.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn set_items(&mut self, pairs: Vec<(Value, Value)>) -> Result<()> {
        match self.top()? {
            Value::Dict(i) => self.objects.dicts[i as usize].extend(pairs),
            // A class derived from dict. Python sets its items after or before its state.
            Value::Opaque(i) => {
                let parts = &mut self.objects.opaques[i as usize].parts;
                parts.extend(pairs.into_iter().flat_map(|(key, value)| [key, value]));
            }
            Value::Other => {}
            _ => return Err(self.wrong("expected a dict to set a key, found another object")),
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top()? {
            Value::List(i) => self.objects.sequences[i as usize].extend(items),
            Value::Opaque(i) => self.objects.opaques[i as usize].parts.extend(items),
            Value::Other => {}
            _ => return Err(self.wrong("expected a list to append to, found another object")),
        }
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let value = self.memo.get(&index).copied();
        let value =
            value.ok_or_else(|| self.wrong("expected an object in the memo, found none"))?;
        self.push(value);
        Ok(())
    }
}

/// torch's magic number 0x1950a86a20f9469cfc6c in little-endian order: the first object in the
/// files of torch before 1.6.
pub(super) const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
