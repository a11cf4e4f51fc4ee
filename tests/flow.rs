//! Flows: the authors' values, and what must hold for every setting.

mod common;

use common::{assert_close, fill, reference, state_dict};
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::flow::{
    ActNorm, AffineCoupling, Cinn, CinnConfig, Condition, Conditioning, Flow, FlowActivation,
    InvertibleLeakyRelu, Permutation,
};
use invariances::loss::{nll, nll_parts};
use invariances::ops::{Params, Rng};
use invariances::{Error, Result};

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
        let parts = nll_parts(&out, &logdet)?;
        assert!((parts.value() - f64::from(loss.to_scalar::<f32>()?)).abs() < 1e-4);
        let gradients = loss.backward()?;
        for key in stored.keys() {
            let Some(parameter) = key.strip_prefix("grad:") else {
                continue;
            };
            let gradient = gradients
                .get(params.var(parameter)?.as_tensor())
                .ok_or_else(|| Error::invalid(format!("{name}: {parameter} has no gradient")))?;
            close(key, gradient)?;
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
            code: 7,
            depth: 0,
            flows: 1,
            conditioning_depth: 2,
            ..vector.clone()
        },
        CinnConfig {
            code: 2,
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
            code: 5,
            activation: FlowActivation::LreluExact,
            ..vector.clone()
        },
        CinnConfig {
            condition: map,
            ..vector
        },
    ]
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
    let code = ((rng.normal((batch, config.code), &Device::Cpu)? * 3.0)? + 2.0)?;
    let (code, z) = (code.to_dtype(dtype)?, z.to_dtype(dtype)?);
    t.initialize(&code, &z)?;
    Ok((t, params, code, z))
}

fn largest(x: &Tensor) -> Result<f64> {
    let x = x.to_dtype(DType::F64)?.abs()?.flatten_all()?;
    Ok(x.max(0)?.to_scalar()?)
}

#[test]
fn every_setting_keeps_the_contract() -> Result<()> {
    for config in settings() {
        let (t, params, code, z) = started(&config, DType::F32)?;
        assert!(t.is_initialized()?);
        let (v, logdet) = t.forward(&code, &z)?;
        assert_eq!(v.dims(), code.dims());
        assert_eq!(logdet.dims(), &code.dims()[..1]);

        let back = t.inverse(&v, &z)?;
        let error = largest(&(back - &code)?)?;
        assert!(error <= 1e-4, "{config:?}: inverse is off by {error}");

        let gradients = nll(&v, &logdet)?.backward()?;
        for (name, var) in params.trained() {
            let gradient = gradients.get(&var);
            let gradient =
                gradient.ok_or_else(|| Error::invalid(format!("no gradient: {name}")))?;
            assert_eq!(gradient.dims(), var.dims(), "{name}");
            assert!(
                largest(gradient)? > 0.0,
                "{config:?}: {name} has gradient 0"
            );
        }

        // One z at a time answers as the batch does.
        let (first, _) = t.forward(&code.narrow(0, 0, 1)?, &z.narrow(0, 0, 1)?)?;
        assert_close("batch of one", &first, &v.narrow(0, 0, 1)?, 1e-5)?;

        // The embedding once, for all.
        let embedding = t.embed(&z)?;
        let (again, _) = t.forward_embedded(&code, &embedding)?;
        assert_close("embedded", &again, &v, 1e-6)?;
    }
    Ok(())
}

/// log|det| by Gaussian elimination with pivoting.
fn log_abs_det(mut m: Vec<Vec<f64>>) -> f64 {
    let n = m.len();
    let mut total = 0.0;
    for i in 0..n {
        let pivot = (i..n)
            .max_by(|&a, &b| m[a][i].abs().total_cmp(&m[b][i].abs()))
            .unwrap_or(i);
        m.swap(i, pivot);
        total += m[i][i].abs().ln();
        let (above, below) = m.split_at_mut(i + 1);
        let top = &above[i];
        for row in below {
            let factor = row[i] / top[i];
            for (x, t) in row[i..].iter_mut().zip(&top[i..]) {
                *x -= factor * t;
            }
        }
    }
    total
}

/// log|det ∂v/∂x| of one `x` (1, n) by central differences.
fn numeric_logdet(flow: &dyn Flow, x: &Tensor, condition: Option<&Tensor>) -> Result<f64> {
    let values: Vec<f64> = x.flatten_all()?.to_vec1()?;
    let h = 1e-6;
    let mut columns = Vec::new();
    for i in 0..values.len() {
        let moved = |by: f64| -> Result<Vec<f64>> {
            let mut v = values.clone();
            v[i] += by;
            let x = Tensor::from_vec(v, x.shape(), &Device::Cpu)?;
            Ok(flow.forward(&x, condition)?.0.flatten_all()?.to_vec1()?)
        };
        let (up, down) = (moved(h)?, moved(-h)?);
        columns.push(
            up.iter()
                .zip(&down)
                .map(|(u, d)| (u - d) / (2.0 * h))
                .collect(),
        );
    }
    Ok(log_abs_det(columns))
}

#[test]
fn log_determinants_are_the_jacobians() -> Result<()> {
    for config in settings() {
        if config.activation == FlowActivation::Lrelu {
            continue; // Counts 0 by design.
        }
        let (t, _, code, z) = started(&config, DType::F64)?;
        for i in 0..3 {
            let (x, z) = (code.narrow(0, i, 1)?, z.narrow(0, i, 1)?);
            let (_, logdet) = Flow::forward(&t, &x, Some(&z))?;
            let numeric = numeric_logdet(&t, &x, Some(&z))?;
            let ours: f64 = logdet.get(0)?.to_scalar()?;
            assert!(
                (ours - numeric).abs() < 1e-5,
                "{config:?}: {ours}, not {numeric}"
            );
        }
    }
    let root = Params::with(3, DType::F64, &Device::Cpu).root();
    let layers: Vec<Box<dyn Flow>> = vec![
        Box::new(ActNorm::new(5, &root.pp("norm"))?),
        Box::new(InvertibleLeakyRelu::exact()),
        Box::new(AffineCoupling::new(5, 0, 8, 1, &root.pp("coupling"))?),
        Box::new(Permutation::new(5, &root.pp("shuffle"))?),
    ];
    let x = Rng::new(4)
        .normal((1, 5), &Device::Cpu)?
        .to_dtype(DType::F64)?;
    for flow in layers {
        let (v, logdet) = flow.forward(&x, None)?;
        let numeric = numeric_logdet(flow.as_ref(), &x, None)?;
        let ours: f64 = logdet.get(0)?.to_scalar()?;
        assert!((ours - numeric).abs() < 1e-6);
        assert!(largest(&(flow.inverse(&v, None)? - &x)?)? < 1e-10);
    }
    Ok(())
}

#[test]
fn gradients_are_the_finite_differences() -> Result<()> {
    let config = CinnConfig {
        code: 5,
        hidden: 7,
        flows: 2,
        conditioning: Conditioning::Sequential,
        activation: FlowActivation::LreluExact,
        ..CinnConfig::new(5, Condition::Vector(6))
    };
    let (t, params, code, z) = started(&config, DType::F64)?;
    let (code, z) = (Var::from_tensor(&code)?, Var::from_tensor(&z)?);
    let loss = || -> Result<Tensor> {
        let (v, logdet) = t.forward(&code, &z)?;
        nll(&v, &logdet)
    };
    let gradients = loss()?.backward()?;
    let mut vars = params.trained();
    vars.push(("code".into(), code.clone()));
    vars.push(("z".into(), z.clone()));
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
            let numeric = (moved(1e-6)? - moved(-1e-6)?) / 2e-6;
            moved(0.0)?;
            assert!(
                (numeric - gradient[i]).abs() < 1e-5 * (1.0 + numeric.abs()),
                "{name} {i}: {} against {numeric}",
                gradient[i]
            );
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
    }
    Ok(())
}

#[test]
fn samples_belong_to_their_z_and_keep_no_graph() -> Result<()> {
    for config in settings() {
        let (t, _, _, z) = started(&config, DType::F32)?;
        let z = z.narrow(0, 0, 3)?;
        let samples = t.sample(&z, 4, &mut Rng::new(5))?;
        assert_eq!(samples.dims(), [12, config.code]);
        assert!(!samples.track_op());
        assert_eq!(
            samples.to_vec2::<f32>()?,
            t.sample(&z, 4, &mut Rng::new(5))?.to_vec2::<f32>()?
        );
        // The third z's samples, from the third z alone and the same v.
        let v = Rng::new(5).normal((12, config.code), &Device::Cpu)?;
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
    says(t.forward(&code, &z.narrow(0, 0, 4)?).map(drop), "as many");
    says(Flow::forward(&t, &code, None).map(drop), "condition");
    let none = (code.narrow(0, 0, 0)?, z.narrow(0, 0, 0)?);
    says(t.forward(&none.0, &none.1).map(drop), "at least 1 row");
    says(t.inverse(&none.0, &none.1).map(drop), "at least 1 row");
    says(t.sample(&z, 0, &mut rng).map(drop), "at least 1 sample");
    says(t.sample(&none.1, 2, &mut rng).map(drop), "at least 1 z");
    says(t.embed(&z.to_dtype(DType::F64)?).map(drop), "convert");
    let coupling = AffineCoupling::new(6, 0, 8, 1, &Params::new(0).root())?;
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
    Ok(())
}
