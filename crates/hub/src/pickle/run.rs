//! Runs a pickle: one branch for each operation of the machine.

use super::{MAGIC, Machine, Value};
use crate::Result;

impl Machine<'_> {
    pub(super) fn run(&mut self) -> Result<Value> {
        loop {
            self.opcode = self.at();
            self.spend(1)?;
            match self.byte()? {
                // PROTO
                0x80 => {
                    let protocol = self.byte()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(self.wrong(format!(
                            "expected pickle protocol 2 to 5, found protocol {protocol}"
                        )));
                    }
                }
                // FRAME
                0x95 => {
                    self.u64()?;
                }
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                // POP; removes a mark if one is on top
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
                // Text with its length; `T` and `U` are Python 2's strings
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
                // Bytes; names never consist of them
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
                    let items = self.pop_mark()?;
                    match self.top()? {
                        Value::Other => {}
                        Value::Opaque(i) => self.objects.opaques[i as usize].parts.extend(items),
                        _ => {
                            return Err(
                                self.wrong("expected a set to add to, found another object")
                            );
                        }
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
                    let global = self.global(name);
                    self.push(global);
                }
                // STACK_GLOBAL
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let objects = &self.objects;
                    let name = match (objects.text(module), objects.text(name)) {
                        (Some(m), Some(n)) if m.len() + n.len() <= 1000 => format!("{m}.{n}"),
                        _ => return Err(self.wrong("expected the module and name of a global as text, found another object")),
                    };
                    // The file repeats a long name with two bytes, but every copy needs memory.
                    self.spend(name.len() / 64)?;
                    let global = self.global(name);
                    self.push(global);
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let value = self.call(callable, arguments)?;
                    self.push(value);
                }
                // NEWOBJ_EX
                0x92 => {
                    let (named, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                    let value = self.not_called(class, vec![arguments, named])?;
                    self.push(value);
                }
                b'b' => self.build()?,
                // INST
                b'i' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    let class = self.global(name);
                    let arguments = self.pop_mark()?;
                    let value = self.not_called(class, arguments)?;
                    self.push(value);
                }
                // OBJ
                b'o' => {
                    let mut items = self.pop_mark()?;
                    let class = items.first().copied().unwrap_or(Value::None);
                    items.drain(..items.len().min(1));
                    let value = self.not_called(class, items)?;
                    self.push(value);
                }
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    let value = self.persistent(id)?;
                    self.push(value);
                }
                // EXT1, EXT2, EXT4: classes and functions by their number
                step @ 0x82..=0x84 => {
                    let number = match step {
                        0x82 => self.byte()?.into(),
                        0x83 => u16::from_le_bytes(self.array()?).into(),
                        _ => self.u32()?,
                    };
                    let global = self.global(format!("copyreg extension {number}"));
                    self.push(global);
                }
                other => {
                    return Err(self.wrong(format!(
                        "opcode {other:#04x} is not written by torch: the file is damaged or is not a checkpoint"
                    )));
                }
            }
        }
    }

    /// Reads an integer of `count` bytes.
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
}
