//! Time of training steps and of sampling for the conditional invertible network t, at the
//! paper's size and at the notebooks' size.
//!
//! Run it with `cargo bench --bench flow`, or with `-- paper/step` for one part.
//! `benches/pytorch.py` measures the same in PyTorch.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use invariances::Result;
use invariances::candle_core::{Device, Tensor};
use invariances::flow::{Cinn, CinnConfig, Condition, Memory};
use invariances::loss::nll;
use invariances::ops::{Params, Rng, backward, keep_freed_memory};
use invariances::train::Adam;
use std::time::Duration;

/// How the gradients and the update of a training step are computed.
#[derive(Clone, Copy, Debug)]
enum Way {
    Ordinary,
    Constant,
    /// Constant memory, with parameters updated within the backward pass.
    InBackward,
}

struct Training {
    t: Cinn,
    adam: Adam,
    code: Tensor,
    z: Tensor,
    way: Way,
}

impl Training {
    fn new(config: &CinnConfig, batch: usize, way: Way) -> Result<Self> {
        keep_freed_memory();
        let params = Params::new(0);
        let t = Cinn::new(config, &params.root())?;
        let t = match way {
            Way::Ordinary => t,
            _ => t.with_memory(Memory::constant()),
        };
        let (code, z) = inputs(config, batch)?;
        t.initialize(&code, &z)?;
        let adam = Adam::named(params.trained())?;
        Ok(Self {
            t,
            adam,
            code,
            z,
            way,
        })
    }

    fn step(&mut self) -> Result<()> {
        let (v, logdet) = self.t.forward(&self.code, &self.z)?;
        let loss = nll(&v, &logdet)?;
        match self.way {
            Way::InBackward => self.adam.step_in_backward(&loss, 1e-6),
            _ => self.adam.step_at(&backward(&loss)?, 1e-6),
        }
    }
}

fn inputs(config: &CinnConfig, batch: usize) -> Result<(Tensor, Tensor)> {
    let mut rng = Rng::new(0);
    let Condition::Vector(numbers) = config.condition else {
        unreachable!("the benches' conditions are vectors")
    };
    Ok((
        rng.normal((batch, config.dim), &Device::Cpu)?,
        rng.normal((batch, numbers), &Device::Cpu)?,
    ))
}

/// The size of the AlexNet cINNs of arXiv 2008.01777 (fc6, fc7): 204.6 M parameters.
fn paper() -> CinnConfig {
    CinnConfig {
        hidden: 1024,
        flows: 20,
        ..CinnConfig::new(128, Condition::Vector(4096))
    }
}

/// The size in notebook 01.
fn quick() -> CinnConfig {
    CinnConfig {
        hidden: 128,
        flows: 12,
        ..CinnConfig::new(48, Condition::Vector(128))
    }
}

fn measure(c: &mut Criterion, name: &str, config: &CinnConfig, batches: &[usize]) -> Result<()> {
    let mut group = c.benchmark_group(format!("{name}/step"));
    group.sample_size(10).warm_up_time(Duration::from_secs(3));
    for &batch in batches {
        for way in [Way::Ordinary, Way::Constant, Way::InBackward] {
            // Created when the benchmark reaches it and dropped after it: three of them may not
            // fit into memory.
            let mut training = None;
            group.bench_function(BenchmarkId::new(format!("{way:?}"), batch), |b| {
                let training = training.get_or_insert_with(|| {
                    Training::new(config, batch, way).expect("sizes that fit")
                });
                b.iter(|| training.step().expect("a step"));
            });
        }
    }
    group.finish();
    let mut group = c.benchmark_group(format!("{name}/sample"));
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    let mut t = None;
    for n in [1, 8, 64] {
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            let (t, z) = t.get_or_insert_with(|| {
                let t = Cinn::new(config, &Params::new(0).root()).expect("sizes that fit");
                let (code, z) = inputs(config, 16).expect("inputs");
                t.initialize(&code, &z).expect("a start");
                (t, z.narrow(0, 0, 1).expect("one z"))
            });
            let mut rng = Rng::new(1);
            b.iter(|| t.sample(z, n, &mut rng).expect("samples"));
        });
    }
    group.finish();
    Ok(())
}

fn flow(c: &mut Criterion) {
    measure(c, "quick", &quick(), &[128]).expect("quick");
    measure(c, "paper", &paper(), &[16, 64]).expect("paper");
}

criterion_group!(benches, flow);
criterion_main!(benches);
