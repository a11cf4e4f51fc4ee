//! Operations against candle's values and against finite differences in f64.

use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::ops::{self, Activation, ConvConfig, Init, Params, PoolConfig, Rng};
use invariances::{Error, Result};

fn normal(rng: &mut Rng, shape: &[usize]) -> Result<Tensor> {
    Ok(rng.normal(shape, &Device::Cpu)?.to_dtype(DType::F64)?)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_dtype(DType::F64)?
        .to_scalar()?)
}

/// Compares `f`'s gradient in every argument with central differences of a weighted sum of its result.
fn check_gradients(
    what: &str,
    arguments: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars: Vec<Var> = arguments
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<_, _>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let weights = normal(&mut Rng::named(3, what), y.dims())?;
    let value = |t: &[Tensor]| -> Result<f64> { Ok((f(t)? * &weights)?.sum_all()?.to_scalar()?) };
    let gradients = (&y * &weights)?.sum_all()?.backward()?;
    for (nth, argument) in arguments.iter().enumerate() {
        let gradient = gradients
            .get(&vars[nth])
            .ok_or_else(|| Error::invalid(format!("{what}: argument {nth} has no gradient")))?;
        let gradient: Vec<f64> = gradient.flatten_all()?.to_vec1()?;
        let values: Vec<f64> = argument.flatten_all()?.to_vec1()?;
        for i in (0..values.len()).step_by(values.len().div_ceil(40)) {
            let moved = |by: f64| -> Result<f64> {
                let mut v = values.clone();
                v[i] += by;
                let mut t = arguments.to_vec();
                t[nth] = Tensor::from_vec(v, argument.shape(), &Device::Cpu)?;
                value(&t)
            };
            let h = 1e-6;
            let numeric = (moved(h)? - moved(-h)?) / (2.0 * h);
            assert!(
                (numeric - gradient[i]).abs() < 1e-6 * (1.0 + numeric.abs()),
                "{what}: argument {nth}, element {i}: gradient {} against {numeric}",
                gradient[i]
            );
        }
    }
    Ok(())
}

/// (batch, in, out, height, width, kernel, stride, padding): odd sizes, borders, one pixel, many small images.
const SHAPES: [[usize; 8]; 7] = [
    [2, 3, 4, 7, 5, 3, 1, 1],
    [1, 2, 3, 8, 8, 4, 2, 1],
    [3, 2, 5, 9, 6, 3, 2, 0],
    [2, 3, 2, 4, 4, 1, 1, 0],
    [9, 2, 3, 4, 4, 3, 1, 1],
    [5, 2, 3, 5, 5, 3, 3, 2],
    [2, 1, 1, 1, 1, 1, 1, 0],
];

#[test]
fn convolution_is_candles_and_its_gradients_are_right() -> Result<()> {
    for shape @ [b, i, o, h, w, k, stride, padding] in SHAPES {
        let mut rng = Rng::new(1);
        let x = normal(&mut rng, &[b, i, h, w])?;
        let bias = normal(&mut rng, &[o])?;
        let plain = ConvConfig {
            stride,
            padding: (padding, padding),
            activation: Activation::None,
        };
        let weight = normal(&mut rng, &[o, i, k, k])?;
        let expected = x
            .conv2d(&weight, padding, stride, 1, 1)?
            .broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
        assert!(distance(&ops::conv2d(&x, &weight, &bias, plain)?, &expected)? < 1e-12);
        let transposed = normal(&mut rng, &[i, o, k, k])?;
        let fits = (h - 1) * stride + k > 2 * padding && (w - 1) * stride + k > 2 * padding;
        if fits {
            let y = x.conv_transpose2d(&transposed, padding, 0, stride, 1)?;
            let y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
            assert!(distance(&ops::conv_transpose2d(&x, &transposed, &bias, plain)?, &y)? < 1e-12);
        }
        for activation in [
            Activation::None,
            Activation::Leaky(0.2),
            Activation::Leaky(0.0),
        ] {
            let config = ConvConfig {
                activation,
                ..plain
            };
            let what = format!("{shape:?} {activation:?}");
            check_gradients(&what, &[x.clone(), weight.clone(), bias.clone()], |t| {
                ops::conv2d(&t[0], &t[1], &t[2], config)
            })?;
            if fits {
                check_gradients(&what, &[x.clone(), transposed.clone(), bias.clone()], |t| {
                    ops::conv_transpose2d(&t[0], &t[1], &t[2], config)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn pooling_has_right_gradients() -> Result<()> {
    for (h, w) in [(7, 7), (8, 5), (3, 3)] {
        for (kernel, stride, padding) in [(3, 2, 0), (3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 1)] {
            for ceil in [false, true] {
                let config = PoolConfig {
                    kernel,
                    stride,
                    padding,
                    ceil,
                };
                let x = normal(&mut Rng::new(2), &[2, 3, h, w])?;
                check_gradients(&format!("max {config:?}"), std::slice::from_ref(&x), |t| {
                    ops::max_pool2d(&t[0], config)
                })?;
                check_gradients(&format!("mean {config:?}"), std::slice::from_ref(&x), |t| {
                    ops::avg_pool2d(&t[0], config)
                })?;
            }
        }
    }
    let config = PoolConfig::new(2, 2);
    let x = normal(&mut Rng::new(2), &[2, 3, 8, 6])?;
    assert_eq!(
        distance(&ops::max_pool2d(&x, config)?, &x.max_pool2d(2)?)?,
        0.0
    );
    assert!(distance(&ops::avg_pool2d(&x, config)?, &x.avg_pool2d(2)?)? < 1e-15);
    Ok(())
}

/// PyTorch's answers, computed by hand: ties go to the first maximum; sizes with `ceil_mode`; padded means.
#[test]
fn pooling_follows_pytorchs_conventions() -> Result<()> {
    let x = Var::from_tensor(&Tensor::new(&[[[[1f32, 1.], [1., 1.]]]], &Device::Cpu)?)?;
    let gradients = ops::max_pool2d(&x, PoolConfig::new(2, 2))?
        .sum_all()?
        .backward()?;
    let gradient = gradients
        .get(&x)
        .ok_or_else(|| Error::invalid("no gradient"))?;
    assert_eq!(gradient.flatten_all()?.to_vec1::<f32>()?, [1., 0., 0., 0.]);
    let x = Tensor::ones((1, 1, 6, 6), DType::F32, &Device::Cpu)?;
    let ceil = PoolConfig {
        ceil: true,
        ..PoolConfig::new(3, 2)
    };
    assert_eq!(ops::max_pool2d(&x, ceil)?.dims(), [1, 1, 3, 3]);
    assert_eq!(
        ops::max_pool2d(&x, PoolConfig::new(3, 2))?.dims(),
        [1, 1, 2, 2]
    );
    let padded = ops::avg_pool2d(
        &x,
        PoolConfig {
            padding: 1,
            ..PoolConfig::new(3, 2)
        },
    )?;
    assert!((padded.flatten_all()?.get(0)?.to_scalar::<f32>()? - 4.0 / 9.0).abs() < 1e-6);
    Ok(())
}

#[test]
fn sums_do_not_depend_on_threads() -> Result<()> {
    let run = |threads: usize| -> Result<Vec<f32>> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::invalid(e.to_string()))?;
        pool.install(|| {
            let mut rng = Rng::new(5);
            let x = rng.normal((33, 8, 16, 16), &Device::Cpu)?;
            let w = Var::from_tensor(&rng.normal((16, 8, 3, 3), &Device::Cpu)?)?;
            let b = Var::from_tensor(&rng.normal(16, &Device::Cpu)?)?;
            let y = ops::conv2d(
                &x,
                &w,
                &b,
                ConvConfig {
                    padding: (1, 1),
                    ..Default::default()
                },
            )?;
            let gradients = y.sqr()?.sum_all()?.backward()?;
            let g = gradients
                .get(&w)
                .ok_or_else(|| Error::invalid("no gradient"))?;
            Ok(g.flatten_all()?.to_vec1()?)
        })
    };
    assert_eq!(run(1)?, run(3)?);
    Ok(())
}

#[test]
fn misfits_are_errors_that_say_so() -> Result<()> {
    let x = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
    let w = Tensor::zeros((4, 2, 3, 3), DType::F32, &Device::Cpu)?;
    let b = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
    let text = ops::conv2d(&x, &w, &b, ConvConfig::default())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("takes 2 channels") && text.contains("[1, 3, 8, 8]"),
        "{text}"
    );
    for (config, dims) in [
        (PoolConfig::new(9, 1), vec![1, 3, 8, 8]),
        (PoolConfig::new(0, 1), vec![1, 3, 8, 8]),
        (PoolConfig::new(2, 2), vec![3, 8, 8]),
    ] {
        assert!(ops::max_pool2d(&x.reshape(dims)?, config).is_err());
    }
    assert!(
        ops::conv2d(
            &x,
            &Tensor::zeros((4, 3, 9, 9), DType::F32, &Device::Cpu)?,
            &b,
            ConvConfig::default()
        )
        .is_err()
    );
    Ok(())
}

#[test]
fn parameters_start_by_seed_and_name_and_survive_a_file() -> Result<()> {
    let make = |seed: u64, order: [&str; 2]| -> Result<Params> {
        let params = Params::new(seed);
        for name in order {
            params.root().pp(name).get((3, 2), "weight", Init::He)?;
        }
        params.root().buffer(2, "count", Init::Const(4.0))?;
        Ok(params)
    };
    let (a, b, c) = (
        make(1, ["x", "y"])?,
        make(1, ["y", "x"])?,
        make(2, ["x", "y"])?,
    );
    let values =
        |p: &Params, n: &str| -> Result<Vec<f32>> { Ok(p.var(n)?.flatten_all()?.to_vec1()?) };
    assert_eq!(values(&a, "x.weight")?, values(&b, "x.weight")?);
    assert_ne!(values(&a, "x.weight")?, values(&a, "y.weight")?);
    assert_ne!(values(&a, "x.weight")?, values(&c, "x.weight")?);
    assert_eq!((a.count(), a.trained().len(), a.names().len()), (12, 2, 3));
    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let path = folder.path().join("deep/a.safetensors");
    a.save(&path)?;
    c.load(&path)?;
    assert_eq!(values(&a, "y.weight")?, values(&c, "y.weight")?);
    let other = make(1, ["x", "z"])?;
    let before = values(&other, "x.weight")?;
    let text = other.load(&path).unwrap_err().to_string();
    assert!(
        text.contains("missing z.weight") && text.contains("unexpected y.weight"),
        "{text}"
    );
    assert_eq!(values(&other, "x.weight")?, before);
    std::fs::write(&path, b"no tensors").map_err(|e| Error::io(&path, e))?;
    assert!(
        a.load(&path)
            .unwrap_err()
            .to_string()
            .contains("safetensors")
    );
    Ok(())
}
