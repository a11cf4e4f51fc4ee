//! All names that a notebook cell needs: `use invariances::prelude::*;`.
//!
//! The prelude exports no `Result`, `Error` or other name from std. A glob import that hides such
//! a name breaks the code that the notebook kernel generates around a cell.

pub use crate::autoencoder::{
    Autoencoder, BigAe, BigAeConfig, BigGan, ConvVae, ConvVaeConfig, Decoder, IinVae, IinVaeConfig,
    Posterior, VectorVae, VectorVaeConfig, normal_like,
};
pub use crate::backbone::{
    Backbone, Custom, Family, GradientCheck, GradientVerdict, Greybox, LayerInfo, Mode, Network,
    Pooling, Preprocess, SqueezeNet, TransformerConfig, alexnet, alexnet_small, facenet,
    facenet_small, fid_inception, plain_small, resnet, resnet_small, squeezenet, squeezenet_small,
    transformer, vgg16,
};
pub use crate::data::{
    Ahead, Attribute, Batch, Batches, ColumnName, Creature, Creatures, Dataset, Digits, Face,
    Faces, Factors, FolderOptions, FolderReport, ImageColumns, Images, Order, Person, Photographs,
    Plane, Split, Style, Unreadable, random_crops,
};
pub use crate::figure::{
    Bars, Chart, Colour, Explorer, Figure, Film, HeatMap, Histogram, ImageGrid, Overview, Panel,
    Table, Width, add_font, heat,
};
pub use crate::flow::{
    ActNorm, Affine, AffineCoupling, Cinn, CinnConfig, Composed, Condition, Conditioning, Coupling,
    CouplingConfig, CouplingNets, FactorConfig, FactorInn, Flow, FlowActivation, Inverse,
    InvertibleLeakyRelu, LuMixing, Memory, Mixing, Permutation, RationalQuadratic, SplineCoupling,
    factor_dims,
};
pub use crate::hub::{
    Checkpoint, Entry, Format, Hub, HubNetworks, Published, Repo, RepoFile, Weights, published,
    published_names, weights, weights_names,
};
pub use crate::interpret::{
    Attack, Attacked, CinnTraining, Codes, Descent, FactorTraining, Features, Fid, Inverted,
    Inverter, Probe, ProbeConfig, Readout, Reencoded, Regression, Samples, Semantics, chance,
    free_share, mix, network_digest,
};
pub use crate::loss::{
    FeatureDistance, Lpips, Nll, PairNll, PatchDiscriminator, PerceptualDistance,
    PerceptualVaeLoss, VaeLoss, adversarial_weight, nll, nll_parts, pair_nll, perceptual_vae_loss,
    vae_loss,
};
pub use crate::metric::{
    Estimate, IndependentClassifier, agreement, bootstrap_mean, cka, cosines, fine_structure,
    frame_step, frechet_distance, measure_colours, psnr, same_answers, ssim, taken_over,
    unevenness,
};
pub use crate::notebook::{
    Claim, ClaimBuilder, Claims, Expected, Lab, Progress, Repeated, Scale, Study, Subject,
};
pub use crate::ops::{Init, Params, Placement, Rng, Scope, host, scalar, values};
pub use crate::recipes::{
    Built, CreaturesNetwork, CreaturesNetworks, DigitsNetwork, DigitsNetworks, FacesNetwork,
    FacesNetworks, Fitted, PhotographsNetworks, Pixels, Pretrained, PublishedNetworks, Recipe,
    Sources, VaeTraining, train_perceptual,
};
pub use crate::train::{
    Adam, AdamConfig, Card, Decay, Slot, Step, Store, TrainConfig, Trained, Trainer,
};
pub use crate::{Outline, candle_core, candle_nn, candle_transformers, hf_hub, plotters, polars};
pub use candle_core::{DType, Device, Tensor, Var};
pub use candle_nn::{Module, Optimizer};
pub use polars::frame::DataFrame;
