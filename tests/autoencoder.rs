//! Autoencoders, losses and distances against the original networks' answers (weights by rule, see `common`).

mod common;

use common::{assert_close, check_probe, fill, input, reference, state_dict};
use invariances::autoencoder::{
    Autoencoder, BigAe, BigAeConfig, BigGan, Decoder, IinVae, IinVaeConfig, Posterior, VectorVae,
    VectorVaeConfig,
};
use invariances::backbone::{Mode, plain_small, vgg16};
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::loss::{
    FeatureDistance, Lpips, PatchDiscriminator, PerceptualDistance, adversarial_weight,
    perceptual_vae_loss,
};
use invariances::metric::{frechet_distance, ssim};
use invariances::ops::{Params, Rng};
use invariances::{Error, Outline, Result};
use std::collections::HashMap;

fn check_names(params: &Params, manifest: &str, name: &str) -> Result<()> {
    let mut expected = state_dict(manifest, name)?;
    expected.retain(|(n, _)| !n.ends_with("num_batches_tracked"));
    let mut names: Vec<_> = params
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, t.dims().to_vec()))
        .collect();
    names.sort();
    assert_eq!(names, expected, "{name}");
    Ok(())
}

#[test]
fn the_small_vae_answers_as_the_original() -> Result<()> {
    let params = Params::new(0);
    let vae = IinVae::new(&IinVaeConfig::default(), &params.root())?;
    check_names(&params, "manifest_flows.json", "autoencoder32")?;
    fill(&params, &HashMap::new())?;
    let stored = reference("autoencoder32")?;
    let posterior = vae.encode(&stored["x"])?;
    assert_close("mean", &posterior.mode(), &stored["mean"], 1e-4)?;
    assert_close("logvar", &posterior.logvar(), &stored["logvar"], 1e-4)?;
    assert_close("kl", &posterior.kl()?, &stored["kl"], 1e-4)?;
    let decoded = vae.decode(&posterior.mode())?;
    assert_close("decoded", &decoded, &stored["decoded_mode"], 1e-4)
}

#[test]
fn the_small_vae_starts_from_data_and_trains() -> Result<()> {
    let config = IinVaeConfig {
        width: 8,
        code: 12,
        ..IinVaeConfig::default()
    };
    let params = Params::new(0);
    let vae = IinVae::new(&config, &params.root())?;
    let x = Rng::new(1).normal((6, 3, 32, 32), &Device::Cpu)?;
    vae.initialize(&x)?;
    let posterior = vae.encode(&x)?;
    let decoded = vae.decode(&posterior.sample(&mut Rng::new(2))?)?;
    assert_eq!(decoded.dims(), x.dims());
    let gradients = ((x - decoded)?.sqr()?.sum_all()? + posterior.kl()?.sum_all()?)?.backward()?;
    for (name, var) in params.trained() {
        let gradient = gradients.get(&var);
        let gradient = gradient.ok_or_else(|| Error::invalid(format!("{name}: no gradient")))?;
        assert!(
            gradient.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0,
            "{name}"
        );
    }
    for wrong in [
        IinVaeConfig {
            size: 36,
            ..IinVaeConfig::default()
        },
        IinVaeConfig {
            down: 0,
            ..IinVaeConfig::default()
        },
        IinVaeConfig {
            down: 99,
            ..IinVaeConfig::default()
        },
    ] {
        let text = IinVae::new(&wrong, &Params::new(0).root())
            .unwrap_err()
            .to_string();
        assert!(text.contains("can be halved"), "{text}");
    }
    let text = vae
        .encode(&Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu)?)
        .unwrap_err();
    assert!(text.to_string().contains("(batch, 3, 32, 32)"), "{text}");
    Ok(())
}

#[test]
fn the_discriminator_answers_as_the_original() -> Result<()> {
    let params = Params::new(0);
    let discriminator = PatchDiscriminator::new(&params.root())?;
    check_names(&params, "manifest_flows.json", "discriminator")?;
    fill(&params, &HashMap::new())?;
    let stored = reference("discriminator")?;
    let logits = discriminator.logits(&stored["x"])?;
    assert_close("logits", &logits, &stored["logits"], 1e-4)
}

/// Its loss is its definition, for large logits too, and goes to the discriminator alone; the generator's goes to the images.
#[test]
fn each_adversary_has_its_gradient() -> Result<()> {
    let params = Params::new(0);
    let discriminator = PatchDiscriminator::new(&params.root())?.with_mode(Mode::Training);
    let x = Rng::new(1).normal((3, 3, 32, 32), &Device::Cpu)?;
    let decoded = Var::from_tensor(&input("decoded", &[3, 3, 32, 32], 1.0)?)?;
    let loss = discriminator.loss(&x, &decoded)?;
    let softplus = |t: &Tensor, sign: f64| -> Result<f64> {
        let all = t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let sum: f64 = all.iter().map(|v| (1.0 + (sign * v).exp()).ln()).sum();
        Ok(sum / all.len() as f64)
    };
    let real = softplus(&discriminator.logits(&x)?, -1.0)?;
    let fake = softplus(&discriminator.logits(&decoded)?, 1.0)?;
    let expected = 0.5 * (real + fake);
    assert!((f64::from(loss.to_scalar::<f32>()?) - expected).abs() < 1e-5);
    let gradients = loss.backward()?;
    assert!(gradients.get(&decoded).is_none());
    for (name, var) in params.trained() {
        assert!(gradients.get(&var).is_some(), "{name}");
    }
    let gradients = discriminator.generator_loss(&decoded)?.backward()?;
    assert!(gradients.get(&decoded).is_some());
    // 3·‖1‖ over 2·‖1‖, at a layer of four numbers; nothing over something; capped.
    let layer = Var::ones(4, DType::F32, &Device::Cpu)?;
    let losses = |by: f64| (layer.as_tensor() * by)?.sum_all();
    let weight = adversarial_weight(&losses(3.0)?, &losses(2.0)?, &layer)?;
    assert!((weight - 6.0 / (4.0 + 1e-4)).abs() < 1e-6, "{weight}");
    assert_eq!(
        adversarial_weight(&losses(3e8)?, &losses(1e-12)?, &layer)?,
        1e4
    );
    let other = Var::ones(1, DType::F32, &Device::Cpu)?.sum_all()?;
    let text = adversarial_weight(&losses(1.0)?, &other, &layer)
        .unwrap_err()
        .to_string();
    assert!(text.contains("generator loss"), "{text}");
    Ok(())
}

#[test]
fn the_frechet_distance_is_the_reference() -> Result<()> {
    let stored = reference("frechet")?;
    for (name, b) in [("fid_ab", "b"), ("fid_ac", "c_rank_deficient")] {
        let expected = stored[name]
            .to_dtype(DType::F64)?
            .flatten_all()?
            .to_vec1::<f64>()?[0];
        let found = frechet_distance(&stored["a"], &stored[b])?;
        assert!(
            (found - expected).abs() < 1e-5 * expected,
            "{name}: {found}, expected {expected}"
        );
    }
    let bad = (&stored["a"] * f64::NAN)?;
    let text = frechet_distance(&bad, &stored["b"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("finite"), "{text}");
    let one = stored["a"].narrow(0, 0, 1)?;
    let text = frechet_distance(&one, &stored["b"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("at least two"), "{text}");
    Ok(())
}

#[test]
fn bigae_answers_as_the_originals() -> Result<()> {
    for (name, config) in [
        ("bigae_animals", BigAeConfig::animals()),
        ("bigae_animalfaces", BigAeConfig::default()),
    ] {
        let params = Params::blank(&Device::Cpu);
        let bigae = BigAe::new(&config, &params.root())?;
        check_names(&params, "manifest_networks.json", name)?;
        fill(&params, &HashMap::new())?;
        let stored = reference(name)?;
        let x = input(&format!("{name}.x"), &[1, 3, 128, 128], 1.0)?;
        let posterior = bigae.encode(&x)?;
        for (what, found) in [("mean", posterior.mode()), ("logvar", posterior.logvar())] {
            let expected = stored[what].flatten_from(1)?;
            let deviation = expected
                .to_dtype(DType::F64)?
                .flatten_all()?
                .var(0)?
                .to_scalar::<f64>()?
                .sqrt();
            let far = (found - &expected)?.abs()?.flatten_all()?.max(0)?;
            let far = f64::from(far.to_scalar::<f32>()?);
            assert!(
                far < 1e-3 * deviation,
                "{name} {what}: {far} of {deviation}"
            );
        }
        let z = input(&format!("{name}.z"), &[1, 128], 2.0)?;
        let decoded = bigae.decode(&z)?;
        check_probe(name, &decoded, &stored["decoded"])?;
        // Frozen, it answers the same, and nothing holds what lies between.
        let frozen = bigae.frozen()?;
        let again = frozen.decode(&z)?;
        check_probe(name, &again, &stored["decoded"])?;
        assert!(decoded.track_op() && !again.track_op());
        let (mean, before) = (frozen.encode(&x)?.mode(), posterior.mode().detach());
        assert!(!mean.track_op());
        let far = (mean - &before)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(far < 1e-3 * before.abs()?.max_all()?.to_scalar::<f32>()?);
    }
    Ok(())
}

/// A copy to train on has the same D in two parts, is made of frozen ones too, and leaves the original as it is.
#[test]
fn a_copy_of_bigae_can_be_trained_on() -> Result<()> {
    let config = BigAeConfig {
        depth: 50,
        width: 4,
        ..BigAeConfig::default()
    };
    let params = Params::new(0);
    let bigae = BigAe::new(&config, &params.root())?;
    let before = params.digest()?;
    let code = Rng::new(1).normal((2, 128), &Device::Cpu)?;
    let expected = bigae.decode(&code)?.flatten_all()?.to_vec1::<f32>()?;
    let own = Params::new(2);
    let copy = bigae.frozen()?.copy_below(&own.root().pp("vae"))?;
    let images = copy.last_layer(&copy.before_last(&code)?)?;
    assert_eq!(images.flatten_all()?.to_vec1::<f32>()?, expected);
    let gradients = images.sqr()?.sum_all()?.backward()?;
    let trained = own.below(&["vae.decoder"]).trained();
    assert!(trained.len() > 30);
    for (name, var) in &trained {
        assert!(gradients.get(var).is_some(), "{name} has no gradient");
        var.set(&(var.as_tensor() * 0.5)?.detach())?;
    }
    assert_ne!(
        copy.decode(&code)?.flatten_all()?.to_vec1::<f32>()?,
        expected
    );
    assert_eq!(params.digest()?, before);
    Ok(())
}

/// `Display` counts every trained parameter once.
#[test]
fn autoencoders_print_their_layers() -> Result<()> {
    let counted = |outline: &Outline, params: &Params| {
        let trained: usize = params.trained().iter().map(|(_, v)| v.elem_count()).sum();
        assert_eq!(outline.parameters(), Some(trained), "{outline}");
    };
    let params = Params::new(0);
    let vae = IinVae::new(&IinVaeConfig::default(), &params.root())?;
    counted(&vae.outline(), &params);
    let params = Params::new(0);
    let config = VectorVaeConfig {
        size: 10,
        code: 4,
        hidden: 32,
        depth: 1,
    };
    let vae = VectorVae::new(&config, &params.root())?;
    counted(&vae.outline(), &params);
    for act_norm in [false, true] {
        let config = BigAeConfig {
            depth: 50,
            width: 4,
            act_norm,
            ..BigAeConfig::default()
        };
        let params = Params::blank(&Device::Cpu);
        let bigae = BigAe::new(&config, &params.root())?;
        counted(&bigae.outline(), &params);
        let text = bigae.to_string();
        assert!(text.starts_with("BigAe(size=128, code=128)\n  encoder: "));
        assert!(text.contains("SelfAttention") && !text.contains("Tensor"));
        assert_eq!(format!("{bigae:?}"), text);
    }
    let params = Params::blank(&Device::Cpu);
    let biggan = BigGan::new(8, &params.root())?;
    counted(&biggan.outline(), &params);
    Ok(())
}

/// BigGAN-256 by its shapes: there is no reference for it.
#[test]
fn biggan_gives_images() -> Result<()> {
    let params = Params::new(0);
    let biggan = BigGan::new(8, &params.root())?;
    assert_eq!(biggan.code(), 268);
    let code = Var::from_tensor(&Rng::new(1).normal((1, 268), &Device::Cpu)?)?;
    let images = biggan.decode(&code)?;
    assert_eq!(images.dims(), [1, 3, 256, 256]);
    let gradients = images.sqr()?.sum_all()?.backward()?;
    assert!(gradients.get(&code).is_some());
    let text = biggan
        .decode(&Tensor::zeros((1, 140), DType::F32, &Device::Cpu)?)
        .unwrap_err();
    assert!(text.to_string().contains("(batch, 268)"), "{text}");
    let short = BigAeConfig {
        code: 100,
        ..BigAeConfig::default()
    };
    let text = BigAe::new(&short, &Params::blank(&Device::Cpu).root()).unwrap_err();
    assert!(text.to_string().contains("more than 100"), "{text}");
    Ok(())
}

/// Structural similarity from its definition, window by window.
#[test]
fn structural_similarity_is_its_definition() -> Result<()> {
    let (h, w) = (13, 12);
    let x = input("ssim.x", &[2, 3, h, w], 1.0)?;
    let y = ((&x * 0.6)? + input("ssim.y", &[2, 3, h, w], 0.4)?)?;
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (a, b) = (flat(&x)?, flat(&y)?);
    let weight = |i: usize, j: usize| {
        let d = |k: usize| (k as f64 - 5.0).powi(2);
        (-(d(i) + d(j)) / 4.5).exp()
    };
    let total: f64 = (0..121).map(|k| weight(k / 11, k % 11)).sum();
    let found = ssim(&x, &y)?;
    for (image, found) in found.iter().enumerate() {
        let (mut sum, mut count) = (0.0, 0.0);
        for c in 0..3 {
            for top in 0..=h - 11 {
                for left in 0..=w - 11 {
                    let mean = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                        let each = (0..121).map(|k| {
                            let (i, j) = (k / 11, k % 11);
                            let at = ((image * 3 + c) * h + top + i) * w + left + j;
                            weight(i, j) / total * f(a[at], b[at])
                        });
                        each.sum()
                    };
                    let (ma, mb) = (mean(&|a, _| a), mean(&|_, b| b));
                    let va = mean(&|a, _| (a - ma).powi(2));
                    let vb = mean(&|_, b| (b - mb).powi(2));
                    let cov = mean(&|a, b| (a - ma) * (b - mb));
                    let (c1, c2) = (0.0004, 0.0036);
                    sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2)
                        / ((ma * ma + mb * mb + c1) * (va + vb + c2));
                    count += 1.0;
                }
            }
        }
        assert!(
            (found - sum / count).abs() < 1e-9,
            "{found}, expected {}",
            sum / count
        );
    }
    let text = ssim(&x.narrow(2, 0, 8)?, &y.narrow(2, 0, 8)?)
        .unwrap_err()
        .to_string();
    assert!(text.contains("at least 11 pixels"), "{text}");
    Ok(())
}

/// The paper's loss against its formula, and its gradients: to the images, to γ, and by features to the images too.
#[test]
fn the_papers_vae_loss_is_its_formula() -> Result<()> {
    let network = plain_small(10, &Params::new(3).root())?.frozen()?;
    let distance = FeatureDistance::new(&network, &["conv2", "conv4", "pool"])?;
    let x = input("loss.x", &[2, 3, 32, 32], 1.0)?;
    let decoded = Var::from_tensor(&input("loss.decoded", &[2, 3, 32, 32], 1.0)?)?;
    let gamma = Var::new(0.3f32, &Device::Cpu)?;
    let posterior = Posterior::new(&input("m", &[2, 5], 1.0)?, &input("v", &[2, 5], 1.0)?)?;
    let loss = perceptual_vae_loss((&x, &decoded), &posterior, &gamma, Some(&distance), 0.5)?;
    let number = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
    let apart = (&x - decoded.as_tensor())?.abs()?.mean_all()?;
    let by_features = distance.distance(&x, &decoded)?.mean_all()?;
    assert!(number(&by_features)? > 0.0);
    let per_number = (number(&apart)? + number(&by_features)?) / 0.3f64.exp() + 0.3;
    let expected = 3072.0 * per_number + 0.5 * number(&posterior.kl()?.mean_all()?)?;
    assert!((number(&loss.loss)? - expected).abs() < 1e-3 * expected);
    let gradients = loss.loss.backward()?;
    assert!(gradients.get(&decoded).is_some() && gradients.get(&gamma).is_some());
    let features = by_features.backward()?;
    let gradient = features
        .get(&decoded)
        .ok_or_else(|| Error::invalid("no gradient"))?;
    assert!(gradient.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0);
    // Equal images: no distance, and a gradient that is a number.
    let same = Var::from_tensor(&x)?;
    let none = distance.distance(&x, &same)?.sum_all()?;
    assert_eq!(none.to_scalar::<f32>()?, 0.0);
    let finite = |loss: &Tensor, of: &Var| -> Result<bool> {
        let gradients = loss.backward()?;
        let gradient = gradients.get(of);
        let gradient = gradient.ok_or_else(|| Error::invalid("no gradient"))?;
        Ok(gradient.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite())
    };
    assert!(finite(&none, &same)?);
    // A network without weights has no features at any place: LPIPS is zero there, with a gradient that is a number.
    let mut heads = HashMap::new();
    for (i, channels) in [64, 128, 256, 512, 512].into_iter().enumerate() {
        let head = Tensor::ones((1, channels, 1, 1), DType::F32, &Device::Cpu)?;
        heads.insert(format!("lin{i}.model.1.weight"), head);
    }
    let empty = vgg16(1, &Params::blank(&Device::Cpu).root())?;
    let lpips = Lpips::new(&empty, &heads)?;
    let nothing = lpips.distance(&x, &decoded)?.sum_all()?;
    assert_eq!(nothing.to_scalar::<f32>()?, 0.0);
    assert!(finite(&nothing, &decoded)?);
    let text = FeatureDistance::new(&network, &[]).unwrap_err().to_string();
    assert!(text.contains("at least one layer"), "{text}");
    Ok(())
}

/// Names and shapes are those of the authors' `FlatVAE` at the size of `dequant_vae`, and the numbers those of the plain formula.
#[test]
fn the_vectors_vae_is_the_authors() -> Result<()> {
    let full = Params::blank(&Device::Cpu);
    VectorVae::new(&VectorVaeConfig::default(), &full.root())?;
    let shapes: std::collections::BTreeMap<String, Vec<usize>> = full
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.dims().to_vec()))
        .collect();
    let mut expected = std::collections::BTreeMap::new();
    for (part, layers) in [
        ("encoder", 4),
        ("mu_layer", 4),
        ("logvar_layer", 4),
        ("decoder", 5),
    ] {
        for n in 0..layers {
            let from = if n == 0 { 128 } else { 4096 };
            let to = if n == layers - 1 { 128 } else { 4096 };
            expected.insert(format!("{part}.main.{}.weight", 2 * n), vec![to, from]);
            expected.insert(format!("{part}.main.{}.bias", 2 * n), vec![to]);
        }
    }
    assert_eq!(shapes, expected);

    let config = VectorVaeConfig {
        size: 6,
        code: 4,
        hidden: 9,
        depth: 2,
    };
    let params = Params::new(3);
    let vae = VectorVae::new(&config, &params.root())?;
    let weights = params.tensors();
    let weights: HashMap<String, Tensor> = weights.into_iter().collect();
    let chain = |part: &str, layers: usize, x: &Tensor| -> Result<Tensor> {
        let mut h = x.clone();
        for n in 0..layers {
            let of = |what: &str| &weights[&format!("{part}.main.{}.{what}", 2 * n)];
            h = h.matmul(&of("weight").t()?)?.broadcast_add(of("bias"))?;
            if n + 1 < layers {
                h = h.maximum(&h.affine(0.01, 0.0)?)?;
            }
        }
        Ok(h)
    };
    let x = input("vector.x", &[5, 6], 2.0)?;
    let h = chain("encoder", 4, &x)?;
    let posterior = vae.encode(&x)?;
    let close = |a: &Tensor, b: &Tensor| -> Result<bool> {
        Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5)
    };
    let mean = chain("mu_layer", 4, &h)?;
    assert!(close(&posterior.mode(), &mean)?);
    assert!(close(&posterior.logvar(), &chain("logvar_layer", 4, &h)?)?);
    assert!(close(&vae.decode(&mean)?, &chain("decoder", 5, &mean)?)?);
    assert!(close(&vae.reconstruct(&x)?, &vae.decode(&mean)?)?);

    // Every parameter gets a gradient.
    let mut rng = Rng::new(0);
    let decoded = vae.decode(&posterior.sample(&mut rng)?)?;
    let loss = ((decoded - &x)?.sqr()?.mean_all()? + posterior.kl()?.mean_all()?)?;
    let gradients = loss.backward()?;
    for (name, var) in params.trained() {
        assert!(gradients.get(&var).is_some(), "{name}");
    }
    for (result, says) in [
        (
            vae.encode(&input("x", &[2, 5], 1.0)?).map(|p| p.mode()),
            "vectors of shape (batch, 6)",
        ),
        (vae.decode(&x), "codes of shape (batch, 4)"),
    ] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
    Ok(())
}
