//! What a layer leaves free, what it captures, and the baselines: against cases whose answer is known.

use invariances::autoencoder::{ConvVaeConfig, Posterior};
use invariances::backbone::{plain_small, squeezenet_small};
use invariances::candle_nn;
use invariances::data::{Attribute, Factors};
use invariances::interpret::{
    Attack, Attacked, Descent, FactorTraining, Fid, Fidelity, Inverter, Regression, mix,
};
use invariances::loss::nll;
use invariances::metric::{
    cosines, frame_step, frechet_distance, measure_colours, same_answers, taken_over, unevenness,
};
use invariances::notebook::Subject;
use invariances::ops::{Init, scalar};
use invariances::prelude::*;
use invariances::train::{Slot, Trained};
use invariances::{Error, Result};

fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn says<T>(result: Result<T>, part: &str) {
    match result {
        Ok(_) => panic!("expected an error that says {part:?}"),
        Err(e) => assert!(e.to_string().contains(part), "{e}"),
    }
}

fn short(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        batch: 8,
        ..TrainConfig::default()
    }
}

/// With patience, t is validated on images that it is not trained on, and keeps the weights that
/// were best on these: trained for long on few images it would overfit.
#[test]
fn patience_keeps_t_from_overfitting() -> Result<()> {
    let (folder, digits) = (folder()?, Digits::strokes(32, 0)?);
    let store = Store::open(folder.path());
    let networks = DigitsNetworks::load(&digits, 0, &store)?;
    let pool = networks.classifier.frozen()?.at("pool")?;
    let codes = Codes::of(&networks.autoencoder, &pool, &digits, Split::Train, 240)?;
    let held = Codes::of(&networks.autoencoder, &pool, &digits, Split::Test, 240)?;
    let training = TrainConfig {
        steps: 400,
        batch: 64,
        validate_every: Some(20),
        ..CinnTraining::default().training
    };
    let fit = |patience: Option<u32>| -> Result<(f64, Trained)> {
        let how = CinnTraining {
            flows: 4,
            training: TrainConfig {
                patience,
                ..training.clone()
            },
            ..CinnTraining::default()
        };
        let (t, trained) = how.fit("t", &codes, &store)?;
        let (code, z) = held.draw(240, &mut Rng::new(1))?;
        let (v, logdet) = t.forward(&code, &z)?;
        Ok((scalar(&nll(&v, &logdet)?)?, trained))
    };
    let ((all, long), (best, short)) = (fit(None)?, fit(Some(2))?);
    println!("{} steps: {all}; {} steps: {best}", long.steps, short.steps);
    assert_eq!(long.steps, 400);
    assert!(
        short.steps < 400 && best < all,
        "{} {best} {all}",
        short.steps
    );
    assert!(short.log.column("validation").is_ok() && long.log.column("validation").is_err());
    let one = Codes::of(&networks.autoencoder, &pool, &digits, Split::Train, 1)?;
    let how = CinnTraining {
        training: TrainConfig {
            patience: Some(2),
            ..training.clone()
        },
        ..CinnTraining::default()
    };
    says(how.fit("one", &one, &store), "at least two images");
    Ok(())
}

/// Several layers in one pass are the layers one by one, and a map that comes flattened is the map.
#[test]
fn codes_of_layers_are_those_of_each_layer() -> Result<()> {
    let digits = Digits::strokes(32, 0)?;
    let network = squeezenet_small(10, &Params::new(1).root())?;
    let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(2).root())?;
    let layers = ["fire3", "pool"];
    let greyboxes = network.at_each(&layers)?;
    let both = Codes::of_all(&vae, &greyboxes, &digits, Split::Test, 140)?;
    for (codes, layer) in both.iter().zip(layers) {
        let alone = Codes::of(&vae, &network.at(layer)?, &digits, Split::Test, 140)?;
        assert_eq!(codes.id(), alone.id());
        assert_eq!((codes.len(), codes.code()), (140, 48));
    }
    assert_ne!(both[0].id(), both[1].id());
    assert_eq!(
        both[0].condition(),
        Condition::Map {
            channels: 128,
            size: 8,
            down: 1
        }
    );
    let config = CinnConfig {
        flows: 2,
        hidden: 16,
        ..CinnConfig::new(48, both[0].condition())
    };
    let t = Cinn::new(&config, &Params::new(3).root())?;
    let (code, z) = both[0].draw(16, &mut Rng::new(4))?;
    let map = z.reshape((16, 128, 8, 8))?;
    let (flat, whole) = (t.forward(&code, &z)?.0, t.forward(&code, &map)?.0);
    assert_eq!(flat.to_vec2::<f32>()?, whole.to_vec2::<f32>()?);
    says(Codes::of_all(&vae, &[], &digits, Split::Test, 4), "layers");
    says(network.at_each(&["pol"]), "pool");
    Ok(())
}

/// D of a code is the code itself, as an image: what a sample shows is known.
struct Plain;

impl Autoencoder for Plain {
    fn code(&self) -> usize {
        3
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let mean = x.mean(3)?.mean(2)?;
        Posterior::new(&mean, &(mean.zeros_like()? - 12.0)?)
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        let (n, c) = code.dims2()?;
        Ok(code
            .reshape((n, c, 1, 1))?
            .broadcast_as((n, c, 16, 16))?
            .contiguous()?)
    }
}

/// Pictures of one colour: red and green are independent, blue is −red.
fn colours(n: usize, seed: u64) -> Result<Tensor> {
    let mut rng = Rng::new(seed);
    let draw = |rng: &mut Rng| -> Result<Tensor> { rng.uniform(-0.9, 0.9, (n, 1), &Device::Cpu) };
    let (red, green) = (draw(&mut rng)?, draw(&mut rng)?);
    Plain.decode(&Tensor::cat(&[&red, &green, &red.neg()?], 1)?)
}

/// A network whose layer `red` is the mean of red, twice, and whose layer `all` is the mean colour.
fn red() -> Result<Custom> {
    Ok(Custom::new("red")
        .layer("all", |x: &Tensor| x.mean(3)?.mean(2))
        .layer("red", |x: &Tensor| {
            let red = x.narrow(1, 0, 1)?;
            Tensor::cat(&[&red, &red], 1)
        }))
}

/// With t by hand (the samples are made here), what comes back is exactly what was put in.
#[test]
fn samples_are_measured_exactly() -> Result<()> {
    // A t that has learned nothing is a bijection all the same; the samples below are of D alone.
    let config = CinnConfig {
        flows: 1,
        hidden: 8,
        ..CinnConfig::new(3, Condition::Vector(2))
    };
    let t = Cinn::new(&config, &Params::new(0).root())?;
    let network = red()?;
    let images = colours(20, 1)?;
    let greybox = network.at("red")?;
    let z = greybox.encode(&images)?;
    let samples = Samples::draw(&t, &Plain, &z, 4, &mut Rng::new(2))?;
    let (mean_image, deviation) = samples.moments()?;
    assert_eq!(
        (mean_image.dims(), deviation.dims()),
        (&[20, 3, 16, 16][..], &[20, 16, 16][..])
    );
    let all = samples.images().mean(3)?.mean(2)?.to_vec2::<f32>()?;
    let first: Vec<f32> = (0..4).map(|i| all[i][0]).collect();
    let average = first.iter().sum::<f32>() / 4.0;
    assert!((mean_image.flatten_all()?.to_vec1::<f32>()?[0] - average).abs() < 1e-5);
    let reconstructions = Plain.reconstruct(&images)?;
    let fidelity = Fidelity::of(&greybox, &z, &reconstructions, &samples)?;
    let z0 = z.to_vec2::<f32>()?;
    let by_hand: f64 = first
        .iter()
        .map(|v| f64::from(2f32.sqrt() * (v - z0[0][0]).abs()))
        .sum::<f64>()
        / 4.0;
    assert!((mean(&fidelity.distances("samples")?[..4]) - by_hand).abs() < 1e-5);
    let apart = f64::from(2f32.sqrt() * (z0[1][0] - z0[0][0]).abs());
    assert!((fidelity.ceiling()[0] - apart).abs() < 1e-5);
    let single = Samples::draw(&t, &Plain, &z, 1, &mut Rng::new(2))?;
    says(single.moments(), "two samples");
    let fewer = z.narrow(0, 0, 3)?;
    says(
        Fidelity::of(&greybox, &fewer, &reconstructions, &samples),
        "found z of shape [3, 2]",
    );
    Ok(())
}

/// A world for which the answer is known: z is the red of a picture, so red is captured and green is free, and v must be green.
#[test]
fn t_finds_what_is_free_where_the_answer_is_known() -> Result<()> {
    let store = folder()?;
    let store = Store::open(store.path());
    let dataset = ColourWorld;
    let how = CinnTraining {
        flows: 6,
        hidden: 32,
        training: TrainConfig {
            steps: 500,
            batch: 128,
            learning_rate: 3e-3,
            weight_decay: 0.0,
            ..CinnTraining::default().training
        },
        ..CinnTraining::default()
    };
    let greybox = red()?.at("red")?;
    let codes = Codes::of(&Plain, &greybox, &dataset, Split::Train, 4000)?;
    let new = Codes::of(&Plain, &greybox, &dataset, Split::Test, 200)?;
    let (t, _) = how.fit("t", &codes, &store)?;
    let samples = Samples::draw(&t, &Plain, &new.z(), 16, &mut Rng::new(5))?;
    let originals = new.sample(&mut Rng::new(6))?;
    let given = samples.images().mean(3)?.mean(2)?;
    let share = |channel: usize| -> Result<f64> {
        let of = free_share(
            &given.narrow(1, channel, 1)?,
            &originals.narrow(1, channel, 1)?,
            16,
        )?;
        Ok(mean(&of))
    };
    let (red, green, blue) = (share(0)?, share(1)?, share(2)?);
    assert!(red < 0.1 && blue < 0.1, "red {red}, blue {blue}");
    assert!((0.75..1.25).contains(&green), "green {green}");
    // v of one picture with z of another: green of the first, red of the second.
    let (a, b) = (colours(60, 11)?, colours(60, 12)?);
    let mixed = mix(&t, &Plain, &greybox, &a, &b)?;
    let apart = |other: &Tensor, channel: usize| -> Result<f64> {
        let of = |x: &Tensor| x.narrow(1, channel, 1)?.flatten_from(1)?.mean(1);
        let apart = (of(&mixed)? - of(other)?)?.abs()?.mean_all()?;
        Ok(f64::from(apart.to_scalar::<f32>()?))
    };
    let (own_red, other_red) = (apart(&b, 0)?, apart(&a, 0)?);
    let (own_green, other_green) = (apart(&a, 1)?, apart(&b, 1)?);
    assert!(own_red < 0.1 && own_red < 0.2 * other_red, "{own_red}");
    assert!(
        own_green < 0.15 && own_green < 0.3 * other_green,
        "{own_green}"
    );
    says(
        mix(&t, &Plain, &greybox, &a.narrow(0, 0, 2)?, &b),
        "found 2 and 60",
    );
    // Another setting is another network; the same is taken up.
    let (_, again) = how.fit("t", &codes, &store)?;
    assert!(again.reused);
    Ok(())
}

/// [`colours`] as a world; the concepts are its channels.
#[derive(Clone)]
struct ColourWorld;

impl Dataset for ColourWorld {
    fn size(&self) -> usize {
        16
    }
    fn id(&self) -> String {
        "colours".into()
    }
    fn classes(&self) -> Vec<String> {
        vec![]
    }
    fn attributes(&self) -> Vec<Attribute> {
        vec![]
    }
    fn concepts(&self) -> Vec<String> {
        vec!["red".into(), "green".into()]
    }
    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        let seed = 1000 * (1 + split.name().len() as u64) + indices[0];
        self.of(colours(indices.len(), seed)?)
    }
    fn pairs(&self, _: Split, start: u64, count: usize, concept: &str) -> Result<(Batch, Batch)> {
        let (a, b) = (colours(count, 7 + start)?, colours(count, 70_000 + start)?);
        let of = |x: &Tensor, channel| x.narrow(1, channel, 1);
        let b = match concept {
            "red" => Tensor::cat(&[of(&a, 0)?, of(&b, 1)?, of(&a, 2)?], 1)?,
            _ => Tensor::cat(&[of(&b, 0)?, of(&a, 1)?, of(&b, 2)?], 1)?,
        };
        Ok((self.of(a)?, self.of(b)?))
    }
}

impl ColourWorld {
    fn of(&self, images: Tensor) -> Result<Batch> {
        let n = images.dim(0)?;
        Ok(Batch {
            images,
            labels: Tensor::zeros(n, DType::U32, &Device::Cpu)?,
            factors: Factors::new(),
        })
    }
}

/// z is the paper's colour and nothing else: it captures that factor of e, and not the digit nor the ink.
#[test]
fn captured_shares_where_the_answer_is_known() -> Result<()> {
    let store = folder()?;
    let store = Store::open(store.path());
    let digits = Digits::strokes(32, 0)?;
    let vae = DigitsNetworks::load(&digits, 0, &store)?.autoencoder;
    let how = FactorTraining {
        pairs: 3000,
        training: TrainConfig {
            steps: 400,
            ..FactorTraining::default().training
        },
        ..FactorTraining::default()
    };
    let concepts = ["digit", "foreground", "background"];
    let (semantics, _) = how.fit("e", &vae, &digits, &concepts, &store)?;
    assert_eq!(semantics.concepts, concepts);
    let corner = Custom::new("corner").layer("paper", |x: &Tensor| {
        x.narrow(2, 0, 2)?.narrow(3, 0, 2)?.flatten_from(2)?.mean(2)
    });
    let how_t = CinnTraining {
        flows: 8,
        training: TrainConfig {
            steps: 500,
            ..CinnTraining::default().training
        },
        ..CinnTraining::default()
    };
    let corner = corner.at("paper")?;
    let codes = Codes::of(&vae, &corner, &digits, Split::Train, 5000)?;
    let new = Codes::of(&vae, &corner, &digits, Split::Test, 150)?;
    let (t, _) = how_t.fit("t", &codes, &store)?;
    let captured = semantics.captured(&t, &new, 16, &mut Rng::new(5))?;
    let share = |name: &str| mean(&captured[name]);
    let (digit, foreground, background) =
        (share("digit"), share("foreground"), share("background"));
    println!("captured: digit {digit:.3}, ink {foreground:.3}, paper {background:.3}");
    assert!(background > 0.6, "paper {background}");
    assert!(
        digit < 0.25 && foreground < 0.25,
        "digit {digit}, ink {foreground}"
    );
    assert!(captured.contains_key("residual"));
    // With the paper's factor of another image, the paper is the other's and the ink is not.
    let (one, other) = (
        digits.batch(Split::Test, 0, 60)?,
        digits.batch(Split::Test, 500, 60)?,
    );
    let code = |batch: &Batch| -> Result<Tensor> { Ok(vae.encode(&batch.images)?.mode()) };
    let (a, b) = (code(&one)?, code(&other)?);
    let colours = |codes: &Tensor| measure_colours(&vae.decode(codes)?.clamp(-1f32, 1f32)?);
    let apart =
        |a: &Tensor, b: &Tensor| -> Result<f32> { Ok((a - b)?.sqr()?.mean_all()?.to_scalar()?) };
    let ((ink_a, paper_a), (ink_b, paper_b)) = (colours(&a)?, colours(&b)?);
    let (foreground, background) = colours(&semantics.swap(&a, &b, "background")?)?;
    assert!(apart(&background, &paper_b)? < 0.25 * apart(&background, &paper_a)?);
    assert!(apart(&foreground, &ink_a)? < 0.5 * apart(&foreground, &ink_b)?);
    for (share, end) in [(0.0, &a), (1.0, &b)] {
        let gap = (semantics.between(&a, &b, share)? - end)?
            .abs()?
            .max_all()?;
        assert!(gap.to_scalar::<f32>()? < 1e-2, "{share}");
    }
    says(
        semantics.swap(&a, &b, "backgroun").map(drop),
        "did you mean \"background\"",
    );
    says(
        semantics.between(&a, &b.narrow(0, 0, 3)?, 0.5).map(drop),
        "same shape",
    );
    let e = |concepts: &[&str]| how.fit("e", &vae, &digits, concepts, &store).map(drop);
    says(e(&[]), "digit, foreground");
    says(e(&["digit", "digit"]), "twice");
    Ok(())
}

/// The share of a judge's answers that is free is 0 where all samples of one z are one picture, and about 1 where they are any pictures.
#[test]
fn judged_shares_have_their_ends() -> Result<()> {
    let networks = CreaturesNetworks::load()?;
    let creatures = Creatures::new(64, 0)?.stylized();
    let images = creatures.batch(Split::Test, 0, 60)?.images;
    let each: Vec<u32> = (0..240).map(|i| i / 4).collect();
    let same = Samples::of(
        &images.index_select(&Tensor::new(each, &Device::Cpu)?, 0)?,
        4,
    )?;
    let any = Samples::of(&creatures.batch(Split::Validation, 0, 240)?.images, 4)?;
    let (fixed, free) = (
        same.free(&networks.independent, &images)?,
        any.free(&networks.independent, &images)?,
    );
    for question in ["shape", "texture", "facing"] {
        assert_eq!(mean(&fixed[question]), 0.0);
        let share = mean(&free[question]);
        assert!((0.85..1.15).contains(&share), "{question} {share}");
    }
    says(
        same.free(
            &networks.independent,
            &images.narrow(0, 0, 1)?.repeat((60, 1, 1, 1))?,
        ),
        "shape",
    );
    says(Samples::of(&images, 7), "7");
    // What the samples show, by hand: 240 copies of 60 images, four of each.
    let answers = networks.independent.names(&images)?;
    let wanted = &answers["texture"];
    assert_eq!(
        same.shows(&networks.independent, "texture", wanted)?,
        [1.0; 60]
    );
    let other: Vec<u32> = wanted.iter().map(|answer| (answer + 1) % 10).collect();
    assert_eq!(
        same.shows(&networks.independent, "texture", &other)?,
        [0.0; 60]
    );
    let seen = networks.independent.names(&any.images())?;
    let hits = (0..4).filter(|k| seen["shape"][4 * 7 + k] == answers["shape"][7]);
    let shares = any.shows(&networks.independent, "shape", &answers["shape"])?;
    assert_eq!(shares[7], hits.count() as f64 / 4.0);
    let few = any.select(&[7, 2])?;
    assert_eq!(few.per_image(), 4);
    assert_eq!(
        few.shows(
            &networks.independent,
            "shape",
            &[answers["shape"][7], answers["shape"][2]]
        )?,
        [shares[7], shares[2]]
    );
    says(any.select(&[60]), "60 originals");
    says(any.select(&[]), "found 0");
    says(any.shows(&networks.independent, "shpe", wanted), "shape");
    says(
        few.shows(&networks.independent, "shape", wanted),
        "each of 2 originals",
    );
    Ok(())
}

/// Descent finds an image of the z that it is given, the nearer the more steps; among several starts it keeps the best.
#[test]
fn descent_finds_an_image_with_that_z() -> Result<()> {
    let network = red()?;
    let grey = network.at("all")?;
    let z = grey.encode(&colours(5, 3)?)?;
    let how = Descent {
        steps: 150,
        starts: 1,
        norm: 0.0,
        variation: 0.01,
        ..Descent::default()
    };
    let found = how.invert(&grey, &z, 16, &mut Rng::new(1))?;
    assert!(found.error.iter().all(|e| *e < 1e-2), "{:?}", found.error);
    let again = how.invert(&grey, &z, 16, &mut Rng::new(1))?;
    assert_eq!(found.error, again.error);
    let few = Descent {
        steps: 5,
        ..how.clone()
    };
    let early = few.invert(&grey, &z, 16, &mut Rng::new(1))?;
    assert!(mean(&early.error) > 10.0 * mean(&found.error));
    // The same generator draws the first start and then more of them: the best cannot be worse than the first.
    let more = Descent {
        starts: 4,
        ..few.clone()
    };
    let best = more.invert(&grey, &z, 16, &mut Rng::new(1))?;
    assert!(best.error.iter().zip(&early.error).all(|(b, e)| b <= e));
    let measured = grey.encode(&best.images)?;
    let off = ((measured - &z)?.sqr()?.sum(1)? / z.sqr()?.sum(1)?)?.to_vec1::<f32>()?;
    for (a, b) in off.iter().zip(&best.error) {
        assert!((f64::from(*a) - b).abs() < 1e-5 * (1.0 + b));
    }
    says(
        Descent {
            starts: 0,
            ..how.clone()
        }
        .invert(&grey, &z, 16, &mut Rng::new(1)),
        "one start",
    );
    let wild = Descent {
        learning_rate: f64::NAN,
        ..how
    };
    says(
        wild.invert(&grey, &z, 16, &mut Rng::new(1)),
        "learning_rate",
    );
    Ok(())
}

/// Regression trains the decoder and what is before it, starts at D, and reports its terms.
#[test]
fn regression_learns_from_where_d_is() -> Result<()> {
    let store = folder()?;
    let store = Store::open(store.path());
    let digits = Digits::strokes(32, 0)?;
    let networks = DigitsNetworks::load(&digits, 0, &store)?;
    let network = networks.classifier.frozen()?;
    let (fire4, pool) = (network.at("fire4")?, network.at("pool")?);
    let of =
        |greybox: &Greybox| Codes::of(&networks.autoencoder, greybox, &digits, Split::Train, 600);
    let (codes_fire4, codes_pool) = (of(&fire4)?, of(&pool)?);
    let how = Regression {
        start_steps: 0,
        comparator: "fire3".into(),
        training: TrainConfig {
            steps: 40,
            batch: 8,
            learning_rate: 2e-3,
            ..Regression::default().training
        },
        ..Regression::default()
    };
    let before = networks
        .autoencoder
        .reconstruct(&digits.batch(Split::Test, 0, 4)?.images)?;
    let (inverter, trained) = how.fit(
        "db",
        &fire4,
        &codes_fire4,
        &digits,
        &networks.autoencoder,
        &store,
    )?;
    for term in ["feature", "adversary", "adversary_weight"] {
        assert!(trained.log.column(term).is_ok(), "{term}");
    }
    let x = digits.batch(Split::Test, 0, 4)?.images;
    let z = fire4.encode(&x)?;
    assert_eq!(inverter.invert(&z)?.dims(), x.dims());
    let first = Regression {
        training: TrainConfig {
            steps: 1,
            ..how.training.clone()
        },
        ..how.clone()
    };
    let (barely, _) = first.fit(
        "db",
        &fire4,
        &codes_fire4,
        &digits,
        &networks.autoencoder,
        &store,
    )?;
    let off = |inverter: &Inverter| -> Result<f32> {
        Ok((inverter.invert(&z)? - &x)?
            .sqr()?
            .mean_all()?
            .to_scalar::<f32>()?)
    };
    let (early, late) = (off(&barely)?, off(&inverter)?);
    assert!(late < 0.7 * early, "{early} {late}");
    // D itself is as it was.
    let after = networks.autoencoder.reconstruct(&x)?;
    assert_eq!(
        before.flatten_all()?.to_vec1::<f32>()?,
        after.flatten_all()?.to_vec1::<f32>()?
    );
    let (again, reused) = how.fit(
        "db",
        &fire4,
        &codes_fire4,
        &digits,
        &networks.autoencoder,
        &store,
    )?;
    assert!(reused.reused);
    assert_eq!(
        again.invert(&z)?.flatten_all()?.to_vec1::<f32>()?,
        inverter.invert(&z)?.flatten_all()?.to_vec1::<f32>()?
    );
    // With a start from the mean codes, few steps on images are enough.
    let started = Regression {
        start_steps: 150,
        ..first.clone()
    };
    let (started, _) = started.fit(
        "db",
        &fire4,
        &codes_fire4,
        &digits,
        &networks.autoencoder,
        &store,
    )?;
    assert!(off(&started)? < 0.7 * early);
    let plain = Regression {
        adversary: 0.0,
        feature: 0.0,
        training: short(2),
        ..how.clone()
    };
    let (_, trained) = plain.fit(
        "db",
        &pool,
        &codes_pool,
        &digits,
        &networks.autoencoder,
        &store,
    )?;
    assert!(trained.log.column("adversary").is_err());
    let wrong = Regression {
        comparator: "conv9".into(),
        ..plain
    };
    says(
        wrong.fit(
            "db",
            &pool,
            &codes_pool,
            &digits,
            &networks.autoencoder,
            &store,
        ),
        "conv1",
    );
    Ok(())
}

/// The weights of a comparator after the layer are not part of z: with other weights there, the
/// decoder is trained anew. A comparator up to the layer is part of z.
#[test]
fn a_regression_knows_its_comparator() -> Result<()> {
    let store = folder()?;
    let store = Store::open(store.path());
    let digits = Digits::strokes(32, 0)?;
    let autoencoder = DigitsNetworks::load(&digits, 0, &store)?.autoencoder;
    let fit = |factor: f64, comparator: &str| -> Result<bool> {
        let network = Custom::new("mine")
            .layer("mean", |x: &Tensor| x.flatten_from(2)?.mean(2))
            .layer("square", move |x: &Tensor| x.sqr()? * factor)
            .trust_gradients();
        let mean = network.at("mean")?;
        let codes = Codes::of(&autoencoder, &mean, &digits, Split::Train, 32)?;
        let how = Regression {
            start_steps: 0,
            comparator: comparator.into(),
            training: short(1),
            ..Regression::default()
        };
        let (_, trained) = how.fit("db", &mean, &codes, &digits, &autoencoder, &store)?;
        Ok(trained.reused)
    };
    assert!(!fit(1.0, "square")? && fit(1.0, "square")?);
    assert!(!fit(2.0, "square")?);
    assert!(!fit(1.0, "mean")? && fit(2.0, "mean")?);
    Ok(())
}

/// The method tells apart what is known to differ: an untrained network, one that was trained to name the digit and one that was trained to name
/// the paper's colour.
#[test]
fn networks_that_differ_get_different_answers() -> Result<()> {
    let store = folder()?;
    let store = Store::open(store.path());
    let digits = Digits::strokes(32, 0)?;
    let shipped = DigitsNetworks::load(&digits, 0, &store)?;
    // The strongest channel of the paper, as a class.
    let colour = |batch: &Batch| -> Result<Tensor> {
        let strongest = batch.factors.background().into_iter().map(|c| {
            let most = (0..3).max_by(|a, b| c[*a].total_cmp(&c[*b]));
            most.unwrap_or(0) as u32
        });
        Ok(Tensor::new(strongest.collect::<Vec<u32>>(), &Device::Cpu)?)
    };
    let mut free = Vec::new();
    for task in ["nothing", "digit", "colour"] {
        let params = Params::new(5);
        let network = squeezenet_small(10, &params.root())?;
        if task != "nothing" {
            let config = TrainConfig {
                steps: 400,
                batch: 48,
                learning_rate: 2e-3,
                betas: (0.9, 0.99),
                ..TrainConfig::default()
            };
            Trainer::new(config).quiet().fit(&params, |n, _| {
                let batch = digits.batch(Split::Train, (n - 1) * 48, 48)?;
                let labels = match task {
                    "digit" => batch.labels.clone(),
                    _ => colour(&batch)?,
                };
                let logits = network.forward(&batch.images)?;
                Ok(Step::new(candle_nn::loss::cross_entropy(&logits, &labels)?))
            })?;
        }
        let how = CinnTraining {
            flows: 8,
            hidden: 96,
            training: TrainConfig {
                steps: 350,
                ..CinnTraining::default().training
            },
            ..CinnTraining::default()
        };
        let vae = &shipped.autoencoder;
        // The logits: what the network was asked for, and no more.
        let fc = network.at("fc")?;
        let codes = Codes::of(vae, &fc, &digits, Split::Train, 4000)?;
        let (t, _) = how.fit("t", &codes, &store)?;
        let batch = digits.batch(Split::Test, 0, 100)?;
        let z = fc.encode(&batch.images)?;
        let samples = Samples::draw(&t, vae, &z, 8, &mut Rng::new(1))?;
        let (_, background) = measure_colours(&vae.reconstruct(&batch.images)?)?;
        let (_, of_samples) = measure_colours(&samples.images())?;
        let digit = mean(&samples.keep_class(&shipped.independent, &batch.labels)?);
        let background = mean(&free_share(&of_samples, &background, 8)?);
        println!("trained on {task}: digit kept {digit:.3}, paper free {background:.3}");
        free.push((digit, background));
    }
    let [(d0, p0), (d1, p1), (d2, p2)] = free[..] else {
        panic!("three networks")
    };
    // The digit is kept by the network that names it, and by no other.
    assert!(d1 > 2.0 * d0 && d1 > 2.0 * d2, "digit {d0} {d1} {d2}");
    // Colour is freest in the one that names digits; naming colours and not having learned both keep it.
    assert!(p1 > 1.5 * p0 && p1 > 1.5 * p2, "paper {p0} {p1} {p2}");
    Ok(())
}

/// What a snapshot holds is what a shorter training of the same settings ends with, also where the training was interrupted.
#[test]
fn a_snapshot_is_the_training_up_to_there() -> Result<()> {
    let place = folder()?;
    let store = Store::open(place.path());
    let train =
        |steps: u64, at: &[u64], fail_at: Option<u64>, name: &str| -> Result<(Slot, Params)> {
            let params = Params::new(3);
            let w = params.root().get((4, 4), "w", Init::FanIn)?;
            let config = TrainConfig {
                steps,
                learning_rate: 0.05,
                checkpoint_seconds: 0.0,
                ..TrainConfig::default()
            };
            let slot = store.slot(name, &(&config, at))?;
            let done = Trainer::new(config).quiet().snapshots(at.to_vec()).fit_in(
                &slot,
                &params,
                |n, rng| {
                    if fail_at == Some(n) {
                        return Err(Error::invalid("stopped"));
                    }
                    std::thread::sleep(std::time::Duration::from_millis(15));
                    let x = rng.normal((8, 4), w.device())?;
                    Ok(Step::new((x.matmul(&w)? - 1.0)?.sqr()?.mean_all()?))
                },
            );
            match (done, fail_at) {
                (Err(e), None) => Err(e),
                _ => Ok((slot, params)),
            }
        };
    let read = |params: &Params| params.digest();
    let (_, ten) = train(10, &[], None, "ten")?;
    let (_, start) = train(1, &[], Some(1), "start")?;
    let at = [0, 10, 20, 40];
    train(40, &at, Some(25), "long")?;
    let (slot, params) = train(40, &at, None, "long")?;
    let end = read(&params)?;
    for (step, expected) in [(0, read(&start)?), (10, read(&ten)?), (40, end)] {
        slot.load_snapshot(step, &params)?;
        assert_eq!(read(&params)?, expected, "after {step}");
    }
    says(slot.load_snapshot(11, &params), "00000011");
    says(train(5, &[6], None, "late"), "at most 5");
    let config = TrainConfig {
        steps: 1,
        ..TrainConfig::default()
    };
    let w = Params::new(0);
    let x = w.root().get(1, "x", Init::Const(1.0))?;
    let without = Trainer::new(config)
        .snapshots([1])
        .fit(&w, |_, _| Ok(Step::new(x.sqr()?.sum_all()?)));
    says(without, "fit_in");
    Ok(())
}

/// Pictures of two classes in a folder: a bright square on the left or on the right.
fn pictures(folder: &std::path::Path) -> Result<Images> {
    for n in 0..30u32 {
        let place = folder.join(["left", "right"][n as usize % 2]);
        std::fs::create_dir_all(&place).map_err(|e| Error::io(&place, e))?;
        let from = 8 + 24 * (n % 2) + n % 5;
        let bytes: Vec<u8> = (0..64 * 64u32)
            .flat_map(|i| {
                let inside = (from..from + 16).contains(&(i % 64)) && (20..40).contains(&(i / 64));
                [if inside { 250 } else { 30 }, (n * 8) as u8, (i % 64) as u8]
            })
            .collect();
        let path = place.join(format!("{n}.png"));
        image::save_buffer(&path, &bytes, 64, 64, image::ExtendedColorType::Rgb8)
            .map_err(|e| Error::content(&path, e.to_string()))?;
    }
    Images::folder(folder)
}

/// What Figure 2 is asked of can be a user's photographs: E and D, a network and a judge are trained, and every question can be put to them.
#[test]
fn figure_two_can_be_asked_of_photographs() -> Result<()> {
    let home = folder()?;
    let images = pictures(&home.path().join("images"))?;
    let store = Store::open(home.path().join("store"));
    let subject = Subject::photographs(&images, 8, &store)?;
    assert_eq!(subject.name, "photographs");
    assert_eq!(subject.held_out(300), 3);
    assert_eq!(subject.held_out(2), 2);
    let x = subject.dataset.batch(Split::Test, 0, 3)?.images;
    let fc6 = subject.network.at("fc6")?;
    let codes = Codes::of(
        &subject.autoencoder,
        &fc6,
        &subject.dataset,
        Split::Train,
        16,
    )?;
    let how = MatchingTraining {
        blocks: 1,
        training: short(2),
        ..MatchingTraining::default()
    };
    let t = subject.t(&fc6, &codes, &how, &store)?;
    assert_eq!(t.dim(), Some(codes.code()));
    let (z, code) = (fc6.encode(&x)?, subject.autoencoder.codes_of(&x)?);
    let again = subject.t(&fc6, &codes, &how, &store)?;
    let difference = (t.latent(&code, Some(&z))? - again.latent(&code, Some(&z))?)?;
    assert_eq!(scalar(&difference.abs()?.max_all()?)?, 0.0);
    let config = MatchingTraining {
        hidden: Some(40),
        solver_steps: Some(9),
        ..how.clone()
    }
    .config(&codes);
    assert_eq!((config.hidden, config.blocks, config.steps), (40, 1, 9));
    // The solver takes as many steps as exact round trips need, unless their number is given.
    let sharp = MatchingTraining {
        training: TrainConfig {
            learning_rate: 2e-2,
            ..short(80)
        },
        ..how
    };
    let coarse = MatchingTraining {
        solver_steps: Some(1),
        ..sharp.clone()
    };
    let coarse = coarse.fit("photographs-coarse", &codes, &store)?.0;
    let sharp = sharp.fit("photographs-sharp", &codes, &store)?.0;
    let (coarse, sharp) = (
        coarse.round_trip_error(&code, &z)?,
        sharp.round_trip_error(&code, &z)?,
    );
    assert!(
        coarse > 0.01 && sharp < 0.01,
        "{coarse} with one step, {sharp}"
    );
    let paper = CinnTraining {
        flows: 2,
        training: short(2),
        ..CinnTraining::default()
    };
    let paper = subject.t(&fc6, &codes, &paper, &store)?;
    assert!(paper.outline().to_string().starts_with("Cinn"));
    let z = fc6.encode(&x)?;
    let samples = Samples::draw(&t, &subject.autoencoder, &z, 2, &mut Rng::new(0))?;
    let fid = subject.fid(&x)?;
    assert!(fid.of(&samples.images())? > fid.of(&x)?);
    assert!(fid.name().contains("in units of its variance"), "{fid:?}");
    let regression = Regression {
        start_steps: 1,
        training: short(1),
        ..Regression::default()
    };
    let (inverter, _) = regression.fit(
        "photographs-db",
        &fc6,
        &codes,
        &subject.dataset,
        &*subject.autoencoder,
        &store,
    )?;
    assert_eq!(inverter.invert(&z)?.dims(), x.dims());
    // The same again is taken from the store: the same weights, so the same answer.
    let again = Subject::photographs(&images, 8, &store)?;
    assert_eq!(subject.weights, again.weights);
    assert!(!subject.weights.is_empty());
    Ok(())
}

/// One class is nothing to tell apart, and the published networks are said to be missing by the one that is.
#[test]
fn what_figure_two_cannot_be_asked_of_is_said() -> Result<()> {
    let home = folder()?;
    let images = pictures(&home.path().join("images"))?;
    let store = Store::open(home.path().join("store"));
    let one = images.of_class("left")?;
    says(
        Subject::photographs(&one, 1, &store),
        "at least two classes",
    );
    let hub = Hub::open()?
        .with_cache(home.path().join("hub"))?
        .with_offline(true);
    let sources = invariances::notebook::Sources::authors()?;
    says(
        Subject::published(&images, &sources, &hub),
        "timm/resnet50.tv_in1k",
    );
    Ok(())
}

/// The Fréchet distance of images is that of their features, whatever it is measured in.
#[test]
fn naturalness_is_the_distance_of_features() -> Result<()> {
    let eye = plain_small(10, &Params::new(0).root())?;
    let digits = Digits::strokes(32, 0)?;
    let (a, b) = (
        digits.batch(Split::Test, 0, 200)?.images,
        digits.batch(Split::Validation, 0, 150)?.images,
    );
    let pool = eye.at("pool")?;
    let features = |x: &Tensor| pool.features(x);
    let expected = frechet_distance(&features(&a)?, &features(&b)?)?;
    let fid = Fid::new(&pool, &a)?;
    assert!((fid.of(&b)? - expected).abs() <= 1e-9 * expected);
    let variance = f64::from(features(&a)?.var(0)?.sum_all()?.to_scalar::<f32>()?);
    let in_units = fid.in_units()?.of(&b)?;
    assert!((in_units - expected / variance).abs() <= 1e-9 * in_units);
    says(Fid::new(&pool, &a.narrow(0, 0, 1)?), "at least two");
    let same = a.narrow(0, 0, 1)?.repeat((3, 1, 1, 1))?;
    says(Fid::new(&pool, &same)?.in_units(), "no variance");
    says(eye.at("poll"), "pool");
    Ok(())
}

/// Where the gradient is known, so is the attack; several steps stay within epsilon and end no worse than one.
#[test]
fn attacks_are_what_they_are_called() -> Result<()> {
    // f(x) = (w·x, 0) with w = ±1: the loss of class 0 falls with w·x, so the attack goes against w everywhere.
    let w = Rng::new(0)
        .uniform(-1.0, 1.0, (48,), &Device::Cpu)?
        .sign()?;
    let weights = Tensor::stack(&[w.clone(), w.zeros_like()?], 1)?;
    let linear = Custom::new("linear").layer("sum", {
        let weights = weights.clone();
        move |x: &Tensor| x.flatten_from(1)?.matmul(&weights)
    });
    let x = Rng::new(1).uniform(-0.5, 0.5, (3, 3, 4, 4), &Device::Cpu)?;
    let labels = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
    let attacked = Attack::fgsm(0.1).against(&linear, &x, &labels, &mut Rng::new(2))?;
    let expected = (w.reshape((1, 3, 4, 4))?.broadcast_as(x.shape())? * -0.1)?;
    let apart = (attacked.perturbation()? - &expected)?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?;
    assert!(apart < 1e-6, "{apart}");
    let again = Attack::pgd(0.1, 10).against(&linear, &x, &labels, &mut Rng::new(2))?;
    let apart = (again.perturbation()? - &expected)?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?;
    assert!(apart < 1e-6, "{apart}");
    // Where it is named rightly and barely so, the attack tips it; noise of the same size mostly does not.
    let barely = (w.reshape((1, 3, 4, 4))?.broadcast_as(x.shape())? * 0.05)?;
    let tipped = Attack::fgsm(0.1).against(&linear, &barely, &labels, &mut Rng::new(2))?;
    assert_eq!(tipped.succeeded(&linear, &labels)?, [1.0; 3]);
    let noisy = Attack::fgsm(0.1).noise(&barely, &mut Rng::new(3))?;
    assert_eq!(noisy.succeeded(&linear, &labels)?, [0.0; 3]);
    let size = noisy.perturbation()?.abs()?;
    assert!((size.min_all()?.to_scalar::<f32>()? - 0.1).abs() < 1e-6);
    // Nothing leaves the range of images, and what is named wrongly already does not count.
    let edge = Tensor::ones((2, 3, 4, 4), DType::F32, &Device::Cpu)?;
    let both = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let held = Attack::pgd(0.5, 3).against(&linear, &edge, &both, &mut Rng::new(4))?;
    assert!(held.images.abs()?.max_all()?.to_scalar::<f32>()? <= 1.0);
    assert_eq!(held.succeeded(&linear, &both)?.len(), 1);
    // Whom it fools: rightly named at first, wrongly then.
    assert_eq!(tipped.fooled(&linear, &labels)?, [0, 1, 2]);
    assert!(noisy.fooled(&linear, &labels)?.is_empty());
    let mixed = Tensor::new(&[0u32, 1, 0], &Device::Cpu)?;
    assert_eq!(tipped.fooled(&linear, &mixed)?, [0, 2]);
    // Spread: nothing changed is 0; changed into the next image it is that distance over the mean one.
    let network = squeezenet_small(10, &Params::new(1).root())?.frozen()?;
    let images = Digits::strokes(32, 0)?.batch(Split::Test, 0, 4)?.images;
    let same = Attacked {
        originals: images.clone(),
        images: images.clone(),
    };
    assert_eq!(same.spread(&[network.at("pool")?])?[0], [0.0; 4]);
    let turned = Tensor::cat(&[images.narrow(0, 1, 3)?, images.narrow(0, 0, 1)?], 0)?;
    let moved = Attacked {
        originals: images,
        images: turned,
    };
    let spread = moved.spread(&network.at_each(&["conv1", "pool"])?)?;
    assert!(
        spread.iter().all(|s| (mean(s) - 1.0).abs() < 1e-5),
        "{spread:?}"
    );
    says(
        Attack::fgsm(f64::NAN).noise(&x, &mut Rng::new(0)),
        "epsilon",
    );
    says(
        Attack::pgd(0.1, 0).against(&linear, &x, &labels, &mut Rng::new(0)),
        "one step",
    );
    says(
        Attack::fgsm(0.1).against(&linear, &x, &both, &mut Rng::new(0)),
        "one for each image",
    );
    Ok(())
}

/// Ways and answers, where they can be counted by hand.
#[test]
fn ways_and_answers_are_counted() -> Result<()> {
    // A square that brightens by 0.5, then by 0.1: the root of the mean of 0.25 and 0.01.
    let frame = |value: f64| -> Result<Tensor> {
        Ok((Tensor::ones((1, 3, 4, 4), DType::F32, &Device::Cpu)? * value)?)
    };
    let film = Tensor::cat(&[frame(0.0)?, frame(0.5)?, frame(0.6)?], 0)?;
    assert!((frame_step(&film)? - 0.13f64.sqrt()).abs() < 1e-6);
    says(frame_step(&frame(0.0)?), "found 1");
    // A way of steps 3, 4 and 5 along a corner, and one that stays.
    let at = |x: f32, y: f32| Tensor::new(&[[x, y], [7.0, 7.0]], &Device::Cpu);
    let way = [at(0.0, 0.0)?, at(3.0, 0.0)?, at(3.0, 4.0)?, at(0.0, 0.0)?];
    let uneven = unevenness(&way)?;
    assert!((uneven[0] - 1.25).abs() < 1e-6 && uneven[1] == 1.0);
    says(unevenness(&way[..1]), "found 1");
    assert_eq!(same_answers(&[1, 2, 3], &[1, 3, 3])?, [1.0, 0.0, 1.0]);
    assert_eq!(
        taken_over(&[1, 1, 1, 4], &[1, 2, 2, 2], &[9, 2, 1, 3])?,
        [1.0, 0.0, 0.0]
    );
    says(taken_over(&[1], &[1, 2], &[1]), "[1, 2, 1]");
    let x = Tensor::new(&[[3f32, 4.0], [1.0, 0.0]], &Device::Cpu)?;
    let y = Tensor::new(&[[4f32, 3.0], [-2.0, 0.0]], &Device::Cpu)?;
    let found = cosines(&x, &y)?;
    assert!((found[0] - 0.96).abs() < 1e-6 && (found[1] + 1.0).abs() < 1e-6);
    says(cosines(&x, &y.narrow(0, 0, 1)?), "the same shape");
    Ok(())
}

/// Where there is no film, a way through three images: it begins at the first and is where it should be at a third of the way.
#[test]
fn a_way_through_images_is_a_film() -> Result<()> {
    let subject = Subject::creatures()?;
    let film = subject.wander(6)?;
    let images = subject.dataset.batch(Split::Test, 0, 3)?.images;
    let shown = subject.autoencoder.reconstruct(&images)?;
    for (frame, image) in [(0, 0), (2, 1), (4, 2)] {
        let apart = (film.narrow(0, frame, 1)? - shown.narrow(0, image, 1)?)?;
        assert!(apart.abs()?.max_all()?.to_scalar::<f32>()? < 1e-4);
    }
    says(subject.wander(0), "found 0");
    Ok(())
}
