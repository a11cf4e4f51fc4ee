//! Downloads files from the Hugging Face hub, and reads checkpoints from any source as pure data.
//!
//! # Fetching
//!
//! [`Hub`] fetches the files of models and datasets. [`Hub::download`] fetches any other URL:
//!
//! ```no_run
//! use invariances_hub::{Checkpoint, Hub};
//! let hub = Hub::open()?; // reads HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE …
//! let weights = hub.model("timm/resnet50.tv_in1k")?.file("model.safetensors")?;
//! println!("{} tensors", Checkpoint::open(weights)?.entries().len());
//! let digits = hub.dataset("ylecun/mnist")?.parquet("test")?;
//! println!("{digits:?}");
//! # Ok::<(), invariances_hub::Error>(())
//! ```
//!
//! The cache is shared with Python's `huggingface_hub` and with hf-hub: a file that one of them
//! has fetched is found by the others. A cached file is used without a request to the hub
//! ([`Repo::newest`] sends one). An interrupted download is resumed. A file gets its final name
//! only after its length and its hash have been checked. If two processes want the same file, the
//! second waits for the first. Names, ETags and addresses from a server are checked before they
//! are used as a path or followed. Responses are read up to a limit, and files are written to
//! disk in blocks.
//!
//! **Why hf-hub 0.5, and only for the cache layout.** hf-hub 1.0 depends on reqwest, tokio and
//! xet: 235 crates instead of 57 (143 of them new to this project), and 314 seconds of processor
//! time for a clean build instead of 49 (219 instead of 29 on two cores). It would add xet's
//! faster transfer of large files, uploads and the rest of the API. Over plain HTTP, however, it
//! neither resumes a download nor checks a hash. Here, hf-hub 0.5 provides the names of the
//! folders and files in the cache, and its HTTP client ureq fetches the files. The download
//! functions of hf-hub 0.5 are not used: they check neither length nor hash, append any response
//! to the partial file when they resume, have no timeout, ignore `HF_TOKEN`, `HF_HUB_CACHE` and
//! `HF_HUB_OFFLINE`, use any ETag as a path, and send the token to the host of a redirect.
//!
//! # Reading
//!
//! A checkpoint is read as data: names, shapes and values, never code.
//! A torch checkpoint is a pickle, and a pickle is a program: loading one in Python can run any
//! code. Here, the pickle is read by this crate's own interpreter, which calls no function:
//!
//! - Tensors and dicts are read: `torch._utils._rebuild_tensor` in its three versions,
//!   `_rebuild_parameter`, `_rebuild_from_type_v2` for plain tensors and parameters, torch's
//!   storages, `torch.Size`, `collections.OrderedDict` and `defaultdict`. Strides, offsets,
//!   shared storages and negative views (`torch._neg_view`, the imaginary part of a conjugate)
//!   give the same values as in torch.
//! - Every other value that requires a function call is *opaque*: dates, paths, numpy's scalars
//!   and arrays, `argparse.Namespace`, OmegaConf, enumerations, `functools.partial`, objects of
//!   any class. It is not read, and the weights in the same file still load.
//! - A *tensor* that requires such a call, or that is inside such an object, is an error. The
//!   error gives the tensor's **name** and the fix in Python. This concerns sparse, quantized,
//!   nested, complex and conjugate tensors, float8, tensors on the meta device, and tensor
//!   classes whose values may differ from the stored ones.
//! - A checkpoint needs no call of the operating system, of `eval` or of similar functions. A
//!   file with such a call is refused completely, as a warning not to load it in Python either.
//!
//! The format is detected from the content of the file, not from its name: **safetensors**,
//! torch's **zip** archive (1.6 and later) and torch's **legacy** format (before 1.6), which all
//! of the paper's checkpoints use. Numbers are little-endian. Lengths, offsets and shapes are
//! compared with the file's length before memory is allocated for them. A truncated file
//! gives an error with the byte position.
//!
//! ```
//! use invariances_hub::{self as hub, Checkpoint};
//! use invariances_ops::{Init, Params};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("t.safetensors");
//! let params = Params::new(0);
//! params.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
//! params.save(&path)?;
//!
//! let checkpoint = Checkpoint::open(&path)?; // reads names, shapes and element types only
//! assert_eq!(checkpoint.entries()[0].to_string(), "fc.weight [10, 4] F32");
//!
//! let others = Params::new(1);
//! others.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
//! hub::load(&others, &path)?; // all names and shapes must match
//! # let (ours, theirs) = (params.var("fc.weight")?, others.var("fc.weight")?);
//! # assert_eq!(ours.to_vec2::<f32>()?, theirs.to_vec2::<f32>()?);
//! # Ok::<(), invariances_hub::Error>(())
//! ```

#![forbid(unsafe_code)]

mod checkpoint;
mod classes;
mod pickle;
mod prefix;
mod remote;
mod safetensors;
mod source;
mod state;
mod torch;
mod zip;

pub use checkpoint::{Checkpoint, Entry, Format};
pub use invariances_core::{Error, Result};
pub use remote::parquet_split;
pub use remote::{Hub, Repo, RepoFile};

use invariances_ops::Params;
use std::path::Path;

/// Loads every value of a checkpoint into `params`: [`Checkpoint::open`], then
/// [`Checkpoint::load_into`]. Each value is converted to the dtype of its parameter, as with
/// [`Params::load`].
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`Checkpoint::load_into`].
pub fn load(params: &Params, path: impl AsRef<Path>) -> Result<()> {
    Checkpoint::open(path)?.load_into(params)
}

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
