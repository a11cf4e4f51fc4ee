//! Files of the Hugging Face hub and checkpoints ([`invariances_hub`]), and what is published there that
//! this crate knows by name.
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

mod published;
mod weights;

pub use invariances_hub::*;
pub use published::{Published, published, published_names};
pub use weights::{HubNetworks, Weights, weights, weights_names};
