//! Time of the convolutions in the digits' networks, this crate's and candle's, forward and
//! backward, in milliseconds (medians).

use invariances::candle_core::{Device, Tensor, Var};
use invariances::ops::{self, ConvConfig, Rng};
use std::time::Instant;

fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> invariances::Result<()> {
    println!(
        "batch 32{:>31}{:>12}{:>12}{:>12}{:>10}",
        "ours fwd", "fwd+bwd", "candle fwd", "fwd+bwd", "GFLOP/s"
    );
    for (inputs, outputs, size, kernel, stride) in [
        (16, 16, 32, 3, 1),
        (32, 32, 16, 3, 1),
        (64, 64, 8, 3, 1),
        (128, 128, 4, 3, 1),
        (64, 64, 32, 3, 1),
        (32, 64, 16, 4, 2),
        (3, 32, 32, 4, 2),
    ] {
        let mut rng = Rng::new(0);
        let dev = Device::Cpu;
        let x = Var::from_tensor(&rng.normal((32, inputs, size, size), &dev)?)?;
        let w = Var::from_tensor(&rng.normal((outputs, inputs, kernel, kernel), &dev)?)?;
        let b = Var::from_tensor(&rng.normal(outputs, &dev)?)?;
        let config = ConvConfig {
            stride,
            padding: (1, 1),
            ..Default::default()
        };
        let ours = || ops::conv2d(&x, &w, &b, config).expect("shapes fit");
        let candles = || {
            let y = x.conv2d(&w, 1, stride, 1, 1).expect("shapes fit");
            y.broadcast_add(&b.reshape((1, (), 1, 1)).expect("one dimension"))
                .expect("shapes fit")
        };
        let both = |y: Tensor| y.sum_all().and_then(|s| s.backward()).expect("a gradient");
        let (of, ob) = (median(|| drop(ours())), median(|| drop(both(ours()))));
        let (cf, cb) = (median(|| drop(candles())), median(|| drop(both(candles()))));
        let flop = 2.0
            * 32.0
            * (inputs * outputs * kernel * kernel) as f64
            * ((size / stride) * (size / stride)) as f64;
        println!(
            "{inputs:>4} → {outputs:<4} {size}×{size} k{kernel} s{stride}{of:>18.2}{ob:>12.2}{cf:>12.2}{cb:>12.2}{:>10.0}",
            3.0 * flop / ob / 1e6
        );
    }
    Ok(())
}
