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
    check_gradients_by(1e-6, what, arguments, f)
}

/// As [`check_gradients`], with the differences' step: a long one for what is linear in each argument, where it is exact
/// and rounds less.
fn check_gradients_by(
    h: f64,
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

/// A convolution straight from its definition, (batch, out, h', w') in f64.
fn direct(x: &Tensor, weight: &Tensor, stride: usize, padding: (usize, usize)) -> Result<Tensor> {
    let (b, i, h, w) = x.dims4()?;
    let (o, _, kh, kw) = weight.dims4()?;
    let (oh, ow) = (
        (h + 2 * padding.0 - kh) / stride + 1,
        (w + 2 * padding.1 - kw) / stride + 1,
    );
    let (x, weight) = (
        x.flatten_all()?.to_vec1::<f64>()?,
        weight.flatten_all()?.to_vec1::<f64>()?,
    );
    let mut y = Vec::new();
    for n in 0..b * o * oh * ow {
        let (px, py, co, image) = (n % ow, n / ow % oh, n / (ow * oh) % o, n / (ow * oh * o));
        let mut sum = 0.0;
        for k in 0..i * kh * kw {
            let (kx, ky, ci) = (k % kw, k / kw % kh, k / (kw * kh));
            let (sy, sx) = (py * stride + ky, px * stride + kx);
            let inside = (padding.0..h + padding.0).contains(&sy)
                && (padding.1..w + padding.1).contains(&sx);
            if inside {
                let at = ((image * i + ci) * h + sy - padding.0) * w + sx - padding.1;
                sum += x[at] * weight[co * i * kh * kw + k];
            }
        }
        y.push(sum);
    }
    Ok(Tensor::from_vec(y, (b, o, oh, ow), &Device::Cpu)?)
}

/// Sizes at which work is cut in tiles of lines, in images together, in shares of channels, one pixel and the like; kernels and
/// paddings that differ by direction.
#[test]
fn convolution_of_any_size_is_its_definition() -> Result<()> {
    let mut rng = Rng::new(7);
    let sizes = [1, 2, 3, 5, 17, 33, 70, 130];
    let pick = |rng: &mut Rng, from: &[usize]| from[rng.below(from.len())];
    let mut done = 0;
    while done < 60 {
        let (b, i, o) = (
            pick(&mut rng, &[1, 2, 5, 9]),
            pick(&mut rng, &[1, 2, 3, 40]),
            pick(&mut rng, &[1, 3, 4, 67]),
        );
        let (h, w) = (pick(&mut rng, &sizes), pick(&mut rng, &sizes));
        let (kh, kw) = (
            pick(&mut rng, &[1, 2, 3, 7, 11]),
            pick(&mut rng, &[1, 2, 3, 7, 11]),
        );
        let padding = (
            pick(&mut rng, &[0, 0, 1, 3, 12]),
            pick(&mut rng, &[0, 0, 1, 3]),
        );
        let stride = pick(&mut rng, &[1, 1, 2, 4]);
        let fits = h + 2 * padding.0 >= kh && w + 2 * padding.1 >= kw;
        let work = b * i * o * (h + 2 * padding.0) * (w + 2 * padding.1) * kh * kw;
        if !fits || work > 20_000_000 {
            continue;
        }
        done += 1;
        let what = format!(
            "{b}×{i}×{h}×{w} to {o}, kernel {kh}×{kw}, stride {stride}, padding {padding:?}"
        );
        let (x, weight) = (
            normal(&mut rng, &[b, i, h, w])?,
            normal(&mut rng, &[o, i, kh, kw])?,
        );
        let bias = normal(&mut rng, &[o])?;
        let config = ConvConfig {
            stride,
            padding,
            activation: Activation::Leaky(0.1),
        };
        let plain = direct(&x, &weight, stride, padding)?;
        let sum = plain.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
        let expected = ops::leaky_relu(&sum, 0.1)?;
        let y = ops::conv2d(&x, &weight, &bias, config)?;
        assert!(distance(&y, &expected)? < 1e-11, "{what}");
        let single = |t: &Tensor| t.to_dtype(DType::F32);
        let y32 = ops::conv2d(&single(&x)?, &single(&weight)?, &single(&bias)?, config)?;
        let size = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
        assert!(
            distance(&y32.to_dtype(DType::F64)?, &expected)? < 1e-5 * (1.0 + size),
            "{what} in f32"
        );
        if done % 3 == 0 {
            // Without the kink, which is then linear in each.
            let smooth = ConvConfig {
                activation: Activation::None,
                ..config
            };
            check_gradients_by(
                0.1,
                &what,
                &[x.clone(), weight.clone(), bias.clone()],
                |a| ops::conv2d(&a[0], &a[1], &a[2], smooth),
            )?;
            // What is no variable gets no gradient and costs none; candle's operations compute it.
            let x = Var::from_tensor(&x)?;
            let loss = ops::conv2d(&x, &weight, &bias, config)?.sum_all()?;
            let spared = loss.backward()?.get(&weight).is_none();
            assert!(spared || !ops::kernels_are_used());
        }
    }
    Ok(())
}

/// The cut of the work depends on shapes alone: the same numbers, bit for bit, for any number of threads.
#[test]
fn threads_change_no_number() -> Result<()> {
    let run = |threads: usize, shape: [usize; 6]| -> Result<Vec<Vec<f32>>> {
        let [b, i, o, size, kernel, stride] = shape;
        let mut rng = Rng::new(9);
        let mut var = |dims: &[usize]| -> Result<Var> {
            Ok(Var::from_tensor(&rng.normal(dims, &Device::Cpu)?)?)
        };
        let (x, w, bias) = (
            var(&[b, i, size, size])?,
            var(&[o, i, kernel, kernel])?,
            var(&[o])?,
        );
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::invalid(e.to_string()))?;
        pool.install(|| {
            let config = ConvConfig {
                stride,
                padding: (kernel / 2, kernel / 2),
                activation: Activation::Leaky(0.0),
            };
            let y = ops::conv2d(&x, &w, &bias, config)?;
            let y = ops::max_pool2d(&y, PoolConfig::new(2, 2))?;
            let gradients = y.sqr()?.sum_all()?.backward()?;
            let mut all = vec![y.flatten_all()?.to_vec1::<f32>()?];
            for var in [&x, &w, &bias] {
                let found = gradients
                    .get(var)
                    .ok_or_else(|| Error::invalid("no gradient"))?;
                all.push(found.flatten_all()?.to_vec1()?);
            }
            Ok(all)
        })
    };
    for shape in [
        [1, 3, 16, 60, 3, 1],
        [5, 64, 40, 9, 3, 1],
        [2, 8, 130, 30, 5, 2],
        [9, 70, 20, 6, 1, 1],
    ] {
        let one = run(1, shape)?;
        for threads in [2, 3, 7] {
            assert!(
                one == run(threads, shape)?,
                "{shape:?} on {threads} threads"
            );
        }
    }
    Ok(())
}

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
                    count_padding: true,
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
        text.contains("has 2 input channels") && text.contains("[1, 3, 8, 8]"),
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

/// Numbers that follow a rule: i² modulo m.
fn squares(dims: &[usize], modulus: usize) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let values: Vec<f64> = (0..count).map(|i| (i * i % modulus) as f64).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

fn assert_values(what: &str, actual: &Tensor, expected: &[f64]) -> Result<()> {
    let actual: Vec<f64> = actual.flatten_all()?.to_vec1()?;
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (a, e) in actual.iter().zip(expected) {
        assert!(
            (a - e).abs() < 1e-6,
            "{what}: {actual:?}, expected {expected:?}"
        );
    }
    Ok(())
}

/// PyTorch's answers (2.15) to the same numbers.
#[test]
fn images_are_resized_as_by_pytorch() -> Result<()> {
    let x = squares(&[1, 1, 4, 5], 7)?;
    let check =
        |what: &str, y: Result<Tensor>, expected: &[f64]| assert_values(what, &y?, expected);
    check(
        "bilinear",
        ops::resize_bilinear(&x, (2, 7), false),
        &[
            2.0, 1.428571, 1.285714, 2.0, 1.642857, 2.142857, 3.0, 1.5, 2.357143, 3.0, 3.0,
            1.928571, 1.714286, 2.0,
        ],
    )?;
    check(
        "antialiased",
        ops::resize_bilinear(&x, (2, 3), true),
        &[1.632653, 1.84127, 2.081633, 2.22449, 2.349206, 1.918367],
    )?;
    check(
        "bicubic",
        ops::resize_bicubic(&x, (2, 7)),
        &[
            2.288356, 1.368714, 0.961279, 1.625, 1.359421, 2.274052, 3.522595, 1.172285, 2.316418,
            3.444698, 3.375, 1.993349, 1.355685, 1.63484,
        ],
    )?;
    check(
        "nearest",
        ops::resize_nearest(&x, (6, 3)),
        &[
            0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 4.0, 1.0, 1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 1.0, 1.0, 4.0,
            2.0,
        ],
    )?;
    check(
        "adaptive",
        ops::adaptive_avg_pool2d(&x, (3, 2)),
        &[1.666667, 2.166667, 2.166667, 1.666667, 2.5, 2.166667],
    )?;
    let inside = PoolConfig {
        padding: 1,
        count_padding: false,
        ..PoolConfig::new(3, 2)
    };
    check(
        "mean of what is there",
        ops::avg_pool2d(&x, inside),
        &[1.5, 1.5, 2.25, 2.333333, 1.888889, 2.0],
    )
}

#[test]
fn resizing_has_right_gradients() -> Result<()> {
    let x = normal(&mut Rng::new(5), &[2, 2, 5, 4])?;
    for size in [(3, 9), (11, 2), (5, 4)] {
        type Resize<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
        let each: [(&str, Resize); 5] = [
            ("bilinear", &|x| ops::resize_bilinear(x, size, false)),
            ("antialiased", &|x| ops::resize_bilinear(x, size, true)),
            ("bicubic", &|x| ops::resize_bicubic(x, size)),
            ("nearest", &|x| ops::resize_nearest(x, size)),
            ("adaptive", &|x| ops::adaptive_avg_pool2d(x, size)),
        ];
        for (what, f) in each {
            check_gradients(what, std::slice::from_ref(&x), |a| f(&a[0]))?;
        }
    }
    let inside = PoolConfig {
        padding: 1,
        count_padding: false,
        ..PoolConfig::new(3, 2)
    };
    check_gradients("inside", std::slice::from_ref(&x), |a| {
        ops::avg_pool2d(&a[0], inside)
    })?;
    // A tensor that takes two ways has the sum of both gradients: candle's nearest upsampling loses one.
    check_gradients("two ways", std::slice::from_ref(&x), |a| {
        Ok((ops::resize_nearest(&a[0], (10, 8))?.mean_all()? * a[0].sqr()?.sum_all()?)?)
    })?;
    for wrong in [(0, 3), (3, 0), (1 << 20, 3)] {
        let text = ops::resize_bilinear(&x, wrong, true)
            .unwrap_err()
            .to_string();
        assert!(text.contains("height and width from 1"), "{text}");
    }
    Ok(())
}

/// PyTorch's answers (2.15) to the same numbers.
#[test]
fn normalisation_is_pytorchs() -> Result<()> {
    let x = squares(&[2, 2, 2, 2], 5)?;
    let tensor = |v: &[f64]| Tensor::new(v, &Device::Cpu);
    let (weight, bias) = (tensor(&[1.5, -0.5])?, tensor(&[0.1, 0.2])?);
    let normed = ops::batch_norm_training(&x, &weight, &bias, 1e-3, Activation::None)?;
    assert_values(
        "batch norm in training",
        &normed.y,
        &[
            -1.562957, -0.676047, 1.984685, 1.984685, 0.458682, 0.754319, 0.458682, -0.428228,
            1.984685, -0.676047, -1.562957, -0.676047, -0.428228, -0.428228, 0.458682, 0.754319,
        ],
    )?;
    // PyTorch's running statistics after one batch, from 0 and 1 with momentum 0.1.
    let running = (&normed.mean * 0.1)?;
    let seen = ((&normed.variance * (0.1 * 8.0 / 7.0))? + 0.9)?;
    assert_values("mean", &running, &[0.1875, 0.1875])?;
    assert_values("variance", &seen, &[1.226786, 1.226786])?;
    let y = ops::batch_norm(
        &x,
        [&running, &seen],
        [&weight, &bias],
        1e-3,
        Activation::None,
    )?;
    assert_values(
        "batch norm in evaluation",
        &y,
        &[
            -0.153823, 1.1999, 5.261071, 5.261071, -0.166633, 0.284608, -0.166633, -1.520357,
            5.261071, 1.1999, -0.153823, 1.1999, -1.520357, -1.520357, -0.166633, 0.284608,
        ],
    )?;
    let y = ops::layer_norm(&x, &tensor(&[2.0, 1.0])?, &tensor(&[0.5, 0.0])?, 1e-3)?;
    assert_values(
        "layer norm",
        &y,
        &[
            -1.496012, 0.998006, 0.5, 0.0, 2.496012, -0.998006, -1.499556, 0.999778, 2.499556,
            -0.999778, -1.496012, 0.998006, 0.5, 0.0, 2.496012, -0.998006,
        ],
    )
}

#[test]
fn normalisation_has_right_gradients() -> Result<()> {
    let mut rng = Rng::new(6);
    let x = normal(&mut rng, &[3, 2, 3, 2])?;
    let (weight, bias) = (normal(&mut rng, &[2])?, normal(&mut rng, &[2])?);
    let mean = normal(&mut rng, &[2])?;
    let variance = (normal(&mut rng, &[2])?.sqr()? + 0.1)?;
    for activation in [Activation::None, Activation::Leaky(0.0)] {
        let arguments = [x.clone(), weight.clone(), bias.clone()];
        check_gradients("batch norm in training", &arguments, |a| {
            Ok(ops::batch_norm_training(&a[0], &a[1], &a[2], 1e-5, activation)?.y)
        })?;
        check_gradients("batch norm in evaluation", &arguments, |a| {
            ops::batch_norm(&a[0], [&mean, &variance], [&a[1], &a[2]], 1e-5, activation)
        })?;
    }
    for activation in [Activation::None, Activation::Leaky(0.2)] {
        let arguments = [x.clone(), normal(&mut rng, x.dims())?];
        check_gradients("sum", &arguments, |a| ops::add(&a[0], &a[1], activation))?;
        let sum = (&arguments[0] + &arguments[1])?;
        let expected = match activation {
            Activation::None => sum,
            Activation::Leaky(slope) => ops::leaky_relu(&sum, slope)?,
        };
        let y = ops::add(&arguments[0], &arguments[1], activation)?;
        assert!(distance(&y, &expected)? < 1e-15);
    }
    // The statistics of a channel far from zero keep their digits.
    let far = (&x + 1e8)?;
    let near = ops::batch_norm_training(&x, &weight, &bias, 1e-5, Activation::None)?;
    let far = ops::batch_norm_training(&far, &weight, &bias, 1e-5, Activation::None)?;
    assert!(distance(&near.variance, &far.variance)? < 1e-6);
    let flat = normal(&mut rng, &[4, 5])?;
    let five = [normal(&mut rng, &[5])?, normal(&mut rng, &[5])?];
    let arguments = [flat.clone(), five[0].clone(), five[1].clone()];
    check_gradients("layer norm", &arguments, |a| {
        ops::layer_norm(&a[0], &a[1], &a[2], 1e-5)
    })?;
    check_gradients("softmax", std::slice::from_ref(&flat), |a| {
        ops::softmax(&a[0])
    })?;
    let shifted = (flat.broadcast_add(&Tensor::new(&[1e4f64], &Device::Cpu)?))?;
    assert!(distance(&ops::softmax(&shifted)?, &ops::softmax(&flat)?)? < 1e-9);
    let text = ops::layer_norm(&flat, &weight, &bias, 1e-5)
        .unwrap_err()
        .to_string();
    assert!(text.contains("of shape (features,)"), "{text}");
    let text = ops::batch_norm(
        &flat,
        [&mean, &variance],
        [&weight, &bias],
        1e-5,
        Activation::None,
    )
    .unwrap_err()
    .to_string();
    assert!(text.contains("of shape (channels,)"), "{text}");
    Ok(())
}

/// Gradients are computed from the sign of the result, which only tells the argument's sign if the slope is
/// not negative.
#[test]
fn slopes_that_have_no_right_gradient_are_refused() -> Result<()> {
    let rng = &mut Rng::new(0);
    let x = normal(rng, &[2, 3, 4, 4])?;
    let (w, b) = (normal(rng, &[3, 3, 1, 1])?, normal(rng, &[3])?);
    let positive = b.sqr()?;
    for slope in [-0.1, f64::NAN, f64::INFINITY] {
        let activation = Activation::Leaky(slope);
        let config = ConvConfig {
            activation,
            ..Default::default()
        };
        for result in [
            ops::conv2d(&x, &w, &b, config),
            ops::conv_transpose2d(&x, &w, &b, config),
            ops::batch_norm(&x, [&b, &positive], [&b, &b], 1e-5, activation),
            ops::batch_norm_training(&x, &b, &b, 1e-5, activation).map(|n| n.y),
        ] {
            let text = result.map_or_else(|e| e.to_string(), |y| format!("{slope} gave {y:?}"));
            assert!(text.contains("finite slope of at least 0"), "{text}");
        }
    }
    Ok(())
}

/// The pass without gradients equals the composed operations, whose gradients are right.
#[test]
fn adaptive_layer_norms_are_composed_of_their_parts() -> Result<()> {
    let mut rng = Rng::new(8);
    for (rows, others) in [(1, 1), (5, 1), (5, 5), (130, 1)] {
        for width in [1, 7, 16, 33] {
            let x = normal(&mut rng, &[rows, width])?;
            let first = normal(&mut rng, &[2, rows, width])?;
            let second = normal(&mut rng, &[2, others, width])?;
            for dtype in [DType::F64, DType::F32] {
                let [x, first, second] = [&x, &first, &second]
                    .map(|t| t.to_dtype(dtype))
                    .map(|t| t.expect("a float"));
                let fused = ops::adaptive_layer_norm(&x, &first, &second, 1e-5)?;
                let var = Var::from_tensor(&x)?;
                let composed = ops::adaptive_layer_norm(&var, &first, &second, 1e-5)?;
                assert!(composed.track_op() && !fused.track_op());
                let bound = if dtype == DType::F64 { 1e-12 } else { 1e-4 };
                assert!(
                    distance(&fused, &composed)? < bound,
                    "{rows} {others} {width}"
                );
            }
        }
    }
    let arguments = [
        normal(&mut rng, &[3, 5])?,
        normal(&mut rng, &[2, 3, 5])?,
        normal(&mut rng, &[2, 1, 5])?,
    ];
    check_gradients("adaptive layer norm", &arguments, |t| {
        ops::adaptive_layer_norm(&t[0], &t[1], &t[2], 1e-5)
    })?;
    let wrong = ops::adaptive_layer_norm(&arguments[0], &arguments[1], &arguments[0], 1e-5);
    assert!(matches!(wrong, Err(Error::Shape(_))));
    Ok(())
}
