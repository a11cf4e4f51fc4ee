//! The names that most notebooks need: `use invariances::prelude::*;`. Other names come from their
//! modules, such as `use invariances::metric::cka;`.
//!
//! The prelude exports no `Result`, `Error` or other name from std. A glob import that hides such
//! a name breaks the code that the notebook kernel generates around a cell.

pub use crate::autoencoder::{Autoencoder, ConvVae, Decoder};
pub use crate::backbone::{Backbone, Custom, Greybox, Mode, Network};
pub use crate::data::{Batch, Creatures, Dataset, Digits, Faces, Images, Photographs, Split};
pub use crate::figure::{Bars, Boxes, Chart, Explorer, Histogram, ImageGrid, Panel, Table, heat};
pub use crate::flow::{Cinn, CinnConfig, Condition, Flow};
pub use crate::hub::{Hub, HubNetworks};
pub use crate::interpret::{CinnTraining, Codes, FlowTraining, MatchingTraining, Probe};
pub use crate::interpret::{ProbeConfig, Samples, free_share};
pub use crate::loss::nll;
pub use crate::metric::{Estimate, agreement, bootstrap_mean};
pub use crate::notebook::Lab;
pub use crate::ops::{Params, Placement, Rng, values};
pub use crate::recipes::{CreaturesNetworks, DigitsNetworks, FacesNetworks, Recipe};
pub use crate::train::{Decay, Step, Store, TrainConfig, Trainer};
pub use candle_core::{DType, Device, Tensor, Var};
pub use candle_nn::{Module, Optimizer};
