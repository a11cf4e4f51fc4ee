//! The networks under study: each is a chain of **named layers** that can be split at any layer,
//! f = Ψ∘Φ.
//!
//! | network | built by | source of the weights | the paper's layer names |
//! | --- | --- | --- | --- |
//! | AlexNet | [`alexnet`] | hub | conv1 … conv5, fc6, fc7, fc8, softmax |
//! | ResNet-18/34/50/101/152 | [`resnet`] | hub | maxpool, layer1 … layer4, avgpool, fc, softmax |
//! | SqueezeNet 1.0, 1.1 | [`squeezenet`] | published | fire2 … fire9, avgpool, softmax |
//! | FaceNet, Inception-ResNet-v1 | [`facenet`] | hub | repeat_1…, avgpool_1a, last_bn, embedding |
//! | VGG-16 | [`vgg16`] | hub | relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, fc6, fc7, fc8 |
//! | FID's Inception | [`fid_inception`] | published | block0 … block3, pool |
//! | ViT, DINOv2, CLIP's image encoder | [`transformer`] | hub | block0 …, class_token |
//! | small, for 32 to 64 px | [`alexnet_small`], [`facenet_small`] | this crate | as above |
//! | small, for 32 to 64 px | [`resnet_small`], [`squeezenet_small`] | this crate | as above |
//! | small, for 32 to 64 px | [`plain_small`] | this crate | conv1 … conv6, pool, fc, softmax |
//! | any other network | [`Custom`] | your own | your own |
//!
//! The published name of a layer (`features.11`) and the paper's name (`conv5`) mean the same
//! layer. Its output is taken after the activation if the paper takes it there.
//! [`crate::hub::HubNetworks::backbone`] builds a network by name, with its published weights.
//!
//! The notebooks work with any [`Network`], a small trait. [`Custom`] makes a network from any
//! candle modules. A [`Greybox`] is a network split at one layer:
//! [`Network::at`] makes one.
//!
//! ```
//! use invariances::{backbone::{Network, squeezenet_small}, ops::{Params, Rng}};
//! let params = Params::new(0);
//! let network = squeezenet_small(10, &params.root())?;
//! let x = Rng::new(1).normal((2, 3, 32, 32), params.device())?;
//!
//! let pool = network.at("pool")?; // a Greybox
//! let z = pool.encode(&x)?; // z = Φ(x)
//! assert_eq!(z.dims(), [2, 128]);
//! let logits = pool.decode(&z)?; // Ψ(z) = f(x)
//! assert_eq!(logits.to_vec2::<f32>()?, network.forward(&x)?.to_vec2::<f32>()?);
//! # Ok::<(), invariances::Error>(())
//! ```

mod alexnet;
mod conv;
mod custom;
mod dense;
mod derivative;
mod encoder;
mod facenet;
mod first_gradient;
mod gradients;
mod greybox;
mod inception;
mod layer;
mod network;
mod norm;
mod patch;
mod preprocess;
mod resnet;
mod shared;
mod small;
mod squeezenet;
mod stack;
mod transformer;
mod vgg;

pub use alexnet::alexnet;
pub use custom::Custom;
pub use facenet::facenet;
pub use gradients::{GradientCheck, GradientVerdict};
pub use greybox::{Greybox, Pooling};
pub use inception::fid_inception;
pub use network::{LayerInfo, Network};
pub(crate) use network::{device_of, rows_on};
pub(crate) use norm::NormKind;
pub(crate) use patch::patch_layers;
pub use preprocess::Preprocess;
pub use resnet::resnet;
pub(crate) use resnet::resnet_features;
pub use small::{alexnet_small, facenet_small, plain_small, resnet_small, squeezenet_small};
pub use squeezenet::{SqueezeNet, squeezenet};
pub use stack::{Backbone, Mode};
pub use transformer::{Family, TransformerConfig, transformer};
pub use vgg::vgg16;

use stack::Stack;
