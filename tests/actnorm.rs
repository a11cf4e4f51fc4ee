//! Initialisation of ActNorms from codes with constant columns, against analytic values.

mod common;

use common::assert_close;
use invariances::Result;
use invariances::candle_core::{DType, Device, Tensor};
use invariances::flow::{
    ActNorm, Cinn, CinnConfig, Condition, FactorConfig, FactorInn, Flow, constant_columns,
};
use invariances::loss::nll;
use invariances::ops::{Params, Rng, backward};

/// The analytic start of an ActNorm with constant columns: the scale of the others' median.
#[test]
fn constant_columns_get_the_scale_of_the_others() -> Result<()> {
    // Standard deviations 2, 10, 4 and 0; the median of the first three is 4.
    let x = Tensor::new(
        &[[1f64, 10., 2., 7.], [3., 30., 6., 7.], [5., 20., 10., 7.]],
        &Device::Cpu,
    )?;
    let params = Params::with(0, DType::F64, &Device::Cpu);
    let norm = ActNorm::new(4, &params.root())?;
    assert_eq!(norm.initialize(&x)?, [3]);
    let scale: Vec<f64> = params.var("scale")?.flatten_all()?.to_vec1()?;
    for (scale, deviation) in scale.iter().zip([2.0, 10.0, 4.0, 4.0]) {
        assert!((scale * (deviation + 1e-6) - 1.0).abs() < 1e-12, "{scale}");
    }
    let loc: Vec<f64> = params.var("loc")?.flatten_all()?.to_vec1()?;
    assert_eq!(loc, [-3.0, -20.0, -6.0, -7.0]);
    // Where the column varies by 1 later, so does v by a quarter.
    let moved = Tensor::new(&[[3f64, 20., 6., 8.]], &Device::Cpu)?;
    let (v, _) = norm.forward(&moved, None)?;
    let v: Vec<f64> = v.flatten_all()?.to_vec1()?;
    assert!((v[3] - 0.25).abs() < 1e-6 && v[0].abs() < 1e-12, "{v:?}");
    // Nearly constant: 10⁻⁵ of the others' deviation, but not 10⁻³ of it.
    for (deviation, constant) in [(4e-5, true), (4e-3, false)] {
        let tail = Tensor::new(&[[-deviation], [0.0], [deviation]], &Device::Cpu)?;
        let x = Tensor::cat(&[x.narrow(1, 0, 3)?, tail], 1)?;
        assert_eq!(
            constant_columns(&x)?,
            if constant { vec![3] } else { vec![] }
        );
    }
    // Columns in other units are no reason to call the others constant.
    let units = Tensor::new(
        &[[1f64, 1e6, 2.], [3., 3e6, 6.], [5., 2e6, 1.]],
        &Device::Cpu,
    )?;
    assert!(constant_columns(&units)?.is_empty());
    // A channel of maps, and every column.
    let maps = Tensor::new(&[0f32, 1., 5., 5., 2., 3., 5., 5.], &Device::Cpu)?;
    assert_eq!(constant_columns(&maps.reshape((2, 2, 1, 2))?)?, [1]);
    let norm = ActNorm::new(2, &Params::new(0).root())?;
    let same = Tensor::new(&[[2f32, 3.], [2., 3.]], &Device::Cpu)?;
    assert_eq!(norm.initialize(&same)?, [0, 1]);
    let (v, logdet) = norm.forward(&(&same + 1.0)?, None)?;
    assert_eq!(v.to_vec2::<f32>()?, [[1.0, 1.0], [1.0, 1.0]]);
    assert_eq!(logdet.to_vec1::<f32>()?, [0.0, 0.0]);
    Ok(())
}

/// Columns far from zero: the rounding of their values is no variance, and a real variance is not
/// lost.
#[test]
fn rounding_is_not_variance() -> Result<()> {
    let n = 4096;
    // A float32 of about 10⁵ changes in steps of 1/128.
    let step = 0.007_812_5;
    let column = |f: &dyn Fn(usize) -> f64| -> Result<Tensor> {
        let values: Vec<f32> = (0..n).map(|i| f(i) as f32).collect();
        Ok(Tensor::from_vec(values, (n, 1), &Device::Cpu)?)
    };
    let sign = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    let x = Tensor::cat(
        &[
            column(&|i| sign(i))?,
            column(&|_| 100_000.7)?,
            column(&|i| 100_000.0 + step * sign(i))?,
            column(&|i| 100_000.5 + sign(i))?,
        ],
        1,
    )?;
    assert_eq!(constant_columns(&x)?, [1, 2]);
    let params = Params::new(0);
    let norm = ActNorm::new(4, &params.root())?;
    assert_eq!(norm.initialize(&x)?, [1, 2]);
    // ±1 has the unbiased standard deviation √(n/(n − 1)).
    let expected = 1.0 / ((n as f64 / (n as f64 - 1.0)).sqrt() + 1e-6);
    let scale: Vec<f32> = params.var("scale")?.flatten_all()?.to_vec1()?;
    for scale in scale {
        assert!(
            (f64::from(scale) - expected).abs() < 1e-6,
            "{scale} {expected}"
        );
    }
    let loc: Vec<f32> = params.var("loc")?.flatten_all()?.to_vec1()?;
    assert_eq!(loc[3], -100_000.5);
    Ok(())
}

/// Units that are constant when t and e are initialised, and vary later.
#[test]
fn networks_survive_constant_columns() -> Result<()> {
    let mut rng = Rng::new(3);
    let code = rng.normal((64, 6), &Device::Cpu)?;
    let z = rng.normal((64, 10), &Device::Cpu)?;
    let dead = Tensor::cat(
        &[code.narrow(1, 0, 5)?, code.zeros_like()?.narrow(1, 0, 1)?],
        1,
    )?;
    let largest = |v: &Tensor| -> Result<f32> { Ok(v.abs()?.max_all()?.to_scalar::<f32>()?) };
    for seed in 0..5 {
        let params = Params::new(seed);
        let t = Cinn::new(&CinnConfig::new(6, Condition::Vector(10)), &params.root())?;
        t.initialize(&dead, &z)?;
        let (v, logdet) = t.forward(&code, &z)?;
        // The column varies like the others, so v is not larger than for a column that was seen; it
        // was 4·10⁹.
        assert!(largest(&v)? < 50.0, "{}", largest(&v)?);
        let back = t.inverse(&v, &z)?;
        assert_close("inverse", &back, &code, 1e-3)?;
        let gradients = backward(&nll(&v, &logdet)?)?;
        for (name, var) in params.trained() {
            if let Some(gradient) = gradients.get(&var) {
                assert!(largest(gradient)? < 1e3, "{name}: {}", largest(gradient)?);
            }
        }
        let e = FactorInn::new(&FactorConfig::new(vec![2, 4]), &Params::new(seed).root())?;
        e.initialize(&dead)?;
        let (factors, _) = e.forward(&code)?;
        assert!(largest(&factors)? < 50.0, "{}", largest(&factors)?);
    }
    // A z of dead units alone: t is initialised, and as good as unconditional.
    let t = Cinn::new(
        &CinnConfig::new(6, Condition::Vector(10)),
        &Params::new(0).root(),
    )?;
    t.initialize(&code, &z.ones_like()?)?;
    let (v, _) = t.forward(&code, &z)?;
    assert!(largest(&v)? < 50.0, "{}", largest(&v)?);
    // Codes that are all the same have nothing to learn from, and leave nothing half initialised.
    let same = (code.zeros_like()? + 2.0)?;
    let t = Cinn::new(
        &CinnConfig::new(6, Condition::Vector(10)),
        &Params::new(0).root(),
    )?;
    let text = t.initialize(&same, &z).unwrap_err().to_string();
    assert!(text.contains("every column is constant"), "{text}");
    assert!(!t.is_initialized()?);
    t.initialize(&code, &z)?;
    let e = FactorInn::new(&FactorConfig::new(vec![2, 4]), &Params::new(0).root())?;
    let text = e.initialize(&same).unwrap_err().to_string();
    assert!(text.contains("every column is constant"), "{text}");
    Ok(())
}
