//! Milliseconds of a training step of t (forward, loss, backward) and of sampling, at the notebooks' size.
//!
//! `cargo bench --bench flow`

use invariances::Result;
use invariances::candle_core::Device;
use invariances::flow::{Cinn, CinnConfig, Condition};
use invariances::loss::nll;
use invariances::ops::{Params, Rng};
use std::time::Instant;

/// The fastest and the median of `times` runs, in milliseconds.
fn measure(times: usize, mut f: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let mut spent = Vec::with_capacity(times);
    f()?;
    for _ in 0..times {
        let start = Instant::now();
        f()?;
        spent.push(start.elapsed().as_secs_f64() * 1e3);
    }
    spent.sort_by(f64::total_cmp);
    Ok((spent[0], spent[times / 2]))
}

fn main() -> Result<()> {
    let config = CinnConfig {
        hidden: 256,
        flows: 12,
        ..CinnConfig::new(48, Condition::Vector(128))
    };
    let params = Params::new(0);
    let t = Cinn::new(&config, &params.root())?;
    let mut rng = Rng::new(0);
    let code = rng.normal((128, 48), &Device::Cpu)?;
    let z = rng.normal((128, 128), &Device::Cpu)?;
    t.initialize(&code, &z)?;
    println!("{config:?}, {} parameters", params.count());
    let show = |what: &str, (best, median): (f64, f64)| {
        println!("{what:40} {best:8.2} ms best {median:8.2} ms median");
    };
    show(
        "forward, batch 128, no graph",
        measure(40, || t.detached().forward(&code, &z).map(drop))?,
    );
    show(
        "forward, batch 128",
        measure(40, || t.forward(&code, &z).map(drop))?,
    );
    show(
        "forward, loss, backward, batch 128",
        measure(40, || {
            let (v, logdet) = t.forward(&code, &z)?;
            nll(&v, &logdet)?.backward()?;
            Ok(())
        })?,
    );
    let one = z.narrow(0, 0, 1)?;
    for n in [1, 8, 64, 1000] {
        show(
            &format!("{n} samples of one z"),
            measure(20, || t.sample(&one, n, &mut rng).map(drop))?,
        );
    }
    Ok(())
}
