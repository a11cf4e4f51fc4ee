//! Functions that answer the paper's questions: what a layer leaves free, what can be read from
//! v, and how the results compare with those of other methods.
//!
//! Each of them takes the network and its layer as one [`Greybox`](crate::backbone::Greybox):
//! `network.at("fc6")?`.

mod attack;
mod certificate;
mod codes;
mod digest;
mod disentangled;
mod features;
mod fibre;
mod fidelity;
mod free;
mod inversion;
mod mix;
mod natural;
mod probe;
mod refine;
mod semantics;
mod shares;
mod targets;
mod training;
mod unexplained;

pub use attack::{Attack, Attacked};
pub use certificate::{Certificate, CertificateConfig, RoundTrip, Tests};
pub use codes::Codes;
pub use digest::network_digest;
pub use disentangled::Disentanglement;
pub use features::Features;
pub use fibre::FibreTuning;
pub use fidelity::Fidelity;
pub use free::{Samples, free_share};
pub use inversion::{Descent, Inverted, Inverter, Regression};
pub use mix::mix;
pub use natural::Fid;
pub use probe::{Probe, ProbeConfig, Readout, chance};
pub use refine::{RefineConfig, Refined};
pub use semantics::{FactorTraining, Semantics};
pub use shares::FreeShares;
pub use targets::Targets;
pub use training::{CinnTraining, FlowTraining, MatchingTraining, fit_flow};
pub use unexplained::Unexplained;
