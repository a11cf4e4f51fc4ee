//! Interprets the calls in a pickle: those that describe a tensor or a dict give a tensor or a
//! dict, and every other call gives an opaque object. No function is ever called.

use super::objects::{Opaque, Reason, Storage, Strided, View};
use super::{Class, Kind, Machine, Value};
use crate::Result;
use invariances_core::names::shown;

/// Largest number of dimensions of a tensor.
const DIMENSIONS: usize = 16;

/// A function or class whose result can be derived without calling it.
#[derive(Clone, Copy)]
enum Known {
    Dict,
    /// A dict that starts empty; its argument makes the default values and is ignored.
    DefaultDict,
    /// `torch._utils._rebuild_tensor` in its versions 1 to 3.
    Tensor(u8),
    Parameter,
    /// A tensor of a given class, from a function and its arguments.
    OfClass,
    /// A tensor of another device, from its copy on the CPU.
    FromCpu,
    /// The argument itself: `torch.Size`.
    Same,
}

fn known(name: &str) -> Option<Known> {
    Some(match name {
        "collections.OrderedDict" | "builtins.dict" | "__builtin__.dict" => Known::Dict,
        "collections.defaultdict" => Known::DefaultDict,
        "torch._utils._rebuild_tensor" => Known::Tensor(1),
        "torch._utils._rebuild_tensor_v2" => Known::Tensor(2),
        "torch._utils._rebuild_tensor_v3" => Known::Tensor(3),
        "torch._utils._rebuild_parameter"
        | "torch._utils._rebuild_parameter_with_state"
        | "torch.nn.parameter.Parameter" => Known::Parameter,
        "torch._tensor._rebuild_from_type" | "torch._tensor._rebuild_from_type_v2" => {
            Known::OfClass
        }
        "torch._utils._rebuild_device_tensor_from_cpu_tensor" => Known::FromCpu,
        "torch.Size" => Known::Same,
        _ => return None,
    })
}

/// Tensor classes whose values are the stored values.
const PLAIN: [&str; 5] = [
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.nn.Parameter",
];

/// Whether a call is unnecessary in a checkpoint and would give the file's author control over
/// the machine that loads it in Python. Here nothing is called in any case; a file with such a
/// call is refused to warn the user.
fn is_attack(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let builtin = name
        .strip_prefix("builtins.")
        .or(name.strip_prefix("__builtin__."));
    match builtin {
        Some(function) => matches!(
            function,
            "eval"
                | "exec"
                | "execfile"
                | "compile"
                | "open"
                | "input"
                | "breakpoint"
                | "__import__"
        ),
        None => {
            matches!(
                first,
                "os" | "posix"
                    | "nt"
                    | "sys"
                    | "subprocess"
                    | "commands"
                    | "pty"
                    | "runpy"
                    | "shutil"
            ) || name == "importlib.import_module"
        }
    }
}

impl Machine<'_> {
    /// Adds an opaque object: one that is not read.
    fn opaque(&mut self, callable: Value, reason: Reason, parts: Vec<Value>) -> Value {
        self.objects.opaques.push(Opaque {
            callable,
            reason,
            parts,
        });
        Value::Opaque(Self::place(self.objects.opaques.len() - 1))
    }

    /// Adds an opaque object for the result of a call that is not made.
    pub(super) fn not_called(&mut self, callable: Value, parts: Vec<Value>) -> Result<Value> {
        match callable {
            Value::Global(i) if is_attack(&self.objects.globals[i as usize]) => {
                Err(self.source.wrong(format!(
                    "found a reference to the function {} at byte {}, which a checkpoint does not \
                     need: this may be an attack. A checkpoint is read as data only, and none of \
                     its functions was called; do not load this file in Python, and get the \
                     weights from another source",
                    shown(&self.objects.globals[i as usize]),
                    self.opcode
                )))
            }
            Value::Global(_) | Value::Opaque(_) => Ok(self.opaque(callable, Reason::Call, parts)),
            _ => Err(self.wrong("expected a function to call, found another object")),
        }
    }

    pub(super) fn call(&mut self, callable: Value, arguments: Value) -> Result<Value> {
        let known = match callable {
            Value::Global(i) => known(&self.objects.globals[i as usize]),
            _ => None,
        };
        let Some(known) = known else {
            return self.not_called(callable, vec![arguments]);
        };
        let Value::Tuple(tuple) = arguments else {
            return Err(self.wrong("expected a tuple of arguments, found another object"));
        };
        match known {
            Known::OfClass => self.of_class(callable, arguments, tuple),
            Known::Dict => self.make_dict(callable, arguments, tuple),
            other => self.simple(other, callable, arguments, tuple),
        }
    }

    /// Interprets a known call whose arguments contain no further call.
    fn simple(
        &mut self,
        known: Known,
        callable: Value,
        arguments: Value,
        tuple: u32,
    ) -> Result<Value> {
        // A tuple never changes after it was made, so its elements can be read now.
        let list = self.objects.sequences[tuple as usize].as_slice();
        let first = list.first().copied();
        match known {
            Known::DefaultDict => Ok(self.dict(Vec::new())),
            Known::Same => Ok(first.unwrap_or(Value::None)),
            Known::Parameter => match first {
                Some(tensor @ Value::Tensor(_)) => Ok(tensor),
                Some(opaque @ Value::Opaque(_)) if self.objects.is_tensor_like(opaque) => {
                    Ok(opaque)
                }
                _ => self.not_called(callable, vec![arguments]),
            },
            Known::FromCpu => match *list {
                [tensor @ Value::Tensor(i), Value::Global(dtype), ..]
                    if Kind::of_dtype(&self.objects.globals[dtype as usize])
                        == Some(self.objects.tensors[i as usize].kind) =>
                {
                    Ok(tensor)
                }
                _ => self.not_called(callable, vec![arguments]),
            },
            Known::Tensor(version) => match *list {
                [Value::Storage(view), offset, shape, stride, ref rest @ ..] => {
                    let (dtype, metadata) = match (version, rest) {
                        (1, _) => (None, None),
                        (2, [] | [_] | [_, _]) => (None, None),
                        (2, [_, _, metadata]) => (None, Some(*metadata)),
                        (3, [_, _, dtype]) => (Some(*dtype), None),
                        (3, [_, _, dtype, metadata]) => (Some(*dtype), Some(*metadata)),
                        _ => {
                            return Err(self.wrong(format!(
                                "found a tensor with {} arguments, which torch does not write",
                                list.len()
                            )));
                        }
                    };
                    self.tensor(callable, view, [offset, shape, stride], dtype, metadata)
                }
                // A storage of unknown type.
                [storage @ Value::Opaque(_), ..] => {
                    Ok(self.opaque(callable, Reason::Element(storage), vec![arguments]))
                }
                _ => Err(self.wrong(
                    "expected a tensor with storage, offset, shape and stride, found other arguments",
                )),
            },
            // `call` handles these two; they are not expected within another call.
            Known::Dict | Known::OfClass => self.not_called(callable, vec![arguments]),
        }
    }

    /// Interprets `_rebuild_from_type_v2(function, class, arguments, state)`. The state contains
    /// Python attributes and is ignored.
    fn of_class(&mut self, callable: Value, arguments: Value, tuple: u32) -> Result<Value> {
        let &[function, class, Value::Tuple(inner), ..] =
            self.objects.sequences[tuple as usize].as_slice()
        else {
            return self.not_called(callable, vec![arguments]);
        };
        let known = match function {
            Value::Global(i) => known(&self.objects.globals[i as usize]),
            _ => None,
        };
        let tensor = match known {
            Some(known @ (Known::Tensor(_) | Known::Parameter)) => {
                self.simple(known, function, Value::Tuple(inner), inner)?
            }
            // A sparse or quantized tensor, or a wrapper around others.
            _ => self.not_called(function, vec![arguments])?,
        };
        if PLAIN.contains(&self.objects.name(class)) {
            Ok(tensor)
        } else {
            Ok(self.opaque(callable, Reason::Subclass(class), vec![tensor]))
        }
    }

    fn make_dict(&mut self, callable: Value, arguments: Value, tuple: u32) -> Result<Value> {
        let &[argument] = self.objects.sequences[tuple as usize].as_slice() else {
            return match self.objects.sequences[tuple as usize].is_empty() {
                true => Ok(self.dict(Vec::new())),
                false => self.not_called(callable, vec![arguments]),
            };
        };
        // The dict is copied. The file can request many copies with a few bytes, so every copied
        // pair counts as a step.
        let dict = self.objects.dict(argument).map(<[_]>::len);
        let count = dict.or(self.objects.sequence(argument).map(<[_]>::len));
        let Some(count) = count else {
            return self.not_called(callable, vec![arguments]);
        };
        self.spend(count)?;
        let pairs = match self.objects.dict(argument) {
            Some(pairs) => pairs.to_vec(),
            // Python 2 passes a sequence of pairs as the argument.
            None => {
                let items = self.objects.sequence(argument).unwrap_or_default();
                let pair = |item: &Value| match self.objects.sequence(*item) {
                    Some(&[key, value]) => Ok((key, value)),
                    _ => Err(self
                        .wrong("expected pairs of key and value for a dict, found another object")),
                };
                items.iter().map(pair).collect::<Result<_>>()?
            }
        };
        Ok(self.dict(pairs))
    }

    /// Sets the state of the object on top of the stack.
    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match self.top()? {
            // Attributes of a dict (such as `_metadata`) or of a set are ignored.
            Value::Dict(_) | Value::Other => Ok(()),
            Value::Opaque(i) => {
                self.objects.opaques[i as usize].parts.push(state);
                Ok(())
            }
            Value::Tensor(_) if matches!(state, Value::Dict(_) | Value::None) => Ok(()),
            Value::Tensor(_) => {
                Err(self.wrong("expected a dict as the state of a tensor, found another object"))
            }
            global @ Value::Global(_) => {
                let object = self.not_called(global, vec![state])?;
                self.pop()?;
                self.push(object);
                Ok(())
            }
            _ => Err(self.wrong("expected an object with a state, found an object without")),
        }
    }

    /// Reads the description of an object whose content is outside the pickle: a storage.
    pub(super) fn persistent(&mut self, id: Value) -> Result<Value> {
        let objects = &self.objects;
        let parts = match id {
            Value::Tuple(i) => objects.sequences[i as usize].as_slice(),
            _ => &[],
        };
        match parts.first().and_then(|p| objects.text(*p)) {
            Some("storage") => {}
            // Before torch 1.6: a class together with its source code.
            Some("module") if parts.len() > 1 => return Ok(parts[1]),
            Some(other) => {
                return Err(self.wrong(format!(
                    "expected a persistent object of type \"storage\", found type {:?}",
                    shown(other)
                )));
            }
            None => {
                return Err(self.wrong("expected a persistent object of type \"storage\", found an object without a type"));
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
                "expected a storage described by type, key, device and size, found other values",
            ));
        };
        let Some(kind) = Class::of(&objects.globals[class as usize]) else {
            // An unknown storage type: tensors of this type are refused; the rest of the file is
            // read.
            return Ok(self.opaque(Value::Global(class), Reason::Call, Vec::new()));
        };
        let Some(key) = objects.text(key) else {
            return Err(self.wrong("expected text as the key of a storage, found another object"));
        };
        let len = self.source.len();
        let fits = |n: &u64| n.checked_mul(kind.size()).is_some_and(|n| n <= len);
        let Some(count) = u64::try_from(count).ok().filter(fits) else {
            return Err(self.wrong(format!(
                "expected a storage that fits in the file, found {count} elements of {} bytes in \
                 a file of {len} bytes: the file is truncated or damaged, download it again",
                kind.size()
            )));
        };
        // Before torch 0.4, several storages could be parts of one storage.
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
            return Err(self.wrong("expected a view inside its storage, found one outside"));
        };
        let storage = match objects.by_key.get(key) {
            Some(&i) => {
                let known = &objects.storages[i as usize];
                if (known.class, known.count) != (kind, count) {
                    return Err(self.wrong(format!(
                        "storage {} is described as {count} elements of type {kind}, but earlier as {} elements of type {}",
                        shown(key),
                        known.count,
                        known.class
                    )));
                }
                i
            }
            None => {
                let storage = Self::place(objects.storages.len());
                let key = key.to_string();
                self.objects.by_key.insert(key.clone(), storage);
                self.objects.storages.push(Storage {
                    key,
                    class: kind,
                    count,
                });
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

    /// Reads a tensor's metadata: whether its values are negated. `None` for any other metadata.
    fn is_negative(&self, metadata: Option<Value>) -> Option<bool> {
        let pairs = match metadata {
            None | Some(Value::None) => return Some(false),
            Some(dict) => self.objects.dict(dict)?,
        };
        let mut negative = false;
        for (key, value) in pairs {
            // A real tensor has no other bit; the conjugate bit is for complex tensors.
            match (self.objects.text(*key), value) {
                (Some("neg"), Value::Bool(true)) => negative = true,
                _ => return None,
            }
        }
        Some(negative)
    }

    fn tensor(
        &mut self,
        callable: Value,
        view: u32,
        [offset, shape, stride]: [Value; 3],
        dtype: Option<Value>,
        metadata: Option<Value>,
    ) -> Result<Value> {
        let part = self.objects.views[view as usize];
        let class = self.objects.storages[part.storage as usize].class;
        let parts = vec![Value::Storage(view)];
        let kind = match (class, dtype) {
            (Class::Complex(_), _) => {
                return Ok(self.opaque(callable, Reason::Complex, parts));
            }
            (Class::Quantized(_), _) => return Ok(self.opaque(callable, Reason::Call, parts)),
            (_, Some(dtype)) => match Kind::of_dtype(self.objects.name(dtype)) {
                Some(kind) => kind,
                None => return Ok(self.opaque(callable, Reason::Element(dtype), parts)),
            },
            (Class::Of(kind), None) => kind,
            (Class::Untyped, None) => Kind::U8,
        };
        let negative = match self.is_negative(metadata) {
            Some(negative) if !(negative && kind == Kind::Bool) => negative,
            _ => return Ok(self.opaque(callable, Reason::Bits, parts)),
        };
        let (shape, stride, offset) = self.numbers(offset, shape, stride)?;
        if shape.len() != stride.len() {
            return Err(self.wrong(format!(
                "expected a shape and a stride of the same length, found shape {shape:?} with stride {stride:?}"
            )));
        }
        // In elements of the tensor's type, which may differ from the storage's type.
        let available = part.count * class.size() / kind.size();
        // Zeros count as 1: for an empty tensor, later code multiplies the other dimensions.
        let count = shape
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul((*d).max(1)))
            .filter(|n| *n <= u64::from(u32::MAX) << 16);
        let empty = shape.contains(&0);
        let last = shape.iter().zip(&stride).try_fold(offset, |last, (d, s)| {
            last.checked_add(d.saturating_sub(1).checked_mul(*s)?)
        });
        let inside = match (count, last) {
            (Some(_), Some(last)) => empty || last < available,
            _ => false,
        };
        let sizes: Option<Vec<usize>> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
        let (true, Some(sizes)) = (inside, sizes) else {
            return Err(self.wrong(format!(
                "found a tensor of shape {shape:?}, stride {stride:?} and offset {offset}, but its \
                 storage has only {available} elements"
            )));
        };
        let value = Value::Tensor(Self::place(self.objects.tensors.len()));
        self.objects.tensors.push(Strided {
            storage: part.storage,
            kind,
            // The start of an empty tensor does not matter. Otherwise both products are within
            // the storage and cannot overflow.
            start: match empty {
                true => 0,
                false => part.offset * class.size() + offset * kind.size(),
            },
            shape: sizes,
            stride,
            negative,
        });
        Ok(value)
    }

    /// Converts the shape, the stride and the offset of a tensor, in this order.
    fn numbers(
        &self,
        offset: Value,
        shape: Value,
        stride: Value,
    ) -> Result<(Vec<u64>, Vec<u64>, u64)> {
        let integer = |value: Value| -> Option<u64> {
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
            items.iter().map(|v| integer(*v)).collect()
        };
        match (integer(offset), numbers(shape), numbers(stride)) {
            (Some(offset), Some(shape), Some(stride)) => Ok((shape, stride, offset)),
            _ => Err(self.wrong(format!(
                "expected an offset, a shape and a stride of at most {DIMENSIONS} non-negative \
                 integers, found other values"
            ))),
        }
    }
}
