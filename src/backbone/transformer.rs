//! Vision transformers whose blocks are layers: ViT, DINOv2 and CLIP's image encoder, with the
//! parameter names of their checkpoints on the hub.
//!
//! candle-transformers implements all three, but hides their blocks, and candle-nn's layer norm
//! has no gradient.

use super::encoder::{Embed, Encoder, LayerNorm, eps};
use super::layer::{Dense, Layer};
use super::{Backbone, Preprocess, Stack};
use crate::ops::Scope;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The model family of a transformer: it decides parameter names and details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// "An image is worth 16×16 words" (arXiv 2010.11929), with the names of
    /// `google/vit-base-patch16-224`.
    Vit,
    /// DINOv2 (arXiv 2304.07193) with layer scale, with the names of `facebook/dinov2-small`.
    Dinov2,
    /// CLIP's image encoder (arXiv 2103.00020), with the names of `openai/clip-vit-base-patch32`.
    Clip,
}

/// The sizes of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// The model family.
    pub family: Family,
    /// The side length of the images that the position embeddings were trained for, in pixels.
    /// For images of another size they are interpolated.
    pub image: usize,
    /// The side length of a patch, in pixels.
    pub patch: usize,
    /// The embedding dimension (the length of a token).
    pub width: usize,
    /// The number of blocks.
    pub depth: usize,
    /// The number of attention heads in each block.
    pub heads: usize,
    /// The hidden width of a block's MLP.
    pub hidden: usize,
    /// The number of logits (ViT and DINOv2; 0 for none), or the dimension of CLIP's joint
    /// embedding.
    pub outputs: usize,
}

impl TransformerConfig {
    fn new(family: Family, image: usize, patch: usize, width: usize, outputs: usize) -> Self {
        Self {
            family,
            image,
            patch,
            width,
            depth: if width >= 1024 { 24 } else { 12 },
            heads: width / 64,
            hidden: 4 * width,
            outputs,
        }
    }

    /// The configuration of `google/vit-base-patch16-224`.
    pub fn vit_base() -> Self {
        Self::new(Family::Vit, 224, 16, 768, 1000)
    }

    /// The configuration of `facebook/dinov2-small`, without a classifier.
    pub fn dinov2_small() -> Self {
        Self::new(Family::Dinov2, 518, 14, 384, 0)
    }

    /// The configuration of `facebook/dinov2-base`, without a classifier.
    pub fn dinov2_base() -> Self {
        Self::new(Family::Dinov2, 518, 14, 768, 0)
    }

    /// The configuration of the image encoder of `openai/clip-vit-base-patch32`.
    pub fn clip_base() -> Self {
        Self::new(Family::Clip, 224, 32, 768, 512)
    }
}

/// Builds a vision transformer. Tokens have shape (batch, 1 + patches, width), with the class
/// token first. The layers are `embeddings`, the blocks (`encoder.layer.0` …), `layernorm`,
/// `class_token` and, if there are outputs, `classifier` and `softmax`. DINOv2 with outputs has
/// `class_and_mean` instead of `class_token`. CLIP has `embeddings`, `pre_layrnorm`,
/// `encoder.layers.0` …, `class_token`, `post_layernorm` and `visual_projection`. The aliases
/// `block0` … name the blocks of all three families.
///
/// # Errors
/// [`Error::Invalid`] if the sizes do not fit each other; [`Error::Shape`] if parameters exist with
/// other shapes.
pub fn transformer(config: &TransformerConfig, at: &Scope) -> Result<Backbone> {
    build(config, at)
}

fn build(config: &TransformerConfig, at: &Scope) -> Result<Backbone> {
    let TransformerConfig {
        family,
        image,
        patch,
        width,
        depth,
        heads,
        outputs,
        ..
    } = *config;
    if patch == 0 || image < patch || heads == 0 || width == 0 || width % heads != 0 {
        return Err(Error::invalid(format!(
            "expected images at least as large as a patch and a width that is divisible by the \
             number of heads, found {config:?}"
        )));
    }
    let (name, inner, preprocess) = match family {
        Family::Vit => ("vit", at.pp("vit"), Preprocess::half(image)),
        Family::Dinov2 if outputs > 0 => ("dinov2", at.pp("dinov2"), Preprocess::imagenet(224)),
        Family::Dinov2 => ("dinov2", at.clone(), Preprocess::imagenet(224)),
        Family::Clip => ("clip", at.pp("vision_model"), Preprocess::clip(image)),
    };
    let mut net = Stack::new(name, preprocess);
    net.push(
        "embeddings",
        Layer::Embed(Embed::new(config, &inner.pp("embeddings"))?),
    );
    if family == Family::Clip {
        let norm = LayerNorm::new(width, eps(family), &inner.pp("pre_layrnorm"))?;
        net.push("pre_layrnorm", Layer::LayerNorm(norm));
    }
    for i in 0..depth {
        let name = match family {
            Family::Clip => format!("encoder.layers.{i}"),
            _ => format!("encoder.layer.{i}"),
        };
        net.push(
            &name,
            Layer::Encoder(Box::new(Encoder::new(config, &inner.pp(&name))?)),
        );
        net.alias(&format!("block{i}"));
    }
    let norm = |name: &str| LayerNorm::new(width, eps(family), &inner.pp(name));
    match family {
        Family::Vit => {
            net.push("layernorm", Layer::LayerNorm(norm("layernorm")?));
            net.push("class_token", Layer::ClassToken);
        }
        Family::Dinov2 => {
            net.push("layernorm", Layer::LayerNorm(norm("layernorm")?));
            if outputs > 0 {
                net.push("class_and_mean", Layer::ClassAndMean);
            } else {
                net.push("class_token", Layer::ClassToken);
            }
        }
        Family::Clip => {
            net.push("class_token", Layer::ClassToken);
            net.push("post_layernorm", Layer::LayerNorm(norm("post_layernorm")?));
        }
    }
    if outputs > 0 {
        match family {
            Family::Clip => {
                let dense = Dense::plain(width, outputs, &at.pp("visual_projection"))?;
                net.push("visual_projection", Layer::Dense(dense));
            }
            _ => {
                let inputs = if family == Family::Dinov2 {
                    2 * width
                } else {
                    width
                };
                let dense = Dense::new(inputs, outputs, &at.pp("classifier"))?;
                net.push("classifier", Layer::Dense(dense));
                net.output();
                net.push("softmax", Layer::Softmax);
            }
        }
    }
    Ok(net.done(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::encoder::Gelu;
    use crate::backbone::{Greybox, Network};
    use crate::ops::{Params, Rng};
    use candle_core::{DType, Device, Tensor};
    use candle_nn::{Module, VarBuilder};
    use candle_transformers::models::{clip, dinov2, vit};
    use std::collections::HashMap;

    fn config(family: Family, outputs: usize) -> TransformerConfig {
        TransformerConfig {
            family,
            image: 32,
            patch: 8,
            width: 24,
            depth: 2,
            heads: 3,
            hidden: 48,
            outputs,
        }
    }

    /// Our network with all parameters random, and its parameters.
    fn random_network(config: &TransformerConfig) -> Result<(Backbone, HashMap<String, Tensor>)> {
        let params = Params::new(0);
        let network = build(config, &params.root())?;
        let mut values = params.tensors();
        for (name, value) in &mut values {
            let noise = Rng::named(1, name).normal(value.shape(), &Device::Cpu)?;
            *value = (noise * 0.3)?;
        }
        params.set_all(&values)?;
        Ok((network, values))
    }

    fn builder(values: HashMap<String, Tensor>) -> VarBuilder<'static> {
        VarBuilder::from_tensors(values, DType::F32, &Device::Cpu)
    }

    fn assert_near(a: &Tensor, b: &Tensor, tolerance: f32) -> Result<()> {
        assert_eq!(a.dims(), b.dims());
        let difference = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let size = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(difference < tolerance * size, "{difference} of {size}");
        Ok(())
    }

    #[test]
    fn vit_is_that_of_candle_transformers() -> Result<()> {
        let (network, values) = random_network(&config(Family::Vit, 7))?;
        let theirs = vit::Config {
            hidden_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 48,
            hidden_act: candle_nn::Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: 32,
            patch_size: 8,
            num_channels: 3,
            qkv_bias: true,
        };
        let theirs = vit::Model::new(&theirs, 7, builder(values))?;
        let x = Rng::new(2).normal((2, 3, 32, 32), &Device::Cpu)?;
        assert_near(&network.forward(&x)?, &theirs.forward(&x)?, 1e-4)
    }

    #[test]
    fn clip_is_that_of_candle_transformers() -> Result<()> {
        let (network, values) = random_network(&config(Family::Clip, 5))?;
        let theirs = clip::vision_model::ClipVisionConfig {
            embed_dim: 24,
            activation: clip::text_model::Activation::QuickGelu,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            projection_dim: 5,
            num_channels: 3,
            image_size: 32,
            patch_size: 8,
        };
        let at = builder(values).pp("vision_model");
        let theirs = clip::vision_model::ClipVisionTransformer::new(at, &theirs)?;
        let network = network.with_preprocess(&Preprocess::none());
        let x = Rng::new(2).normal((2, 3, 32, 32), &Device::Cpu)?;
        let hidden = theirs.output_hidden_states(&x)?;
        assert_near(&network.encode(&x, "block1")?, &hidden[1], 1e-4)?;
        assert_near(
            &network.encode(&x, "post_layernorm")?,
            &theirs.forward(&x)?,
            1e-4,
        )
    }

    /// candle-transformers' DINOv2 has a fixed image size, keeps query, key and value in one
    /// matrix, and approximates the GELU.
    #[test]
    fn dinov2_is_that_of_candle_transformers() -> Result<()> {
        let config = TransformerConfig {
            image: 518,
            patch: 14,
            hidden: 96,
            ..config(Family::Dinov2, 1000)
        };
        let (network, values) = random_network(&config)?;
        let mut theirs = HashMap::new();
        for (name, value) in &values {
            let name = name.strip_prefix("dinov2.").unwrap_or(name);
            let name = match name {
                "embeddings.cls_token" => "cls_token".into(),
                "embeddings.position_embeddings" => "pos_embed".into(),
                other => other
                    .replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
                    .replace("encoder.layer.", "blocks.")
                    .replace("attention.output.dense", "attn.proj")
                    .replace("layer_scale1.lambda1", "ls1.gamma")
                    .replace("layer_scale2.lambda1", "ls2.gamma")
                    .replace("layernorm.", "norm.")
                    .replace("classifier.", "head."),
            };
            theirs.insert(name, value.clone());
        }
        for block in 0..2 {
            for kind in ["weight", "bias"] {
                let part = |which: &str| {
                    values[&format!(
                        "dinov2.encoder.layer.{block}.attention.attention.{which}.{kind}"
                    )]
                        .clone()
                };
                let all = [part("query"), part("key"), part("value")];
                let name = format!("blocks.{block}.attn.qkv.{kind}");
                theirs.insert(name, Tensor::cat(&all, 0)?);
            }
        }
        let theirs = dinov2::DinoVisionTransformer::new(builder(theirs), 2, 24, 3)?;
        let layers = network.map(|layer| match layer {
            Layer::Encoder(encoder) => Layer::Encoder(Box::new(Encoder {
                gelu: Gelu::Tanh,
                norms: encoder.norms.clone().map(|n| LayerNorm { eps: 1e-5, ..n }),
                ..encoder.as_ref().clone()
            })),
            Layer::LayerNorm(norm) => Layer::LayerNorm(LayerNorm {
                eps: 1e-5,
                ..norm.clone()
            }),
            other => other.clone(),
        });
        let network = layers.with_preprocess(&Preprocess::none());
        let x = Rng::new(2).normal((1, 3, 518, 518), &Device::Cpu)?;
        assert_near(&network.forward(&x)?, &theirs.forward(&x)?, 1e-4)
    }

    /// candle-nn's layer norm and softmax have no gradient. Here the gradient exists and is
    /// correct, also for other image sizes.
    #[test]
    fn the_gradient_reaches_the_image() -> Result<()> {
        for family in [Family::Vit, Family::Dinov2, Family::Clip] {
            let (network, _) = random_network(&config(family, 4))?;
            let network = network.frozen()?.with_preprocess(&Preprocess::none());
            for (h, w) in [(32, 32), (48, 24)] {
                let x = Rng::new(3).normal((2, 3, h, w), &Device::Cpu)?;
                let layers = network.layers();
                let z = network
                    .encode_all(&x, &layers.iter().map(String::as_str).collect::<Vec<_>>())?;
                for (z, shape) in z.iter().zip(network.shapes([3, h, w])?) {
                    assert_eq!(z.dims()[1..], shape);
                }
                let last = &layers[network.output()];
                let error = Greybox::new(&network, last)?.check_gradient(&x)?;
                assert!(error < 1e-2, "{family:?}: {error}");
            }
        }
        Ok(())
    }
}
