//! [`Checkpoint`]: the names, shapes and element types of a checkpoint's tensors, and their
//! values, which are read on demand.

use super::pickle::{self, Kind};
use super::prefix::{self, Expected};
use super::safetensors;
use super::source::{Source, listed};
use super::state::{Located, State, check_size, locate};
use super::torch::Torch;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use invariances_core::names::shown;
use invariances_core::say;
use invariances_ops::Params;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// File format of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON header, then the values.
    Safetensors,
    /// A zip archive with a pickle and one entry per storage: torch 1.6 and later.
    TorchZip,
    /// Pickles, then the values: torch before 1.6.
    TorchLegacy,
}

/// Description of a tensor in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the prefix that was removed from all names ([`Checkpoint::prefix`]).
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its element type after loading. candle has no bool, i8 and u16: these become U8, I16 and
    /// U32.
    pub dtype: DType,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.shape, self.dtype)
    }
}

enum Content {
    Safetensors,
    Torch(Box<Torch>, Format),
}

/// The state dict of a checkpoint: names, shapes and element types, and tensors that are read on
/// demand.
///
/// **Which state dict.** If the file contains more than a state dict, the one under `state_dict`,
/// `model_state_dict` or `model` is read, in this order of preference. If there is none, the only
/// dict of tensors at the top level of the file is read, with a printed notice. Use
/// [`Checkpoint::part`] or [`Checkpoint::open_part`] to choose another one.
///
/// **Which names.** A prefix from wrappers that all names share (`module.` of `DataParallel`,
/// `_orig_mod.` of `torch.compile`, `model.` of Lightning and others, in any order and repeated)
/// is removed with a printed notice; [`Checkpoint::prefix`] returns it. [`Checkpoint::load_into`]
/// compares with the network's names instead: it loads the file's names unchanged, or without a
/// prefix that all of them share, if the result is exactly the network's names and shapes.
///
/// **Which values.** Values in a state dict that are not tensors are left out. A *tensor* that
/// cannot be read (sparse, quantized, complex, of an unknown class or on the meta device) is an
/// error that gives its name.
///
/// The file stays open, and only the requested tensors are read. Clones share the open file.
#[derive(Clone)]
pub struct Checkpoint {
    source: Arc<Source>,
    content: Arc<Content>,
    state: Arc<State>,
    /// Length in bytes of the prefix that is removed from every name.
    cut: usize,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Checkpoint({}, {:?}, {} tensors)",
            self.path().display(),
            self.format(),
            self.state.tensors.len()
        )
    }
}

impl Checkpoint {
    /// Opens a checkpoint and reads the descriptions of its tensors, but not their values.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::Content`] if it is not a checkpoint, is
    /// truncated or damaged, contains a tensor that cannot be read, contains no state dict (the
    /// error then lists its keys), or calls a function of the operating system, which may be an
    /// attack.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(Source::open(path.as_ref())?, None)
    }

    /// As [`Checkpoint::open`], for the state dict under the key `part`; see [`Checkpoint::part`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`Error::Content`] if there is no state dict under this key.
    pub fn open_part(path: impl AsRef<Path>, part: &str) -> Result<Self> {
        Self::read(Source::open(path.as_ref())?, Some(part))
    }

    /// As [`Checkpoint::open`], from bytes in memory. Error messages use `name` as the file's name.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        Self::read(Source::memory(name.as_ref(), bytes), None)
    }

    fn read(source: Source, part: Option<&str>) -> Result<Self> {
        let head = source.read(0, source.len().min(512), "the beginning")?;
        let (content, state) = if safetensors::recognise(&source, &head) {
            let mut tensors = safetensors::read(&source, &head)?;
            if part.is_some() {
                return Err(no_parts(&source));
            }
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            let state = State {
                tensors,
                ..State::default()
            };
            (Content::Safetensors, state)
        } else if head.starts_with(b"PK\x03\x04") {
            let torch = Torch::zip(&source)?;
            let state = locate(&source, &torch, part)?;
            (Content::Torch(torch.into(), Format::TorchZip), state)
        } else if torch_begins(&head) {
            let torch = Torch::legacy(&source)?;
            let state = locate(&source, &torch, part)?;
            (Content::Torch(torch.into(), Format::TorchLegacy), state)
        } else {
            return Err(unknown(&source, &head));
        };
        Self::with(source.into(), content.into(), state)
    }

    fn with(source: Arc<Source>, content: Arc<Content>, state: State) -> Result<Self> {
        check_size(&source, &state.tensors)?;
        let checkpoint = Self {
            source,
            content,
            cut: prefix::of_wrappers(&state.tensors),
            state: state.into(),
        };
        checkpoint.say_prefix(checkpoint.cut);
        Ok(checkpoint)
    }

    /// Prints that the first `cut` bytes of every name are removed.
    fn say_prefix(&self, cut: usize) {
        if let (1.., Some(first)) = (cut, self.state.tensors.first()) {
            say(&format!(
                "{}: removed the prefix {:?} from all {} names",
                self.path().file_name().unwrap_or_default().display(),
                shown(&first.name[..cut]),
                self.state.tensors.len()
            ));
        }
    }

    /// Selects the state dict under another key of the same file: `"ema"`, or
    /// `"networks/generator"` for a nested one. In a list, the key is the index of an element.
    ///
    /// # Errors
    /// [`Error::Content`] if there is no state dict under this key (the error lists the keys that
    /// exist), and for a safetensors file, which has only one state dict.
    pub fn part(&self, key: &str) -> Result<Self> {
        let Content::Torch(torch, _) = self.content.as_ref() else {
            return Err(no_parts(&self.source));
        };
        let state = locate(&self.source, torch, Some(key))?;
        Self::with(self.source.clone(), self.content.clone(), state)
    }

    /// Selects the tensors whose names begin with `prefix`, and removes it from their names. For
    /// example, `below("model.")` selects the network of a Lightning checkpoint that also
    /// contains the weights of the loss.
    ///
    /// ```
    /// use invariances_hub::Checkpoint;
    /// use invariances_ops::{Init, Params};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("t.safetensors");
    /// let params = Params::new(0);
    /// for name in ["student.fc", "teacher.fc"] {
    ///     params.root().pp(name).get((10, 4), "weight", Init::FanIn)?;
    /// }
    /// params.save(&path)?;
    /// let teacher = Checkpoint::open(&path)?.below("teacher.")?;
    /// assert_eq!(teacher.entries()[0].name, "fc.weight");
    /// # Ok::<(), invariances_hub::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] if no name begins with `prefix`; the error lists names in the file.
    pub fn below(&self, prefix: &str) -> Result<Self> {
        let rest = |tensor: &Located| {
            let name = tensor.name[self.cut..].strip_prefix(prefix)?;
            (!name.is_empty()).then(|| Located {
                name: name.into(),
                ..tensor.clone()
            })
        };
        let tensors: Vec<Located> = self.state.tensors.iter().filter_map(rest).collect();
        if tensors.is_empty() {
            return Err(Error::unknown(format!(
                "no tensor name starts with {prefix:?} in {}; the names are {}",
                self.path().display(),
                listed(&self.names())
            )));
        }
        let unread = self.state.unread.iter().filter_map(|(name, what)| {
            let name = name.get(self.cut..)?.strip_prefix(prefix)?;
            Some((name.into(), what.clone()))
        });
        let state = State {
            unread: unread.collect(),
            tensors,
        };
        Ok(Self {
            state: state.into(),
            cut: 0,
            ..self.clone()
        })
    }

    /// Returns the prefix from wrappers that was removed from all names; empty if there is none.
    pub fn prefix(&self) -> &str {
        let first = self.state.tensors.first();
        first.map_or("", |tensor| &tensor.name[..self.cut])
    }

    /// Returns the names without the removed prefix.
    fn names(&self) -> Vec<&str> {
        let each = self.state.tensors.iter();
        each.map(|t| &t.name[self.cut..]).collect()
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns the file format.
    pub fn format(&self) -> Format {
        match self.content.as_ref() {
            Content::Safetensors => Format::Safetensors,
            Content::Torch(_, format) => *format,
        }
    }

    /// Returns the names, shapes and element types of the tensors, sorted by name.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.state.tensors.iter().map(|t| Entry {
            name: t.name[self.cut..].into(),
            shape: t.shape.clone(),
            dtype: t.kind.dtype(),
        });
        entries.collect()
    }

    /// Reads one tensor, on the CPU. Its name may include [`Checkpoint::prefix`] or not.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name, [`Error::Unsupported`] if the value under this name
    /// is not a tensor, [`Error::Io`] if the file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensors = &self.state.tensors;
        let find = |cut| tensors.binary_search_by(|t| t.name[cut..].cmp(name)).ok();
        match find(self.cut).or_else(|| find(0)) {
            Some(found) => self.load(&tensors[found]),
            None => Err(match self.unread(name, self.cut) {
                Some(what) => Error::unsupported(format!(
                    "expected a tensor, but {name:?} in {} is an object of {what}: save \
                     `torch.as_tensor(x)` instead",
                    self.path().display()
                )),
                None => Error::unknown(format!(
                    "no tensor {name:?} in {}; the tensors are {}",
                    self.path().display(),
                    listed(&self.names())
                )),
            }),
        }
    }

    /// Returns the class of the unread object that is stored under `name` instead of a tensor.
    /// The name may include the first `cut` bytes or not.
    fn unread(&self, name: &str, cut: usize) -> Option<&str> {
        let mut unread = self.state.unread.iter();
        let found = unread.find(|(n, _)| n == name || n.get(cut..) == Some(name));
        found.map(|(_, what)| what.as_str())
    }

    /// Reads all tensors, on the CPU, in the element types of [`Checkpoint::entries`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let each = self.state.tensors.iter();
        each.map(|t| Ok((t.name[self.cut..].into(), self.load(t)?)))
            .collect()
    }

    /// Loads every value into `params`, by name, converted to the element type and device of
    /// `params`: bf16 and f16 weights become f32 in a network of f32, without rounding. Either all
    /// values are loaded or none: names and shapes are compared before any tensor is read.
    ///
    /// The file's names are used unchanged or without a prefix that all of them share, whichever
    /// gives exactly the network's names. Counters of batches (`num_batches_tracked`) are ignored.
    ///
    /// # Errors
    /// [`Error::Content`] if names or shapes differ. The error lists every missing and unexpected
    /// name and every wrong shape, and the prefix below which the file has the network's names,
    /// if there is one. [`Error::Io`] if the file cannot be read.
    pub fn load_into(&self, params: &Params) -> Result<()> {
        let expected = params.shapes();
        let cuts = self.cuts();
        let fits = |cut: &&usize| prefix::agreement(&self.state.tensors, **cut, &expected).1;
        let Some(&cut) = cuts.iter().find(fits) else {
            return Err(self.of_another_network(params, &expected, &cuts));
        };
        self.say_decision(cut);
        let mut values = HashMap::new();
        for tensor in &self.state.tensors {
            let name = &tensor.name[cut..];
            if expected.contains_key(name) {
                values.insert(name.to_owned(), self.load(tensor)?);
            }
        }
        params.set_all(&values)
    }

    /// Loads values into `params` under other names; either all are loaded or none. `rename`
    /// receives a name and a shape of the file and returns the network's name and shape, or
    /// `None` for a tensor that the network does not have. The number of elements must stay the
    /// same. `what` describes the expected file in the error message.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`].
    pub fn load_renamed(
        &self,
        params: &Params,
        what: &str,
        rename: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>,
    ) -> Result<()> {
        let mut fault = None;
        for cut in self.cuts() {
            let chosen: Vec<(String, &Located, Vec<usize>)> = self
                .state
                .tensors
                .iter()
                .filter_map(|t| rename(&t.name[cut..], &t.shape).map(|(n, s)| (n, t, s)))
                .collect();
            let shapes = chosen
                .iter()
                .map(|(name, _, shape)| (name.as_str(), &shape[..]));
            if let Err(error) = params.check_shapes(&shapes.collect()) {
                // Keep the first error: it is about the names that `entries` returns.
                fault.get_or_insert(error);
                continue;
            }
            self.say_decision(cut);
            let mut values = HashMap::new();
            for (name, tensor, shape) in chosen {
                // `set_all` converts each value to the type of its parameter or buffer.
                values.insert(name, self.load(tensor)?.reshape(shape)?);
            }
            return params.set_all(&values);
        }
        let fault = fault.map_or(String::new(), |e| format!(": {e}"));
        Err(self.source.wrong(format!("expected {what}{fault}")))
    }

    /// Returns the lengths of the prefixes that all names share. The removed prefix comes first.
    fn cuts(&self) -> Vec<usize> {
        let mut cuts = prefix::shared(&self.state.tensors);
        cuts.retain(|cut| *cut != self.cut);
        cuts.insert(0, self.cut);
        cuts
    }

    /// Prints which names are used, if this differs from the notice printed at opening.
    fn say_decision(&self, cut: usize) {
        if cut != self.cut && cut > 0 {
            self.say_prefix(cut);
        } else if cut != self.cut {
            let file = self.path().file_name().unwrap_or_default().display();
            let prefix = shown(self.prefix());
            say(&format!(
                "{file}: kept the prefix {prefix:?}, which the network's names have"
            ));
        }
    }

    fn of_another_network(&self, params: &Params, expected: &Expected, cuts: &[usize]) -> Error {
        let tensors = &self.state.tensors;
        let agree = |cut: usize| prefix::agreement(tensors, cut, expected).0;
        // Among the prefixes with the most matches, the first one. `max_by_key` returns the last
        // maximum, hence `rev`.
        let cut = cuts.iter().copied().rev().max_by_key(|cut| agree(*cut));
        let cut = cut.unwrap_or(self.cut);
        let named = tensors.iter().map(|t| (&t.name[cut..], &t.shape[..]));
        let mut text = match params.check_shapes(&named.collect()) {
            Ok(()) => "these weights are of another network".into(),
            Err(error) => error.to_string(),
        };
        for name in expected.keys() {
            if let Some(what) = self.unread(name, cut) {
                text += &format!(
                    "\n  {name} is stored in the file as an object of {what}, not as a tensor: save \
                     `torch.as_tensor(x)` instead"
                );
            }
        }
        text += &prefix::advice(tensors, self.cut, expected);
        self.source.wrong(text)
    }

    /// Reads one tensor.
    fn load(&self, tensor: &Located) -> Result<Tensor> {
        let size = tensor.kind.size();
        let what = shown(&tensor.name);
        let mut bytes = self.source.read(tensor.at, tensor.span * size, &what)?;
        if let Some(stride) = &tensor.stride {
            bytes = gather(&bytes, &tensor.shape, stride, size as usize);
        }
        if tensor.negative {
            tensor.kind.negate(&mut bytes);
        }
        let (shape, cpu) = (tensor.shape.as_slice(), &Device::Cpu);
        Ok(match tensor.kind {
            Kind::I8 => {
                let wide: Vec<i16> = bytes.iter().map(|b| i16::from(b.cast_signed())).collect();
                Tensor::from_vec(wide, shape, cpu)?
            }
            Kind::U16 => {
                let wide = bytes.chunks_exact(2);
                let wide: Vec<u32> = wide
                    .map(|b| u16::from_le_bytes([b[0], b[1]]).into())
                    .collect();
                Tensor::from_vec(wide, shape, cpu)?
            }
            kind => Tensor::from_raw_buffer(&bytes, kind.dtype(), shape, cpu)?,
        })
    }
}

/// Copies the elements of a strided tensor into contiguous order. All of them must be in `bytes`.
fn gather(bytes: &[u8], shape: &[usize], stride: &[u64], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        gathered.extend_from_slice(&bytes[at..at + size]);
        // Advance to the next index; the last dimension changes fastest.
        for (d, i) in index.iter_mut().enumerate().rev() {
            let step = stride[d] as usize * size;
            *i += 1;
            at += step;
            if *i < shape[d] {
                break;
            }
            at -= *i * step;
            *i = 0;
        }
    }
    gathered
}

/// Whether these first bytes are those of a pickle whose first object is torch's magic number.
fn torch_begins(head: &[u8]) -> bool {
    let first = &head[..head.len().min(32)];
    first.first() == Some(&0x80)
        && first
            .windows(pickle::MAGIC.len())
            .any(|w| w == pickle::MAGIC)
}

/// Makes the error for a file that is not a checkpoint; it describes the probable type of the file.
fn unknown(source: &Source, head: &[u8]) -> Error {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let text = text.trim_start();
    let found = if head.is_empty() {
        "an empty file".into()
    } else if text.starts_with("<!doctype")
        || text.starts_with("<html")
        || text.starts_with("<?xml")
    {
        "a web page: check whether the download failed".into()
    } else if text.starts_with("version https://git-lfs") {
        "a Git LFS pointer: download the file itself".into()
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "a gzip file: decompress it first".into()
    } else if head.get(257..262) == Some(b"ustar") {
        "a tar archive: unpack it; if torch before 0.2 wrote it, load it in that version and save \
         it again"
            .into()
    } else if head.first() == Some(&0x80) {
        "a pickle that was not written by torch.save".into()
    } else {
        format!(
            "a file that begins with the bytes {:02x?}",
            &head[..head.len().min(8)]
        )
    };
    source.wrong(format!(
        "expected a checkpoint (safetensors or torch.save), found {found}"
    ))
}

fn no_parts(source: &Source) -> Error {
    source.wrong("expected a torch file to select a part, found a safetensors file, which has a single state dict")
}
