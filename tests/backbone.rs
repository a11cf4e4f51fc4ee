//! Backbones against the original networks' answers (weights by rule, see `common`), and what a split must keep.

mod common;

use common::{check_probe, fill, input, probe, reference, state_dict};
use invariances::backbone::{
    Backbone, Custom, Greybox, Mode, Network, Pooling, Preprocess, SqueezeNet, TransformerConfig,
    alexnet, alexnet_small, facenet, fid_inception, plain_small, resnet, resnet_small, squeezenet,
    squeezenet_small, transformer, vgg16,
};
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::interpret::Features;
use invariances::loss::Lpips;
use invariances::metric::cka;
use invariances::ops::{Params, Rng, Scope};
use invariances::{Error, Result};
use std::collections::{BTreeMap, HashMap};

const NETWORKS: &str = "manifest_networks.json";

/// A network with the state dict of the manifest, filled by the rule.
fn filled(name: &str, build: impl Fn(&Scope) -> Result<Backbone>) -> Result<Backbone> {
    let params = Params::blank(&Device::Cpu);
    let network = build(&params.root())?;
    // How many batches a norm has seen is a number of torch's training and says nothing of the network.
    let mut expected = state_dict(NETWORKS, name)?;
    expected.retain(|(n, _)| !n.ends_with("num_batches_tracked"));
    let mut names: Vec<_> = params
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, t.dims().to_vec()))
        .collect();
    names.sort();
    assert_eq!(
        names, expected,
        "{name}: names and shapes of the parameters"
    );
    fill(&params, &HashMap::new())?;
    network.frozen()
}

fn check_reference(
    name: &str,
    size: usize,
    build: impl Fn(&Scope) -> Result<Backbone>,
) -> Result<()> {
    let network = filled(name, build)?.with_preprocess(&Preprocess::none());
    let stored = reference(name)?;
    let x = input(&format!("{name}.x"), &[1, 3, size, size], 1.0)?;
    check_probe("input", &x, &stored["input_probe"])?;
    let probes: BTreeMap<&str, &Tensor> = stored
        .iter()
        .filter_map(|(n, t)| Some((n.strip_prefix("layer:")?, t)))
        .collect();
    assert!(probes.len() > 5);
    let names: Vec<&str> = probes.keys().copied().collect();
    for (layer, z) in names.iter().zip(network.encode_all(&x, &names)?) {
        check_probe(&format!("{name} {layer}"), &z, probes[layer])?;
    }
    let output = network.forward(&x)?;
    let far: f64 = (&output - &stored["output"])?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_dtype(DType::F64)?
        .to_scalar()?;
    let deviation = probe(&stored["output"])?[33];
    assert!(
        far < 1e-3 * deviation,
        "{name}: output off by {far}, deviation {deviation}"
    );
    Ok(())
}

#[test]
fn alexnet_answers_as_the_original() -> Result<()> {
    check_reference("alexnet", 227, |at| alexnet(1000, at))
}

#[test]
fn resnet50_answers_as_the_original() -> Result<()> {
    check_reference("resnet50", 224, |at| resnet(50, 1000, at))
}

#[test]
fn resnet101_answers_as_the_original() -> Result<()> {
    check_reference("resnet101", 224, |at| resnet(101, 1000, at))
}

#[test]
fn squeezenets_answer_as_the_originals() -> Result<()> {
    check_reference("squeezenet1_0", 64, |at| {
        squeezenet(SqueezeNet::V1_0, 1000, at)
    })?;
    check_reference("squeezenet1_1", 64, |at| {
        squeezenet(SqueezeNet::V1_1, 1000, at)
    })
}

#[test]
fn facenet_answers_as_the_original() -> Result<()> {
    check_reference("inception_resnet_v1", 160, facenet)
}

/// With its own preprocessing: images in [0, 1] of the reference are images in [−1, 1] here.
#[test]
fn inception_answers_as_the_original() -> Result<()> {
    let network = filled("fid_inception", fid_inception)?;
    let stored = reference("fid_inception")?;
    let x = (input("fid_inception.x", &[1, 3, 64, 64], 0.5)? + 0.5)?;
    check_probe("input", &x, &stored["x_probe"])?;
    let images = ((x * 2.0)? - 1.0)?;
    let blocks = ["block0", "block1", "block2", "block3"];
    for (block, z) in blocks.iter().zip(network.encode_all(&images, &blocks)?) {
        check_probe(block, &z, &stored[*block])?;
    }
    check_probe(
        "pool",
        &network.forward(&images)?,
        &Tensor::new(probe(&stored["pool"])?, &Device::Cpu)?,
    )
}

/// VGG-16 by the distance that LPIPS (arXiv 1801.03924) computes from its features.
#[test]
fn vgg_gives_the_distance_of_lpips() -> Result<()> {
    let params = Params::blank(&Device::Cpu);
    let network = vgg16(1, &params.root())?;
    let mut values = params.tensors();
    let mut heads = HashMap::new();
    for (name, dims) in state_dict(NETWORKS, "lpips_vgg")? {
        let parts: Vec<&str> = name.split('.').collect();
        let value = common::weight(&name, &dims)?;
        match parts[..] {
            ["net", _, number, kind] => {
                let ours = format!("features.{number}.{kind}");
                assert!(
                    values.insert(ours, value).is_some(),
                    "{name} is no weight of VGG-16"
                );
            }
            [head, "model", "1", "weight"] if head.starts_with("lin") => {
                heads.insert(name.clone(), value.abs()?);
            }
            _ => {}
        }
    }
    params.set_all(&values)?;
    let lpips = Lpips::new(&network, &heads)?;
    // The authors' scaling layer takes what is in [−1, 1] to ImageNet's colours, and so does the network here.
    let (a, b) = (
        input("lpips.a", &[2, 3, 64, 64], 1.0)?,
        input("lpips.b", &[2, 3, 64, 64], 1.0)?,
    );
    let stored = reference("lpips_vgg")?;
    check_probe("a", &a, &stored["a"])?;
    common::assert_close(
        "distance",
        &lpips.distance(&a, &b)?,
        &stored["distance"],
        1e-4,
    )?;
    common::assert_close("zero", &lpips.distance(&a, &a)?, &stored["zero"], 1e-6)?;
    heads.remove("lin3.model.1.weight");
    let text = Lpips::new(&network, &heads).unwrap_err().to_string();
    assert!(text.contains("no lin3.model.1.weight"), "{text}");
    Ok(())
}

/// Small ones, and a large one of each kind on small images.
fn networks() -> Result<Vec<(Backbone, usize)>> {
    let at = |seed: u64| Params::new(seed).root();
    let plain = |n: Backbone| n.with_preprocess(&Preprocess::none());
    Ok(vec![
        (squeezenet_small(10, &at(1))?, 32),
        (plain_small(10, &at(2))?, 32),
        (alexnet_small(8, 10, &at(3))?, 32),
        (resnet_small(8, 10, &at(4))?, 32),
        (plain(squeezenet(SqueezeNet::V1_1, 7, &at(5))?), 65),
        (plain(resnet(18, 7, &at(6))?), 64),
        (plain(alexnet(7, &at(7))?), 96),
        (plain(facenet(&at(8))?), 90),
    ])
}

#[test]
fn a_split_is_the_network_and_shapes_are_known_before() -> Result<()> {
    for (network, size) in networks()? {
        let name = network.name();
        let x = Rng::new(1).normal((2, 3, size, size), &Device::Cpu)?;
        for network in [network.clone(), network.frozen()?] {
            let expected = network.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
            let layers = network.layers();
            let names: Vec<&str> = layers.iter().map(String::as_str).collect();
            let all = network.encode_all(&x, &names)?;
            let shapes = network.shapes([3, size, size])?;
            for ((layer, z), shape) in layers.iter().zip(&all).zip(&shapes) {
                assert_eq!(&z.dims()[1..], shape, "{name} {layer}");
                let greybox = Greybox::new(&network, layer)?;
                assert_eq!(greybox.shape(size)?, *shape, "{name} {layer}");
                let alone = greybox.encode(&x)?.flatten_all()?.to_vec1::<f32>()?;
                assert_eq!(
                    alone,
                    z.flatten_all()?.to_vec1::<f32>()?,
                    "{name} {layer}: in one pass"
                );
                let rest = greybox.decode(z)?.flatten_all()?.to_vec1::<f32>()?;
                if network.position(layer)? <= network.output() {
                    assert_eq!(rest, expected, "{name} {layer}: Ψ(Φ(x)) = f(x)");
                } else {
                    assert_eq!(rest, alone, "{name} {layer}: behind the output");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_frozen_network_answers_alike_and_gives_the_input_its_gradient() -> Result<()> {
    for (network, size) in networks()? {
        let name = network.name();
        let x = Var::from_tensor(&Rng::new(1).normal((2, 3, size, size), &Device::Cpu)?)?;
        let gradient = |network: &Backbone| -> Result<(Tensor, Tensor)> {
            let y = network.forward(&x)?;
            let gradients = y.sqr()?.sum_all()?.backward()?;
            let found = gradients.get(&x).cloned();
            let found = found.ok_or_else(|| Error::invalid(format!("{name}: no gradient")))?;
            Ok((y, found))
        };
        let ((y, g), (fy, fg)) = (gradient(&network)?, gradient(&network.frozen()?)?);
        for (what, a, b) in [("output", y, fy), ("gradient", g, fg)] {
            let size = a.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            let far = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(far <= 1e-4 * size, "{name}: {what} off by {far} of {size}");
        }
    }
    Ok(())
}

#[test]
fn the_gradient_of_the_image_is_right_through_every_network() -> Result<()> {
    for (network, size) in networks()? {
        let x = Rng::new(2).normal((2, 3, size, size), &Device::Cpu)?;
        let layers = network.layers();
        let deep = &layers[network.output()];
        let off = Greybox::new(&network, deep)?.check_gradient(&x)?;
        assert!(off < 0.02, "{} {deep}: {off}", network.name());
    }
    // Through the resizing and the colours as well.
    let network = resnet_small(8, 10, &Params::new(4).root())?;
    let network = network.with_preprocess(&Preprocess::imagenet(32));
    let x = Rng::new(2).uniform(-1.0, 1.0, (2, 3, 40, 20), &Device::Cpu)?;
    let off = Greybox::new(&network, "layer3")?.check_gradient(&x)?;
    assert!(off < 0.02, "resized: {off}");
    Ok(())
}

/// Every parameter gets a gradient in training, and the running statistics become those of the data.
#[test]
fn networks_with_batch_norm_train() -> Result<()> {
    let params = Params::new(0);
    let network = resnet_small(8, 10, &params.root())?;
    let training = network.with_mode(Mode::Training);
    let x = (Rng::new(1).normal((16, 3, 32, 32), &Device::Cpu)? * 3.0)?;
    let loss = training.forward(&x)?.sqr()?.sum_all()?;
    let gradients = loss.backward()?;
    for (name, var) in params.trained() {
        let gradient = gradients.get(&var);
        let gradient = gradient.ok_or_else(|| Error::invalid(format!("{name}: no gradient")))?;
        let size = gradient.abs()?.sum_all()?.to_scalar::<f32>()?;
        assert!(size > 0.0, "{name}: gradient 0");
    }
    for _ in 0..100 {
        training.encode(&x, "conv1")?;
    }
    let norm = network
        .encode(&x, "conv1")?
        .mean_all()?
        .to_scalar::<f32>()?;
    let seen = training
        .encode(&x, "conv1")?
        .mean_all()?
        .to_scalar::<f32>()?;
    assert!((norm - seen).abs() < 1e-2 * seen.abs(), "{norm} {seen}");
    // One number per channel has no variance.
    let one = Tensor::zeros((1, 3, 1, 1), DType::F32, &Device::Cpu)?;
    let text = training.forward(&one).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("larger batch"), "{text}");
    Ok(())
}

#[test]
fn layers_are_named_and_misnamed_ones_are_told() -> Result<()> {
    let network = alexnet(1000, &Params::blank(&Device::Cpu).root())?;
    for (alias, name) in [
        ("conv5", "features.11"),
        ("fc6", "classifier.2"),
        ("fc8", "classifier.6"),
    ] {
        assert_eq!(network.position(alias)?, network.position(name)?);
    }
    let table = network.table(1)?;
    assert_eq!(table.height(), 20);
    let count: u64 = table.column("parameters")?.as_materialized_series().sum()?;
    assert_eq!(count, 61_100_840);
    assert_eq!(network.frozen()?.parameters(), network.parameters());
    let text = Greybox::new(&network, "conv6").unwrap_err().to_string();
    assert!(
        text.contains("no layer \"conv6\" in alexnet") && text.contains("did you mean"),
        "{text}"
    );
    let small = Rng::new(0).normal((1, 3, 16, 16), &Device::Cpu)?;
    let bare = network.with_preprocess(&Preprocess::none());
    let text = bare.forward(&small).unwrap_err().to_string();
    assert!(
        text.contains("features.") && text.contains("larger images"),
        "{text}"
    );
    let grey = Rng::new(0).normal((1, 1, 227, 227), &Device::Cpu)?;
    let text = bare.forward(&grey).unwrap_err().to_string();
    assert!(
        text.contains("features.0") && text.contains("3 channels"),
        "{text}"
    );
    for build in [
        |at: &Scope| alexnet_small(0, 10, at),
        |at: &Scope| squeezenet_small(0, at),
        |at: &Scope| {
            transformer(
                &TransformerConfig {
                    hidden: 0,
                    ..TransformerConfig::vit_base()
                },
                at,
            )
        },
    ] {
        let text = build(&Params::blank(&Device::Cpu).root())
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("expected widths and classes of at least 1"),
            "{text}"
        );
    }
    let none = Tensor::zeros((0, 3, 227, 227), DType::F32, &Device::Cpu)?;
    let text = bare.forward(&none).unwrap_err().to_string();
    assert!(text.contains("at least one image"), "{text}");
    let text = resnet(42, 10, &Params::new(0).root())
        .unwrap_err()
        .to_string();
    assert!(text.contains("18, 34, 50, 101 or 152"), "{text}");
    Ok(())
}

#[test]
fn a_network_of_the_users_own() -> Result<()> {
    let weight = Rng::new(0).normal((5, 12), &Device::Cpu)?;
    let linear = invariances::candle_nn::Linear::new(weight, None);
    let network = Custom::new("mine")
        .layer("map", |x: &Tensor| x.relu())
        .layer("flat", |x: &Tensor| x.flatten_from(1))
        .layer("fc", linear)
        .layer("tanh", |x: &Tensor| x.tanh())
        .alias("logits", "fc")
        .output_at("fc");
    let x = Rng::new(1).normal((3, 3, 2, 2), &Device::Cpu)?;
    let greybox = Greybox::new(&network, "logits")?;
    assert_eq!(
        greybox.encode(&x)?.to_vec2::<f32>()?,
        network.forward(&x)?.to_vec2::<f32>()?
    );
    assert_eq!(greybox.at("map")?.shape(2)?, [3, 2, 2]);
    assert_eq!(
        greybox
            .at("map")?
            .with_pooling(Pooling::Mean)
            .encode(&x)?
            .dims(),
        [3, 3]
    );
    assert!(greybox.at("flat")?.check_gradient(&x)? < 1e-2);
    // Several layers at once are the layers one by one, whether they share the network or not, and
    // each keeps its pooling and its place.
    let mut several = network.at_each(&["logits", "map", "flat"])?;
    several.push(greybox.at("map")?.with_pooling(Pooling::Mean));
    several.swap(1, 3);
    for (z, greybox) in Greybox::encode_all(&several, &x)?.iter().zip(&several) {
        let alone = greybox.encode(&x)?;
        assert_eq!(z.dims(), alone.dims(), "{greybox:?}");
        let (z, alone) = (z.flatten_all()?, alone.flatten_all()?);
        assert_eq!(z.to_vec1::<f32>()?, alone.to_vec1::<f32>()?, "{greybox:?}");
    }
    assert!(Greybox::encode_all(&[], &x)?.is_empty());
    assert_eq!(network.at("map")?.features(&x)?.dims(), [3, 12]);
    assert!(network.at("map")?.features(&x.narrow(0, 0, 0)?).is_err());
    let text = Features::of(&[several[1].clone(), several[3].clone()], &x)
        .unwrap_err()
        .to_string();
    assert!(text.contains("\"map\" twice"), "{text}");
    let text = greybox
        .at("map")?
        .with_pooling(Pooling::Mean)
        .decode(&x)
        .unwrap_err()
        .to_string();
    assert!(text.contains("no Ψ"), "{text}");
    let text = greybox
        .with_pooling(Pooling::ClassToken)
        .encode(&x)
        .unwrap_err()
        .to_string();
    assert!(text.contains("tokens"), "{text}");
    // What has no gradient, or a part of one, is said instead of shown as zeros.
    let text = Greybox::new(&network.clone().without_gradient("made so"), "fc")?
        .gradient(&x, |z| z.sum_all())
        .unwrap_err()
        .to_string();
    assert!(text.contains("made so"), "{text}");
    let cut = Custom::new("cut").layer("cut", |x: &Tensor| Ok(x.detach()));
    let text = Greybox::new(&cut, "cut")?
        .gradient(&x, |z| z.sum_all())
        .unwrap_err()
        .to_string();
    assert!(text.contains("no gradient"), "{text}");
    let wrong = Custom::new("half").layer("half", |x: &Tensor| x + x.detach());
    assert!(Greybox::new(&wrong, "half")?.check_gradient(&x)? > 0.3);
    let twice = network.clone().layer("fc", |x: &Tensor| Ok(x.clone()));
    assert!(
        Greybox::new(&twice, "fc")
            .unwrap_err()
            .to_string()
            .contains("two layers")
    );
    Ok(())
}

/// The alignment of two representations against the definition of its terms: a mean over all quadruples.
#[test]
fn alignment_is_its_definition() -> Result<()> {
    let n = 7;
    let mut rng = Rng::new(0);
    let x = rng.normal((n, 3), &Device::Cpu)?.to_dtype(DType::F64)?;
    let y = (rng.normal((n, 5), &Device::Cpu)?.to_dtype(DType::F64)? + 3.0)?;
    let y = Tensor::cat(&[&y, &(&x * 2.0)?], 1)?;
    let gram = |x: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(x.matmul(&x.t()?)?.to_vec2()?) };
    let (k, l) = (gram(&x)?, gram(&y)?);
    let hsic = |k: &[Vec<f64>], l: &[Vec<f64>]| {
        let (mut sum, mut count) = (0.0, 0.0);
        for i in 0..n {
            for j in 0..n {
                for q in 0..n {
                    for r in 0..n {
                        let all = [i, j, q, r];
                        if (0..4).all(|a| (0..a).all(|b| all[a] != all[b])) {
                            sum += k[i][j] * (l[i][j] + l[q][r] - 2.0 * l[i][q]);
                            count += 1.0;
                        }
                    }
                }
            }
        }
        sum / count
    };
    let expected = hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt();
    assert!(
        (cka(&x, &y)? - expected).abs() < 1e-9,
        "{} {expected}",
        cka(&x, &y)?
    );
    let text = cka(&x, &Tensor::ones((n, 2), DType::F64, &Device::Cpu)?)
        .unwrap_err()
        .to_string();
    assert!(text.contains("nearly constant"), "{text}");
    Ok(())
}

#[test]
fn features_are_the_layers_and_know_their_neighbours() -> Result<()> {
    let network = squeezenet_small(10, &Params::new(1).root())?;
    // More images than go through at once; image 70 is nearly image 3.
    let images = Rng::new(2).normal((80, 3, 32, 32), &Device::Cpu)?;
    let near = (images.narrow(0, 3, 1)? * 1.01)?;
    let images = Tensor::cat(
        &[images.narrow(0, 0, 70)?, near, images.narrow(0, 71, 9)?],
        0,
    )?;
    let features = Features::of(&network.at_each(&["pool", "conv1"])?, &images)?;
    let pool = network.encode(&images, "pool")?;
    common::assert_close("pool", &features.at("pool")?, &pool, 1e-6)?;
    for layer in ["conv1", "pool"] {
        let alike = features.nearest(layer, &[3, 70], 4)?;
        assert_eq!((alike[0][0], alike[1][0]), (70, 3), "{layer}");
        assert!(alike.iter().all(|a| a.len() == 4));
    }
    let text = features.at("fc").unwrap_err().to_string();
    assert!(text.contains("no features of layer"), "{text}");
    assert!(
        features
            .nearest("pool", &[80], 1)
            .unwrap_err()
            .to_string()
            .contains("no image 80")
    );
    Ok(())
}

/// Models of candle-transformers, tokens or pooled, each in a line; where their gradient lacks a part, none is given.
#[test]
fn models_of_candle_transformers_are_networks() -> Result<()> {
    use invariances::candle_nn::{self, VarBuilder, VarMap};
    use invariances::candle_transformers::models::{clip, dinov2, vit};
    let vars = VarMap::new();
    let at = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let config = vit::Config {
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
    let why = "candle-nn's layer norm has no backward pass";
    let model = vit::Model::new(&config, 7, at.pp("vit"))?;
    let vit = Custom::new("vit")
        .layer("logits", move |x: &Tensor| model.forward(x))
        .with_preprocess(&Preprocess::half(32))
        .without_gradient(why);
    let config = clip::vision_model::ClipVisionConfig {
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
    let model = clip::vision_model::ClipVisionTransformer::new(at.pp("clip"), &config)?;
    let tokens = model.clone();
    let pooled = Custom::new("clip")
        .layer("pooled", model)
        .with_preprocess(&Preprocess::clip(32))
        .without_gradient(why);
    let tokens = Custom::new("clip tokens")
        .layer("tokens", move |x: &Tensor| {
            Ok(tokens.output_hidden_states(x)?.swap_remove(1))
        })
        .with_preprocess(&Preprocess::clip(32))
        .without_gradient(why);
    let model = dinov2::DinoVisionTransformer::new(at.pp("dinov2"), 2, 24, 3)?;
    let patches = Custom::new("dinov2")
        .layer("patches", move |x: &Tensor| {
            // candle-transformers' takes one image at a time.
            let images = (0..x.dim(0)?).map(|i| x.narrow(0, i, 1));
            let each = images.map(|x| {
                let found = model.get_intermediate_layers(&x?, &[1], false, false, true)?;
                found.squeeze(0)
            });
            Tensor::cat(
                &each.collect::<invariances::candle_core::Result<Vec<_>>>()?,
                0,
            )
        })
        .with_preprocess(&Preprocess::imagenet(28))
        .without_gradient(why);
    let x = Rng::new(1).uniform(-1.0, 1.0, (2, 3, 40, 40), &Device::Cpu)?;
    let shape = |network: &Custom, layer: &str, pooling: Pooling| -> Result<Vec<usize>> {
        let greybox = Greybox::new(network, layer)?.with_pooling(pooling);
        let z = greybox.encode(&x)?;
        assert_eq!(z.dims()[1..], greybox.shape(40)?);
        let text = greybox
            .gradient(&x, |z| z.sum_all())
            .unwrap_err()
            .to_string();
        assert!(text.contains(why), "{text}");
        Ok(z.dims().to_vec())
    };
    assert_eq!(shape(&vit, "logits", Pooling::None)?, [2, 7]);
    assert_eq!(shape(&pooled, "pooled", Pooling::None)?, [2, 24]);
    assert_eq!(shape(&tokens, "tokens", Pooling::None)?, [2, 17, 24]);
    assert_eq!(shape(&tokens, "tokens", Pooling::ClassToken)?, [2, 24]);
    assert_eq!(shape(&patches, "patches", Pooling::Mean)?, [2, 24]);
    Ok(())
}
