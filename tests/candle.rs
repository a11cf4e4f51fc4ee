//! Models of candle-nn and candle-transformers with this project's parameters, optimiser and
//! trainer.

use invariances::Result;
use invariances::candle_core::{self, Device, Tensor};
use invariances::candle_nn::{self, Module, Optimizer};
use invariances::candle_transformers::models::stable_diffusion::resnet::{
    ResnetBlock2D, ResnetBlock2DConfig,
};
use invariances::ops::{Conv2d, ConvConfig, Init, Linear, Params, Rng, scalar};
use invariances::train::{Adam, AdamConfig, Step, TrainConfig, Trainer};

/// A residual block of candle-transformers between a layer of this project and one of candle-nn.
fn model(params: &Params) -> Result<impl Fn(&Tensor) -> candle_core::Result<Tensor> + use<>> {
    let at = params.root();
    let config = ConvConfig {
        stride: 2,
        padding: (1, 1),
        ..Default::default()
    };
    let first = Conv2d::new_no_bias(3, 8, 4, config, Init::He, &at.pp("first"))?;
    let config = ResnetBlock2DConfig {
        out_channels: Some(16),
        temb_channels: None,
        groups: 4,
        ..Default::default()
    };
    let block = ResnetBlock2D::new(at.pp("block").builder(), 8, config)?;
    let last = candle_nn::linear(16, 4, params.builder().pp("last"))?;
    Ok(move |x: &Tensor| {
        let h = block.forward(&Module::forward(&first, x)?, None)?;
        last.forward(&h.mean((2, 3))?)
    })
}

fn batch(rng: &mut Rng) -> Result<(Tensor, Tensor)> {
    let classes = Tensor::new(&[0u32, 1, 2, 3, 0, 1, 2, 3], &Device::Cpu)?;
    let brightness = Tensor::new(&[-1f32, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0], &Device::Cpu)?;
    let noise = rng.normal((8, 3, 8, 8), &Device::Cpu)?.affine(0.1, 0.0)?;
    let images = noise.broadcast_add(&brightness.reshape((8, 1, 1, 1))?)?;
    Ok((images, classes))
}

#[test]
fn the_trainer_trains_a_model_of_candle() -> Result<()> {
    let train = |seed: u64| -> Result<(f64, f64, String)> {
        let params = Params::new(seed);
        let network = model(&params)?;
        let (x, y) = batch(&mut Rng::new(7))?;
        let loss = |x: &Tensor, y: &Tensor| candle_nn::loss::cross_entropy(&network(x)?, y);
        let before = scalar(&loss(&x, &y)?)?;
        let config = TrainConfig {
            steps: 60,
            learning_rate: 0.01,
            ..Default::default()
        };
        Trainer::new(config).quiet().fit(&params, |_, rng| {
            let (x, y) = batch(rng)?;
            Ok(Step::new(loss(&x, &y)?))
        })?;
        Ok((before, scalar(&loss(&x, &y)?)?, params.digest()?))
    };
    let (before, after, digest) = train(0)?;
    assert!(after < 0.8 * before, "{before} {after}");
    // The same seed gives the same network, bit for bit.
    assert_eq!(train(0)?.2, digest);
    assert_ne!(train(1)?.2, digest);
    Ok(())
}

/// Code that is written for any optimiser of candle.
fn descend<O: Optimizer>(
    params: &Params,
    config: O::Config,
    loss: impl Fn() -> candle_core::Result<Tensor>,
) -> Result<f64> {
    let mut optimizer = O::new(params.vars(), config)?;
    for _ in 0..3 {
        optimizer.backward_step(&loss()?)?;
    }
    scalar(&loss()?)
}

#[test]
fn adam_is_an_optimizer_of_candle() -> Result<()> {
    let x = Rng::new(0).normal((16, 4), &Device::Cpu)?;
    let build = || -> Result<(Params, Linear)> {
        let params = Params::new(0);
        let linear = Linear::new(4, 2, Init::FanIn, &params.root())?;
        Ok((params, linear))
    };
    let run = |betas: (f64, f64)| -> Result<(f64, f64)> {
        let (ours, linear) = build()?;
        let config = AdamConfig {
            learning_rate: 0.01,
            betas,
            ..Default::default()
        };
        let loss = || Module::forward(&linear, &x)?.sqr()?.mean_all();
        let first = descend::<Adam>(&ours, config, loss)?;
        let (theirs, linear) = build()?;
        let config = candle_nn::ParamsAdamW {
            lr: 0.01,
            beta1: betas.0,
            beta2: betas.1,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        let loss = || Module::forward(&linear, &x)?.sqr()?.mean_all();
        Ok((first, descend::<candle_nn::AdamW>(&theirs, config, loss)?))
    };
    for betas in [(0.5, 0.9), (0.9, 0.999)] {
        let (ours, candles) = run(betas)?;
        assert!((ours - candles).abs() < 1e-5, "{ours} {candles}");
    }
    Ok(())
}
