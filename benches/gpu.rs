//! Training steps and sampling on a device, as `benches/gpu.py` measures them in PyTorch.
//!
//! `INVARIANCES_DEVICE=cuda cargo bench --features cuda --bench gpu [-- --quick] [-- NAME-PART]`
//! prints `name<TAB>mode<TAB>median<TAB>mean`, in milliseconds: the median of single steps, each
//! followed by a wait for the device, and the mean of steps in a row with one wait at the end. The
//! modes are matrix products in full f32 and in TF32. `memory/…` lines are in MiB.

use invariances::Result;
use invariances::autoencoder::{Autoencoder, IinVae, IinVaeConfig};
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::flow::{Cinn, CinnConfig, Condition, Memory};
use invariances::loss::{nll, perceptual_vae_loss};
use invariances::ops::gradients::collected;
use invariances::ops::{Params, Rng, backward, gpu, keep_freed_memory, open_device};
use invariances::train::Adam;
use std::io::Write;
use std::time::Instant;

/// What one run of the program measures.
struct Bench {
    device: Device,
    quick: bool,
    wanted: Vec<String>,
    mode: &'static str,
    lines: Vec<(String, &'static str, f64, f64)>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| name.contains(w.as_str()))
    }

    fn line(&mut self, name: &str, median: f64, mean: f64) {
        println!("{name}\t{}\t{median:.3}\t{mean:.3}", self.mode);
        // A closed pipe ends the program soon enough.
        let _ = std::io::stdout().flush();
        self.lines.push((name.into(), self.mode, median, mean));
    }

    fn time(&mut self, name: &str, mut step: impl FnMut() -> Result<()>) -> Result<()> {
        let (warm, single, row) = if self.quick { (3, 8, 10) } else { (10, 30, 50) };
        for _ in 0..warm {
            step()?;
        }
        self.device.synchronize()?;
        gpu::peak_memory(&self.device)?;
        let mut times = Vec::new();
        for _ in 0..single {
            let start = Instant::now();
            step()?;
            self.device.synchronize()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let start = Instant::now();
        for _ in 0..row {
            step()?;
        }
        self.device.synchronize()?;
        let mean = start.elapsed().as_secs_f64() * 1e3 / f64::from(row);
        self.line(name, times[times.len() / 2], mean);
        let peak = gpu::peak_memory(&self.device)? as f64 / f64::from(1 << 20);
        if peak > 0.0 && name.contains("step") {
            self.line(&format!("memory/{name}"), peak, peak);
        }
        Ok(())
    }

    fn cinn(&mut self, size: &str, config: &CinnConfig, batch: usize, sample: bool) -> Result<()> {
        let Condition::Vector(z_width) = config.condition else {
            unreachable!("the conditions of this benchmark are vectors")
        };
        let mut rng = Rng::new(0);
        let code = rng.normal((batch, config.dim), &self.device)?;
        let z = rng.normal((batch, z_width), &self.device)?;
        for (variant, memory, in_backward) in [
            ("step", Memory::Ordinary, false),
            ("step-in-backward", Memory::constant(), true),
        ] {
            let name = format!("cinn-{size}/{variant}/{batch}");
            if !self.wants(&name) {
                continue;
            }
            let params = Params::with(0, DType::F32, &self.device);
            let t = Cinn::new(config, &params.root())?.with_memory(memory);
            t.initialize(&code, &z)?;
            let mut adam = Adam::named(params.trained())?;
            self.time(&name, || {
                let loss = collected(|| {
                    let (v, logdet) = t.forward(&code, &z)?;
                    nll(&v, &logdet)
                })?;
                match in_backward {
                    true => adam.step_in_backward(&loss, 1e-6),
                    false => adam.step_at(&backward(&loss)?, 1e-6),
                }
            })?;
        }
        let name = format!("cinn-{size}/sample/64");
        if sample && self.wants(&name) {
            let params = Params::with(0, DType::F32, &self.device);
            let t = Cinn::new(config, &params.root())?;
            t.initialize(&code, &z)?;
            let z = z.narrow(0, 0, 1)?;
            self.time(&name, || t.sample(&z, 64, &mut rng).map(drop))?;
        }
        Ok(())
    }

    fn vae(&mut self, batch: usize) -> Result<()> {
        let name = format!("vae/step/{batch}");
        if !self.wants(&name) {
            return Ok(());
        }
        let params = Params::with(0, DType::F32, &self.device);
        let vae = IinVae::new(&IinVaeConfig::default(), &params.root())?;
        let mut rng = Rng::new(0);
        let x = rng.uniform(-1.0, 1.0, (batch, 3, 32, 32), &self.device)?;
        vae.initialize(&x)?;
        let gamma = Var::from_tensor(&Tensor::zeros((), DType::F32, &self.device)?)?;
        let mut trained = params.trained();
        trained.push(("gamma".into(), gamma.clone()));
        let mut adam = Adam::named(trained)?;
        self.time(&name, || {
            let posterior = vae.encode(&x)?;
            let decoded = vae.decode(&posterior.sample(&mut rng)?)?;
            let loss = perceptual_vae_loss((&x, &decoded), &posterior, &gamma, None, 1.0)?;
            adam.step_at(&backward(&loss.loss)?, 1e-4)
        })
    }
}

fn set_tf32(on: bool) {
    #[cfg(feature = "cuda")]
    invariances::candle_core::cuda_backend::set_gemm_reduced_precision_f32(on);
    let _ = on;
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.retain(|a| a != "--bench");
    let mut take = |flag: &str| {
        let found = arguments.iter().position(|a| a == flag);
        found.map(|at| arguments.remove(at)).is_some()
    };
    let quick = take("--quick");
    let json = arguments.iter().position(|a| a == "--json");
    let json = json.map(|at| {
        arguments
            .drain(at..(at + 2).min(arguments.len()))
            .next_back()
    });
    let device = std::env::var("INVARIANCES_DEVICE").unwrap_or_else(|_| "cpu".into());
    keep_freed_memory();
    let mut bench = Bench {
        device: open_device(&device)?,
        quick,
        wanted: arguments,
        mode: "f32",
        lines: Vec::new(),
    };
    // The sizes of the AlexNet cINNs of arXiv 2008.01777, and of notebook 01.
    let paper = CinnConfig {
        hidden: 1024,
        flows: 20,
        ..CinnConfig::new(128, Condition::Vector(4096))
    };
    let small = CinnConfig {
        hidden: 128,
        flows: 12,
        ..CinnConfig::new(48, Condition::Vector(128))
    };
    let modes: &[_] = match bench.device.is_cpu() {
        true => &[("f32", false)],
        false => &[("f32", false), ("tf32", true)],
    };
    for (mode, tf32) in modes {
        bench.mode = mode;
        set_tf32(*tf32);
        bench.cinn("paper", &paper, 64, true)?;
        bench.cinn("quick", &small, 128, false)?;
        bench.vae(25)?;
        bench.vae(64)?;
    }
    if let Some(Some(path)) = json {
        let lines: Vec<serde_json::Value> = bench
            .lines
            .iter()
            .map(|(name, mode, median, mean)| {
                serde_json::json!({"name": name, "mode": mode, "median": median, "mean": mean})
            })
            .collect();
        let text = serde_json::to_string_pretty(&lines).unwrap_or_default();
        std::fs::write(&path, text).map_err(|e| invariances::Error::io(&path, e))?;
    }
    Ok(())
}
