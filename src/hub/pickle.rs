//! The part of Python's pickle language that torch writes, read as data.
//!
//! A pickle is a program for a small stack machine, and unpickling it in Python may call any function.
//! Here objects are descriptions in flat tables: nothing is called, nesting costs no stack, an object that
//! holds itself is a number that occurs twice, and every step is counted.

use super::source::Source;
use crate::ops::names::shown;
use crate::{Error, Result};
use candle_core::DType;
use std::collections::HashMap;

/// The longest pickle that is read, in bytes; the numbers of the tensors are not in it.
const LONGEST: u64 = 64 << 20;
/// The most steps that are made, each of which takes about a hundred bytes at most.
const STEPS: u64 = 4_000_000;
/// The most dimensions of a tensor.
const DIMENSIONS: usize = 16;
/// How much is read at once.
const WINDOW: u64 = 64 << 10;

/// An object: itself where it is small, else its place in a table of [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// The whole number that torch's files before 1.6 begin with.
    Magic,
    Text(u32),
    List(u32),
    Tuple(u32),
    Dict(u32),
    Global(u32),
    Storage(u32),
    Tensor(u32),
    /// What is known to be harmless and is of no interest here: a float, a set, a scalar of numpy.
    Other,
}

/// How a storage's numbers are kept in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    U16,
    U32,
}

impl Kind {
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The number type of the tensor that it becomes: candle has neither i8 nor u16.
    pub fn dtype(self) -> DType {
        match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 | Self::I8 => DType::I16,
            Self::U8 => DType::U8,
            Self::U16 | Self::U32 => DType::U32,
        }
    }

    /// That of a class of torch's.
    fn of(name: &str) -> Option<Self> {
        let (module, class) = name.rsplit_once('.')?;
        if !matches!(module, "torch" | "torch.cuda" | "torch.storage") {
            return None;
        }
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" | "BoolStorage" | "UntypedStorage" => Self::U8,
            _ => return None,
        })
    }
}

/// Numbers in the file, under the key that the file has for them.
#[derive(Debug)]
pub(super) struct Storage {
    pub key: String,
    pub kind: Kind,
    pub count: u64,
}

/// A part of a storage, or all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub storage: u32,
    pub offset: u64,
    pub count: u64,
}

/// A tensor: the numbers of a storage by offset, shape and stride. Every index is known to lie in its storage.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub storage: u32,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub stride: Vec<u64>,
}

/// Everything that a pickle describes.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub texts: Vec<String>,
    /// Lists and tuples.
    pub sequences: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub globals: Vec<String>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Strided>,
    views: Vec<View>,
    by_key: HashMap<String, u32>,
}

impl Objects {
    pub fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(i) => Some(&self.texts[i as usize]),
            _ => None,
        }
    }

    pub fn sequence(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::List(i) | Value::Tuple(i) => Some(&self.sequences[i as usize]),
            _ => None,
        }
    }

    pub fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Dict(i) => Some(&self.dicts[i as usize]),
            _ => None,
        }
    }

    /// What is under a text in a dict; the last one, as in Python.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let pairs = self.dict(dict)?.iter().rev();
        pairs
            .into_iter()
            .find(|(k, _)| self.text(*k) == Some(key))
            .map(|(_, v)| *v)
    }

    /// The place of a storage by its key.
    pub fn storage(&self, key: &str) -> Option<u32> {
        self.by_key.get(key).copied()
    }
}

/// What a known name of Python becomes when it is called.
#[derive(Clone, Copy)]
enum Known {
    Dict,
    Tensor,
    Parameter,
    /// The one argument: torch.Size.
    Same,
    /// Something harmless that is not looked at.
    Other,
}

/// The names that may be called, all of them.
fn known(name: &str) -> Option<Known> {
    Some(match name {
        "collections.OrderedDict" | "collections.defaultdict" => Known::Dict,
        "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => Known::Tensor,
        "torch._utils._rebuild_parameter" => Known::Parameter,
        "torch.Size" => Known::Same,
        "torch.device"
        | "collections.Counter"
        | "builtins.set"
        | "__builtin__.set"
        | "argparse.Namespace"
        | "_codecs.encode"
        | "numpy.dtype"
        | "numpy.ndarray"
        | "numpy.core.multiarray.scalar"
        | "numpy._core.multiarray.scalar"
        | "numpy.core.multiarray._reconstruct"
        | "numpy._core.multiarray._reconstruct" => Known::Other,
        _ => return None,
    })
}

/// Reads the pickle at byte `start` of a file, which ends at byte `end` or before.
/// Gives the object, everything it is made of, and the byte behind the pickle.
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
    /// The next byte in the window.
    offset: usize,
    /// Where the window ends in the file.
    loaded: u64,
    end: u64,
    limit: u64,
    steps: u64,
    /// Where the step that is made begins.
    opcode: u64,
    objects: Objects,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    /// Where the next byte is in the file.
    fn at(&self) -> u64 {
        self.loaded - (self.window.len() - self.offset) as u64
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.source
            .wrong(format!("the pickle's step at byte {} {what}", self.opcode))
    }

    fn spend(&mut self, steps: usize) -> Result<()> {
        match self.steps.checked_sub(steps as u64) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => Err(self.wrong(format!(
                "is one too many: a checkpoint that is described in more than {STEPS} steps is not read"
            ))),
        }
    }

    /// The next `count` bytes.
    fn take(&mut self, count: u64) -> Result<&[u8]> {
        let at = self.at();
        match at.checked_add(count) {
            Some(end) if end <= self.end => {
                if end > self.limit {
                    return Err(self.wrong(format!(
                        "goes beyond the {LONGEST} bytes of a pickle that are read"
                    )));
                }
            }
            end => {
                let what = format!("the pickle's step that begins at byte {}", self.opcode);
                return Err(if self.end < self.source.len() {
                    self.wrong("goes beyond the end of its entry")
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
        // Not more than the window, which was just filled.
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

    /// A line of a name of Python.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                byte => line.push(byte),
            }
            if line.len() > 1000 {
                return Err(self.wrong("has a name of more than 1000 bytes"));
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value> {
        // What lies below the last mark is for whoever takes the mark.
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor {
            self.stack.pop()
        } else {
            None
        };
        value.ok_or_else(|| self.wrong("takes an object where there is none"))
    }

    fn top(&mut self) -> Result<Value> {
        let top = self.pop()?;
        self.push(top);
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.wrong("takes a mark where there is none"))?;
        Ok(self.stack.split_off(mark))
    }

    /// The place of what is added next to a table, which steps and bytes keep below 2³².
    fn place(len: usize) -> u32 {
        len as u32
    }

    fn push_text(&mut self, count: u64) -> Result<()> {
        // Python 2 wrote bytes where Python 3 has text; names are ASCII in both.
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

    fn push_global(&mut self, name: String) {
        let value = Value::Global(Self::place(self.objects.globals.len()));
        self.objects.globals.push(name);
        self.push(value);
    }

    fn pairs(&self, items: Vec<Value>) -> Result<Vec<(Value, Value)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self.wrong("gives a dict a key without a value"));
        }
        Ok(items.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn set_items(&mut self, pairs: Vec<(Value, Value)>) -> Result<()> {
        match self.top()? {
            Value::Dict(i) => self.objects.dicts[i as usize].extend(pairs),
            Value::Other => {}
            _ => return Err(self.wrong("sets a key of something that is no dict")),
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top()? {
            Value::List(i) => self.objects.sequences[i as usize].extend(items),
            Value::Other => {}
            _ => return Err(self.wrong("appends to something that is no list")),
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
        let value = value.ok_or_else(|| self.wrong("recalls an object that was not remembered"))?;
        self.push(value);
        Ok(())
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            self.opcode = self.at();
            self.spend(1)?;
            match self.byte()? {
                // PROTO
                0x80 => {
                    let protocol = self.byte()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(
                            self.wrong(format!("has pickle protocol {protocol}, expected 2 to 5"))
                        );
                    }
                }
                // FRAME
                0x95 => {
                    self.u64()?;
                }
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                // POP, which takes a mark where one is on top
                b'0' => {
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                // POP_MARK
                b'1' => {
                    self.pop_mark()?;
                }
                // DUP
                b'2' => {
                    let top = self.top()?;
                    self.push(top);
                }
                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()));
                }
                b'K' => {
                    let n = self.byte()?;
                    self.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()));
                }
                // LONG1, LONG4
                0x8a => {
                    let count = self.byte()?;
                    self.long(count.into())?;
                }
                0x8b => {
                    let count = self.u32()?;
                    self.long(count.into())?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other);
                }
                // Text in its lengths, Python 2's last
                b'X' | b'T' => {
                    let count = self.u32()?;
                    self.push_text(count.into())?;
                }
                0x8c | b'U' => {
                    let count = self.byte()?;
                    self.push_text(count.into())?;
                }
                0x8d => {
                    let count = self.u64()?;
                    self.push_text(count)?;
                }
                // Bytes, which no name is made of
                b'B' => {
                    let count = self.u32()?;
                    self.take(count.into())?;
                    self.push(Value::Other);
                }
                b'C' => {
                    let count = self.byte()?;
                    self.take(count.into())?;
                    self.push(Value::Other);
                }
                0x8e | 0x96 => {
                    let count = self.u64()?;
                    self.take(count)?;
                    self.push(Value::Other);
                }
                b']' => {
                    let list = self.sequence(Vec::new());
                    self.push(Value::List(list));
                }
                // LIST
                b'l' => {
                    let items = self.pop_mark()?;
                    let list = self.sequence(items);
                    self.push(Value::List(list));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b')' => self.push_tuple(0)?,
                0x85 => self.push_tuple(1)?,
                0x86 => self.push_tuple(2)?,
                0x87 => self.push_tuple(3)?,
                b't' => {
                    let items = self.pop_mark()?;
                    let tuple = self.sequence(items);
                    self.push(Value::Tuple(tuple));
                }
                b'}' => {
                    let dict = self.dict(Vec::new());
                    self.push(dict);
                }
                // DICT
                b'd' => {
                    let items = self.pop_mark()?;
                    let pairs = self.pairs(items)?;
                    let dict = self.dict(pairs);
                    self.push(dict);
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(vec![(key, value)])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    let pairs = self.pairs(items)?;
                    self.set_items(pairs)?;
                }
                // EMPTY_SET
                0x8f => self.push(Value::Other),
                // ADDITEMS
                0x90 => {
                    self.pop_mark()?;
                    if self.top()? != Value::Other {
                        return Err(self.wrong("adds to something that is no set"));
                    }
                }
                // FROZENSET
                0x91 => {
                    self.pop_mark()?;
                    self.push(Value::Other);
                }
                b'h' => {
                    let index = self.byte()?;
                    self.recall(index.into())?;
                }
                b'j' => {
                    let index = self.u32()?;
                    self.recall(index)?;
                }
                b'q' => {
                    let index = self.byte()?;
                    self.remember(index.into())?;
                }
                b'r' => {
                    let index = self.u32()?;
                    self.remember(index)?;
                }
                // MEMOIZE
                0x94 => {
                    let index = Self::place(self.memo.len());
                    self.remember(index)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.push_global(name);
                }
                // STACK_GLOBAL
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let objects = &self.objects;
                    let name = match (objects.text(module), objects.text(name)) {
                        (Some(m), Some(n)) if m.len() + n.len() <= 1000 => format!("{m}.{n}"),
                        _ => return Err(self.wrong("names a global by something that is no name")),
                    };
                    self.push_global(name);
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let value = self.call(callable, arguments)?;
                    self.push(value);
                }
                // NEWOBJ_EX
                0x92 => {
                    let (_, _, class) = (self.pop()?, self.pop()?, self.pop()?);
                    return Err(self.refuse(class));
                }
                b'b' => self.build()?,
                // INST
                b'i' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    return Err(self.refuse_name(&name));
                }
                // OBJ
                b'o' => {
                    let items = self.pop_mark()?;
                    let class = items.first().copied().unwrap_or(Value::None);
                    return Err(self.refuse(class));
                }
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    let value = self.persistent(id)?;
                    self.push(value);
                }
                // EXT1, EXT2, EXT4: functions by number
                0x82..=0x84 => {
                    return Err(self.refuse_name("a number in Python's extension registry"));
                }
                other => {
                    return Err(self.wrong(format!(
                        "is {other:#04x}, which torch does not write: the file is damaged or no checkpoint"
                    )));
                }
            }
        }
    }

    /// A whole number of so many bytes.
    fn long(&mut self, count: u64) -> Result<()> {
        let bytes = self.take(count)?;
        let value = match bytes.len() {
            0 => Value::Int(0),
            n @ 1..=8 => {
                let negative = bytes[n - 1] & 0x80 != 0;
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..n].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ if bytes == MAGIC => Value::Magic,
            _ => Value::Other,
        };
        self.push(value);
        Ok(())
    }

    fn refuse(&self, callable: Value) -> Error {
        match callable {
            Value::Global(i) => self.refuse_name(&self.objects.globals[i as usize]),
            _ => self.wrong("calls something that is no function"),
        }
    }

    fn refuse_name(&self, name: &str) -> Error {
        self.source.wrong(format!(
            "asks for the function {} at byte {}; a checkpoint is read as data only, and nothing in it is called. \
             If you trust the file, load it in Python and save the state dict alone",
            shown(name),
            self.opcode
        ))
    }

    fn call(&mut self, callable: Value, arguments: Value) -> Result<Value> {
        let Value::Global(i) = callable else {
            return Err(self.refuse(callable));
        };
        let Some(known) = known(&self.objects.globals[i as usize]) else {
            return Err(self.refuse(callable));
        };
        let Value::Tuple(arguments) = arguments else {
            return Err(self.wrong("calls with something that is no tuple of arguments"));
        };
        // A tuple never changes, so its first few are all that a call looks at.
        let arguments = &self.objects.sequences[arguments as usize];
        let first = arguments.first().copied();
        match known {
            Known::Other => Ok(Value::Other),
            Known::Same => Ok(first.unwrap_or(Value::None)),
            Known::Parameter => match first {
                Some(tensor @ Value::Tensor(_)) => Ok(tensor),
                _ => Err(self.wrong("makes a parameter of something that is no tensor")),
            },
            Known::Tensor => match arguments.as_slice() {
                &[Value::Storage(view), offset, shape, stride, ..] => {
                    self.tensor(view, offset, shape, stride)
                }
                _ => Err(self.wrong(
                    "makes a tensor of something that is no storage, offset, shape and stride",
                )),
            },
            Known::Dict => {
                // Python 2 gave the pairs as an argument; a defaultdict has its default there.
                let items = first.and_then(|f| self.objects.sequence(f)).unwrap_or(&[]);
                let count = items.len();
                let mut pairs = Vec::new();
                if count > 0 {
                    let items = items.to_vec();
                    self.spend(count)?;
                    for item in items {
                        match self.objects.sequence(item) {
                            Some(&[key, value]) => pairs.push((key, value)),
                            _ => {
                                return Err(self.wrong("makes a dict of something that is no pair"));
                            }
                        }
                    }
                }
                Ok(self.dict(pairs))
            }
        }
    }

    /// Takes an object's state: attributes of a dict (`_metadata`) or of what is not looked at.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) | Value::Tensor(_) | Value::Other => Ok(()),
            value @ Value::Global(_) => Err(self.refuse(value)),
            _ => Err(self.wrong("gives a state to something that takes none")),
        }
    }

    /// An object that is not in the pickle: a storage.
    fn persistent(&mut self, id: Value) -> Result<Value> {
        let objects = &self.objects;
        let parts = match id {
            Value::Tuple(i) => objects.sequences[i as usize].as_slice(),
            _ => &[],
        };
        match parts.first().and_then(|p| objects.text(*p)) {
            Some("storage") => {}
            // The source code of a class beside the class, before torch 1.6.
            Some("module") if parts.len() > 1 => return Ok(parts[1]),
            Some(other) => {
                return Err(self.wrong(format!(
                    "asks for a persistent object of type {:?}, expected \"storage\"",
                    shown(other)
                )));
            }
            None => {
                return Err(self.wrong("asks for a persistent object that is no storage"));
            }
        }
        let &[
            _,
            Value::Global(class),
            key,
            _,
            Value::Int(count),
            ref rest @ ..,
        ] = parts
        else {
            return Err(self.wrong(
                "describes a storage by something else than its type, key, place and size",
            ));
        };
        let class = &objects.globals[class as usize];
        let Some(kind) = Kind::of(class) else {
            return Err(self.wrong(format!(
                "has a storage of type {}, expected one of torch's: Float, Double, Half, BFloat16, Long, Int, Short, Char, Byte or BoolStorage",
                shown(class)
            )));
        };
        let Some(key) = objects.text(key) else {
            return Err(self.wrong("has a storage whose key is no text"));
        };
        let len = self.source.len();
        let fits = |n: &u64| n.checked_mul(kind.size()).is_some_and(|n| n <= len);
        let Some(count) = u64::try_from(count).ok().filter(fits) else {
            return Err(self.wrong(format!(
                "promises a storage of {count} numbers of {} bytes, and the file has {len} bytes: cut short or damaged, fetch it again",
                kind.size()
            )));
        };
        // Before torch 0.4 several storages could be parts of one.
        let part = rest.first().and_then(|part| objects.sequence(*part));
        let part = match part {
            None => Some((0, count)),
            Some(&[_, Value::Int(offset), Value::Int(size), ..]) => {
                u64::try_from(offset).ok().zip(u64::try_from(size).ok())
            }
            Some(_) => None,
        };
        let inside = |part: &(u64, u64)| part.0.checked_add(part.1).is_some_and(|end| end <= count);
        let Some((from, size)) = part.filter(inside) else {
            return Err(self.wrong("has a part of a storage that is not in it"));
        };
        let storage = match objects.by_key.get(key) {
            Some(&i) => {
                let known = &objects.storages[i as usize];
                if (known.kind, known.count) != (kind, count) {
                    return Err(self.wrong(format!(
                        "describes storage {} as {count} of {kind:?}, and it was {} of {:?} before",
                        shown(key),
                        known.count,
                        known.kind
                    )));
                }
                i
            }
            None => {
                let storage = Self::place(objects.storages.len());
                let key = key.to_string();
                self.objects.by_key.insert(key.clone(), storage);
                self.objects.storages.push(Storage { key, kind, count });
                storage
            }
        };
        let value = Value::Storage(Self::place(self.objects.views.len()));
        self.objects.views.push(View {
            storage,
            offset: from,
            count: size,
        });
        Ok(value)
    }

    fn tensor(&mut self, view: u32, offset: Value, shape: Value, stride: Value) -> Result<Value> {
        let whole = |value: Value| -> Option<u64> {
            match value {
                Value::Int(n) => u64::try_from(n).ok(),
                _ => None,
            }
        };
        let numbers = |value: Value| -> Option<Vec<u64>> {
            let items = self.objects.sequence(value)?;
            if items.len() > DIMENSIONS {
                return None;
            }
            items.iter().map(|v| whole(*v)).collect()
        };
        let (Some(offset), Some(shape), Some(stride)) =
            (whole(offset), numbers(shape), numbers(stride))
        else {
            return Err(self.wrong(format!(
                "makes a tensor whose offset, shape or stride is not made of at most {DIMENSIONS} whole numbers from 0"
            )));
        };
        let view = self.objects.views[view as usize];
        if shape.len() != stride.len() {
            return Err(self.wrong(format!(
                "makes a tensor of shape {shape:?} with stride {stride:?}"
            )));
        }
        // An empty tensor counts too: its other dimensions are multiplied by whoever works with it.
        let count = shape
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul((*d).max(1)))
            .filter(|n| *n <= u64::from(u32::MAX) << 16);
        let empty = shape.contains(&0);
        let last = shape.iter().zip(&stride).try_fold(offset, |last, (d, s)| {
            last.checked_add(d.saturating_sub(1).checked_mul(*s)?)
        });
        let inside = match (count, last) {
            (Some(_), Some(last)) => empty || last < view.count,
            _ => false,
        };
        let sizes: Option<Vec<usize>> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
        let (true, Some(sizes)) = (inside, sizes) else {
            return Err(self.wrong(format!(
                "makes a tensor of shape {shape:?}, stride {stride:?} and offset {offset} from a storage of {} numbers, which has not so many",
                view.count
            )));
        };
        let value = Value::Tensor(Self::place(self.objects.tensors.len()));
        self.objects.tensors.push(Strided {
            storage: view.storage,
            // An empty tensor may stand anywhere.
            offset: if empty { 0 } else { view.offset + offset },
            shape: sizes,
            stride,
        });
        Ok(value)
    }
}

/// 0x1950a86a20f9469cfc6c, little-endian: the first object in torch's files before 1.6.
pub(super) const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
