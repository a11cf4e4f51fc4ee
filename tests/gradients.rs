//! The check of a network's gradient: right ones pass, wrong ones are found and their layer is
//! named.
//!
//! The independent reference is a numeric gradient in f64, element by element.

mod common;

use invariances::Result;
use invariances::backbone::{
    Backbone, Custom, GradientVerdict, Greybox, Network, Preprocess, SqueezeNet, TransformerConfig,
    alexnet, alexnet_small, facenet, plain_small, resnet, resnet_small, squeezenet,
    squeezenet_small, transformer, vgg16,
};
use invariances::candle_core::{self, DType, Device, Tensor, Var};
use invariances::candle_nn;
use invariances::data::{Dataset, Digits, Split};
use invariances::interpret::{Attack, Descent};
use invariances::loss::{FeatureDistance, PerceptualDistance};
use invariances::ops::{self, Params, PoolConfig, Rng};
use invariances::recipes::{CreaturesNetworks, DigitsNetworks, FacesNetworks};
use invariances::train::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Layer = fn(&Tensor) -> candle_core::Result<Tensor>;

fn wrapped<T>(result: Result<T>) -> candle_core::Result<T> {
    result.map_err(candle_core::Error::wrap)
}

/// A weight or bias as long as the last dimension of x.
fn row(x: &Tensor, value: f64) -> candle_core::Result<Tensor> {
    let width = x.dim(3)?;
    let slope: Vec<f32> = (0..width)
        .map(|i| (value + 0.2 * i as f64) as f32)
        .collect();
    Tensor::from_vec(slope, width, x.device())?.to_dtype(x.dtype())
}

/// The angles of a rotary embedding of 4 positions and 4 numbers.
fn angles(x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let angles: Vec<f32> = (0..8)
        .map(|i| 0.7 * (i / 2) as f32 + (i % 2) as f32)
        .collect();
    let angles = Tensor::from_vec(angles, (4, 2), x.device())?;
    Ok((
        angles.cos()?.to_dtype(x.dtype())?,
        angles.sin()?.to_dtype(x.dtype())?,
    ))
}

/// An operation with a wrong gradient, what the message recommends, and the layer with the
/// replacement.
struct Fault {
    name: &'static str,
    wrong: Layer,
    advice: &'static str,
    right: Layer,
}

/// Layers of images (batch, 3, 4, 4) that return a wrong gradient without an error.
const SILENT: [Fault; 9] = [
    Fault {
        name: "layer norm in a residual connection",
        wrong: |x| x + candle_nn::ops::layer_norm(x, &row(x, 1.0)?, &row(x, 0.0)?, 1e-5)?,
        advice: "ops::layer_norm",
        right: |x| x + wrapped(ops::layer_norm(x, &row(x, 1.0)?, &row(x, 0.0)?, 1e-5))?,
    },
    Fault {
        name: "rms norm in a residual connection",
        wrong: |x| x + candle_nn::ops::rms_norm(x, &row(x, 1.0)?, 1e-5)?,
        advice: "candle_nn::ops::rms_norm_slow",
        right: |x| x + candle_nn::ops::rms_norm_slow(x, &row(x, 1.0)?, 1e-5)?,
    },
    Fault {
        name: "softmax in a residual connection",
        wrong: |x| x + candle_nn::ops::softmax_last_dim(&(x * 3.0)?)?,
        advice: "ops::softmax",
        right: |x| x + wrapped(ops::softmax(&(x * 3.0)?))?,
    },
    Fault {
        name: "rotary embedding in a residual connection",
        wrong: |x| {
            let (cos, sin) = angles(x)?;
            x + candle_nn::rotary_emb::rope(x, &cos, &sin)?
        },
        advice: "rope_slow",
        right: |x| {
            let (cos, sin) = angles(x)?;
            x + candle_nn::rotary_emb::rope_slow(x, &cos, &sin)?
        },
    },
    Fault {
        name: "max pooling",
        wrong: |x| x.max_pool2d(2),
        advice: "ops::{max_pool2d, avg_pool2d}",
        right: |x| wrapped(ops::max_pool2d(x, PoolConfig::new(2, 2))),
    },
    Fault {
        // The gradient of the enlargement replaces what was summed before.
        name: "nearest-neighbour enlargement beside another path",
        wrong: |x| {
            let large = x.upsample_nearest2d(8, 8)?;
            wrapped(ops::avg_pool2d(&large.sqr()?, PoolConfig::new(2, 2)))? + (x * 2.0)?
        },
        advice: "ops::{resize_nearest, resize_bilinear}",
        right: |x| {
            let large = wrapped(ops::resize_nearest(x, (8, 8)))?;
            wrapped(ops::avg_pool2d(&large.sqr()?, PoolConfig::new(2, 2)))? + (x * 2.0)?
        },
    },
    Fault {
        // candle takes σ(x)·(1 − y) + y for y = silu(x): for large y only the rounding is left.
        name: "silu of large values",
        wrong: |x| (x * 1e18)?.silu()? * 1e-18,
        advice: "x * candle_nn::ops::sigmoid(x)",
        right: |x| {
            let x = (x * 1e18)?;
            (&x * candle_nn::ops::sigmoid(&x)?)? * 1e-18
        },
    },
    Fault {
        name: "a detached branch",
        wrong: |x| x + x.detach().sqr()?,
        advice: "ops::",
        right: |x| x + x.sqr()?,
    },
    Fault {
        name: "half of the channels detached",
        wrong: |x| Tensor::cat(&[x.narrow(1, 0, 1)?, x.narrow(1, 1, 2)?.detach()], 1),
        advice: "ops::",
        right: |x| Tensor::cat(&[x.narrow(1, 0, 1)?, x.narrow(1, 1, 2)?], 1),
    },
];

/// Layers without a gradient: candle says so, or nothing leads back to the input.
const MISSING: [(&str, Layer, &str); 9] = [
    (
        "max pooling with a stride",
        |x| x.max_pool2d_with_stride(3, 1),
        "ops::{max_pool2d",
    ),
    (
        "mean pooling with a stride",
        |x| x.avg_pool2d_with_stride(3, 1),
        "avg_pool2d}",
    ),
    (
        "bilinear enlargement",
        |x| x.upsample_bilinear2d(8, 8, false),
        "resize_bilinear",
    ),
    (
        // candle takes the padding of the gradient from the height.
        "strided convolution of images that are not square",
        |x| {
            let x = Tensor::cat(&[x, &x.narrow(3, 0, 1)?], 3)?;
            let kernel = Tensor::ones((3, 3, 2, 2), x.dtype(), x.device())?;
            x.conv2d(&kernel, 0, 2, 1, 1)
        },
        "ops::{conv2d",
    ),
    (
        "layer norm alone",
        |x| candle_nn::ops::layer_norm(x, &row(x, 1.0)?, &row(x, 0.0)?, 1e-5),
        "ops::layer_norm",
    ),
    ("detached", |x| Ok(x.detach()), "detach"),
    ("rounding", |x| (x * 5.0)?.round(), "rounding"),
    (
        "comparison",
        |x| x.gt(0.0)?.to_dtype(x.dtype()),
        "comparisons",
    ),
    (
        "argmax",
        |x| {
            x.argmax_keepdim(3)?
                .to_dtype(x.dtype())?
                .broadcast_as(x.shape())
        },
        "argmax",
    ),
];

/// The relative error of a layer's gradient, by differences of each element in f64. candle-nn's
/// norms have no f64 on the CPU, so that the differences are those of `same`, the same function.
fn gradient_error(layer: Layer, same: Layer, dtype: DType) -> Result<f64> {
    let x = Rng::new(5).normal((1, 3, 4, 4), &Device::Cpu)?;
    common::assert_close("the replacement", &same(&x)?, &layer(&x)?, 1e-5)?;
    let weighted = |y: Tensor| -> candle_core::Result<Tensor> {
        let y = y.flatten_all()?;
        let weights = (0..y.elem_count()).map(|i| (i as f64 + 1.0).sin());
        let weights = Tensor::from_iter(weights, &Device::Cpu)?.to_dtype(y.dtype())?;
        (y * weights)?.sum_all()
    };
    let numbers: Vec<f64> = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let step = 1e-6;
    let mut numeric = Vec::new();
    for i in 0..numbers.len() {
        let moved = |by: f64| -> Result<f64> {
            let mut moved = numbers.clone();
            moved[i] += by;
            let moved = Tensor::from_vec(moved, x.shape(), &Device::Cpu)?;
            Ok(weighted(same(&moved)?)?.to_scalar::<f64>()?)
        };
        numeric.push((moved(step)? - moved(-step)?) / (2.0 * step));
    }
    let var = Var::from_tensor(&x.to_dtype(dtype)?)?;
    let gradients = weighted(layer(&var)?)?.backward()?;
    let found = gradients.get(&var).expect("a gradient");
    let found: Vec<f64> = found.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let apart = found.iter().zip(&numeric).map(|(a, n)| (a - n).powi(2));
    let size: f64 = numeric.iter().map(|n| n * n).sum();
    Ok((apart.sum::<f64>() / size).sqrt())
}

/// A network whose middle layer is this one.
fn around(layer: Layer) -> Custom {
    Custom::new("mine")
        .layer("first", |x: &Tensor| (x * 1.5)?.tanh())
        .layer("middle", layer)
        .layer("last", |x: &Tensor| x.flatten_from(1)?.sqr())
}

fn images(seed: u64) -> Result<Tensor> {
    Rng::new(seed).normal((3, 3, 4, 4), &Device::Cpu)
}

fn names_only_the_middle(text: &str, advice: &str) {
    assert!(text.contains("layer \"middle\" of mine"), "{text}");
    assert!(
        !text.contains("\"first\"") && !text.contains("\"last\""),
        "{text}"
    );
    assert!(text.contains(advice), "{text} lacks {advice}");
}

#[test]
fn operations_with_a_wrong_gradient_are_found_and_their_replacements_pass() -> Result<()> {
    for Fault {
        name,
        wrong,
        advice,
        right,
    } in SILENT
    {
        let off = gradient_error(wrong, right, DType::F32)?;
        let fixed = gradient_error(right, right, DType::F64)?;
        assert!(off > 0.1, "{name} is not wrong: {off}");
        assert!(fixed < 1e-6, "the replacement of {name} is wrong: {fixed}");
        for seed in 0..10 {
            let x = images(seed)?;
            let exact = Some(x.to_dtype(DType::F64)?).filter(|x| wrong(x).is_ok());
            for x in [Some(x), exact].into_iter().flatten() {
                let text = match around(wrong).check_gradients(&x) {
                    Ok(check) => panic!("{name} passed: {check:?}"),
                    Err(error) => error.to_string(),
                };
                names_only_the_middle(&text, advice);
                let check = around(right).check_gradients(&x)?;
                assert_eq!(check.verdict, GradientVerdict::Agrees, "{name}: {check:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn layers_without_a_gradient_are_named() -> Result<()> {
    for (name, layer, advice) in MISSING {
        let text = around(layer)
            .check_gradients(&images(0)?)
            .unwrap_err()
            .to_string();
        assert!(text.contains("layer \"middle\" of mine"), "{name}: {text}");
        names_only_the_middle(&text, advice);
    }
    Ok(())
}

/// Every way to a gradient through a user's network is an error, and nothing else is.
#[test]
fn no_use_of_a_wrong_gradient_gets_it_silently() -> Result<()> {
    let wrong = || around(|x| x.max_pool2d(2));
    let x = images(1)?;
    let labels = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
    let rng = &mut Rng::new(0);
    let error = |result: Result<()>| names_only_the_middle(&result.unwrap_err().to_string(), "ops");
    error(
        Attack::fgsm(0.1)
            .against(&wrong(), &x, &labels, rng)
            .map(drop),
    );
    let greybox = Greybox::new(&wrong(), "last")?;
    let z = greybox.encode(&x)?;
    error(Descent::default().invert(&greybox, &z, 4, rng).map(drop));
    error(greybox.gradient(&x, |z| z.sum_all()).map(drop));
    let var = Var::from_tensor(&x)?;
    let network = wrong();
    // Forward passes are never refused, whether their graph leads somewhere or not.
    let y = network.forward(&var)?;
    common::assert_close("forward", &y.detach(), &network.forward(&x)?, 0.0)?;
    // The second time from memory, and by candle's own backward pass.
    for _ in 0..2 {
        error(y.sum_all()?.backward().map(drop).map_err(Into::into));
    }
    let distance = FeatureDistance::new(&wrong(), &["middle"])?;
    let apart = distance.distance(&var, &(&x * 0.5)?)?.sum_all()?;
    error(ops::backward(&apart).map(drop));
    // Layers before the wrong one have a right gradient, which is the analytic one: 1.5·(1 −
    // tanh²(1.5x)).
    let found = Greybox::new(&network, "first")?.gradient(&x, |z| z.sum_all())?;
    let expected = ((x * 1.5)?.tanh()?.sqr()?.affine(-1.0, 1.0)? * 1.5)?;
    common::assert_close("gradient", &found, &expected, 1e-5)?;
    Ok(())
}

/// A descent on priors alone, as nothing leads back to the image, was silent.
#[test]
fn a_descent_through_a_layer_without_gradient_is_an_error() -> Result<()> {
    let cut = around(|x| Ok(x.detach()));
    let greybox = Greybox::new(&cut, "middle")?;
    let z = greybox.encode(&images(1)?)?;
    let text = Descent::default()
        .invert(&greybox, &z, 4, &mut Rng::new(0))
        .unwrap_err()
        .to_string();
    names_only_the_middle(&text, "no gradient passes through");
    Ok(())
}

/// The check runs with the first gradient, not with forward passes, and never again.
#[test]
fn the_check_happens_once() -> Result<()> {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let network = Custom::new("counted").layer("tanh", move |x: &Tensor| {
        counted.fetch_add(1, Ordering::Relaxed);
        x.tanh()
    });
    let x = images(2)?;
    let count = |f: &dyn Fn() -> Result<()>| -> Result<usize> {
        let before = runs.load(Ordering::Relaxed);
        f()?;
        Ok(runs.load(Ordering::Relaxed) - before)
    };
    let gradient = |network: &Custom| -> Result<()> {
        let found = Greybox::new(network, "tanh")?.gradient(&x, |z| z.sum_all())?;
        let expected = x.tanh()?.sqr()?.affine(-1.0, 1.0)?;
        common::assert_close("gradient", &found, &expected, 1e-6)
    };
    let var = Var::from_tensor(&x)?;
    assert_eq!(count(&|| network.forward(&var).map(drop))?, 1);
    // One for the gradient, fifteen for the check, as documented.
    assert_eq!(count(&|| gradient(&network))?, 16);
    assert_eq!(count(&|| gradient(&network))?, 1);
    assert_eq!(count(&|| gradient(&network.clone()))?, 1);
    // One more layer makes another network.
    let longer = network.clone().layer("max", |x: &Tensor| x.max_pool2d(2));
    assert!(
        Greybox::new(&longer, "max")?
            .gradient(&x, |z| z.sum_all())
            .is_err()
    );
    assert_eq!(count(&|| gradient(&network))?, 1);
    // And no check is none.
    let trusted = longer.trust_gradients();
    let one = count(&|| {
        Greybox::new(&trusted, "max")?
            .gradient(&x, |z| z.sum_all())
            .map(drop)
    })?;
    assert_eq!(one, 1);
    Ok(())
}

#[test]
fn what_cannot_be_checked_is_said_and_no_error() -> Result<()> {
    let x = images(3)?;
    let dropout = candle_nn::Dropout::new(0.5);
    let random = Custom::new("random")
        .layer("tanh", |x: &Tensor| x.tanh())
        .layer("drop", move |x: &Tensor| dropout.forward(x, true));
    match random.check_gradients(&x)?.verdict {
        GradientVerdict::Undecided(why) => {
            assert!(
                why.contains("layer \"drop\"") && why.contains("random"),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
    Greybox::new(&random, "drop")?.gradient(&x, |z| z.sum_all())?;
    // A wrong layer behind a random one is found all the same.
    let both = random.layer("pool", |x: &Tensor| x.max_pool2d(2));
    let text = both.check_gradients(&x).unwrap_err().to_string();
    assert!(text.contains("layer \"pool\""), "{text}");
    let half = Custom::new("half").layer("tanh", |x: &Tensor| x.tanh());
    let coarse = x.to_dtype(DType::BF16)?;
    match half.check_gradients(&coarse)?.verdict {
        GradientVerdict::Undecided(why) => assert!(why.contains("BF16"), "{why}"),
        other => panic!("{other:?}"),
    }
    Greybox::new(&half, "tanh")?.gradient(&coarse, |z| z.sum_all())?;
    // A gradient that is zero, and rightly so: the sum of a softmax is 1.
    let one = Custom::new("one").layer("sum", |x: &Tensor| {
        candle_nn::ops::softmax(x, 3)?.sum_keepdim(3)
    });
    assert_eq!(one.check_gradients(&x)?.verdict, GradientVerdict::Zero);
    let nan = Custom::new("nan").layer("log", |x: &Tensor| x.log());
    match nan.check_gradients(&x)?.verdict {
        GradientVerdict::Undecided(why) => assert!(why.contains("NaN"), "{why}"),
        other => panic!("{other:?}"),
    }
    // An error of the network is its own error, and nothing panics for odd inputs.
    let broken = Custom::new("broken").layer("product", |x: &Tensor| x.matmul(x));
    assert!(broken.check_gradients(&x.narrow(3, 0, 1)?).is_err());
    let none = images(0)?.narrow(0, 0, 0)?;
    assert!(!matches!(
        half.check_gradients(&none).map(|c| c.verdict),
        Ok(GradientVerdict::Agrees)
    ));
    // A layer that insists on its batch of three.
    let fixed = Custom::new("fixed").layer("rows", |x: &Tensor| x.reshape((3, 48))?.tanh());
    assert_eq!(fixed.check_gradients(&x)?.verdict, GradientVerdict::Agrees);
    Ok(())
}

/// Networks of every kind, with random weights.
fn networks(seed: u64) -> Result<Vec<(Backbone, usize)>> {
    let at = |n: u64| Params::new(100 * seed + n).root();
    let plain = |n: Backbone| n.with_preprocess(&Preprocess::none());
    let small_vit = TransformerConfig {
        image: 32,
        patch: 8,
        width: 32,
        depth: 4,
        heads: 4,
        hidden: 64,
        outputs: 10,
        ..TransformerConfig::vit_base()
    };
    Ok(vec![
        (squeezenet_small(10, &at(1))?, 32),
        (plain_small(10, &at(2))?, 32),
        (alexnet_small(8, 10, &at(3))?, 32),
        (resnet_small(8, 10, &at(4))?, 32),
        (plain(squeezenet(SqueezeNet::V1_1, 7, &at(5))?), 65),
        (plain(resnet(18, 7, &at(6))?), 64),
        (plain(resnet(50, 7, &at(6))?), 64),
        (plain(alexnet(7, &at(7))?), 96),
        (plain(vgg16(7, &at(8))?), 32),
        (plain(facenet(&at(9))?), 90),
        (plain(transformer(&small_vit, &at(10))?), 32),
    ])
}

/// Noise, a flat image (all windows of a pooling are ties), one that is 0 everywhere, drawn images.
fn all_kinds(size: usize, seed: u64) -> Result<Vec<(&'static str, Tensor)>> {
    let shape = (2, 3, size, size);
    let noise = Rng::new(seed).normal(shape, &Device::Cpu)?;
    let digits = Digits::strokes(32, 0)?
        .batch(Split::Test, 2 * seed, 2)?
        .images;
    Ok(vec![
        ("noise", noise.clone()),
        ("flat", (noise.zeros_like()? + 0.3)?),
        ("zero", noise.zeros_like()?),
        (
            "digits",
            ops::resize_bilinear(&digits, (size, size), false)?,
        ),
    ])
}

#[test]
fn every_network_of_the_crate_passes() -> Result<()> {
    for (seed, count) in [(0, 11), (1, 4)] {
        for (network, size) in networks(seed)?.into_iter().take(count) {
            for (kind, x) in all_kinds(size, seed)? {
                let check = network.check_gradients(&x)?;
                println!("{} {kind}: {check:?}", network.name());
                assert_eq!(
                    check.verdict,
                    GradientVerdict::Agrees,
                    "{} on {kind}: {check:?}",
                    network.name()
                );
            }
        }
    }
    Ok(())
}

/// A layer whose gradient is short by a known share, in a deep network and as every one of its
/// layers.
#[test]
fn the_size_of_an_error_decides() -> Result<()> {
    let short = |share: f64| move |x: &Tensor| (x * (1.0 - share))? + (x * share)?.detach();
    let network = resnet_small(8, 10, &Params::new(4).root())?;
    for seed in 0..2 {
        for (kind, x) in all_kinds(32, seed)? {
            let with = |share: f64, before: &str| {
                let mut whole = Custom::new("deep");
                for (index, name) in network.layers().into_iter().enumerate() {
                    if name == before {
                        whole = whole.layer("short", short(share));
                    }
                    let shared = network.clone();
                    whole = whole.layer(&name, move |x: &Tensor| wrapped(shared.layer(index, x)));
                }
                whole
            };
            for before in ["layer1.0", "layer3.0", "fc"] {
                let check = with(0.01, before).check_gradients(&x)?;
                assert_eq!(
                    check.verdict,
                    GradientVerdict::Agrees,
                    "{kind} {before}: {check:?}"
                );
                for share in [0.25, 0.5, 1.0] {
                    let text = match with(share, before).check_gradients(&x) {
                        Err(error) => error.to_string(),
                        Ok(check) => panic!("{share} {before} {kind}: {check:?}"),
                    };
                    assert!(text.contains("layer \"short\" of deep"), "{text}");
                    assert_eq!(text.matches(" of deep").count(), 1, "{text}");
                }
            }
        }
    }
    Ok(())
}

/// Small networks at each of their layers, with many images: no right gradient is ever refused.
#[test]
fn right_gradients_are_not_refused_at_any_layer() -> Result<()> {
    for seed in 0..2 {
        for (network, size) in networks(seed)?.into_iter().take(4) {
            for (kind, x) in all_kinds(size, seed)? {
                for layer in network.layers() {
                    let part = up_to(&network, &layer);
                    let check = part.check_gradients(&x)?;
                    println!("{} at {layer} {kind}: {check:?}", network.name());
                    assert_eq!(check.verdict, GradientVerdict::Agrees, "{layer} on {kind}");
                }
            }
        }
    }
    Ok(())
}

/// Layers of a network up to this one, as a user would make them.
fn up_to(network: &Backbone, layer: &str) -> Custom {
    let mut part = Custom::new(&network.name()).with_preprocess(&network.preprocess());
    for (index, name) in network.layers().into_iter().enumerate() {
        let shared = network.clone();
        part = part.layer(&name, move |x: &Tensor| wrapped(shared.layer(index, x)));
        if name == layer {
            break;
        }
    }
    part
}

#[test]
fn shipped_networks_pass() -> Result<()> {
    let store = Store::open(std::env::temp_dir().join("invariances-test-gradients"));
    let digits = DigitsNetworks::load(&Digits::strokes(32, 0)?, 0, &store)?;
    let (faces, creatures) = (FacesNetworks::load()?, CreaturesNetworks::load()?);
    let all = [
        (digits.classifier, 32),
        (digits.independent, 32),
        (faces.recogniser, 64),
        (faces.independent.network(), 64),
        (creatures.classifier, 64),
        (creatures.independent.network(), 64),
    ];
    for (network, size) in all {
        for seed in 0..3 {
            for (kind, x) in all_kinds(size, seed)? {
                let check = network.check_gradients(&x)?;
                println!("{} {kind}: {check:?}", network.name());
                assert_eq!(
                    check.verdict,
                    GradientVerdict::Agrees,
                    "{} on {kind}: {check:?}",
                    network.name()
                );
            }
        }
    }
    Ok(())
}
