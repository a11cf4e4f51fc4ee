//! The objects that a pickle describes, in flat tables.

use super::kind::{Class, Kind};
use invariances_core::names::shown;
use std::collections::{HashMap, HashSet};

/// An object: a small value, or the index of the object in a table of [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// The integer at the beginning of a file of torch before 1.6.
    Magic,
    Text(u32),
    List(u32),
    Tuple(u32),
    Dict(u32),
    Global(u32),
    Storage(u32),
    Tensor(u32),
    /// An object that requires a function call; the call is not made.
    Opaque(u32),
    /// A value without tensors that is not read: a float, bytes, a set, a large integer.
    Other,
}

/// A storage: a block of elements in the file, and the key under which the file stores it.
#[derive(Debug)]
pub(crate) struct Storage {
    pub key: String,
    pub class: Class,
    /// Number of elements of this class.
    pub count: u64,
}

/// A part of a storage or the whole storage, in elements of its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub storage: u32,
    pub offset: u64,
    pub count: u64,
}

/// A tensor: elements of a storage, given by offset, shape and stride. Every index is within the
/// storage.
#[derive(Clone, Debug)]
pub(crate) struct Strided {
    pub storage: u32,
    pub kind: Kind,
    /// The first element, in bytes from the start of the storage.
    pub start: u64,
    pub shape: Vec<usize>,
    /// Strides in elements.
    pub stride: Vec<u64>,
    /// Whether the values are the negatives of the stored values (torch's negative bit).
    pub negative: bool,
}

/// Why an object is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It requires a function call.
    Call,
    /// A tensor of complex numbers.
    Complex,
    /// A tensor of this dtype, which is not supported.
    Element(Value),
    /// A view with a bit other than the negative bit, or with the negative bit on bool.
    Bits,
    /// A tensor of this class, whose values may differ from the stored ones.
    Subclass(Value),
}

/// An object that is not read.
#[derive(Debug)]
pub(crate) struct Opaque {
    /// The class or function that would make it: a global or another opaque object.
    pub callable: Value,
    pub reason: Reason,
    /// Its arguments, state and items, in the order of the pickle.
    pub parts: Vec<Value>,
}

/// Everything that a pickle describes.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub texts: Vec<String>,
    /// Lists and tuples.
    pub sequences: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub globals: Vec<String>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Strided>,
    pub opaques: Vec<Opaque>,
    pub(super) views: Vec<View>,
    pub(super) by_key: HashMap<String, u32>,
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

    /// Returns the value under a text key in a dict: the last one if there are several, as in
    /// Python.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut pairs = self.dict(dict)?.iter().rev();
        pairs
            .find(|(k, _)| self.text(*k) == Some(key))
            .map(|(_, v)| *v)
    }

    /// Returns the index of the storage with this key.
    pub fn storage(&self, key: &str) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Returns the name of a global, or of the class or function of an opaque object.
    pub fn name(&self, mut value: Value) -> &str {
        // The callable may itself be an opaque object, and so on. The number of steps is limited
        // because a malicious file may contain a long chain.
        for _ in 0..16 {
            match value {
                Value::Global(i) => {
                    return match self.globals[i as usize].as_str() {
                        // The class that numpy's function creates, because it is clearer. Only
                        // the end is compared: the module's name depends on numpy's version.
                        name if name.ends_with(".multiarray._reconstruct") => "numpy.ndarray",
                        name if name.ends_with(".multiarray.scalar") => "numpy.generic",
                        name => name,
                    };
                }
                Value::Opaque(i) => value = self.opaques[i as usize].callable,
                _ => break,
            }
        }
        "an object without a name"
    }

    /// Whether an opaque object is itself a tensor or a storage that is not read.
    pub fn is_tensor_like(&self, value: Value) -> bool {
        let Value::Opaque(i) = value else {
            return false;
        };
        let opaque = &self.opaques[i as usize];
        let Value::Global(name) = opaque.callable else {
            return opaque.reason != Reason::Call;
        };
        let name = self.globals[name as usize].as_str();
        let module = [
            "torch._utils._rebuild_",
            "torch._tensor._rebuild_",
            "torch.nn.parameter.",
            "torch.storage.",
        ];
        opaque.reason != Reason::Call
            || module.iter().any(|m| name.starts_with(m))
            || (name.starts_with("torch.")
                && (name.ends_with("Tensor") || name.ends_with("Storage")))
    }

    /// Whether a value is a tensor or a storage, or contains one at any depth.
    /// `searched` collects the containers already searched; they are not searched again.
    pub fn holds_tensor(&self, value: Value, searched: &mut HashSet<Value>) -> bool {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            if matches!(value, Value::Tensor(_) | Value::Storage(_)) || self.is_tensor_like(value) {
                return true;
            }
            let container = matches!(
                value,
                Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Opaque(_)
            );
            if !container || !searched.insert(value) {
                continue;
            }
            open.extend(self.sequence(value).unwrap_or_default());
            for (key, value) in self.dict(value).unwrap_or_default() {
                open.extend([*key, *value]);
            }
            if let Value::Opaque(i) = value {
                let opaque = &self.opaques[i as usize];
                open.push(opaque.callable);
                open.extend(&opaque.parts);
            }
        }
        false
    }

    /// Explains why an opaque object that is or contains a tensor is not read, and what to do.
    pub fn why_refused(&self, value: Value) -> String {
        let name = shown(self.name(value));
        let reason = match value {
            Value::Opaque(i) => self.opaques[i as usize].reason,
            _ => Reason::Call,
        };
        let replace =
            |what: &str| format!("in Python, replace it with {what} and save the file again");
        match reason {
            Reason::Complex => format!(
                "it is complex (a storage of type torch.ComplexFloatStorage or \
                 ComplexDoubleStorage), expected real numbers: {}",
                replace("`torch.view_as_real(x.resolve_conj())`")
            ),
            Reason::Element(dtype) => format!(
                "its elements are of type {}, expected float64, float32, float16, bfloat16, int64, \
                 int32, int16, int8, uint8, uint16, uint32 or bool: {}",
                shown(self.name(dtype)),
                replace("`x.float()`")
            ),
            Reason::Bits => format!(
                "it is a view that changes the stored values (conjugate, or another flag of \
                 torch): {}",
                replace("`x.resolve_conj().resolve_neg().clone()`")
            ),
            Reason::Subclass(class) => {
                let class = shown(self.name(class));
                let plain = match class.rsplit('.').next() {
                    Some("DTensor") => "`x.full_tensor()`",
                    _ => "the plain tensor of its values (`x.as_subclass(torch.Tensor)`)",
                };
                format!(
                    "it is an object of the class {class}, whose values may differ from the stored \
                     ones: {}",
                    replace(plain)
                )
            }
            Reason::Call => {
                let (what, plain) = match name.rsplit('.').next() {
                    Some("_rebuild_qtensor") => ("a quantized tensor", "`x.dequantize()`"),
                    Some("_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
                        ("a sparse tensor", "`x.to_dense()`")
                    }
                    Some("_rebuild_meta_tensor_no_storage") => (
                        "a tensor on the meta device, which has no values",
                        "a tensor with values",
                    ),
                    Some("_rebuild_nested_tensor") => {
                        ("a nested tensor", "`torch.nested.to_padded_tensor(x, 0.0)`")
                    }
                    Some(
                        "_rebuild_device_tensor_from_numpy"
                        | "_rebuild_device_tensor_from_cpu_tensor"
                        | "_rebuild_xla_tensor",
                    ) => ("a tensor on another device", "`x.cpu()`"),
                    _ if self.is_tensor_like(value) => ("a tensor", "a plain tensor"),
                    _ => ("an object with tensors inside", "its tensors"),
                };
                format!(
                    "it is {what} that is created by calling {name}, and functions in a \
                     checkpoint are not called: {}",
                    replace(plain)
                )
            }
        }
    }
}
