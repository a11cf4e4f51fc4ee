//! Training: Adam by its formula, checkpoints that survive a kill, what is kept and what is refused.

use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::ops::{Init, Params, Rng};
use invariances::polars::prelude::{DataFrame, ParquetReader, SerReader};
use invariances::train::{
    Adam, Card, Decay, Slot, Step, Store, TrainConfig, Trained, Trainer, pretrained,
};
use invariances::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const NEWEST: &str = "checkpoint.safetensors";
const BEFORE: &str = "checkpoint-before.safetensors";
/// What a test tells the copy of this program that it starts.
const ROLE: &str = "INVARIANCES_TEST_ROLE";
const PLACE: &str = "INVARIANCES_TEST_PLACE";

/// A small network that learns sin(3x), with a buffer that no gradient changes.
struct Net {
    params: Params,
    weights: Vec<Var>,
}

impl Net {
    fn new() -> Result<Self> {
        let params = Params::new(5);
        let root = params.root();
        root.buffer(3, "kept", Init::Normal(1.0))?;
        let weights = vec![
            root.get((16, 1), "a", Init::He)?,
            root.get(16, "b", Init::Normal(0.5))?,
            root.get((1, 16), "c", Init::FanIn)?,
        ];
        Ok(Self { params, weights })
    }

    fn step(&self, rng: &mut Rng) -> Result<Step> {
        let x = rng.uniform(-1.0, 1.0, (8, 1), &Device::Cpu)?;
        let hidden = x.matmul(&self.weights[0].t()?)?;
        let hidden = hidden.broadcast_add(&self.weights[1])?.tanh()?;
        let y = hidden.matmul(&self.weights[2].t()?)?;
        let loss = (y - x.affine(3.0, 0.0)?.sin()?)?.sqr()?.mean_all()?;
        Ok(Step::new(loss.clone()).with("root", scalar(&loss)?.sqrt()))
    }

    /// Every bit of every parameter and buffer.
    fn bits(&self) -> Result<Vec<(String, Vec<u32>)>> {
        let mut all = Vec::new();
        for (name, tensor) in self.params.tensors() {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            all.push((name, values.iter().map(|v| v.to_bits()).collect()));
        }
        all.sort();
        Ok(all)
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar()?)
}

fn config(steps: u64, ema: Option<f64>) -> TrainConfig {
    TrainConfig {
        steps,
        learning_rate: 5e-3,
        decay: Decay::Cosine { floor: 0.1 },
        warm_up: 20,
        clip: Some(1.0),
        weight_decay: 0.01,
        ema,
        seed: 3,
        checkpoint_seconds: 0.1,
        ..Default::default()
    }
}

fn trainer(config: &TrainConfig) -> Trainer {
    Trainer::new(config.clone()).quiet()
}

fn slot(folder: &Path, config: &TrainConfig) -> Result<Slot> {
    Store::open(folder).slot("net", &("sin(3x)", config))
}

fn temporary() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))
}

/// What a training without any interruption ends with.
fn uninterrupted(config: &TrainConfig) -> Result<(Net, Trained)> {
    let net = Net::new()?;
    let trained = trainer(config).fit(&net.params, |_, rng| net.step(rng))?;
    Ok((net, trained))
}

/// Trains slowly until step `end`, where it fails with an error of its own; so too at half the way, and each time
/// at least one checkpoint is written, however slow the disk is.
fn fail_at(end: u64, slot: &Slot, config: &TrainConfig) -> Result<Net> {
    let net = Net::new()?;
    for end in [end / 2, end] {
        let error = trainer(config)
            .fit_in(slot, &net.params, |n, rng| {
                if n == end {
                    return Err(Error::invalid("enough"));
                }
                std::thread::sleep(Duration::from_millis(1));
                net.step(rng)
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "enough");
    }
    Ok(net)
}

fn finish(slot: &Slot, config: &TrainConfig) -> Result<(Net, Trained)> {
    let net = Net::new()?;
    let trained = trainer(config).fit_in(slot, &net.params, |_, rng| net.step(rng))?;
    Ok((net, trained))
}

/// A log without the column that tells the time.
fn without_time(log: &DataFrame) -> DataFrame {
    log.drop("seconds").unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn step_of(checkpoint: &Path) -> u64 {
    let bytes = std::fs::read(checkpoint).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["step"].parse().unwrap()
}

fn assert_content(error: &Error, path: &Path, says: &str) {
    let text = error.to_string();
    assert!(matches!(error, Error::Content { .. }), "{text}");
    assert!(text.contains(&*path.to_string_lossy()), "{text}");
    assert!(text.contains(says), "{text}");
}

// ---- Adam

/// One number's way by the formulas of Kingma, Ba and of Loshchilov, Hutter, as PyTorch writes them.
#[derive(Default)]
struct Reference {
    m: f64,
    v: f64,
    t: i32,
}

impl Reference {
    fn step(&mut self, p: f64, g: f64, lr: f64, betas: (f64, f64), eps: f64, decay: f64) -> f64 {
        self.t += 1;
        self.m = betas.0 * self.m + (1.0 - betas.0) * g;
        self.v = betas.1 * self.v + (1.0 - betas.1) * g * g;
        let m = self.m / (1.0 - betas.0.powi(self.t));
        let v = self.v / (1.0 - betas.1.powi(self.t));
        p - lr * decay * p - lr * m / (v.sqrt() + eps)
    }
}

#[test]
fn adam_takes_the_steps_of_its_formula() -> Result<()> {
    // Σ c x⁴ / 4 has the gradient c x³.
    let start = [1.5, -0.7, 0.03, 4.0];
    let factors = [1.0, -2.0, 50.0, 1e-3];
    for (dtype, tolerance) in [
        (DType::F64, 1e-14),
        (DType::F32, 2e-6),
        // Numbers of 8 bits, by candle's own operations: a few roundings at each of the steps.
        (DType::BF16, 0.05),
    ] {
        for (betas, eps, decay) in [((0.5, 0.9), 1e-8, 0.0), ((0.9, 0.999), 1e-6, 0.1)] {
            let x = Var::from_tensor(&Tensor::new(&start, &Device::Cpu)?.to_dtype(dtype)?)?;
            let c = Tensor::new(&factors, &Device::Cpu)?.to_dtype(dtype)?;
            let mut adam = Adam::named(vec![("x".into(), x.clone())])?
                .betas(betas.0, betas.1)
                .eps(eps)
                .weight_decay(decay);
            let mut expected = start;
            let mut references: [Reference; 4] = Default::default();
            for n in 1..=6 {
                let lr = 0.02 * f64::from(n);
                let loss = ((x.sqr()?.sqr()? * &c)? / 4.0)?.sum_all()?;
                adam.step_at(&loss.backward()?, lr)?;
                for ((p, r), c) in expected.iter_mut().zip(&mut references).zip(factors) {
                    *p = r.step(*p, c * p.powi(3), lr, betas, eps, decay);
                }
                let found = x.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                for (f, e) in found.iter().zip(expected) {
                    let off = (f - e).abs();
                    let most = tolerance * e.abs().max(1.0);
                    assert!(off <= most, "{dtype:?} step {n}: {found:?}, {expected:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_first_step_of_adam_by_hand() -> Result<()> {
    let x = Var::new(&[1f64, 2.0], &Device::Cpu)?;
    let mut adam = Adam::named(vec![("x".into(), x.clone())])?.eps(0.0);
    // Corrected means of one gradient are the gradient: the step is its sign times the learning rate.
    let g = Tensor::new(&[3f64, -0.001], &Device::Cpu)?;
    adam.step_at(&(x.as_tensor() * &g)?.sum_all()?.backward()?, 0.25)?;
    assert_eq!(x.to_vec1::<f64>()?, [0.75, 2.25]);
    // Then −3 with betas (0.5, 0.9): m = 0.5·1.5 − 1.5 = −0.75 over 0.75, v = 0.9·0.9 + 0.9 = 1.71 over 0.19.
    let g = Tensor::new(&[-3f64, 0.0], &Device::Cpu)?;
    adam.step_at(&(x.as_tensor() * &g)?.sum_all()?.backward()?, 0.25)?;
    let expected = 0.75 + 0.25 * 1.0 / (1.71f64 / 0.19).sqrt();
    let found = x.to_vec1::<f64>()?[0];
    assert!((found - expected).abs() < 1e-15, "{found}, {expected}");
    Ok(())
}

#[test]
fn clipping_shortens_all_gradients_together() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        // Gradients 3 and 4 in two tensors, of norm 5, become 0.6 and 0.8 of the limit.
        let x = Var::from_tensor(&Tensor::new(&[0f64], &Device::Cpu)?.to_dtype(dtype)?)?;
        let y = Var::from_tensor(&Tensor::new(&[0f64], &Device::Cpu)?.to_dtype(dtype)?)?;
        let parameters = vec![("x".to_string(), x.clone()), ("y".to_string(), y.clone())];
        let mut adam = Adam::named(parameters)?.clip(Some(0.1));
        let loss = (x.affine(3.0, 0.0)? + y.affine(4.0, 0.0)?)?.sum_all()?;
        adam.step_at(&loss.backward()?, 1e-3)?;
        let state: HashMap<_, _> = adam.state()?.into_iter().collect();
        for (name, expected) in [("adam.m/x", 0.5 * 0.06), ("adam.m/y", 0.5 * 0.08)] {
            let found = scalar(&state[name].get(0)?)?;
            assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
        }
        // A short gradient stays, and one that is not a number changes nothing.
        let before = x.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let bad = (x.affine(f64::NAN, 0.0)? + y.as_tensor())?.sum_all()?;
        let error = adam.step_at(&bad.backward()?, 1e-3).unwrap_err();
        assert!(matches!(error, Error::Diverged(_)), "{error}");
        assert_eq!(x.to_dtype(DType::F64)?.to_vec1::<f64>()?, before);
        let mut free = Adam::named(vec![("x".into(), x.clone())])?.clip(Some(10.0));
        free.step_at(&x.affine(3.0, 0.0)?.sum_all()?.backward()?, 1e-3)?;
        let state: HashMap<_, _> = free.state()?.into_iter().collect();
        assert_eq!(scalar(&state["adam.m/x"].get(0)?)?, 1.5);
    }
    Ok(())
}

#[test]
fn adam_names_what_no_gradient_reaches_and_leaves_it() -> Result<()> {
    let used = Var::new(&[1f32], &Device::Cpu)?;
    let unused = Var::new(&[1f32], &Device::Cpu)?;
    let parameters = vec![
        ("used".to_string(), used.clone()),
        ("unused".to_string(), unused.clone()),
    ];
    let mut adam = Adam::named(parameters)?.weight_decay(0.5);
    adam.step_at(&used.sqr()?.sum_all()?.backward()?, 0.1)?;
    assert_eq!(adam.without_gradient(), ["unused"]);
    assert_eq!(unused.to_vec1::<f32>()?, [1.0]);
    let whole = Var::new(&[1u32], &Device::Cpu)?;
    let error = Adam::named(vec![("labels".into(), whole)]).unwrap_err();
    assert!(error.to_string().contains("labels"), "{error}");
    Ok(())
}

#[test]
fn the_number_of_threads_changes_no_bit() -> Result<()> {
    let run = |threads: usize| -> Result<Vec<u32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut rng = Rng::new(1);
            // Above and below the size at which a tensor is cut in pieces.
            let vars: Vec<(String, Var)> = [40_001, 7, 16_384, 16_385]
                .iter()
                .map(|n| {
                    let start = rng.normal(*n, &Device::Cpu)?;
                    Ok((format!("{n}"), Var::from_tensor(&start)?))
                })
                .collect::<Result<_>>()?;
            let mut adam = Adam::named(vars.clone())?.clip(Some(0.5)).weight_decay(0.1);
            for _ in 0..4 {
                let mut loss = Tensor::new(0f32, &Device::Cpu)?;
                for (_, v) in &vars {
                    loss = (loss + v.sqr()?.sqr()?.mean_all()?)?;
                }
                adam.step_at(&loss.backward()?, 0.01)?;
            }
            let mut bits = Vec::new();
            for (_, v) in &vars {
                bits.extend(v.to_vec1::<f32>()?.iter().map(|x| x.to_bits()));
            }
            Ok(bits)
        })
    };
    let one = run(1)?;
    assert!(one == run(2)?);
    assert!(one == run(5)?);
    Ok(())
}

#[test]
fn the_state_of_adam_goes_on_where_it_was() -> Result<()> {
    let step = |adam: &mut Adam, x: &Var| -> Result<()> {
        adam.step_at(&x.sqr()?.sqr()?.sum_all()?.backward()?, 0.05)
    };
    let x = Var::new(&[1f32, -2.0], &Device::Cpu)?;
    let mut adam = Adam::named(vec![("x".into(), x.clone())])?;
    for _ in 0..3 {
        step(&mut adam, &x)?;
    }
    let y = Var::from_tensor(&x.as_detached_tensor().copy()?)?;
    let mut other = Adam::named(vec![("x".into(), y.clone())])?;
    other.set_state(&adam.state()?.into_iter().collect())?;
    step(&mut adam, &x)?;
    step(&mut other, &y)?;
    assert_eq!(x.to_vec1::<f32>()?, y.to_vec1::<f32>()?);
    let error = other.set_state(&HashMap::new()).unwrap_err();
    assert!(error.to_string().contains("adam.steps"), "{error}");
    let z = Var::zeros(3, DType::F32, &Device::Cpu)?;
    let error = Adam::named(vec![("x".into(), z)])?
        .set_state(&adam.state()?.into_iter().collect())
        .unwrap_err();
    assert!(error.to_string().contains("[3]"), "{error}");
    Ok(())
}

// ---- Interruption

/// What a copy of this program does; a test of its own where nobody told it to.
#[test]
fn role() -> Result<()> {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else {
        return Ok(());
    };
    let place = Path::new(&place);
    match role.as_str() {
        "train" | "train with ema" => {
            let config = config(2000, role.ends_with("ema").then_some(0.999));
            let net = Net::new()?;
            trainer(&config).fit_in(&slot(place, &config)?, &net.params, |_, rng| {
                std::thread::sleep(Duration::from_millis(2));
                net.step(rng)
            })?;
            panic!("nobody killed this training");
        }
        "pretrained" => keeps_pretrained_weights(),
        #[cfg(unix)]
        "full disk" => trains_on_a_full_disk(place),
        other => panic!("no role {other}"),
    }
}

fn copy_of_this_program(role: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["role", "--exact", "--nocapture"]);
    command.env(ROLE, role).env(PLACE, place);
    command
}

/// What happens to a file's bytes.
type Damage = fn(&[u8]) -> Vec<u8>;

fn killed_again_and_again(ema: Option<f64>) -> Result<()> {
    let folder = temporary()?;
    let config = config(2000, ema);
    let slot = slot(folder.path(), &config)?;
    let newest = slot.folder().join(NEWEST);
    let role = if ema.is_some() {
        "train with ema"
    } else {
        "train"
    };
    let mut reached = 0;
    for attempt in 0..3u64 {
        let mut child = copy_of_this_program(role, folder.path());
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        // It must get on, each time, beyond where the one before was killed, and at last so far that what a
        // resumed training lacked would still be seen at the end.
        reached = reached.max(300 * (attempt + 1));
        let start = Instant::now();
        while !newest.exists() || step_of_now(&newest).is_none_or(|s| s <= reached) {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(start.elapsed() < Duration::from_secs(20), "no checkpoint");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(31 * attempt));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9));
        }
        assert!(!status.success() && !slot.is_trained());
        reached = step_of_now(&newest).unwrap_or(reached);
    }
    // What a kill in the middle of a write leaves.
    std::fs::write(slot.folder().join(".half.tmp"), b"half").unwrap();
    let (net, trained) = finish(&slot, &config)?;
    let (reference, unbroken) = uninterrupted(&config)?;
    assert!(trained.resumed_at.is_some_and(|s| s >= reached && s < 2000));
    assert!(!trained.reused && unbroken.resumed_at.is_none());
    assert_eq!(trained.steps, 2000);
    assert!(net.bits()? == reference.bits()?);
    assert_eq!(without_time(&trained.log), without_time(&unbroken.log));
    let kept = ["card.json", "lock", "log.parquet", "weights.safetensors"];
    assert_eq!(files(slot.folder()), kept);
    Ok(())
}

/// The step of a checkpoint that another process may be moving right now.
fn step_of_now(checkpoint: &Path) -> Option<u64> {
    let bytes = std::fs::read(checkpoint).ok()?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).ok()?;
    header.metadata().as_ref()?.get("step")?.parse().ok()
}

#[test]
fn a_killed_training_ends_as_one_that_was_not() -> Result<()> {
    killed_again_and_again(None)
}

#[test]
fn a_killed_training_with_a_running_mean_ends_as_one_that_was_not() -> Result<()> {
    killed_again_and_again(Some(0.999))
}

#[test]
fn a_damaged_checkpoint_is_left_out() -> Result<()> {
    let config = config(600, Some(0.99));
    let (reference, unbroken) = uninterrupted(&config)?;
    let folder = temporary()?;
    let slot = slot(folder.path(), &config)?;
    let net = fail_at(420, &slot, &config)?;
    // The parameters are as before, so the very same ones can be trained again.
    assert!(net.bits()? == Net::new()?.bits()?);
    let paths = [NEWEST, BEFORE].map(|n| slot.folder().join(n));
    let saved = paths.clone().map(|p| std::fs::read(p).unwrap());
    let steps = paths.clone().map(|p| step_of(&p));
    assert!(steps[0] > steps[1] && steps[1] > 0, "{steps:?}");

    let truncate = |b: &[u8]| b[..b.len() / 2].to_vec();
    let flip = |b: &[u8]| {
        let mut b = b.to_vec();
        let last = b.len() - 30;
        b[last] ^= 4;
        b
    };
    let empty = |_: &[u8]| Vec::new();
    let damages: [Damage; 3] = [truncate, flip, empty];
    let first = &saved[0];
    let mut cases: Vec<(Vec<u8>, Vec<u8>, Option<u64>)> =
        vec![(first.clone(), saved[1].clone(), Some(steps[0]))];
    for damage in damages {
        cases.push((damage(first), saved[1].clone(), Some(steps[1])));
        cases.push((damage(first), damage(&saved[1]), None));
    }
    for (newest, before, resumed) in cases {
        for name in files(slot.folder()) {
            std::fs::remove_file(slot.folder().join(name)).unwrap();
        }
        std::fs::write(&paths[0], newest).unwrap();
        std::fs::write(&paths[1], before).unwrap();
        let (net, trained) = finish(&slot, &config)?;
        assert_eq!(trained.resumed_at, resumed);
        assert!(net.bits()? == reference.bits()?, "{resumed:?}");
        assert_eq!(without_time(&trained.log), without_time(&unbroken.log));
    }
    Ok(())
}

/// A store without reuse trains each network again, from the start and once. If this training is
/// interrupted, nothing of the earlier one is left.
#[test]
fn a_store_without_reuse_trains_again() -> Result<()> {
    let folder = temporary()?;
    let config = config(60, None);
    let store = Store::open(folder.path());
    let open = |store: &Store| store.slot("net", &("sin(3x)", &config));
    let fit = |store: &Store| -> Result<(Net, Trained, u64)> {
        let (net, mut steps) = (Net::new()?, 0);
        let trained = trainer(&config).fit_in(&open(store)?, &net.params, |_, rng| {
            steps += 1;
            net.step(rng)
        })?;
        Ok((net, trained, steps))
    };
    let (first, _, steps) = fit(&store)?;
    assert_eq!(steps, 60);
    assert_eq!(fit(&store)?.2, 0);
    // Leftovers that a training from the start must not use.
    let place = open(&store)?.folder().to_path_buf();
    let snapshot = place.join("after-00000007.safetensors");
    std::fs::write(&snapshot, b"old").unwrap();
    std::fs::write(place.join(NEWEST), b"damaged").unwrap();
    let fresh = store.without_reuse();
    assert!(fresh != store && open(&fresh)? == open(&store)?);
    let (again, trained, steps) = fit(&fresh)?;
    assert_eq!(
        (steps, trained.reused, trained.resumed_at),
        (60, false, None)
    );
    assert!(again.bits()? == first.bits()? && !snapshot.exists());
    // Once: the same store and its clones load what was trained, and so does any other store.
    assert_eq!(fit(&fresh.clone())?.2, 0);
    assert_eq!(fit(&store)?.2, 0);
    let next = store.without_reuse();
    let stopped = trainer(&config).fit_in(&open(&next)?, &Net::new()?.params, |_, _| {
        Err(Error::invalid("enough"))
    });
    assert!(stopped.is_err() && !open(&store)?.is_trained());
    assert_eq!(fit(&store)?.2, 60);
    Ok(())
}

#[test]
fn a_checkpoint_of_another_training_changes_nothing() -> Result<()> {
    // Configurations that forget what the training depends on, so that the checkpoints meet.
    let folder = temporary()?;
    let slot = Store::open(folder.path()).slot("net", &"the same")?;
    fail_at(300, &slot, &config(600, None))?;
    for other in [config(600, Some(0.9)), config(50, None)] {
        let (reference, _) = uninterrupted(&other)?;
        let copy = temporary()?;
        let copied = Store::open(copy.path()).slot("net", &"the same")?;
        std::fs::create_dir_all(copied.folder()).unwrap();
        let from = slot.folder().join(NEWEST);
        std::fs::copy(from, copied.folder().join(NEWEST)).unwrap();
        let (net, trained) = finish(&copied, &other)?;
        assert_eq!(trained.resumed_at, None);
        assert!(net.bits()? == reference.bits()?);
    }
    Ok(())
}

#[test]
fn checkpoints_go_on_after_damage_and_a_failed_write_leaves_them() -> Result<()> {
    let folder = temporary()?;
    let config = config(900, None);
    let slot = slot(folder.path(), &config)?;
    fail_at(330, &slot, &config)?;
    let before = step_of(&slot.folder().join(BEFORE));
    std::fs::write(slot.folder().join(NEWEST), b"damaged").unwrap();
    // A folder where the next checkpoint would be written: as on a full disk, the write fails, and the training goes on.
    let next = slot.folder().join("checkpoint-next.safetensors");
    std::fs::create_dir(&next).unwrap();
    let net = Net::new()?;
    let error = trainer(&config)
        .fit_in(&slot, &net.params, |n, rng| {
            if n == 600 {
                return Err(Error::invalid("enough"));
            }
            std::thread::sleep(Duration::from_millis(1));
            net.step(rng)
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "enough");
    assert_eq!(step_of(&slot.folder().join(BEFORE)), before);
    std::fs::remove_dir(&next).unwrap();
    let (net, trained) = finish(&slot, &config)?;
    assert_eq!(trained.resumed_at, Some(before));
    assert!(net.bits()? == uninterrupted(&config)?.0.bits()?);
    Ok(())
}

/// From here on no file of this process can grow beyond so many bytes: a disk that is full.
#[cfg(unix)]
fn bound_files(bytes: u64) {
    // SAFETY: a signal's default is replaced by none, and the structure is local and whole.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

/// In a process of its own: the disk is full from step 300 on.
#[cfg(unix)]
fn trains_on_a_full_disk(place: &Path) -> Result<()> {
    let config = config(600, Some(0.99));
    let slot = slot(place, &config)?;
    let net = Net::new()?;
    let trained = trainer(&config).fit_in(&slot, &net.params, |n, rng| {
        if n == 300 {
            assert!(slot.folder().join(NEWEST).exists(), "no checkpoint so far");
            bound_files(100);
        }
        std::thread::sleep(Duration::from_millis(2));
        net.step(rng)
    })?;
    assert!(!trained.kept && !trained.reused && !slot.is_trained());
    assert!(trained.to_string().contains("not saved"), "{trained}");
    // What was trained is there, whole.
    assert!(net.bits()? == uninterrupted(&config)?.0.bits()?);
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_no_training() -> Result<()> {
    let folder = temporary()?;
    let config = config(600, Some(0.99));
    let slot = slot(folder.path(), &config)?;
    let output = copy_of_this_program("full disk", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    // With room again, it goes on from the last good state, without a trace of the rest.
    let left = files(slot.folder());
    assert!(!left.iter().any(|f| f.ends_with(".tmp")), "{left:?}");
    let (net, trained) = finish(&slot, &config)?;
    assert!(trained.resumed_at.is_some_and(|s| s > 0 && s < 300));
    assert!(trained.kept && slot.is_trained());
    assert!(net.bits()? == uninterrupted(&config)?.0.bits()?);
    Ok(())
}

#[test]
fn a_checkpoint_that_misstates_its_step_is_left_out() -> Result<()> {
    let folder = temporary()?;
    let config = config(600, None);
    let slot = slot(folder.path(), &config)?;
    fail_at(420, &slot, &config)?;
    let path = slot.folder().join(NEWEST);
    let bytes = std::fs::read(&path).unwrap();
    let step = step_of(&path);
    let said = format!("\"step\":\"{step}\"");
    let at = bytes
        .windows(said.len())
        .position(|w| w == said.as_bytes())
        .unwrap();
    let mut other = bytes.clone();
    other[at + said.len() - 2] ^= 1;
    std::fs::write(&path, other).unwrap();
    let before = step_of(&slot.folder().join(BEFORE));
    let (net, trained) = finish(&slot, &config)?;
    assert_eq!(trained.resumed_at, Some(before));
    assert!(net.bits()? == uninterrupted(&config)?.0.bits()?);
    Ok(())
}

// ---- Validation and adversaries

/// A number that learns to be what an adversary, which learns too, does not expect.
struct Duel {
    player: Params,
    adversary: Params,
    p: Var,
    a: Var,
}

impl Duel {
    fn new() -> Result<Self> {
        let (player, adversary) = (Params::new(1), Params::new(2));
        let p = player.root().get(3, "p", Init::Normal(1.0))?;
        let a = adversary.root().get(3, "a", Init::Normal(1.0))?;
        Ok(Self {
            player,
            adversary,
            p,
            a,
        })
    }

    /// The adversary joins at step 50.
    fn step(&self, n: u64, rng: &mut Rng) -> Result<Step> {
        let noise = rng.normal(3, &Device::Cpu)?;
        let apart = (self.p.as_tensor() - self.a.as_tensor())?;
        let loss = (apart.sqr()?.neg()? + (self.p.as_tensor() + noise)?.sqr()?)?.mean_all()?;
        let step = Step::new(loss);
        if n < 50 {
            return Ok(step);
        }
        let against = (self.p.as_detached_tensor() - self.a.as_tensor())?;
        Ok(step.with_adversary(&against.sqr()?.mean_all()?))
    }

    fn values(&self) -> Result<Vec<u32>> {
        let both = Tensor::cat(&[self.p.as_tensor(), self.a.as_tensor()], 0)?;
        Ok(both.to_vec1::<f32>()?.iter().map(|v| v.to_bits()).collect())
    }
}

#[test]
fn an_adversary_has_its_own_optimiser_and_resumes_with_the_network() -> Result<()> {
    let config = config(400, Some(0.9));
    let folder = temporary()?;
    let slot = slot(folder.path(), &config)?;
    let whole = Duel::new()?;
    let start = whole.values()?;
    let trainer_of = |duel: &Duel| trainer(&config).adversary(&duel.adversary);
    trainer_of(&whole).fit(&whole.player, |n, rng| whole.step(n, rng))?;
    assert!(
        whole.values()?[3..] != start[3..],
        "the adversary stood still"
    );

    // Before it joins, it is as it was; and what fails leaves both as they were.
    let duel = Duel::new()?;
    let error = trainer_of(&duel)
        .fit_in(&slot, &duel.player, |n, rng| {
            if n == 49 {
                assert_eq!(duel.values()?[3..], start[3..]);
                assert_ne!(duel.values()?[..3], start[..3]);
            }
            if n == 300 {
                return Err(Error::invalid("enough"));
            }
            std::thread::sleep(Duration::from_millis(2));
            duel.step(n, rng)
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "enough");
    assert_eq!(duel.values()?, start);
    let trained = trainer_of(&duel).fit_in(&slot, &duel.player, |n, rng| duel.step(n, rng))?;
    assert!(trained.resumed_at.is_some_and(|s| s > 50));
    assert_eq!(duel.values()?, whole.values()?);
    // What is kept is the network alone.
    let again = Duel::new()?;
    assert!(slot.load(&again.player)?.is_some());

    // A loss for an adversary that nobody named.
    let alone = Duel::new()?;
    let error = trainer(&config)
        .fit(&alone.player, |n, rng| alone.step(n, rng))
        .unwrap_err();
    assert!(error.to_string().contains("Trainer::adversary"), "{error}");
    Ok(())
}

/// The distance of a number that grows by training to 0.6: better for a while, then worse.
fn measured(net: &Net) -> impl Fn() -> Result<f64> + Send + Sync + 'static {
    let weight = net.weights[1].clone();
    move || {
        let values = weight.to_vec1::<f32>()?;
        Ok(f64::from(values.iter().sum::<f32>()))
    }
}

#[test]
fn a_plateau_ends_a_training_with_the_best_weights() -> Result<()> {
    let settings = |patience| TrainConfig {
        validate_every: Some(10),
        patience,
        ..config(600, Some(0.9))
    };
    // How the measure goes when nothing ends it.
    let net = Net::new()?;
    let endless = trainer(&settings(None))
        .validate(measured(&net))
        .fit(&net.params, |_, rng| net.step(rng))?;
    assert_eq!(endless.steps, 600);
    let log = endless.log;
    let steps: Vec<_> = log.column("step")?.u64()?.into_no_null_iter().collect();
    let values: Vec<_> = log.column("validation")?.f64()?.iter().collect();
    let measured_at: Vec<(u64, f64)> = steps
        .iter()
        .zip(values)
        .filter_map(|(s, v)| Some((*s, v?)))
        .collect();
    assert!(measured_at.iter().all(|(s, _)| s % 10 == 0));
    assert_eq!(measured_at.len(), 60);
    // Where three in a row are none better, by that curve.
    let (mut best, mut stale, mut end) = ((0, f64::INFINITY), 0, 600);
    for (step, value) in measured_at {
        if value < best.1 {
            (best, stale) = ((step, value), 0);
        } else {
            stale += 1;
        }
        if stale == 3 {
            end = step;
            break;
        }
    }
    assert!(end < 600 && best.0 + 30 == end, "{best:?} {end}");

    let folder = temporary()?;
    let patient = settings(Some(3));
    let slot = slot(folder.path(), &patient)?;
    let net = Net::new()?;
    let fit = |net: &Net, until: u64| {
        trainer(&patient)
            .validate(measured(net))
            .fit_in(&slot, &net.params, |n, rng| {
                if n == until {
                    return Err(Error::invalid("enough"));
                }
                std::thread::sleep(Duration::from_millis(3));
                net.step(rng)
            })
    };
    // Interrupted just before its end, so that the best weights come out of the checkpoint.
    let interrupted = fit(&net, end).unwrap_err();
    assert_eq!(interrupted.to_string(), "enough");
    let trained = fit(&net, 0)?;
    assert!(trained.resumed_at.is_some());
    assert_eq!(trained.steps, end);
    assert!(trained.to_string().contains(&format!("of step {}", best.0)));
    assert_eq!(measured(&net)()?, best.1);
    let card = slot.load(&net.params)?.unwrap();
    assert_eq!(card.steps, end);
    Ok(())
}

// ---- What is kept

#[test]
fn a_finished_training_is_reused() -> Result<()> {
    let folder = temporary()?;
    let config = config(120, None);
    let slot = slot(folder.path(), &config)?;
    assert!(!slot.is_trained() && slot.load(&Net::new()?.params)?.is_none());
    let (net, trained) = finish(&slot, &config)?;
    assert!(!trained.reused && trained.resumed_at.is_none() && slot.is_trained());

    let again = Net::new()?;
    let reused = trainer(&config).fit_in(&slot, &again.params, |_, _| panic!("trained again"))?;
    assert!(reused.reused && reused.steps == 120);
    assert!(again.bits()? == net.bits()?);
    assert!(reused.log.equals_missing(&trained.log));
    assert!(reused.to_string().contains("reused"), "{reused}");

    let card = slot.load(&Net::new()?.params)?.unwrap();
    assert_eq!((card.name.as_str(), card.steps), ("net", 120));
    assert_eq!(&card.configuration, slot.configuration());
    assert_eq!(card.training.learning_rate, config.learning_rate);
    assert_eq!(card.version, invariances::VERSION);

    // A slot whose configuration leaves the training out does not pass its weights off as another training's.
    let other = TrainConfig {
        learning_rate: 0.5,
        ..config.clone()
    };
    let text = trainer(&other)
        .fit_in(&slot, &again.params, |_, _| panic!("trained again"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("trained with other settings") && text.contains("learning_rate"),
        "{text}"
    );
    assert!(again.bits()? == net.bits()?);

    // Another setting, another place; how often checkpoints are written is none.
    let seeded = TrainConfig {
        seed: 4,
        ..config.clone()
    };
    let rarer = TrainConfig {
        checkpoint_seconds: 60.0,
        ..config.clone()
    };
    assert_eq!(self::slot(folder.path(), &rarer)?.folder(), slot.folder());
    let other = self::slot(folder.path(), &seeded)?;
    assert_ne!(other.folder(), slot.folder());
    let (different, trained) = finish(&other, &seeded)?;
    assert!(!trained.reused && different.bits()? != net.bits()?);

    // Weights of this name and configuration, but of another network.
    let params = Params::new(0);
    params.root().get(2, "elsewhere", Init::FanIn)?;
    let error = slot.load(&params).unwrap_err();
    assert_content(&error, slot.folder(), "elsewhere");
    Ok(())
}

#[test]
fn the_log_is_a_frame_and_a_parquet_file() -> Result<()> {
    let folder = temporary()?;
    let config = config(2500, None);
    let slot = slot(folder.path(), &config)?;
    let (_, trained) = finish(&slot, &config)?;
    let log = &trained.log;
    let names: Vec<_> = log.get_column_names().iter().map(|n| n.as_str()).collect();
    assert_eq!(names, ["step", "seconds", "loss", "learning_rate", "root"]);
    let steps: Vec<_> = log.column("step")?.u64()?.into_no_null_iter().collect();
    assert_eq!(steps[..3], [1, 2, 4]);
    assert_eq!(steps.last(), Some(&2500));
    let column = |name: &str| -> Result<Vec<f64>> {
        Ok(log.column(name)?.f64()?.into_no_null_iter().collect())
    };
    assert!(column("seconds")?.is_sorted());
    let rates = column("learning_rate")?;
    for (step, rate) in steps.iter().zip(rates) {
        assert_eq!(rate, config.learning_rate_at(*step));
    }
    let loss = column("loss")?;
    assert!(loss.last() < loss.first(), "{loss:?}");
    let file = std::fs::File::open(slot.folder().join("log.parquet")).unwrap();
    assert!(ParquetReader::new(file).finish()?.equals_missing(log));

    // A name that the log has already.
    let net = Net::new()?;
    let error = trainer(&config)
        .fit(&net.params, |_, rng| Ok(net.step(rng)?.with("loss", 1.0)))
        .unwrap_err();
    assert!(error.to_string().contains("\"loss\""), "{error}");
    Ok(())
}

#[test]
fn damaged_files_are_named_with_what_to_do() -> Result<()> {
    let folder = temporary()?;
    let config = config(30, None);
    let slot = slot(folder.path(), &config)?;
    let (net, _) = finish(&slot, &config)?;
    for name in ["weights.safetensors", "card.json"] {
        let path = slot.folder().join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let error = finish(&slot, &config).err().unwrap();
        assert_content(&error, &path, "delete");
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(finish(&slot, &config)?.0.bits()? == net.bits()?);

    // A log that is cut, in the middle of a row group too, or gone does not cost the weights.
    let path = slot.folder().join("log.parquet");
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 3, whole.len() / 3, whole.len() / 2, whole.len() - 20] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (again, trained) = finish(&slot, &config)?;
        assert!(trained.reused && again.bits()? == net.bits()?);
        assert_eq!(trained.log.height(), 0);
        assert!(trained.log.column("loss").is_ok());
    }
    std::fs::remove_file(&path).unwrap();
    let (again, trained) = finish(&slot, &config)?;
    assert!(trained.reused && again.bits()? == net.bits()?);

    // Nothing is written where all is done: the folder may be one that cannot be written.
    let before = files(slot.folder());
    std::fs::remove_file(slot.folder().join("lock")).unwrap();
    assert!(finish(&slot, &config)?.1.reused);
    assert!(before.len() == files(slot.folder()).len() + 1);
    Ok(())
}

#[test]
fn two_that_train_the_same_train_it_once() -> Result<()> {
    let folder = temporary()?;
    let config = config(150, None);
    let slot = slot(folder.path(), &config)?;
    let run = || -> Result<(Vec<_>, bool)> {
        let net = Net::new()?;
        let trained = trainer(&config).fit_in(&slot, &net.params, |_, rng| {
            std::thread::sleep(Duration::from_millis(1));
            net.step(rng)
        })?;
        Ok((net.bits()?, trained.reused))
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(run), scope.spawn(run));
        (a.join().unwrap(), b.join().unwrap())
    });
    let (a, b) = (a?, b?);
    assert!(a.1 != b.1, "one trains, the other waits and reuses");
    assert!(a.0 == b.0);
    Ok(())
}

// ---- What is refused

#[test]
fn a_training_that_leaves_the_numbers_says_where() -> Result<()> {
    let config = config(600, None);
    let (reference, _) = uninterrupted(&config)?;
    let folder = temporary()?;
    let slot = slot(folder.path(), &config)?;
    let net = Net::new()?;
    let poisoned = |n: u64, rng: &mut Rng| -> Result<Step> {
        std::thread::sleep(Duration::from_millis(1));
        let x = net.step(rng)?;
        if n < 400 {
            return Ok(x);
        }
        Ok(Step::new(net.weights[0].affine(f64::NAN, 0.0)?.sum_all()?))
    };
    let error = trainer(&config)
        .fit_in(&slot, &net.params, poisoned)
        .unwrap_err();
    assert!(matches!(error, Error::Diverged(_)), "{error}");
    let step = step_of(&slot.folder().join(NEWEST));
    for says in ["step 400", &format!("checkpoint of step {step} is kept")] {
        assert!(error.to_string().contains(says), "{error}");
    }
    let (mended, trained) = finish(&slot, &config)?;
    assert_eq!(trained.resumed_at, Some(step));
    assert!(mended.bits()? == reference.bits()?);

    // A loss that is a number, whose gradient is not, at the very last step: √0.
    for clip in [None, Some(1.0)] {
        let config = TrainConfig {
            clip,
            ..self::config(5, None)
        };
        let slot = self::slot(folder.path(), &config)?;
        let net = Net::new()?;
        let error = trainer(&config)
            .fit_in(&slot, &net.params, |n, rng| {
                if n < 5 {
                    return net.step(rng);
                }
                let w = net.weights[0].as_tensor();
                Ok(Step::new((w - w.detach())?.sqrt()?.sum_all()?))
            })
            .unwrap_err();
        assert!(matches!(error, Error::Diverged(_)), "{error}");
        assert!(error.to_string().contains("step 5"), "{error}");
        assert!(!slot.is_trained() && files(slot.folder()) == ["lock"]);
    }
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_named() -> Result<()> {
    let folder = temporary()?;
    let file = folder.path().join("file");
    std::fs::write(&file, b"a file").unwrap();
    let config = config(10, None);
    let slot = slot(&file.join("below"), &config)?;
    let error = finish(&slot, &config).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, Error::Io { .. }), "{text}");
    assert!(text.contains("below") && text.contains("INVARIANCES_CACHE"));
    assert_eq!(files(folder.path()), ["file"]);
    Ok(())
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    for name in ["", "a/b", "../up", ".hidden", "a b"] {
        let error = Store::open("/nowhere").slot(name, &1).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
}

#[test]
fn settings_that_no_training_can_have_are_refused() -> Result<()> {
    let base = TrainConfig::default;
    let cases: Vec<(&str, TrainConfig)> = vec![
        ("steps", TrainConfig { steps: 0, ..base() }),
        (
            "learning_rate",
            TrainConfig {
                learning_rate: 0.0,
                ..base()
            },
        ),
        (
            "learning_rate",
            TrainConfig {
                learning_rate: f64::NAN,
                ..base()
            },
        ),
        (
            "betas",
            TrainConfig {
                betas: (0.9, 1.0),
                ..base()
            },
        ),
        (
            "clip",
            TrainConfig {
                clip: Some(0.0),
                ..base()
            },
        ),
        (
            "ema",
            TrainConfig {
                ema: Some(1.0),
                ..base()
            },
        ),
        (
            "weight_decay",
            TrainConfig {
                weight_decay: -1.0,
                ..base()
            },
        ),
        (
            "floor",
            TrainConfig {
                decay: Decay::Linear { floor: 2.0 },
                ..base()
            },
        ),
        (
            "checkpoint_seconds",
            TrainConfig {
                checkpoint_seconds: f64::NAN,
                ..base()
            },
        ),
    ];
    let folder = temporary()?;
    base().check()?;
    for (name, config) in cases {
        let net = Net::new()?;
        let slot = Store::open(folder.path()).slot("net", &name)?;
        let errors = [
            config.check().unwrap_err(),
            trainer(&config)
                .fit(&net.params, |_, rng| net.step(rng))
                .unwrap_err(),
            trainer(&config)
                .fit_in(&slot, &net.params, |_, rng| net.step(rng))
                .unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Invalid(_)), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    assert!(files(folder.path()).is_empty());
    Ok(())
}

#[test]
fn a_loss_of_several_numbers_is_refused() -> Result<()> {
    let net = Net::new()?;
    let error = trainer(&config(3, None))
        .fit(&net.params, |_, _| {
            Ok(Step::new(net.weights[0].as_tensor().clone()))
        })
        .unwrap_err();
    assert!(error.to_string().contains("mean_all"), "{error}");
    Ok(())
}

// ---- Weights that ship with the project

/// In a process of its own, since its environment decides where the weights are.
#[test]
fn pretrained_weights_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = copy_of_this_program("pretrained", folder.path());
    let output = command.env("INVARIANCES_DATA", folder.path()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{said}");
    assert!(folder.path().join("pretrained/net.safetensors").is_file());
}

fn keeps_pretrained_weights() -> Result<()> {
    let configuration = serde_json::json!({"network": [1, 16], "rate": 0.1});
    let net = Net::new()?;
    assert!(pretrained::load("net", &configuration, &net.params)?.is_none());
    let card = Card {
        configuration: configuration.clone(),
        data: "sines".into(),
        figures: [("loss".to_string(), 0.25)].into(),
        ..Default::default()
    };
    let saved = pretrained::save("net", &card, &net.params)?;
    assert_eq!((saved.name.as_str(), saved.weights.len()), ("net", 64));

    // Another start, to see that every value comes from the file.
    let other = Net::new()?;
    for var in &other.weights {
        var.set(&var.ones_like()?)?;
    }
    let loaded = pretrained::load("net", &configuration, &other.params)?;
    assert_eq!(loaded, Some(saved));
    let found = other.params.tensors();
    for (name, tensor) in net.params.tensors() {
        // Parameters in half precision, buffers as they were.
        let rounded = match name.as_str() {
            "kept" => tensor,
            _ => tensor.to_dtype(DType::F16)?.to_dtype(DType::F32)?,
        };
        let rounded = rounded.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(found[&name].flatten_all()?.to_vec1::<f32>()?, rounded);
    }

    let changed = serde_json::json!({"network": [1, 32], "rate": 0.1});
    assert!(pretrained::load("net", &changed, &other.params)?.is_none());
    let params = Params::new(0);
    params.root().get(2, "elsewhere", Init::FanIn)?;
    let path = pretrained::folder().join("net.safetensors");
    let error = pretrained::load("net", &configuration, &params).unwrap_err();
    assert_content(&error, &path, "elsewhere");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = other.bits()?;
    let error = pretrained::load("net", &configuration, &other.params).unwrap_err();
    assert_content(&error, &path, "hash");
    assert!(other.bits()? == before);
    assert!(pretrained::load("../net", &configuration, &net.params).is_err());
    Ok(())
}
