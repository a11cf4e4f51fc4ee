//! Flows: the authors' values, and what must hold for every setting.

mod common;
#[path = "common/jacobian.rs"]
mod jacobian;

use common::{assert_close, fill, reference, state_dict};
use invariances::candle_core::backprop::GradStore;
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::flow::{
    ActNorm, Affine, AffineCoupling, Cinn, CinnConfig, Composed, Condition, Conditioning, Coupling,
    CouplingConfig, CouplingNets, FactorConfig, FactorInn, Flow, FlowActivation, Inverse,
    InvertibleLeakyRelu, LuMixing, Memory, Mixing, Permutation, RationalQuadratic, SplineCoupling,
    Univariate, factor_dims,
};
use invariances::loss::{nll, nll_parts, pair_nll};
use invariances::ops::{Params, Rng, backward};
use invariances::train::Adam;
use invariances::{Error, Result};
use jacobian::{largest, numeric_logdet};
use std::sync::Arc;

/// What a correct port meets in f32.
const TOLERANCE: f64 = 1e-5;

/// The reference networks and their sizes.
fn references() -> Vec<(&'static str, CinnConfig)> {
    let base = CinnConfig {
        hidden: 32,
        ..CinnConfig::new(16, Condition::Vector(24))
    };
    vec![
        (
            "cinn_dense",
            CinnConfig {
                flows: 4,
                ..base.clone()
            },
        ),
        (
            "cinn_lrelu",
            CinnConfig {
                flows: 3,
                depth: 1,
                conditioning_depth: 2,
                activation: FlowActivation::Lrelu,
                ..base.clone()
            },
        ),
        (
            "cinn_sequential",
            CinnConfig {
                flows: 2,
                conditioning: Conditioning::Sequential,
                ..base.clone()
            },
        ),
        (
            "cinn_spatial",
            CinnConfig {
                flows: 4,
                condition: Condition::Map {
                    channels: 8,
                    size: 13,
                    down: 2,
                },
                ..base
            },
        ),
    ]
}

#[test]
fn names_and_shapes_are_the_authors() -> Result<()> {
    for (name, config) in references() {
        let params = Params::new(0);
        Cinn::new(&config, &params.root())?;
        let mut ours: Vec<_> = params
            .tensors()
            .into_iter()
            .map(|(n, t)| (n, t.dims().to_vec()))
            .collect();
        ours.sort();
        assert_eq!(ours, state_dict("manifest_flows.json", name)?, "{name}");
    }
    Ok(())
}

#[test]
fn values_and_gradients_are_the_authors() -> Result<()> {
    for (name, config) in references() {
        let stored = reference(name)?;
        let params = Params::new(0);
        let t = Cinn::new(&config, &params.root())?;
        fill(&params, &stored)?;
        let flat = |name: &str| stored[name].flatten_from(1);
        let (x, v) = (flat("x")?, flat("v")?);
        let z = match config.condition {
            Condition::Vector(_) => flat("cond")?,
            Condition::Map { .. } => stored["cond"].clone(),
        };
        let close = |what: &str, t: &Tensor| {
            assert_close(&format!("{name} {what}"), t, &stored[what], TOLERANCE)
        };
        let (out, logdet) = t.forward(&x, &z)?;
        close("embedding", &t.embed(&z)?)?;
        close("out", &out)?;
        close("logdet", &logdet)?;
        close("reconstruction", &t.inverse(&out, &z)?)?;
        close("sample", &t.inverse(&v, &z)?)?;
        let loss = nll(&out, &logdet)?;
        close("nll_loss", &loss)?;
        // The same with constant memory: values, and below the gradients.
        let constant = t.with_memory(Memory::constant());
        let (again, more) = constant.forward(&x, &z)?;
        close("out", &again)?;
        let constant = backward(&nll(&again, &more)?)?;
        let parts = nll_parts(&out, &logdet)?;
        assert!((parts.value() - f64::from(loss.to_scalar::<f32>()?)).abs() < 1e-4);
        let gradients = loss.backward()?;
        for key in stored.keys() {
            let Some(parameter) = key.strip_prefix("grad:") else {
                continue;
            };
            for gradients in [&gradients, &constant] {
                let gradient = gradients.get(params.var(parameter)?.as_tensor());
                let gradient = gradient.ok_or_else(|| {
                    Error::invalid(format!("{name}: {parameter} has no gradient"))
                })?;
                close(key, gradient)?;
            }
        }
        // The map is the same through the trait, and without a graph.
        let flow: &dyn Flow = &t.detached();
        let (again, _) = flow.forward(&x, Some(&z))?;
        close("out", &again)?;
        assert!(!again.track_op());
    }
    Ok(())
}

#[test]
fn actnorm_starts_as_the_authors() -> Result<()> {
    let stored = reference("actnorm_init")?;
    let params = Params::new(0);
    let norm = ActNorm::new(6, &params.root())?;
    assert!(!norm.is_initialized()?);
    norm.initialize(&stored["x"])?;
    assert!(norm.is_initialized()?);
    // A second batch changes nothing.
    norm.initialize(&(&stored["x"] * 3.0)?)?;
    let (h, logdet) = norm.forward(&stored["x"], None)?;
    for (name, value) in [
        ("loc", params.var("loc")?.as_tensor()),
        ("scale", params.var("scale")?.as_tensor()),
        ("h", &h),
        ("logdet", &logdet),
    ] {
        assert_close(name, value, &stored[name], TOLERANCE)?;
    }
    Ok(())
}

/// Every setting that changes a path through the code: sizes even and odd, depths, conditions,
/// conditioning, nonlinearity.
fn settings() -> Vec<CinnConfig> {
    let vector = CinnConfig {
        hidden: 24,
        flows: 3,
        ..CinnConfig::new(6, Condition::Vector(10))
    };
    let map = Condition::Map {
        channels: 3,
        size: 8,
        down: 1,
    };
    vec![
        vector.clone(),
        CinnConfig {
            dim: 7,
            depth: 0,
            flows: 1,
            conditioning_depth: 2,
            ..vector.clone()
        },
        CinnConfig {
            dim: 2,
            depth: 1,
            conditioning: Conditioning::Parallel,
            ..vector.clone()
        },
        CinnConfig {
            conditioning: Conditioning::Sequential,
            activation: FlowActivation::Lrelu,
            conditioning_depth: 6,
            ..vector.clone()
        },
        CinnConfig {
            dim: 5,
            activation: FlowActivation::LreluExact,
            ..vector.clone()
        },
        CinnConfig {
            condition: map,
            ..vector.clone()
        },
        CinnConfig {
            coupling: CouplingConfig::soft_clamped(),
            mixing: Mixing::Lu,
            ..vector.clone()
        },
        CinnConfig {
            dim: 5,
            coupling: CouplingConfig::spline(),
            conditioning: Conditioning::Parallel,
            ..vector.clone()
        },
        CinnConfig {
            coupling: CouplingConfig::Spline {
                bins: 3,
                bound: 1.5,
            },
            mixing: Mixing::Lu,
            activation: FlowActivation::LreluExact,
            ..vector
        },
    ]
}

/// The same for e.
fn factor_settings() -> Vec<FactorConfig> {
    let base = FactorConfig {
        hidden: 24,
        flows: 3,
        ..FactorConfig::new(vec![2, 1, 4])
    };
    vec![
        base.clone(),
        FactorConfig {
            factors: vec![2],
            depth: 0,
            activation: FlowActivation::LreluExact,
            ..base.clone()
        },
        FactorConfig {
            activation: FlowActivation::Lrelu,
            coupling: CouplingConfig::Affine { clamp: 0.5 },
            mixing: Mixing::Lu,
            ..base.clone()
        },
        FactorConfig {
            coupling: CouplingConfig::spline(),
            mixing: Mixing::Lu,
            ..base
        },
    ]
}

/// A network of the family, started on a batch, and that batch.
struct Case {
    what: String,
    params: Params,
    flow: Box<dyn Flow>,
    /// Of the same parameters, without a graph, and with constant memory.
    detached: Box<dyn Flow>,
    constant: Box<dyn Flow>,
    x: Tensor,
    condition: Option<Tensor>,
    /// Whether the log-determinant is the true one.
    exact: bool,
}

fn cases(dtype: DType) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    for config in settings() {
        let (t, params, x, z) = started(&config, dtype)?;
        all.push(Case {
            what: format!("{config:?}"),
            params,
            detached: Box::new(t.detached()),
            constant: Box::new(t.with_memory(Memory::constant())),
            flow: Box::new(t),
            x,
            condition: Some(z),
            exact: config.activation != FlowActivation::Lrelu,
        });
    }
    for config in factor_settings() {
        let (e, params, x) = started_factors(&config, dtype)?;
        all.push(Case {
            what: format!("{config:?}"),
            params,
            detached: Box::new(e.detached()),
            constant: Box::new(e.with_memory(Memory::constant())),
            flow: Box::new(e),
            x,
            condition: None,
            exact: config.activation != FlowActivation::Lrelu,
        });
    }
    Ok(all)
}

/// LU maps start as permutations, which would hide what they get wrong.
fn stir(params: &Params) -> Result<()> {
    for (name, var) in params.trained() {
        if ["lower", "upper", "log_scale"].contains(&name.rsplit('.').next().unwrap_or_default()) {
            let by = Rng::named(5, &name).normal(var.shape(), &Device::Cpu)?;
            var.set(&(var.as_detached_tensor() + (by.to_dtype(var.dtype())? * 0.2)?)?)?;
        }
    }
    Ok(())
}

fn started_factors(config: &FactorConfig, dtype: DType) -> Result<(FactorInn, Params, Tensor)> {
    let params = Params::with(1, dtype, &Device::Cpu);
    let e = FactorInn::new(config, &params.root())?;
    let code = Rng::new(2).normal((50, config.dim()), &Device::Cpu)?;
    let code = ((code * 3.0)? + 2.0)?.to_dtype(dtype)?;
    stir(&params)?;
    e.initialize(&code)?;
    Ok((e, params, code))
}

/// Started on a batch, in this number type: the network, its parameters, a batch of codes and of z.
fn started(config: &CinnConfig, dtype: DType) -> Result<(Cinn, Params, Tensor, Tensor)> {
    let params = Params::with(1, dtype, &Device::Cpu);
    let t = Cinn::new(config, &params.root())?;
    let mut rng = Rng::new(2);
    let batch = 50;
    let z = match config.condition {
        Condition::Vector(n) => rng.normal((batch, n), &Device::Cpu)?,
        Condition::Map { channels, size, .. } => {
            rng.normal((batch, channels, size, size), &Device::Cpu)?
        }
    };
    let code = ((rng.normal((batch, config.dim), &Device::Cpu)? * 3.0)? + 2.0)?;
    let (code, z) = (code.to_dtype(dtype)?, z.to_dtype(dtype)?);
    stir(&params)?;
    t.initialize(&code, &z)?;
    Ok((t, params, code, z))
}

#[test]
fn every_setting_keeps_the_contract() -> Result<()> {
    for case in cases(DType::F32)? {
        let (what, x, condition) = (&case.what, &case.x, case.condition.as_ref());
        let (v, logdet) = case.flow.forward(x, condition)?;
        assert_eq!(v.dims(), x.dims());
        assert_eq!(logdet.dims(), &x.dims()[..1]);
        assert_eq!(case.flow.dim(), Some(x.dim(1)?));

        let back = case.flow.inverse(&v, condition)?;
        let error = largest(&(back - x)?)?;
        assert!(error <= 1e-4, "{what}: inverse is off by {error}");

        // As in evaluation, where no graph is kept, and with constant memory.
        for other in [&case.detached, &case.constant] {
            let (w, l) = other.forward(x, condition)?;
            assert_eq!(v.to_vec2::<f32>()?, w.to_vec2::<f32>()?, "{what}");
            assert_eq!(logdet.to_vec1::<f32>()?, l.to_vec1::<f32>()?, "{what}");
        }
        assert!(!case.detached.forward(x, condition)?.0.track_op());
        assert!(!case.detached.inverse(&v.detach(), condition)?.track_op());

        let gradients = nll(&v, &logdet)?.backward()?;
        for (name, var) in case.params.trained() {
            let gradient = gradients.get(&var);
            let gradient =
                gradient.ok_or_else(|| Error::invalid(format!("no gradient: {name}")))?;
            assert_eq!(gradient.dims(), var.dims(), "{name}");
            assert!(largest(gradient)? > 0.0, "{what}: {name} has gradient 0");
        }

        // One at a time answers as the batch does.
        let one = condition.map(|c| c.narrow(0, 0, 1)).transpose()?;
        let (first, _) = case.flow.forward(&x.narrow(0, 0, 1)?, one.as_ref())?;
        assert_close("batch of one", &first, &v.narrow(0, 0, 1)?, 1e-5)?;

        // A density of so many numbers, and what it costs in bits.
        let nats = case.flow.log_prob(x, condition)?.to_vec1::<f32>()?;
        let bits = case
            .flow
            .bits_per_dimension(x, condition)?
            .to_vec1::<f32>()?;
        let code = x.dim(1)? as f32;
        for (n, b) in nats.iter().zip(&bits) {
            assert!((n + b * code * std::f32::consts::LN_2).abs() < 1e-4 * n.abs().max(1.0));
        }
        let samples = case.flow.sample(condition, 3, &mut Rng::new(4))?;
        let rows = condition.map_or(3, |c| 3 * c.dims()[0]);
        assert_eq!(samples.dims(), [rows, x.dim(1)?]);
    }
    for config in settings() {
        // The embedding once, for all.
        let (t, _, code, z) = started(&config, DType::F32)?;
        let (v, _) = t.forward(&code, &z)?;
        let (again, _) = t.forward_embedded(&code, &t.embed(&z)?)?;
        assert_close("embedded", &again, &v, 1e-6)?;
        let stages = t.stages(&v, &z)?;
        assert_eq!(stages.len(), config.flows + 1);
        assert_close("first stage", &stages[0], &v, 0.0)?;
        assert_close("last stage", &stages[config.flows], &code, 1e-4)?;
    }
    Ok(())
}

/// The gradients of all parameters, of x and of the condition.
fn gradients(
    case: &Case,
    flow: &dyn Flow,
    run: impl Fn(&Tensor) -> Result<GradStore>,
) -> Result<Vec<(String, Tensor)>> {
    let x = Var::from_tensor(&case.x)?;
    let condition = case.condition.as_ref().map(Var::from_tensor).transpose()?;
    let (v, logdet) = flow.forward(&x, condition.as_ref().map(|c| c.as_tensor()))?;
    // Not the loss alone: its gradient is the same in every row.
    let weights = Rng::new(6).normal(logdet.dims(), &Device::Cpu)?;
    let uneven = (logdet.sin()? * weights.to_dtype(logdet.dtype())?)?.sum_all()?;
    let gradients = run(&(nll(&v, &logdet)? + uneven)?)?;
    let mut vars = case.params.trained();
    vars.push(("x".into(), x));
    vars.extend(condition.map(|c| ("condition".to_string(), c)));
    let mut all = Vec::new();
    for (name, var) in vars {
        let gradient = gradients.get(&var);
        let gradient = gradient.ok_or_else(|| Error::invalid(format!("no gradient: {name}")))?;
        all.push((name, gradient.clone()));
    }
    Ok(all)
}

#[test]
fn constant_memory_gives_the_ordinary_gradients() -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-11)] {
        for case in cases(dtype)? {
            let candles = |loss: &Tensor| Ok(loss.backward()?);
            let ordinary = gradients(&case, case.flow.as_ref(), candles)?;
            for found in [
                gradients(&case, case.flow.as_ref(), backward)?,
                gradients(&case, case.constant.as_ref(), candles)?,
                gradients(&case, case.constant.as_ref(), backward)?,
            ] {
                for ((name, gradient), (_, expected)) in found.iter().zip(&ordinary) {
                    // Sums over the batch: beside the largest of them, small ones are rounding.
                    let scale = largest(expected)?.max(1.0);
                    let (gradient, expected) = ((gradient / scale)?, (expected / scale)?);
                    let what = format!("{} {name}", case.what);
                    assert_close(&what, &gradient, &expected, tolerance)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_step_within_the_backward_pass_is_the_step_after_it() -> Result<()> {
    let config = CinnConfig {
        mixing: Mixing::Lu,
        conditioning: Conditioning::Sequential,
        ..settings().remove(0)
    };
    let train = |within: bool, memory: Memory, twice: bool| -> Result<Vec<Vec<f32>>> {
        let (t, params, code, z) = started(&config, DType::F32)?;
        let t = t.with_memory(memory);
        let mut adam = Adam::named(params.trained())?.weight_decay(0.1);
        for _ in 0..4 {
            let (v, logdet) = t.forward(&code, &z)?;
            let mut loss = nll(&v, &logdet)?;
            if twice {
                // A second pass in the same loss: no gradient is whole before the end.
                let (v, logdet) = t.forward(&(&code * 0.5)?, &z)?;
                loss = (loss + nll(&v, &logdet)?)?;
            }
            if within {
                adam.step_in_backward(&loss, 1e-3)?;
            } else {
                adam.step_at(&backward(&loss)?, 1e-3)?;
            }
        }
        let numbers = |(_, v): (String, Var)| Ok(v.flatten_all()?.to_vec1()?);
        params.trained().into_iter().map(numbers).collect()
    };
    for memory in [Memory::Ordinary, Memory::constant()] {
        for twice in [false, true] {
            assert_eq!(train(true, memory, twice)?, train(false, memory, twice)?);
        }
    }
    let (t, params, code, z) = started(&config, DType::F32)?;
    let mut adam = Adam::named(params.trained())?.clip(Some(1.0));
    let (v, logdet) = t.forward(&code, &z)?;
    let refused = adam.step_in_backward(&nll(&v, &logdet)?, 1e-3);
    assert!(refused.is_err_and(|e| e.to_string().contains("clip")));
    Ok(())
}

#[test]
fn drift_is_measured_and_refused() -> Result<()> {
    let config = CinnConfig {
        flows: 8,
        ..settings().remove(0)
    };
    let (t, params, code, z) = started(&config, DType::F32)?;
    let t = t.with_memory(Memory::constant());
    assert_eq!(t.drift(), None);
    let loss = || -> Result<Tensor> {
        let (v, logdet) = t.forward(&code, &z)?;
        nll(&v, &logdet)
    };
    backward(&loss()?)?;
    let drift = t.drift().unwrap_or(f64::NAN);
    assert!(drift > 0.0 && drift < 1e-5, "{drift}");
    // An ActNorm that presses all numbers together loses their digits beside its shift.
    for (name, var) in params.trained() {
        if name.ends_with("norm_layer.loc") {
            var.set(&(var.as_detached_tensor() + 1e6)?)?;
        }
    }
    let failed = backward(&loss()?);
    match failed {
        Err(Error::Diverged(what)) => assert!(what.contains("tolerance"), "{what}"),
        other => panic!("expected a refusal, found {:?}", other.map(drop)),
    }
    assert!(t.drift().is_some_and(|d| d > 1e-3));
    Ok(())
}

#[test]
fn log_determinants_are_the_jacobians() -> Result<()> {
    for case in cases(DType::F64)? {
        if !case.exact {
            continue; // Counts 0 for a nonlinearity, by design.
        }
        for i in 0..3 {
            let x = case.x.narrow(0, i, 1)?;
            let condition = case.condition.as_ref();
            let condition = condition.map(|c| c.narrow(0, i, 1)).transpose()?;
            let (_, logdet) = case.flow.forward(&x, condition.as_ref())?;
            let numeric = numeric_logdet(case.flow.as_ref(), &x, condition.as_ref())?;
            let ours: f64 = logdet.get(0)?.to_scalar()?;
            assert!(
                (ours - numeric).abs() < 1e-5,
                "{}: {ours}, not {numeric}",
                case.what
            );
        }
    }
    let params = Params::with(3, DType::F64, &Device::Cpu);
    let mut flows = layers(5, 0, &params)?;
    flows.push(Arc::new(Composed::new(layers(5, 0, &params)?)?));
    let x = Rng::new(4)
        .normal((1, 5), &Device::Cpu)?
        .to_dtype(DType::F64)?;
    for flow in flows {
        let back: Arc<dyn Flow> = Arc::new(Inverse::new(&flow));
        for flow in [flow, back] {
            let (v, logdet) = flow.forward(&x, None)?;
            let numeric = numeric_logdet(flow.as_ref(), &x, None)?;
            let ours: f64 = logdet.get(0)?.to_scalar()?;
            assert!((ours - numeric).abs() < 1e-6, "{}", flow.outline());
            assert!(largest(&(flow.inverse(&v, None)? - &x)?)? < 1e-10);
        }
    }
    Ok(())
}

/// One layer of each kind, with conditional couplings if `condition` is not 0.
fn layers(dim: usize, condition: usize, params: &Params) -> Result<Vec<Arc<dyn Flow>>> {
    let root = params.root();
    let nets = CouplingNets {
        condition,
        hidden: 8,
        depth: 1,
    };
    let affine = AffineCoupling::new(dim, Affine::clamped(1.5)?, &nets, &root.pp("coupling"))?;
    let splines = RationalQuadratic::new(4, 2.0)?;
    let all: Vec<Arc<dyn Flow>> = vec![
        Arc::new(ActNorm::new(dim, &root.pp("norm"))?),
        Arc::new(InvertibleLeakyRelu::exact()),
        Arc::new(affine),
        Arc::new(Permutation::new(dim, &root.pp("shuffle"))?),
        Arc::new(LuMixing::new(dim, &root.pp("lu"))?),
        Arc::new(SplineCoupling::new(
            dim,
            splines,
            &nets,
            &root.pp("spline"),
        )?),
    ];
    Ok(all)
}

/// A composition of all layers is inverted, has the Jacobian's log-determinant and correct
/// gradients, with a condition and backwards; ActNorms start from the data that reach them.
#[test]
fn compositions_keep_the_contract() -> Result<()> {
    let params = Params::with(3, DType::F64, &Device::Cpu);
    let composed = Composed::new(layers(5, 3, &params)?)?;
    stir(&params)?;
    let mut rng = Rng::new(4);
    let mut normal = |width: usize| -> Result<Tensor> {
        Ok(rng
            .normal((40, width), &Device::Cpu)?
            .to_dtype(DType::F64)?)
    };
    let (x, c) = (((normal(5)? * 3.0)? + 2.0)?, normal(3)?);
    composed.initialize(&x, Some(&c))?;
    let (norm, _) = composed.flows()[0].forward(&x, None)?;
    assert!(largest(&norm.mean(0)?)? < 1e-10);
    assert_eq!(composed.dim(), Some(5));
    assert_eq!(
        composed.sample(Some(&c), 3, &mut Rng::new(5))?.dims(),
        [120, 5]
    );

    let inverse = Inverse::new(&composed);
    for flow in [&composed as &dyn Flow, &inverse] {
        let (v, logdet) = flow.forward(&x, Some(&c))?;
        assert_eq!(logdet.dims(), [40]);
        assert!(largest(&(flow.inverse(&v, Some(&c))? - &x)?)? < 1e-9);
        assert!(flow.forward(&x, None).is_err());
        for i in 0..3 {
            let (x, c) = (x.narrow(0, i, 1)?, c.narrow(0, i, 1)?);
            let numeric = numeric_logdet(flow, &x, Some(&c))?;
            let ours: f64 = logdet.get(i)?.to_scalar()?;
            assert!((ours - numeric).abs() < 1e-5, "{ours}, not {numeric}");
        }
        let loss = || -> Result<Tensor> {
            let (v, logdet) = flow.forward(&x, Some(&c))?;
            nll(&v, &logdet)
        };
        let gradients = backward(&loss()?)?;
        for (name, var) in params.trained() {
            let gradient = gradients.get(&var);
            let gradient =
                gradient.ok_or_else(|| Error::invalid(format!("no gradient: {name}")))?;
            // The derivative along the gradient itself.
            let start = var.as_detached_tensor().copy()?;
            let moved = |by: f64| -> Result<f64> {
                var.set(&(&start + (gradient * by)?)?)?;
                let loss = loss()?.to_scalar()?;
                var.set(&start)?;
                Ok(loss)
            };
            let size: f64 = gradient.sqr()?.sum_all()?.to_scalar()?;
            let step = 1e-7 / size.sqrt().max(1e-3);
            let numeric = (moved(step)? - moved(-step)?) / (2.0 * step);
            let error = (numeric - size).abs();
            assert!(error < 1e-4 * (1.0 + size), "{name}: {size}, not {numeric}");
        }
    }
    Ok(())
}

#[test]
fn compositions_that_do_not_fit_are_refused() -> Result<()> {
    let at = Params::new(0).root();
    assert!(matches!(Composed::new(Vec::new()), Err(Error::Invalid(_))));
    let differing: Vec<Arc<dyn Flow>> = vec![
        Arc::new(InvertibleLeakyRelu::exact()),
        Arc::new(ActNorm::new(3, &at.pp("a"))?),
        Arc::new(ActNorm::new(4, &at.pp("b"))?),
    ];
    assert!(matches!(Composed::new(differing), Err(Error::Shape(_))));
    Ok(())
}

/// The generic coupling and the kernels of the affine one compute the same.
#[test]
fn a_transform_of_ones_own_equals_the_kernels() -> Result<()> {
    #[derive(Clone, Debug)]
    struct Mine(Affine);
    impl Univariate for Mine {
        fn nets(&self) -> Vec<(&'static str, usize)> {
            self.0.nets()
        }
        fn forward(&self, x: &Tensor, raw: &[Tensor]) -> Result<(Tensor, Tensor)> {
            self.0.forward(x, raw)
        }
        fn inverse(&self, y: &Tensor, raw: &[Tensor]) -> Result<Tensor> {
            self.0.inverse(y, raw)
        }
    }
    let params = Params::with(3, DType::F64, &Device::Cpu);
    let nets = CouplingNets {
        hidden: 8,
        ..Default::default()
    };
    let affine = Affine::clamped(2.0)?;
    let kernels = Coupling::new(5, affine, &nets, &params.root())?;
    let names = params.names();
    let composed = Coupling::new(5, Mine(affine), &nets, &params.root())?;
    assert_eq!(params.names(), names);
    assert_eq!(names[0], "s.0.main.0.bias");
    let x = Rng::new(4).normal((9, 5), &Device::Cpu)?;
    let x = x.to_dtype(DType::F64)?;
    let ((a, logdet_a), (b, logdet_b)) = (kernels.forward(&x, None)?, composed.forward(&x, None)?);
    assert_close("v", &a, &b, 1e-12)?;
    assert_close("logdet", &logdet_a, &logdet_b, 1e-12)?;
    assert_close("x", &composed.inverse(&a, None)?, &x, 1e-12)
}

/// The text that `Display` and `Debug` print, and its number of parameters.
#[test]
fn networks_print_their_layers() -> Result<()> {
    for case in cases(DType::F32)? {
        let trained = case.params.trained();
        let count: usize = trained.iter().map(|(_, v)| v.elem_count()).sum();
        assert_eq!(
            case.flow.outline().parameters(),
            Some(count),
            "{}",
            case.what
        );
    }
    let config = CinnConfig {
        hidden: 8,
        flows: 3,
        depth: 0,
        conditioning_depth: 2,
        ..CinnConfig::new(5, Condition::Vector(10))
    };
    let t = Cinn::new(&config, &Params::new(0).root())?;
    let expected = "\
Cinn(5, condition=Vector(10))
  embedder: Embedder(Vector(10), 5)                       55
    Linear(in_features=10, out_features=5, bias=True)     55
  conditioning: Shared
  3 × Block                                            1,116
    ActNorm(5)                                            10
    Coupling(5, condition=5, Affine(clamp=1))            362
      s.0: MLP(8 → 8 → 2)                                 90
      t.0: MLP(8 → 8 → 2)                                 90
      s.1: MLP(7 → 8 → 3)                                 91
      t.1: MLP(7 → 8 → 3)                                 91
    Permutation(5)
Parameters: 1,171";
    assert_eq!(t.to_string(), expected);
    assert_eq!(format!("{t:?}"), expected);
    let layers: Vec<Arc<dyn Flow>> = vec![
        Arc::new(InvertibleLeakyRelu::exact()),
        Arc::new(LuMixing::new(2, &Params::new(0).root())?),
    ];
    let inverse = Inverse::new(&Composed::new(layers)?);
    let expected = "\
Inverse
  Composed(2)                     10
    LeakyReLU(0.9, logdet=exact)
    LuMixing(2)                   10
Parameters: 10";
    assert_eq!(inverse.to_string(), expected);
    Ok(())
}

#[test]
fn gradients_are_the_finite_differences() -> Result<()> {
    for case in cases(DType::F64)? {
        let x = Var::from_tensor(&case.x)?;
        let condition = case.condition.as_ref().map(Var::from_tensor).transpose()?;
        let given = condition.as_ref().map(|c| c.as_tensor());
        let weights = Rng::new(8).normal(case.x.dims(), &Device::Cpu)?;
        let weights = weights.to_dtype(DType::F64)?;
        // Of the way there, and of the way back.
        let there = || -> Result<Tensor> {
            let (v, logdet) = case.flow.forward(&x, given)?;
            nll(&v, &logdet)
        };
        let back = || -> Result<Tensor> {
            let x = case.flow.inverse(&(x.as_tensor() * 0.5)?, given)?;
            Ok((x * &weights)?.mean_all()?)
        };
        for loss in [&there as &dyn Fn() -> Result<Tensor>, &back] {
            let gradients = loss()?.backward()?;
            let mut vars = case.params.trained();
            vars.push(("x".into(), x.clone()));
            vars.extend(condition.clone().map(|c| ("condition".to_string(), c)));
            for (name, var) in vars {
                let gradient: Vec<f64> = gradients
                    .get(&var)
                    .ok_or_else(|| Error::invalid(format!("no gradient: {name}")))?
                    .flatten_all()?
                    .to_vec1()?;
                let values: Vec<f64> = var.flatten_all()?.to_vec1()?;
                for i in (0..values.len()).step_by(values.len().div_ceil(4)) {
                    let moved = |by: f64| -> Result<f64> {
                        let mut v = values.clone();
                        v[i] += by;
                        var.set(&Tensor::from_vec(v, var.shape(), &Device::Cpu)?)?;
                        Ok(loss()?.to_scalar()?)
                    };
                    // So near that hardly a leaky ReLU has its kink between.
                    let numeric = (moved(1e-7)? - moved(-1e-7)?) / 2e-7;
                    moved(0.0)?;
                    assert!(
                        (numeric - gradient[i]).abs() < 1e-5 * (1.0 + numeric.abs()),
                        "{} {name} {i}: {} against {numeric}",
                        case.what,
                        gradient[i]
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn saved_and_loaded_it_is_the_same() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io(".", e))?;
    for config in settings() {
        let (t, params, code, z) = started(&config, DType::F32)?;
        let path = folder.path().join("t.safetensors");
        params.save(&path)?;
        let loaded = Params::new(99);
        let other = Cinn::new(&config, &loaded.root())?;
        let detached = other.detached();
        loaded.load(&path)?;
        assert!(other.is_initialized()?);
        let (v, _) = t.forward(&code, &z)?;
        for u in [&other, &detached] {
            let (w, _) = u.forward(&code, &z)?;
            assert_eq!(v.to_vec2::<f32>()?, w.to_vec2::<f32>()?);
        }
        // What was loaded is saved as it was, bit for bit.
        let again = folder.path().join("again.safetensors");
        loaded.save(&again)?;
        let bytes = |p: &std::path::Path| std::fs::read(p).map_err(|e| Error::io(p, e));
        assert_eq!(bytes(&path)?, bytes(&again)?);
    }
    for config in factor_settings() {
        let (e, params, code) = started_factors(&config, DType::F32)?;
        let path = folder.path().join("e.safetensors");
        params.save(&path)?;
        let loaded = Params::new(99);
        let other = FactorInn::new(&config, &loaded.root())?;
        loaded.load(&path)?;
        let (v, _) = e.forward(&code)?;
        let (w, _) = other.forward(&code)?;
        assert_eq!(v.to_vec2::<f32>()?, w.to_vec2::<f32>()?);
    }
    Ok(())
}

#[test]
fn the_factor_network_and_its_loss_are_the_authors() -> Result<()> {
    let stored = reference("iin_factor")?;
    let config = FactorConfig {
        hidden: 32,
        flows: 3,
        ..FactorConfig::new(vec![5, 4, 7])
    };
    let params = Params::new(0);
    let e = FactorInn::new(&config, &params.root())?;
    let mut ours: Vec<_> = params
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, t.dims().to_vec()))
        .collect();
    ours.sort();
    assert_eq!(ours, state_dict("manifest_flows.json", "iin_factor")?);
    fill(&params, &stored)?;
    let factor = stored["factor"].to_vec1::<i64>()?;
    assert!(factor.contains(&-1), "the reference has a negative factor");
    for memory in [Memory::Ordinary, Memory::constant()] {
        let e = e.with_memory(memory);
        let (v1, logdet1) = e.forward(&stored["z1"].flatten_from(1)?)?;
        let (v2, logdet2) = e.forward(&stored["z2"].flatten_from(1)?)?;
        let sizes = &config.factors;
        let loss = pair_nll((&v1, &logdet1), (&v2, &logdet2), &factor, sizes, 0.975)?;
        for (name, value) in [
            ("out1", &v1),
            ("out2", &v2),
            ("logdet1", &logdet1),
            ("logdet2", &logdet2),
            ("reconstruction1", &e.inverse(&v1)?),
            ("loss1", &loss.first),
            ("loss2", &loss.second),
            ("loss", &loss.loss),
        ] {
            assert_close(name, value, &stored[name], TOLERANCE)?;
        }
        let gradients = backward(&loss.loss)?;
        let name = "realnvp.flow.0.flow.1.s.0.main.0.weight";
        let gradient = gradients.get(params.var(name)?.as_tensor());
        let gradient = gradient.ok_or_else(|| Error::invalid("no gradient"))?;
        assert_close(name, gradient, &stored[&format!("grad:{name}")], TOLERANCE)?;
    }
    Ok(())
}

#[test]
fn factors_are_split_swapped_and_sized() -> Result<()> {
    let stored = reference("factor_dims")?;
    let factor: Vec<usize> = stored["factor"]
        .to_vec1::<i64>()?
        .iter()
        .map(|f| *f as usize)
        .collect();
    let sizes = factor_dims(&stored["za"], &stored["zb"], &factor, 2)?;
    let expected: Vec<usize> = stored["dims"]
        .to_vec1::<i64>()?
        .iter()
        .map(|d| *d as usize)
        .collect();
    assert_eq!(sizes, expected);
    for (a, b, f, n, word) in [
        (
            &stored["za"],
            &stored["zb"],
            &factor[..9],
            2,
            "for each pair",
        ),
        (&stored["za"], &stored["zb"], &factor[..], 1, "no concept"),
        (
            &stored["za"],
            &stored["zb"],
            &factor[..],
            3,
            "found none of concept",
        ),
        (
            &(&stored["za"] * 0.0)?,
            &(&stored["zb"] * 0.0)?,
            &factor[..],
            2,
            "only equal codes",
        ),
        (
            &(&stored["za"] * f64::NAN)?,
            &stored["zb"],
            &factor[..],
            2,
            "NaN",
        ),
    ] {
        let e = factor_dims(a, b, f, n).expect_err("refused").to_string();
        assert!(e.contains(word), "{e}");
    }
    let (e, _, code) = started_factors(&factor_settings()[0], DType::F32)?;
    let (v, _) = e.forward(&code)?;
    let (a, b) = (v.narrow(0, 0, 25)?, v.narrow(0, 25, 25)?);
    let swapped = e.split(&e.swap(&a, &b, 1)?)?;
    for (k, part) in swapped.iter().enumerate() {
        let from = e.split(if k == 1 { &b } else { &a })?;
        assert_eq!(part.to_vec2::<f32>()?, from[k].to_vec2::<f32>()?);
    }
    assert!(e.swap(&a, &b, 3).is_err());
    let shared = |f: i64| {
        pair_nll(
            (&v, &v.sum(1)?),
            (&v, &v.sum(1)?),
            &[f; 50],
            &[2, 1, 4],
            0.9,
        )
    };
    assert!(shared(2).is_ok() && shared(-2).is_ok());
    assert!(shared(3).is_err() && shared(-3).is_err());
    assert!(
        pair_nll(
            (&v, &v.sum(1)?),
            (&v, &v.sum(1)?),
            &[0; 50],
            &[2, 1, 4],
            1.0
        )
        .is_err()
    );
    Ok(())
}

#[test]
fn samples_belong_to_their_z_and_keep_no_graph() -> Result<()> {
    for config in settings() {
        let (t, _, _, z) = started(&config, DType::F32)?;
        let z = z.narrow(0, 0, 3)?;
        let samples = t.sample(&z, 4, &mut Rng::new(5))?;
        assert_eq!(samples.dims(), [12, config.dim]);
        assert!(!samples.track_op());
        assert_eq!(
            samples.to_vec2::<f32>()?,
            t.sample(&z, 4, &mut Rng::new(5))?.to_vec2::<f32>()?
        );
        // The third z's samples, from the third z alone and the same v.
        let v = Rng::new(5).normal((12, config.dim), &Device::Cpu)?;
        let one = z.narrow(0, 2, 1)?;
        for i in 8..12 {
            let alone = t.inverse(&v.narrow(0, i, 1)?, &one)?;
            assert_close("sample", &samples.narrow(0, i, 1)?, &alone, 1e-4)?;
        }
    }
    Ok(())
}

#[test]
fn densities_are_normalised() -> Result<()> {
    // A linear flow of one ActNorm: its density is known.
    let params = Params::with(0, DType::F64, &Device::Cpu);
    let norm = ActNorm::new(2, &params.root())?;
    let x = Tensor::new(&[[1f64, 10.0], [3.0, 30.0], [5.0, 20.0]], &Device::Cpu)?;
    norm.initialize(&x)?;
    let density: Vec<f64> = norm.log_prob(&x, None)?.to_vec1()?;
    let normal = |x: f64, mean: f64, std: f64| {
        let u = (x - mean) / (std + 1e-6);
        -0.5 * u * u - (std + 1e-6).ln() - 0.5 * (2.0 * std::f64::consts::PI).ln()
    };
    let expected = normal(1.0, 3.0, 2.0) + normal(10.0, 20.0, 10.0);
    assert!(
        (density[0] - expected).abs() < 1e-9,
        "{density:?} {expected}"
    );
    let bits: Vec<f64> = norm.bits_per_dimension(&x, None)?.to_vec1()?;
    assert!((bits[0] + expected / 2.0 / std::f64::consts::LN_2).abs() < 1e-9);
    Ok(())
}

#[test]
fn what_cannot_be_used_is_said() -> Result<()> {
    let config = CinnConfig::new(6, Condition::Vector(10));
    let params = Params::new(0);
    let t = Cinn::new(&config, &params.root())?;
    let mut rng = Rng::new(0);
    let (code, z) = (
        rng.normal((8, 6), &Device::Cpu)?,
        rng.normal((8, 10), &Device::Cpu)?,
    );
    let says = |result: Result<()>, word: &str| match result {
        Err(e) => assert!(e.to_string().contains(word), "{e}"),
        Ok(()) => panic!("expected an error about {word:?}"),
    };
    let nan = (&code * f64::NAN)?;
    says(t.initialize(&nan, &z), "NaN");
    says(t.initialize(&code, &(&z * f64::INFINITY)?), "NaN");
    says(
        t.initialize(&code.narrow(0, 0, 1)?, &z.narrow(0, 0, 1)?),
        "at least 2",
    );
    assert!(!t.is_initialized()?);
    t.initialize(&code, &z)?;
    says(t.forward(&nan, &z).map(drop), "NaN");
    says(t.forward(&code, &code).map(drop), "(batch, 10)");
    says(t.forward(&z, &z).map(drop), "(batch, 6)");
    says(
        t.forward(&code, &z.narrow(0, 0, 4)?).map(drop),
        "one condition per code",
    );
    says(Flow::forward(&t, &code, None).map(drop), "condition");
    let none = (code.narrow(0, 0, 0)?, z.narrow(0, 0, 0)?);
    says(t.forward(&none.0, &none.1).map(drop), "at least 1 row");
    says(t.inverse(&none.0, &none.1).map(drop), "at least 1 row");
    says(t.sample(&z, 0, &mut rng).map(drop), "at least 1 sample");
    says(t.sample(&none.1, 2, &mut rng).map(drop), "at least 1 z");
    // Another number type is converted to that of the parameters.
    let exact = t.embed(&z.to_dtype(DType::F64)?)?;
    assert_eq!(exact.dtype(), DType::F32);
    assert_eq!(exact.to_vec2::<f32>()?, t.embed(&z)?.to_vec2::<f32>()?);
    let nets = CouplingNets::default();
    let coupling = AffineCoupling::new(6, Affine::default(), &nets, &Params::new(0).root())?;
    says(coupling.forward(&none.0, None).map(drop), "at least 1 row");
    for config in [
        CinnConfig::new(1, Condition::Vector(10)),
        CinnConfig::new(6, Condition::Vector(0)),
        CinnConfig {
            flows: 0,
            ..config.clone()
        },
        CinnConfig {
            hidden: 0,
            ..config.clone()
        },
        CinnConfig {
            conditioning_depth: 1,
            ..config.clone()
        },
        CinnConfig {
            coupling: CouplingConfig::Affine { clamp: 0.0 },
            ..config.clone()
        },
        CinnConfig {
            coupling: CouplingConfig::Spline {
                bins: 1,
                bound: 4.0,
            },
            ..config.clone()
        },
        CinnConfig::new(
            6,
            Condition::Map {
                channels: 3,
                size: 4,
                down: 3,
            },
        ),
    ] {
        says(Cinn::new(&config, &Params::new(0).root()).map(drop), "");
    }
    Ok(())
}

#[test]
fn a_configuration_survives_json() -> Result<()> {
    for config in settings() {
        let text = serde_json::to_string(&config).map_err(|e| Error::invalid(e.to_string()))?;
        let back: CinnConfig =
            serde_json::from_str(&text).map_err(|e| Error::invalid(e.to_string()))?;
        assert_eq!(back, config);
    }
    // Trained networks are stored under these names.
    let config = CinnConfig {
        coupling: CouplingConfig::spline(),
        ..CinnConfig::new(6, Condition::Vector(10))
    };
    let stored = serde_json::to_value(&config).map_err(|e| Error::invalid(e.to_string()))?;
    assert_eq!(stored["code"], 6);
    assert_eq!(stored["conditioning"], "none");
    assert_eq!(stored["coupling"]["spline"]["bins"], 8);
    Ok(())
}
