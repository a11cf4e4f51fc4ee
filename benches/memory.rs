//! Peak memory of a training step of the conditional invertible network t against the number of
//! flows, with ordinary and with constant memory.
//!
//! Run it with `cargo bench --bench memory`, on Linux. Each line of output is from its own
//! process, with the memory that the system reports (VmHWM). `benches/pytorch.py --memory`
//! measures the same in PyTorch.

mod common;

use common::{arguments, peak};
use invariances::Result;
use invariances::candle_core::Device;
use invariances::flow::{Cinn, CinnConfig, Condition, Memory};
use invariances::loss::nll;
use invariances::ops::{Params, Rng, backward, keep_freed_memory};
use invariances::train::Adam;
use std::process::Command;

const WAYS: [&str; 3] = ["ordinary", "constant", "in-backward"];

fn steps(way: &str, size: &str, flows: usize, batch: usize) -> Result<()> {
    keep_freed_memory();
    let before = peak();
    let config = match size {
        "paper" => CinnConfig {
            hidden: 1024,
            flows,
            ..CinnConfig::new(128, Condition::Vector(4096))
        },
        _ => CinnConfig {
            hidden: 128,
            flows,
            ..CinnConfig::new(48, Condition::Vector(128))
        },
    };
    let Condition::Vector(numbers) = config.condition else {
        unreachable!("both conditions are vectors")
    };
    let params = Params::new(0);
    let t = Cinn::new(&config, &params.root())?;
    let t = match way {
        "ordinary" => t,
        _ => t.with_memory(Memory::constant()),
    };
    let mut rng = Rng::new(0);
    let code = rng.normal((batch, config.dim), &Device::Cpu)?;
    let z = rng.normal((batch, numbers), &Device::Cpu)?;
    t.initialize(&code.narrow(0, 0, 16)?, &z.narrow(0, 0, 16)?)?;
    let mut adam = Adam::named(params.trained())?;
    for _ in 0..2 {
        let (v, logdet) = t.forward(&code, &z)?;
        let loss = nll(&v, &logdet)?;
        match way {
            "in-backward" => adam.step_in_backward(&loss, 1e-6)?,
            _ => adam.step_at(&backward(&loss)?, 1e-6)?,
        }
    }
    // Weights, gradients and both moments of Adam, 4 bytes each.
    let least = params.count() as f64 * 16.0 / 1048576.0;
    let used = peak() - before;
    println!(
        "{size:6} batch {batch:5} {flows:3} flows {way:12} {used:8.0} MiB, weights, gradients and moments {least:6.0}, beyond them {:7.0} ({:+.1} %)",
        used - least,
        (used / least - 1.0) * 100.0
    );
    Ok(())
}

fn main() -> Result<()> {
    let given = arguments();
    if let [way, size, flows, batch] = given.as_slice() {
        let number = |s: &str| s.parse().expect("a number");
        return steps(way, size, number(flows), number(batch));
    }
    let this = std::env::current_exe().expect("this program");
    for (size, batch) in [("paper", "16"), ("paper", "64"), ("quick", "4096")] {
        for way in WAYS {
            for flows in ["5", "10", "20", "40"] {
                let run = Command::new(&this).args([way, size, flows, batch]).status();
                assert!(run.expect("a process").success());
            }
        }
    }
    Ok(())
}
