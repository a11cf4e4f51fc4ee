//! The settings that the networks of this module share: the layers of a block, and the memory of
//! the backward pass.

use serde::{Deserialize, Serialize};

/// The nonlinearity between the normalisation and the coupling of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowActivation {
    /// No nonlinearity.
    #[default]
    None,
    /// [`InvertibleLeakyRelu::compatible`](super::InvertibleLeakyRelu::compatible): the
    /// log-determinant is counted as 0, as in the authors' checkpoints.
    Lrelu,
    /// [`InvertibleLeakyRelu::exact`](super::InvertibleLeakyRelu::exact): the correct
    /// log-determinant.
    LreluExact,
}

/// The coupling of a block: how one half of the code transforms the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CouplingConfig {
    /// [`AffineCoupling`](super::AffineCoupling): shifts a half and scales it by at most e^clamp.
    /// The authors' has clamp 1.
    Affine {
        /// The largest absolute log-scale of a half-step.
        clamp: f64,
    },
    /// [`SplineCoupling`](super::SplineCoupling): transforms each dimension by a monotone spline.
    Spline {
        /// Number of bins of a spline.
        bins: usize,
        /// The spline acts on [−bound, bound] and is the identity outside.
        bound: f64,
    },
}

impl Default for CouplingConfig {
    /// Returns the authors' coupling: affine with clamp 1.
    fn default() -> Self {
        Self::Affine { clamp: 1.0 }
    }
}

impl CouplingConfig {
    /// Returns an affine coupling with log-scales up to ±2 instead of ±1.
    pub fn soft_clamped() -> Self {
        Self::Affine { clamp: 2.0 }
    }

    /// Returns a spline coupling with 8 bins on [−4, 4].
    pub fn spline() -> Self {
        Self::Spline {
            bins: 8,
            bound: 4.0,
        }
    }
}

/// How a block mixes the dimensions of the code before the next block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// [`Permutation`](super::Permutation): a fixed random permutation, as in the authors'
    /// networks.
    #[default]
    Permutation,
    /// [`LuMixing`](super::LuMixing): a learned linear map, initialised as a random permutation.
    Lu,
}

/// How the backward pass of a flow gets the activations of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Activations are stored. This is the fastest setting; its memory grows with the number of
    /// blocks.
    #[default]
    Ordinary,
    /// Activations are recomputed by inverting the network, block by block (Gomez et al. 2017,
    /// [arXiv 1707.04585](https://arxiv.org/abs/1707.04585)). This needs the memory of one block,
    /// for any number of blocks.
    ///
    /// The inversion ends at the input code, up to rounding. Each backward pass measures the
    /// difference ([`Cinn::drift`](super::Cinn::drift)). If it exceeds `tolerance`, the pass
    /// returns an error, because its gradients would belong to other activations than the loss.
    Constant {
        /// The largest allowed difference to the code, relative to the code's largest absolute
        /// value (or to 1, if that is larger).
        tolerance: f64,
    },
}

impl Memory {
    /// Returns [`Memory::Constant`] with a tolerance of 10⁻³.
    pub fn constant() -> Self {
        Self::Constant { tolerance: 1e-3 }
    }
}
