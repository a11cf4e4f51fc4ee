//! Data: digits, tables of images, and the colours that images show.

use invariances::Result;
use invariances::metric::measure_colours;
use invariances::prelude::*;

/// R² and mean absolute error of measured colours over images and channels.
fn agreement(measured: &Tensor, known: &[[f32; 3]]) -> Result<(f64, f64)> {
    let measured = measured.to_vec2::<f32>()?;
    let (mut residual, mut variance, mut error) = (0.0f64, 0.0f64, 0.0f64);
    let n = known.len() as f64;
    for c in 0..3 {
        let mean = known.iter().map(|k| f64::from(k[c])).sum::<f64>() / n;
        for (m, k) in measured.iter().zip(known) {
            let (m, k) = (f64::from(m[c]), f64::from(k[c]));
            residual += (m - k).powi(2);
            variance += (k - mean).powi(2);
            error += (m - k).abs() / (3.0 * n);
        }
    }
    Ok((1.0 - residual / variance, error))
}

fn blurred(images: &Tensor) -> Result<Tensor> {
    // A box of 3×3: stronger than what a good decoder loses.
    let padded = images.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?;
    Ok(padded.avg_pool2d_with_stride(3, 1)?)
}

#[test]
fn colours_of_images_are_measured() -> Result<()> {
    for size in [28, 32, 64] {
        let batch = Digits::strokes(size, 0)?.batch(Split::Test, 0, 2000)?;
        let noise = Rng::new(1).normal(batch.images.dims(), &Device::Cpu)?;
        let cases = [
            ("as drawn", batch.images.clone()),
            ("noise 0.05", (&batch.images + (noise * 0.05)?)?),
            ("blurred", blurred(&batch.images)?),
        ];
        for (name, images) in &cases {
            let (foreground, background) = measure_colours(images)?;
            let (r2_fg, mae_fg) = agreement(&foreground, &batch.factors.foreground())?;
            let (r2_bg, mae_bg) = agreement(&background, &batch.factors.background())?;
            println!(
                "{size} {name}: foreground R² {r2_fg:.4} error {mae_fg:.4}, background R² {r2_bg:.4} error {mae_bg:.4}"
            );
        }
    }
    Ok(())
}
