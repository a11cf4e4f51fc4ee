//! Files of the Hugging Face hub, and checkpoints that others wrote, read as data.
//!
//! # Fetching
//!
//! [`Hub`] has the files of models and datasets, and any file of the web by [`Hub::download`]:
//!
//! ```no_run
//! use invariances_hub::{Checkpoint, Hub};
//! let hub = Hub::open()?; // with HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE … as elsewhere
//! let weights = hub.model("timm/resnet50.tv_in1k")?.file("model.safetensors")?;
//! println!("{} tensors", Checkpoint::open(weights)?.entries().len());
//! let digits = hub.dataset("ylecun/mnist")?.parquet("test")?;
//! println!("{digits:?}");
//! # Ok::<(), invariances_hub::Error>(())
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
//! A checkpoint is read as data: names, shapes and values, and never code.
//! A checkpoint of torch is a pickle, and a pickle is a program: loading one in Python can do anything.
//! Here the pickle is read by an interpreter of our own, which calls nothing:
//!
//! - Tensors and dicts are understood: `torch._utils._rebuild_tensor` in its three versions,
//!   `_rebuild_parameter`, `_rebuild_from_type_v2` for plain tensors and parameters, torch's storages,
//!   `torch.Size`, `collections.OrderedDict` and `defaultdict`. Strides, offsets, shared storages and negative
//!   views (`torch._neg_view`, the imaginary part of a conjugate) give the values that torch shows.
//! - Every other value that only a call would make is *opaque*: dates, paths, numpy's scalars and arrays,
//!   `argparse.Namespace`, OmegaConf, enumerations, `functools.partial`, objects of any class. The weights
//!   beside it load.
//! - A *tensor* that only such a call would make, or that is inside such an object, is refused **by name**,
//!   with what to do in Python: sparse, quantized, nested, complex and conjugate tensors, float8, tensors on
//!   the meta device, and tensor classes that may show other values than the stored ones.
//! - A call of the operating system or of `eval` and the like has no use in a checkpoint: the whole file is
//!   refused, so that nobody loads it in Python.
//!
//! The format is told by the content, not by the name of the file: **safetensors**, torch's **zip** archive
//! (1.6 and later) and its **legacy** format (before 1.6), in which all of the paper's checkpoints are.
//! Numbers are little-endian. Lengths, offsets and shapes are held against the file's length before memory
//! is set aside for them, and a file that ends too soon is an error that says where.
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
//! let checkpoint = Checkpoint::open(&path)?; // nothing but names, shapes and number types
//! assert_eq!(checkpoint.entries()[0].to_string(), "fc.weight [10, 4] F32");
//!
//! let others = Params::new(1);
//! others.root().pp("fc").get((10, 4), "weight", Init::FanIn)?;
//! hub::load(&others, &path)?; // all names and shapes must agree
//! # let (ours, theirs) = (params.var("fc.weight")?, others.var("fc.weight")?);
//! # assert_eq!(ours.to_vec2::<f32>()?, theirs.to_vec2::<f32>()?);
//! # Ok::<(), invariances_hub::Error>(())
//! ```

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

/// Takes every value of a checkpoint into `params`: [`Checkpoint::open`], then [`Checkpoint::load_into`].
///
/// # Errors
/// As these two.
pub fn load(params: &Params, path: impl AsRef<Path>) -> Result<()> {
    Checkpoint::open(path)?.load_into(params)
}

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
