//! Files of the Hugging Face hub, and checkpoints that others wrote, read as data.
//!
//! # Fetching
//!
//! [`Hub`] has the files of models and datasets, and any file of the web by [`Hub::download`]:
//!
//! ```no_run
//! use invariances::hub::{Checkpoint, Hub, published};
//! let hub = Hub::open()?; // with HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE … as elsewhere
//! let weights = hub.model("timm/resnet50.tv_in1k")?.file("model.safetensors")?;
//! println!("{} tensors", Checkpoint::open(weights)?.entries().len());
//! let digits = hub.dataset("ylecun/mnist")?.parquet("test")?;
//! println!("{digits:?}");
//! published("cinn_alexnet_aae_fc6")?.fetch(&hub)?; // the authors', by name
//! # Ok::<(), invariances::Error>(())
//! ```
//!
//! The cache is that of Python's `huggingface_hub` and of hf-hub: what one has fetched the others find.
//! A file in it is taken without asking the hub ([`Repo::newest`] asks). A download is resumed after a cut,
//! its length and its hash are compared, and it has its name only then; two processes that want the same file
//! wait for each other. Names, ETags and addresses from a server are checked before they become a path or
//! are followed, answers are read up to a limit, and files go to the disk in pieces.
//!
//! **Why hf-hub 0.5, and only for the layout.** hf-hub 1.0 asks through reqwest, tokio and xet: 235 crates
//! instead of 57, of which 143 would be new here, and 314 seconds of processor time for a clean build
//! instead of 49 (219 against 29 on two cores). What a user would gain is xet's faster transfer of large files,
//! uploads and the rest of the API; over plain HTTP it neither resumes nor compares a hash. hf-hub 0.5 names
//! the folders and files of the cache here and has brought ureq, by which files are fetched; its own
//! downloads are not used, since they compare neither length nor hash, append whatever answers a resumed
//! request, wait without end, ignore `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`, make a path of any ETag
//! and send the token along to the host of a redirect.
//!
//! # Reading
//!
//! A checkpoint is read as data: names, shapes and numbers, and never code.
//! A checkpoint of torch is a pickle, and a pickle is a program: loading one in Python can do anything.
//! Here the pickle is read by an interpreter of our own that knows the few names a state dict is made of.
//! Whatever else a file asks to call is refused **by name**, and nothing is ever called:
//!
//! - `collections.OrderedDict` (and `defaultdict`), `torch._utils._rebuild_tensor_v2`, `_rebuild_tensor` and
//!   `_rebuild_parameter`, torch's storages and `torch.Size` are understood.
//! - What training scripts keep beside the weights is read over, and its values are not looked at: scalars
//!   and arrays of numpy, `argparse.Namespace`, `set`, `collections.Counter`, `torch.device`.
//! - Another class or function that is only *named* in the file does no harm and is read over. One that is
//!   to be *called* makes the whole file refused, wherever it stands.
//!
//! The format is told by the content, not by the name of the file: **safetensors**, torch's **zip** archive
//! (1.6 and later) and its **legacy** format (before 1.6), in which all of the paper's checkpoints are.
//! Numbers are little-endian. Lengths, offsets and shapes are held against the file's length before memory
//! is set aside for them, and a file that ends too soon is an error that says where.
//!
//! ```
//! use invariances::{hub::{self, Checkpoint}, ops::{Init, Params}};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("t.safetensors");
//! let params = Params::new(0);
//! params.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
//! params.save(&path)?;
//!
//! let checkpoint = Checkpoint::open(&path)?; // nothing but names, shapes and number types
//! assert_eq!(checkpoint.entries()[0].to_string(), "fc.weight [10, 4] F32");
//!
//! let others = Params::new(1);
//! others.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
//! hub::load(&others, &path)?; // all names and shapes must agree
//! # let (ours, theirs) = (params.var("fc.weight")?, others.var("fc.weight")?);
//! # assert_eq!(ours.to_vec2::<f32>()?, theirs.to_vec2::<f32>()?);
//! # Ok::<(), invariances::Error>(())
//! ```
//!
//! The paper's checkpoints, with their addresses and sizes, are in [`published`]:
//!
//! ```no_run
//! use invariances::{flow::Cinn, hub::{Hub, published}, ops::Params};
//! let file = published("cinn_alexnet_aae_fc6")?;
//! file.fetch(&Hub::open()?)?; // from file.url to file.path(), if it is not there
//! let params = Params::new(0);
//! let t = Cinn::new(&file.cinn()?, &params.root())?;
//! file.open()?.load_into(&params)?; // after its MD5 was compared
//! # Ok::<(), invariances::Error>(())
//! ```

mod pickle;
mod published;
mod remote;
mod safetensors;
mod source;
mod torch;
mod weights;
mod zip;

pub use published::{Published, published, published_names};
pub use remote::{Hub, Repo, RepoFile};
pub use weights::{Weights, weights, weights_names};

use crate::ops::Params;
use crate::ops::names::shown;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use pickle::{Kind, Objects, Value};
use source::{Source, listed};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use torch::Torch;

/// The keys under which training scripts keep the state dict beside other things.
const USUAL: [&str; 2] = ["state_dict", "model"];
/// What torch's `DataParallel` puts before every name.
const WRAPPED: &str = "module.";
/// The tensors together may be so many times as large as the file: they can share numbers.
const SHARED: u64 = 4;
/// And so many bytes more, for small files.
const FREE: u64 = 16 << 20;

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header in JSON, then the numbers.
    Safetensors,
    /// A zip archive with a pickle and an entry per storage: torch 1.6 and later.
    TorchZip,
    /// Pickles, then the numbers: torch before 1.6.
    TorchLegacy,
}

/// What a checkpoint says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the `module.` of a `DataParallel` network.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its number type once it is loaded: bool is U8, i8 is I16 and u16 is U32, as candle has none of these.
    pub dtype: DType,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.shape, self.dtype)
    }
}

/// A tensor in the file.
#[derive(Debug)]
struct Located {
    name: String,
    kind: Kind,
    /// The byte at which its first number begins.
    at: u64,
    shape: Vec<usize>,
    /// Nothing where its numbers lie in the order of its indices.
    stride: Option<Vec<u64>>,
    /// From its first number to its last.
    span: u64,
}

enum Content {
    Safetensors,
    Torch(Box<Torch>, Format),
}

/// A checkpoint's state dict: its names, shapes and number types, and its tensors when they are asked for.
///
/// Where the file holds more than a state dict, it is the one under `state_dict` or `model`;
/// [`Checkpoint::part`] and [`Checkpoint::open_part`] choose another. A `module.` before every name, as
/// torch's `DataParallel` leaves it, is taken off. What is no tensor in a state dict is left out.
///
/// The file stays open, and only the tensors that are asked for are read. Cloning shares it.
#[derive(Clone)]
pub struct Checkpoint {
    source: Arc<Source>,
    content: Arc<Content>,
    tensors: Arc<Vec<Located>>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Checkpoint({}, {:?}, {} tensors)",
            self.path().display(),
            self.format(),
            self.tensors.len()
        )
    }
}

impl Checkpoint {
    /// Reads what a file says of its tensors, but not the tensors.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read. [`Error::Content`] where it is no checkpoint, is cut
    /// short or damaged, asks for a function to be called, or has no state dict; the keys that it has
    /// are then listed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(Source::open(path.as_ref())?, None)
    }

    /// As [`Checkpoint::open`], for the state dict under `part`; see [`Checkpoint::part`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`Error::Content`] where there is no state dict under this key.
    pub fn open_part(path: impl AsRef<Path>, part: &str) -> Result<Self> {
        Self::read(Source::open(path.as_ref())?, Some(part))
    }

    /// As [`Checkpoint::open`], from memory; errors call it `name`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        Self::read(Source::memory(name.as_ref(), bytes), None)
    }

    fn read(source: Source, part: Option<&str>) -> Result<Self> {
        let head = source.read(0, source.len().min(512), "the beginning")?;
        let (content, tensors) = if safetensors::recognise(&source, &head) {
            let mut tensors = safetensors::read(&source, &head)?;
            if part.is_some() {
                return Err(no_parts(&source));
            }
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            (Content::Safetensors, tensors)
        } else if head.starts_with(b"PK\x03\x04") {
            let torch = Torch::zip(&source)?;
            let tensors = locate(&source, &torch, part)?;
            (Content::Torch(torch.into(), Format::TorchZip), tensors)
        } else if torch_begins(&head) {
            let torch = Torch::legacy(&source)?;
            let tensors = locate(&source, &torch, part)?;
            (Content::Torch(torch.into(), Format::TorchLegacy), tensors)
        } else {
            return Err(unknown(&source, &head));
        };
        check_size(&source, &tensors)?;
        Ok(Self {
            source: source.into(),
            content: content.into(),
            tensors: tensors.into(),
        })
    }

    /// The state dict under another key of the same file: `"ema"`, or `"networks/generator"` for one that is nested.
    /// In a list, an element's number is its key.
    ///
    /// # Errors
    /// [`Error::Content`] where there is no state dict under this key; the keys that exist are listed.
    pub fn part(&self, key: &str) -> Result<Self> {
        let Content::Torch(torch, _) = self.content.as_ref() else {
            return Err(no_parts(&self.source));
        };
        let tensors = locate(&self.source, torch, Some(key))?;
        check_size(&self.source, &tensors)?;
        Ok(Self {
            tensors: tensors.into(),
            ..self.clone()
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        match self.content.as_ref() {
            Content::Safetensors => Format::Safetensors,
            Content::Torch(_, format) => *format,
        }
    }

    /// What it says of its tensors, sorted by name.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.tensors.iter().map(|t| Entry {
            name: t.name.clone(),
            shape: t.shape.clone(),
            dtype: t.kind.dtype(),
        });
        entries.collect()
    }

    /// Reads one tensor, on the CPU.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that it does not have, [`Error::Io`] where the file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let found = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name));
        let found = found.map_err(|_| {
            let names: Vec<_> = self.tensors.iter().map(|t| &t.name).collect();
            Error::invalid(format!(
                "no tensor {name:?} in {}; it has {}",
                self.path().display(),
                listed(&names)
            ))
        })?;
        self.load(&self.tensors[found])
    }

    /// Reads all tensors, on the CPU, in the number types of the file.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let each = self.tensors.iter();
        each.map(|t| Ok((t.name.clone(), self.load(t)?))).collect()
    }

    /// Takes every value into `params`, by name, converted to their number type and device.
    /// All or nothing: names and shapes are compared before anything is read.
    ///
    /// # Errors
    /// [`Error::Content`] with every missing, unexpected and misshapen name, [`Error::Io`] where the file cannot be read.
    pub fn load_into(&self, params: &Params) -> Result<()> {
        let shapes = self.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..]));
        params
            .check_shapes(&shapes.collect())
            .map_err(|e| self.source.wrong(e.to_string()))?;
        params.set_all(&self.tensors()?)
    }

    fn load(&self, tensor: &Located) -> Result<Tensor> {
        let size = tensor.kind.size();
        let what = shown(&tensor.name);
        let mut bytes = self.source.read(tensor.at, tensor.span * size, &what)?;
        if let Some(stride) = &tensor.stride {
            bytes = gather(&bytes, &tensor.shape, stride, size as usize);
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

/// Takes every value of a checkpoint into `params`: [`Checkpoint::open`], then [`Checkpoint::load_into`].
///
/// # Errors
/// As these two.
pub fn load(params: &Params, path: impl AsRef<Path>) -> Result<()> {
    Checkpoint::open(path)?.load_into(params)
}

/// The numbers of a strided tensor in the order of its indices. All of them lie in `bytes`.
fn gather(bytes: &[u8], shape: &[usize], stride: &[u64], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        gathered.extend_from_slice(&bytes[at..at + size]);
        // The next index, the last dimension first.
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

/// Whether a pickle begins so whose first object is torch's number.
fn torch_begins(head: &[u8]) -> bool {
    let first = &head[..head.len().min(32)];
    first.first() == Some(&0x80)
        && first
            .windows(pickle::MAGIC.len())
            .any(|w| w == pickle::MAGIC)
}

/// What a file that is no checkpoint seems to be.
fn unknown(source: &Source, head: &[u8]) -> Error {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let text = text.trim_start();
    let found = if head.is_empty() {
        "an empty file".into()
    } else if text.starts_with("<!doctype")
        || text.starts_with("<html")
        || text.starts_with("<?xml")
    {
        "a web page: was the download refused?".into()
    } else if text.starts_with("version https://git-lfs") {
        "a pointer of Git LFS: fetch the file itself".into()
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "a file compressed by gzip: decompress it first".into()
    } else if head.get(257..262) == Some(b"ustar") {
        "a tar archive: unpack it, or where torch before 0.2 wrote it, load it there and save it again".into()
    } else if head.first() == Some(&0x80) {
        "a pickle that torch.save did not write".into()
    } else {
        format!("a file that begins {:02x?}", &head[..head.len().min(8)])
    };
    source.wrong(format!(
        "expected a checkpoint (safetensors, or what torch.save writes), found {found}"
    ))
}

fn no_parts(source: &Source) -> Error {
    source.wrong("a safetensors file has one state dict and no parts")
}

/// Refuses tensors that together are far larger than the file: few numbers shown again and again.
fn check_size(source: &Source, tensors: &[Located]) -> Result<()> {
    let limit = source.len().saturating_mul(SHARED).saturating_add(FREE);
    let mut total = 0u64;
    for tensor in tensors {
        // Their product was checked when the description was read.
        let count: u64 = tensor.shape.iter().map(|d| *d as u64).product();
        let bytes = count.max(tensor.span).saturating_mul(tensor.kind.size());
        total = total.saturating_add(bytes);
        if total > limit {
            return Err(source.wrong(format!(
                "its tensors show the same numbers again and again: up to {} they take {total} bytes, and the file has {}; make them contiguous in Python and save them again",
                shown(&tensor.name),
                source.len()
            )));
        }
    }
    Ok(())
}

/// How many values of a dict are tensors under a name, and how many are something else.
fn tensors_in(objects: &Objects, value: Value) -> (usize, usize) {
    let pairs = objects.dict(value).unwrap_or(&[]);
    let named = pairs
        .iter()
        .filter(|(k, v)| matches!((k, v), (Value::Text(_), Value::Tensor(_))));
    let tensors = named.count();
    (tensors, pairs.len() - tensors)
}

/// What is under the keys of a dict or the numbers of a list, in words.
fn described(objects: &Objects, value: Value) -> String {
    let about = |v: Value| match v {
        Value::Dict(_) => match tensors_in(objects, v) {
            (0, n) => format!("a dict of {n}"),
            (n, _) => format!("a dict of {n} tensors"),
        },
        Value::List(_) | Value::Tuple(_) => "a list".into(),
        Value::Tensor(_) => "a tensor".into(),
        _ => "no tensor".into(),
    };
    if let Some(pairs) = objects.dict(value) {
        let keys: Vec<String> = pairs
            .iter()
            .take(1000)
            .filter_map(|(k, v)| {
                let key = match k {
                    Value::Int(n) => n.to_string(),
                    other => objects.text(*other)?.to_string(),
                };
                Some(format!("{} ({})", shown(&key), about(*v)))
            })
            .collect();
        return format!("the keys {}", listed(&keys));
    }
    match objects.sequence(value) {
        Some(items) => format!("a list of {}", items.len()),
        None => about(value),
    }
}

/// What is under `key` in a dict or a list.
fn child(objects: &Objects, value: Value, key: &str) -> Option<Value> {
    if let Some(found) = objects.get(value, key) {
        return Some(found);
    }
    let number: i64 = key.parse().ok()?;
    match objects.dict(value) {
        Some(pairs) => {
            let found = pairs.iter().rev().find(|(k, _)| *k == Value::Int(number));
            found.map(|(_, v)| *v)
        }
        None => objects
            .sequence(value)?
            .get(usize::try_from(number).ok()?)
            .copied(),
    }
}

/// The state dict of a file, or what is under `part`.
fn choose(source: &Source, torch: &Torch, part: Option<&str>) -> Result<Value> {
    let (objects, root) = (&torch.objects, torch.root);
    let Some(mut rest) = part else {
        let usual = USUAL.iter().filter_map(|key| objects.get(root, key));
        let mut nested = usual.filter(|v| tensors_in(objects, *v).0 > 0);
        return match tensors_in(objects, root) {
            // A state dict that has `model` for a name is one all the same.
            (1.., 0) => Ok(root),
            (n, _) => nested.next().or((n > 0).then_some(root)).ok_or_else(|| {
                source.wrong(format!(
                    "expected a state dict, alone or under {}; found {}. Choose another by `Checkpoint::open_part`",
                    USUAL.join(" or "),
                    described(objects, root)
                ))
            }),
        };
    };
    let mut value = root;
    loop {
        if let Some(found) = child(objects, value, rest) {
            value = found;
            break;
        }
        let step = rest
            .split_once('/')
            .and_then(|(first, more)| Some((child(objects, value, first)?, more)));
        let Some((next, more)) = step else {
            return Err(source.wrong(format!(
                "nothing under {rest:?}; there are {}",
                described(objects, value)
            )));
        };
        (value, rest) = (next, more);
    }
    if tensors_in(objects, value).0 == 0 {
        return Err(source.wrong(format!(
            "expected a state dict under {:?}, found {}",
            part.unwrap_or_default(),
            described(objects, value)
        )));
    }
    Ok(value)
}

/// The tensors of the state dict of a file, or of `part`, by name.
fn locate(source: &Source, torch: &Torch, part: Option<&str>) -> Result<Vec<Located>> {
    let objects = &torch.objects;
    let state = choose(source, torch, part)?;
    let mut named: Vec<(&str, u32)> = Vec::new();
    for (key, value) in objects.dict(state).unwrap_or(&[]) {
        if let (Some(name), Value::Tensor(tensor)) = (objects.text(*key), *value) {
            named.push((name, tensor));
        }
    }
    named.sort_unstable();
    if let Some(twice) = named.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(source.wrong(format!(
            "two tensors are called {}: which one is meant cannot be told",
            shown(twice[0].0)
        )));
    }
    let wrapped = named.iter().all(|(name, _)| name.starts_with(WRAPPED));
    let mut tensors = Vec::with_capacity(named.len());
    for (name, tensor) in named {
        let strided = &objects.tensors[tensor as usize];
        let kind = objects.storages[strided.storage as usize].kind;
        let empty = strided.shape.contains(&0);
        let at = torch.place(source, strided.storage, name)?;
        // That of a dimension of 1 is never walked, and may be any number.
        let stride: Vec<u64> = std::iter::zip(&strided.shape, &strided.stride)
            .map(|(d, s)| if *d == 1 { 0 } else { *s })
            .collect();
        // As large as the storage at most, which was checked when the pickle was read.
        let span = if empty {
            0
        } else {
            let steps = std::iter::zip(&strided.shape, &stride);
            steps.map(|(d, s)| (*d as u64 - 1) * s).sum::<u64>() + 1
        };
        let name = if wrapped {
            &name[WRAPPED.len()..]
        } else {
            name
        };
        tensors.push(Located {
            name: name.into(),
            kind,
            at: at + strided.offset * kind.size(),
            shape: strided.shape.clone(),
            stride: (!empty && !is_contiguous(&strided.shape, &stride)).then_some(stride),
            span,
        });
    }
    Ok(tensors)
}

/// Whether the numbers lie in the order of the indices; the stride of a dimension of 1 says nothing.
fn is_contiguous(shape: &[usize], stride: &[u64]) -> bool {
    let mut expected = 1;
    for (d, s) in shape.iter().zip(stride).rev() {
        if *d != 1 && *s != expected {
            return false;
        }
        expected *= *d as u64;
    }
    true
}
