//! What must hold for flow matching and TarFlow, for every setting.

mod common;
#[path = "common/gaussian.rs"]
mod gaussian;
#[path = "common/jacobian.rs"]
mod jacobian;

use common::assert_close;
use gaussian::Gaussian;
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::flow::{
    Condition, Flow, FlowMatching, FlowMatchingConfig, TarFlow, TarFlowConfig,
};
use invariances::ops::{Params, Rng, backward, scalar, values};
use invariances::train::Adam;
use invariances::{Error, Result};
use jacobian::{largest, numeric_logdet};

/// A started flow, its parameters and a batch. `error` is the largest error of a round trip and of
/// the log-determinant: the solver's, for flow matching.
struct Case {
    what: String,
    params: Params,
    flow: Box<dyn Flow>,
    detached: Box<dyn Flow>,
    x: Tensor,
    z: Tensor,
    error: f64,
}

const BATCH: usize = 20;

/// Fills all parameters that are zero at the start, which would hide errors, with small numbers.
fn stir(params: &Params) -> Result<()> {
    for (name, var) in params.trained() {
        if largest(var.as_tensor())? == 0.0 {
            let by = Rng::named(5, &name).normal(var.shape(), &Device::Cpu)?;
            var.set(&(by.to_dtype(var.dtype())? * 0.1)?)?;
        }
    }
    Ok(())
}

fn batch(dim: usize, condition: Condition, dtype: DType) -> Result<(Tensor, Tensor)> {
    let mut rng = Rng::new(2);
    let z = match condition {
        Condition::Vector(n) => rng.normal((BATCH, n), &Device::Cpu)?,
        Condition::Map { channels, size, .. } => {
            rng.normal((BATCH, channels, size, size), &Device::Cpu)?
        }
    };
    let code = ((rng.normal((BATCH, dim), &Device::Cpu)? * 3.0)? + 2.0)?;
    Ok((code.to_dtype(dtype)?, z.to_dtype(dtype)?))
}

fn cases(dtype: DType) -> Result<Vec<Case>> {
    let vector = Condition::Vector(5);
    let map = Condition::Map {
        channels: 3,
        size: 8,
        down: 1,
    };
    let mut cases = Vec::new();
    let matching = FlowMatchingConfig {
        hidden: 12,
        blocks: 2,
        steps: 16,
        ..FlowMatchingConfig::new(4, vector)
    };
    for config in [
        matching.clone(),
        FlowMatchingConfig {
            dim: 1,
            blocks: 0,
            conditioning_depth: 2,
            ..matching.clone()
        },
        FlowMatchingConfig {
            condition: map,
            blocks: 1,
            draws: 3,
            ..matching
        },
    ] {
        let params = Params::with(1, dtype, &Device::Cpu);
        let t = FlowMatching::new(&config, &params.root())?;
        let (x, z) = batch(config.dim, config.condition, dtype)?;
        stir(&params)?;
        t.initialize(&x, Some(&z))?;
        cases.push(Case {
            what: format!("{config:?}"),
            params,
            detached: Box::new(t.detached()),
            flow: Box::new(t),
            x,
            z,
            // In units of the code, whose standard deviation is 3.
            error: 1e-4,
        });
    }
    let tar = TarFlowConfig {
        hidden: 8,
        heads: 2,
        ..TarFlowConfig::new(6, vector)
    };
    assert_eq!(tar.group, 1);
    let tar = TarFlowConfig { group: 6, ..tar };
    for config in [
        tar.clone(),
        TarFlowConfig {
            group: 2,
            flows: 3,
            ..tar.clone()
        },
        TarFlowConfig {
            group: 1,
            heads: 1,
            flows: 2,
            layers: 1,
            condition: map,
            ..tar
        },
    ] {
        let params = Params::with(1, dtype, &Device::Cpu);
        let t = TarFlow::new(&config, &params.root())?;
        let (x, z) = batch(config.dim, config.condition, dtype)?;
        stir(&params)?;
        t.initialize(&x, Some(&z))?;
        cases.push(Case {
            what: format!("{config:?}"),
            params,
            detached: Box::new(t.detached()),
            flow: Box::new(t),
            x,
            z,
            error: 1e-4,
        });
    }
    Ok(cases)
}

#[test]
fn every_setting_keeps_the_contract() -> Result<()> {
    for case in cases(DType::F32)? {
        let (what, x, z) = (&case.what, &case.x, Some(&case.z));
        let (v, logdet) = case.flow.forward(x, z)?;
        assert_eq!(v.dims(), x.dims());
        assert_eq!(logdet.dims(), &x.dims()[..1]);
        assert_eq!(case.flow.dim(), Some(x.dim(1)?));
        assert!(largest(&(&v - x)?)? > 0.1, "{what}");
        assert_close("v alone", &case.flow.latent(x, z)?, &v, 1e-5)?;

        let back = case.flow.inverse(&v, z)?;
        let error = largest(&(back - x)?)?;
        assert!(error <= case.error, "{what}: inverse is off by {error}");

        let (w, l) = case.detached.forward(x, z)?;
        assert_close("without a graph", &w, &v, 1e-6)?;
        assert_close("without a graph", &l, &logdet, 1e-5)?;
        assert!(!w.track_op() && !l.track_op());
        assert!(!case.detached.inverse(&v.detach(), z)?.track_op());

        // One at a time gives the same as in the batch.
        let one = (x.narrow(0, 3, 1)?, case.z.narrow(0, 3, 1)?);
        let (first, _) = case.flow.forward(&one.0, Some(&one.1))?;
        assert_close("batch of one", &first, &v.narrow(0, 3, 1)?, 1e-4)?;

        // Samples of one z are consecutive, and those of one v and z equal the inverse.
        let samples = case.flow.sample(z, 3, &mut Rng::new(4))?;
        let noise = Rng::new(4).normal((3 * BATCH, x.dim(1)?), &Device::Cpu)?;
        let rows: Vec<u32> = (0..3 * BATCH as u32).map(|i| i / 3).collect();
        let repeated = case.z.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        let expected = case.flow.inverse(&noise, Some(&repeated))?;
        assert_close("samples", &samples, &expected, 1e-4)?;

        assert!(case.flow.forward(x, None).is_err());
        assert!(case.flow.forward(&x.narrow(0, 0, 2)?, z).is_err());
        assert!(case.flow.inverse(&Tensor::cat(&[x, x], 1)?, z).is_err());
        let nan = (x * f64::NAN)?;
        assert!(matches!(case.flow.forward(&nan, z), Err(Error::Invalid(_))));
    }
    Ok(())
}

/// In f16, v and codes are those of single precision but for rounding: within 0.02 standard
/// deviations. (candle has no matrix products in bf16 on the CPU.)
#[test]
fn half_precision_is_near() -> Result<()> {
    for (half, single) in cases(DType::F16)?.iter().zip(&cases(DType::F32)?) {
        let (what, z) = (&single.what, Some(&single.z));
        let v = half.flow.latent(&single.x, z)?;
        assert_eq!(v.dtype(), DType::F16);
        let exact = single.flow.latent(&single.x, z)?;
        let off = largest(&(v.to_dtype(DType::F32)? - &exact)?)?;
        assert!(off <= 0.02, "{what}: v is off by {off}");
        let code = half.flow.inverse(&exact, z)?.to_dtype(DType::F32)?;
        // The standard deviation of codes is 3.
        let off = largest(&(code - &single.x)?)? / 3.0;
        assert!(off <= 0.02, "{what}: codes are off by {off}");
    }
    Ok(())
}

#[test]
fn log_determinants_are_the_jacobians() -> Result<()> {
    for case in cases(DType::F64)? {
        for i in 0..3 {
            let (x, z) = (case.x.narrow(0, i, 1)?, case.z.narrow(0, i, 1)?);
            let (_, logdet) = case.flow.forward(&x, Some(&z))?;
            let numeric = numeric_logdet(case.flow.as_ref(), &x, Some(&z))?;
            let ours = scalar(&logdet.get(0)?)?;
            assert!(
                (ours - numeric).abs() < case.error,
                "{}: {ours}, not {numeric}",
                case.what
            );
        }
    }
    Ok(())
}

#[test]
fn gradients_reach_everything() -> Result<()> {
    for case in cases(DType::F64)? {
        let (x, z) = (Var::from_tensor(&case.x)?, Var::from_tensor(&case.z)?);
        let (v, logdet) = case.flow.forward(&x, Some(&z))?;
        let weights = Rng::new(6).normal(v.dims(), &Device::Cpu)?;
        let both = |v: &Tensor, logdet: &Tensor| -> Result<Tensor> {
            let weighted = (v.sqr()? * weights.to_dtype(DType::F64)?)?.sum_all()?;
            Ok((weighted + logdet.sin()?.sum_all()?)?)
        };
        let of_forward = backward(&both(&v, &logdet)?)?;
        let loss = case.flow.loss(&x, Some(&z), &mut Rng::new(7))?;
        let of_loss = backward(&loss)?;
        let v = Var::from_tensor(&v)?;
        let back = case.flow.inverse(&v, Some(&z))?;
        let of_inverse = backward(&(back.sqr()? * weights.to_dtype(DType::F64)?)?.sum_all()?)?;
        for (name, var) in case.params.trained() {
            for (kind, gradients) in [
                ("forward", &of_forward),
                ("loss", &of_loss),
                ("inverse", &of_inverse),
            ] {
                // With a single token nothing comes before it, so the input layer is not used.
                let gradient = gradients.get(&var);
                let unused = case.what.contains("group: 6") && name.contains("input.");
                let size = gradient.map(largest).transpose()?.unwrap_or(0.0);
                assert!(size > 0.0 || unused, "{}: {kind} {name}", case.what);
            }
        }
        for (name, gradients, var) in [
            ("x", &of_forward, &x),
            ("z", &of_forward, &z),
            ("v", &of_inverse, &v),
            ("z of the inverse", &of_inverse, &z),
            ("z of the loss", &of_loss, &z),
        ] {
            let gradient = gradients.get(var).map(largest).transpose()?;
            assert!(gradient.is_some_and(|g| g > 0.0), "{}: {name}", case.what);
        }
        // A gradient of x against a difference quotient.
        let gradient = of_forward.get(&x).map(values).transpose()?;
        let gradient = gradient.unwrap_or_default();
        let h = 1e-5;
        let at = |by: f64| -> Result<f64> {
            let mut moved = values(&case.x)?;
            moved[1] += by;
            let moved = Tensor::from_vec(moved, case.x.shape(), &Device::Cpu)?;
            let (v, logdet) = case.flow.forward(&moved, Some(&case.z))?;
            scalar(&both(&v, &logdet)?)
        };
        let numeric = (at(h)? - at(-h)?) / (2.0 * h);
        assert!(
            (gradient[1] - numeric).abs() < 1e-5 * numeric.abs().max(1.0),
            "{}: {} and {numeric}",
            case.what,
            gradient[1]
        );
    }
    Ok(())
}

#[test]
fn weights_are_saved_and_loaded() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("invariances-flows-{}", std::process::id()));
    std::fs::create_dir_all(&folder).ok();
    for (a, b) in cases(DType::F32)?.into_iter().zip(cases(DType::F32)?) {
        let file = folder.join("t.safetensors");
        for (_, var) in a.params.trained() {
            var.set(&(var.as_detached_tensor() + 0.01)?)?;
        }
        let before = a.flow.latent(&a.x, Some(&a.z))?;
        let other = b.flow.latent(&a.x, Some(&a.z))?;
        assert!(largest(&(&other - &before)?)? > 1e-4);
        a.params.save(&file)?;
        b.params.load(&file)?;
        let loaded = b.flow.latent(&a.x, Some(&a.z))?;
        assert_eq!(values(&loaded)?, values(&before)?);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// v of a token depends on the tokens before it and not on those after it.
#[test]
fn a_block_of_tarflow_is_causal() -> Result<()> {
    let config = TarFlowConfig {
        group: 2,
        flows: 1,
        hidden: 8,
        heads: 2,
        ..TarFlowConfig::new(6, Condition::Vector(5))
    };
    let params = Params::with(1, DType::F64, &Device::Cpu);
    let t = TarFlow::new(&config, &params.root())?;
    stir(&params)?;
    let (x, z) = batch(6, config.condition, DType::F64)?;
    t.initialize(&x, Some(&z))?;
    let v = t.latent(&x, Some(&z))?;
    let moved = Tensor::new(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0], &Device::Cpu)?;
    let w = t.latent(&x.broadcast_add(&moved)?, Some(&z))?;
    let change = (w - v)?.abs()?;
    assert_eq!(largest(&change.narrow(1, 0, 2)?)?, 0.0);
    assert!(largest(&change.narrow(1, 2, 1)?)? > 0.1);
    // The other element of the same token does not change.
    assert_eq!(largest(&change.narrow(1, 3, 1)?)?, 0.0);
    assert!(largest(&change.narrow(1, 4, 2)?)? > 1e-4);
    Ok(())
}

/// More steps of the solver make the round trip and v more exact.
#[test]
fn the_solver_is_of_fourth_order() -> Result<()> {
    let config = FlowMatchingConfig {
        hidden: 12,
        steps: 16,
        ..FlowMatchingConfig::new(4, Condition::Vector(5))
    };
    let params = Params::with(1, DType::F64, &Device::Cpu);
    let t = FlowMatching::new(&config, &params.root())?;
    stir(&params)?;
    let (x, z) = batch(4, config.condition, DType::F64)?;
    t.initialize(&x, Some(&z))?;
    // With 4 steps the error is not yet proportional to the fourth power: 1/85 at 16 steps.
    let coarse = t.round_trip_error(&x, &z)?;
    let fine = t.with_steps(64).round_trip_error(&x, &z)?;
    // A quarter of the step: an error of 1/256.
    assert!(
        coarse > 1e-9 && fine < coarse / 128.0,
        "{coarse} and {fine}"
    );
    let v = |steps: usize| t.with_steps(steps).detached().latent(&x, Some(&z));
    let exact = v(128)?;
    let (coarse, fine) = (largest(&(v(16)? - &exact)?)?, largest(&(v(64)? - &exact)?)?);
    assert!(
        coarse > 1e-9 && fine < coarse / 128.0,
        "{coarse} and {fine}"
    );
    Ok(())
}

/// Both learn a conditional Gaussian: the log-density of other codes comes near the true one.
#[test]
fn a_conditional_gaussian_is_learned() -> Result<()> {
    let truth = Gaussian::random(4, 3, 0)?;
    let mut rng = Rng::new(0);
    let condition = Condition::Vector(3);
    let (x, z) = truth.draw(2000, &mut rng)?;
    let expected = scalar(&truth.log_prob(&x, Some(&z))?.mean_all()?)?;
    let params = Params::new(0);
    let matching = FlowMatchingConfig {
        hidden: 48,
        blocks: 2,
        ..FlowMatchingConfig::new(4, condition)
    };
    let tar = TarFlowConfig {
        group: 1,
        flows: 2,
        layers: 1,
        hidden: 32,
        ..TarFlowConfig::new(4, condition)
    };
    let flows: [(&str, Box<dyn Flow>); 2] = [
        (
            "matching",
            Box::new(FlowMatching::new(&matching, &params.root().pp("m"))?),
        ),
        (
            "tarflow",
            Box::new(TarFlow::new(&tar, &params.root().pp("t"))?),
        ),
    ];
    for (name, flow) in flows {
        let prefix = &name[..1];
        let (first, of_first) = truth.draw(512, &mut rng)?;
        flow.initialize(&first, Some(&of_first))?;
        let own = params
            .trained()
            .into_iter()
            .filter(|(n, _)| n.starts_with(&format!("{prefix}.")));
        let mut adam = Adam::named(own.collect())?;
        let before = scalar(&flow.log_prob(&x, Some(&z))?.mean_all()?)?;
        for step in 0..600 {
            let (x, z) = truth.draw(128, &mut rng)?;
            let rate = 4e-3 * (1.0 - step as f64 / 600.0);
            adam.step_at(&backward(&flow.loss(&x, Some(&z), &mut rng)?)?, rate)?;
        }
        let after = scalar(&flow.log_prob(&x, Some(&z))?.mean_all()?)?;
        println!("{name}: {before:.3} before, {after:.3} after, {expected:.3} exact");
        assert!(before < expected - 0.5, "{name}: {before}");
        assert!(
            (after - expected).abs() < 0.1,
            "{name}: {after}, {expected}"
        );
    }
    Ok(())
}

/// The loss of several draws for each code estimates the same number, with a smaller deviation.
#[test]
fn the_loss_takes_several_draws_of_each_code() -> Result<()> {
    let estimates = |draws: usize| -> Result<(f64, f64)> {
        let condition = Condition::Vector(3);
        let config = FlowMatchingConfig {
            hidden: 8,
            blocks: 1,
            draws,
            ..FlowMatchingConfig::new(4, condition)
        };
        let params = Params::new(1);
        let t = FlowMatching::new(&config, &params.root())?;
        let (x, z) = batch(4, condition, DType::F32)?;
        stir(&params)?;
        t.initialize(&x, Some(&z))?;
        let mut rng = Rng::new(7);
        let losses: Result<Vec<f64>> = (0..400)
            .map(|_| {
                // Angles follow the order of the rows, so that each order is another estimate.
                let order = Tensor::new(rng.permutation(BATCH), &Device::Cpu)?;
                let (x, z) = (x.index_select(&order, 0)?, z.index_select(&order, 0)?);
                scalar(&t.loss(&x, Some(&z), &mut rng)?)
            })
            .collect();
        let losses = losses?;
        let mean = losses.iter().sum::<f64>() / 400.0;
        let variance = losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 399.0;
        Ok((mean, variance.sqrt()))
    };
    let ((one, deviation), (four, smaller)) = (estimates(1)?, estimates(4)?);
    // 400 estimates each: five standard errors of the difference.
    let allowed = 5.0 * (deviation.powi(2) + smaller.powi(2)).sqrt() / 20.0;
    assert!((one - four).abs() < allowed, "{one} and {four}: {allowed}");
    assert!(smaller < 0.7 * deviation, "{deviation} and {smaller}");
    Ok(())
}

#[test]
fn wrong_settings_are_refused() -> Result<()> {
    let root = Params::new(0).root();
    let condition = Condition::Vector(3);
    let tar = TarFlowConfig::new(6, condition);
    for config in [
        TarFlowConfig {
            group: 4,
            ..tar.clone()
        },
        TarFlowConfig {
            heads: 3,
            ..tar.clone()
        },
        TarFlowConfig {
            layers: 0,
            ..tar.clone()
        },
        TarFlowConfig::new(0, condition),
    ] {
        let refused = TarFlow::new(&config, &root);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{config:?}");
    }
    let matching = FlowMatchingConfig::new(6, condition);
    for config in [
        FlowMatchingConfig {
            steps: 0,
            ..matching.clone()
        },
        FlowMatchingConfig {
            steps: 129,
            ..matching.clone()
        },
        FlowMatchingConfig {
            hidden: 0,
            ..matching.clone()
        },
        FlowMatchingConfig::new(0, condition),
    ] {
        let refused = FlowMatching::new(&config, &root);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{config:?}");
    }
    Ok(())
}
