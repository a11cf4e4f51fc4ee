//! Files of the Hugging Face hub and checkpoints ([`invariances_hub`]), and published weights
//! that are available by name: the paper's checkpoints ([`published()`]) and the weights of
//! networks ([`weights()`]).
//!
//! [`published()`] returns a checkpoint of the paper, with its address and configuration:
//!
//! ```no_run
//! use invariances::{flow::Cinn, hub::{Hub, published}, ops::Params};
//! let file = published("cinn_alexnet_aae_fc6")?;
//! file.fetch(&Hub::open()?)?; // from file.url to file.path(), unless the file exists
//! let params = Params::new(0);
//! let t = Cinn::new(&file.cinn()?, &params.root())?;
//! file.open()?.load_into(&params)?; // after a check of its MD5
//! # Ok::<(), invariances::Error>(())
//! ```

mod published;
mod weights;

pub use invariances_hub::*;
pub use published::{Published, published, published_names};
pub use weights::{HubNetworks, Weights, weights, weights_names};
