//! Data: digits, drawn and from a table, and the colours that images show.

mod common;

use common::shared;
use image::{ImageFormat, RgbImage};
use invariances::data::ImageColumns;
use invariances::metric::measure_colours;
use invariances::polars::frame::DataFrame;
use invariances::polars::prelude::{Column, IntoColumn, ParquetWriter};
use invariances::prelude::*;
use invariances::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

const FACTORS: [&str; 9] = [
    "digit",
    "slant",
    "rotation",
    "thickness",
    "scale",
    "aspect",
    "shift",
    "foreground",
    "background",
];

fn values(images: &Tensor) -> Result<Vec<f32>> {
    Ok(images.flatten_all()?.to_vec1()?)
}

fn bits(images: &Tensor) -> Result<Vec<u32>> {
    Ok(values(images)?.into_iter().map(f32::to_bits).collect())
}

/// The columns that hold a concept.
fn columns(concept: &str) -> Vec<String> {
    match concept {
        "shift" => ["x", "y"].map(|c| format!("shift_{c}")).to_vec(),
        "foreground" | "background" => ["r", "g", "b"].map(|c| format!("{concept}_{c}")).to_vec(),
        _ => vec![concept.into()],
    }
}

/// The batch's images in 8 bits, their labels and factors (in 1/4096), hashed.
fn fingerprint(batch: &Batch) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let levels = values(&batch.images)?;
    let levels: Vec<u8> = levels
        .iter()
        .map(|v| ((v + 1.0) * 127.5).round() as u8)
        .collect();
    hash.update(&levels);
    for name in batch.factors.names() {
        hash.update(name.as_bytes());
        for value in batch.factors.column(&name)? {
            hash.update(&((value * 4096.0).round() as i32).to_le_bytes());
        }
    }
    Ok(hash.finalize().to_hex()[..32].into())
}

#[track_caller]
fn message<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) -> Error {
    let error = result.unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    error
}

/// Light on dark, in grey, as MNIST's, with labels: `count` drawn digits of 28 pixels.
fn grey_batch(count: usize) -> Result<Batch> {
    let drawn = Digits::strokes(28, 9)?.batch(Split::Train, 0, count)?;
    let (fg, bg) = (drawn.factors.foreground(), drawn.factors.background());
    let pixels = values(&drawn.images)?;
    let area = 28 * 28;
    let mut grey = Vec::new();
    for (n, image) in pixels.chunks(3 * area).enumerate() {
        // The channel where ink and paper differ most tells the ink's coverage best.
        let gap = |c: &usize| (fg[n][*c] - bg[n][*c]).abs();
        let c = (0..3).max_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap();
        let foreground = image[c * area..][..area].iter().map(|v| {
            let share = (0.5 * (v + 1.0) - bg[n][c]) / (fg[n][c] - bg[n][c]);
            2.0 * share.clamp(0.0, 1.0) - 1.0
        });
        let foreground: Vec<f32> = foreground.collect();
        for _ in 0..3 {
            grey.extend_from_slice(&foreground);
        }
    }
    Ok(Batch {
        images: Tensor::from_vec(grey, (count, 3, 28, 28), &Device::Cpu)?,
        ..drawn
    })
}

fn table(folder: &Path, count: usize) -> Result<PathBuf> {
    let path = folder.join(format!("digits{count}.parquet"));
    grey_batch(count)?.write_parquet(&path, &ImageColumns::default())?;
    Ok(path)
}

/// A file of these columns.
fn write_columns(path: &Path, columns: Vec<Column>) {
    let mut frame = DataFrame::new_infer_height(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    ParquetWriter::new(file).finish(&mut frame).unwrap();
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(width, height, image::Rgb([255, 128, 0]));
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

#[test]
fn a_sample_depends_on_its_index_alone() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path(), 60)?;
    for digits in [Digits::strokes(32, 3)?, Digits::mnist(&path, 32, 3)?] {
        let draw = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let batch = digits.batch(Split::Train, 5, 40)?;
                let pairs = digits.pairs(Split::Train, 5, 20, "digit")?;
                Ok::<_, Error>((batch, pairs))
            })
        };
        let (one, pairs_one) = draw(1)?;
        let (two, pairs_two) = draw(2)?;
        assert_eq!(bits(&one.images)?, bits(&two.images)?);
        assert_eq!(one.factors, two.factors);
        assert_eq!(bits(&pairs_one.0.images)?, bits(&pairs_two.0.images)?);
        assert_eq!(bits(&pairs_one.1.images)?, bits(&pairs_two.1.images)?);

        let some = digits.take(Split::Train, &[44, 7, 7, 5])?;
        for (k, i) in [39, 2, 2, 0].into_iter().enumerate() {
            assert_eq!(bits(&some.images.get(k)?)?, bits(&one.images.get(i)?)?);
        }
        assert_eq!(one.len(), 40);
        assert_eq!(one.labels.dtype(), DType::U32);
        let labels: Vec<f32> = one
            .labels
            .to_vec1::<u32>()?
            .iter()
            .map(|&l| l as f32)
            .collect();
        assert_eq!(labels, one.factors.column("digit")?);
        assert!(
            values(&one.images)?
                .iter()
                .all(|v| (-1.0..=1.0).contains(v))
        );

        message(digits.batch(Split::Test, 0, 0), &["at least one"]);
        message(digits.batch(Split::Test, 0, usize::MAX), &["at most"]);
        message(digits.batch(Split::Test, u64::MAX, 2), &["2^64"]);
        assert_eq!(digits.take(Split::Test, &[u64::MAX])?.len(), 1);
    }
    for size in [0, 15, 129, usize::MAX] {
        message(Digits::strokes(size, 0), &["16 to 128"]);
    }
    Ok(())
}

/// What is trained on the data is kept by the data's id: images that change must change `REVISION`, and these hashes with it.
#[test]
fn the_data_never_change_silently() -> Result<()> {
    let found = [
        Digits::strokes(32, 0)?.batch(Split::Train, 0, 64)?,
        Digits::strokes(16, 1)?.batch(Split::Test, 100, 16)?,
        Digits::strokes(64, 0)?
            .pairs(Split::Validation, 0, 8, "background")?
            .1,
    ]
    .iter()
    .map(fingerprint)
    .collect::<Result<Vec<_>>>()?;
    assert_eq!(
        found,
        [
            "478e220554fe5b1d5ab4f5fed0fa43fc",
            "6065d88a7f1642be52a4d5e3520014ef",
            "4fd08fc2d3e33736cc0ec025460c64df"
        ]
    );
    Ok(())
}

#[test]
fn factors_have_the_columns_and_ranges_that_are_promised() -> Result<()> {
    let batch = Digits::strokes(32, 0)?.batch(Split::Train, 0, 4000)?;
    let factors = &batch.factors;
    let ranges = [
        ("digit", 0.0, 9.0),
        ("style", 0.0, 3.0),
        ("slant", -0.6, 0.85),
        ("rotation", -0.32, 0.32),
        ("thickness", 0.055, 0.118),
        ("scale", 0.6, 0.74),
        ("aspect", 0.84, 1.22),
        ("shift_x", -0.08, 0.08),
        ("shift_y", -0.08, 0.08),
        ("elastic", 0.01, 0.07),
        ("foreground_r", 0.0, 1.0),
        ("foreground_g", 0.0, 1.0),
        ("foreground_b", 0.0, 1.0),
        ("background_r", 0.0, 1.0),
        ("background_g", 0.0, 1.0),
        ("background_b", 0.0, 1.0),
    ];
    assert_eq!(factors.names(), ranges.map(|(name, _, _)| name.to_string()));
    for (name, low, high) in ranges {
        let column = factors.column(name)?;
        assert_eq!(column.len(), 4000);
        assert!(column.iter().all(|v| (low..=high).contains(v)), "{name}");
        let (least, most) = column
            .iter()
            .fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        assert!(most - least > 0.6 * (high - low), "{name} hardly varies");
    }
    for concept in FACTORS {
        for name in columns(concept) {
            factors.column(&name)?;
        }
    }
    let frame = factors.frame()?;
    assert_eq!((frame.height(), frame.width()), (4000, ranges.len()));
    message(factors.column("hue"), &["hue", "foreground_r", "slant"]);
    message(factors.with_real("x", vec![1.0]), &["\"x\" has 1", "4000"]);

    // Ink and paper can be told apart, and nothing else ties them.
    let (fg, bg) = (factors.foreground(), factors.background());
    let mut products = 0.0f64;
    for (f, b) in fg.iter().zip(&bg) {
        let distance = (0..3).map(|c| (f[c] - b[c]).powi(2)).sum::<f32>().sqrt();
        assert!(distance >= Digits::CONTRAST - 1e-6);
        products += (0..3)
            .map(|c| f64::from((f[c] - 0.5) * (b[c] - 0.5)))
            .sum::<f64>();
    }
    let correlation = products / (3.0 * 4000.0) * 12.0;
    println!("correlation of ink and paper: {correlation:.3}");
    assert!(correlation.abs() < 0.2);

    // Every digit as often as the others: 400 ± 19, four standard deviations.
    for digit in 0..10 {
        let count = factors
            .column("digit")?
            .iter()
            .filter(|&&d| d == digit as f32)
            .count();
        assert!(count.abs_diff(400) < 76, "{count} of digit {digit}");
    }
    Ok(())
}

#[test]
fn splits_are_disjoint() -> Result<()> {
    let digits = Digits::strokes(16, 0)?;
    let mut seen = HashSet::new();
    let mut count = 0;
    for split in SPLITS {
        let (a, b) = digits.pairs(split, 0, 300, "digit")?;
        for batch in [digits.batch(split, 0, 300)?, a, b] {
            for n in 0..batch.len() {
                seen.insert(bits(&batch.images.get(n)?)?);
                count += 1;
            }
        }
        assert_eq!(digits.len(split), None);
        assert!(!digits.is_empty(split));
    }
    assert_eq!(seen.len(), count);

    let folder = tempfile::tempdir().unwrap();
    let digits = Digits::mnist(table(folder.path(), 200)?, 28, 0)?;
    let mut rows = Vec::new();
    for split in SPLITS {
        let len = digits.len(split).unwrap();
        assert!(len > 0);
        let batch = digits.batch(split, 0, len as usize)?;
        rows.extend(batch.factors.column("row")?);
        // Beyond the end: the same shape in other colours.
        let again = digits.take(split, &[0, len])?;
        let row = again.factors.column("row")?;
        assert_eq!(row[0], row[1]);
        let colours = again.factors.foreground();
        assert_ne!(colours[0], colours[1]);
    }
    rows.sort_by(f32::total_cmp);
    assert_eq!(rows, (0..200).map(|r| r as f32).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn pairs_share_their_factor_and_nothing_else() -> Result<()> {
    let digits = Digits::strokes(16, 0)?;
    let folder = tempfile::tempdir().unwrap();
    let from_table = Digits::mnist(table(folder.path(), 200)?, 28, 0)?;
    let count = 200;
    for (digits, procedural) in [(&digits, true), (&from_table, false)] {
        assert_eq!(digits.is_procedural(), procedural);
        for factor in FACTORS {
            let pairs = digits.pairs(Split::Train, 0, count, factor);
            let known = matches!(factor, "digit" | "foreground" | "background");
            if !procedural && !known {
                message(
                    pairs,
                    &["digit, foreground, background", &format!("{factor:?}")],
                );
                continue;
            }
            let (a, b) = pairs?;
            for name in a.factors.names() {
                let (a, b) = (a.factors.column(&name)?, b.factors.column(&name)?);
                let alike = a.iter().zip(&b).filter(|(a, b)| a == b).count();
                if columns(factor).contains(&name) {
                    assert_eq!(alike, count, "{factor:?}: {name}");
                } else if name == "style" && factor == "digit" {
                    assert!(alike < count * 2 / 3, "{factor:?}: {name} {alike}");
                } else {
                    // Digits and styles agree by chance.
                    let most = if name == "style" {
                        count / 2
                    } else {
                        count / 5
                    };
                    assert!(alike < most, "{factor:?}: {name} {alike}");
                }
            }
            for batch in [&a, &b] {
                let (fg, bg) = (batch.factors.foreground(), batch.factors.background());
                for (f, b) in fg.iter().zip(&bg) {
                    let square: f32 = (0..3).map(|c| (f[c] - b[c]).powi(2)).sum();
                    assert!(square.sqrt() >= Digits::CONTRAST - 1e-6);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_id_tells_data_apart() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (table(folder.path(), 60)?, table(folder.path(), 61)?);
    let moved = folder.path().join("moved.parquet");
    std::fs::copy(&one, &moved).unwrap();
    let ids = [
        Digits::strokes(32, 0)?.id(),
        Digits::strokes(32, 1)?.id(),
        Digits::strokes(28, 0)?.id(),
        Digits::mnist(&one, 32, 0)?.id(),
        Digits::mnist(&one, 32, 1)?.id(),
        Digits::mnist(&one, 28, 0)?.id(),
        Digits::mnist(&two, 32, 0)?.id(),
    ];
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    // Where the file lies does not matter.
    assert_eq!(Digits::mnist(&moved, 32, 0)?.id(), ids[3]);
    Ok(())
}

#[test]
fn the_tables_ink_is_in_the_colours_of_the_factors() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    // Ink is what the table's images say, for 28 pixels and in the middle of 32.
    let path = table(folder.path(), 60)?;
    let rows = Images::parquet(&[&path], &ImageColumns::default())?;
    let known = rows.labels().unwrap();
    for (size, border) in [(32usize, 2usize)] {
        let digits = Digits::mnist(&path, size, 0)?;
        let batch = digits.batch(Split::Train, 0, 30)?;
        let (fg, bg) = (batch.factors.foreground(), batch.factors.background());
        let row = batch.factors.column("row")?;
        let labels = batch.labels.to_vec1::<u32>()?;
        let pixels = batch.images.to_dtype(DType::F32)?;
        for n in 0..30 {
            let row = row[n] as usize;
            assert_eq!(labels[n], known[row]);
            let glyph = rows.image(row)?.get(0)?.to_vec2::<f32>()?;
            for c in 0..3 {
                let plane = pixels.get(n)?.get(c)?.to_vec2::<f32>()?;
                for y in 0..size {
                    for x in 0..size {
                        let inside = |i: usize| (border..border + 28).contains(&i);
                        let foreground = if inside(x) && inside(y) {
                            0.5 * glyph[y - border][x - border] + 0.5
                        } else {
                            0.0
                        };
                        let expected = 2.0 * (bg[n][c] + foreground * (fg[n][c] - bg[n][c])) - 1.0;
                        assert!((plane[y][x] - expected).abs() < 1e-5);
                    }
                }
            }
        }
    }
    for size in [16, 17, 31, 64, 128] {
        let images = Digits::mnist(&path, size, 0)?
            .batch(Split::Train, 0, 3)?
            .images;
        assert_eq!(images.dims(), [3, 3, size, size]);
    }
    Ok(())
}

#[test]
fn bad_tables_are_refused_in_words() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    let mnist = |path: &Path| Digits::mnist(path, 32, 0);
    let labels = |values: &[i64]| Column::new("label".into(), values);
    let images = |values: &[&[u8]]| Column::new("image".into(), values);
    let image = png(8, 8);

    let error = message(mnist(&path), &["table.parquet", "expected a parquet file"]);
    assert!(matches!(error, Error::Io { .. }));
    let error = message(mnist(folder.path()), &["expected a parquet file"]);
    assert!(matches!(error, Error::Io { .. }));
    for content in [
        &b""[..],
        b"PAR1",
        b"PAR1PAR1PAR1",
        b"%PDF-1.4 certainly no table",
    ] {
        std::fs::write(&path, content).unwrap();
        let error = message(mnist(&path), &["table.parquet", "parquet file"]);
        assert!(matches!(error, Error::Content { .. }));
    }

    write_columns(
        &path,
        vec![Column::new("digit".into(), [1i64]), images(&[&image])],
    );
    message(mnist(&path), &["\"label\"", "digit: i64", "image: binary"]);
    write_columns(
        &path,
        vec![labels(&[1]), Column::new("pixels".into(), [0.5f32])],
    );
    message(mnist(&path), &["\"image\"", "label: i64", "pixels: f32"]);
    write_columns(
        &path,
        vec![labels(&[1]), Column::new("image".into(), [0.5f32])],
    );
    message(mnist(&path), &["as bytes", "image: f32"]);
    write_columns(
        &path,
        vec![Column::new("label".into(), ["one"]), images(&[&image])],
    );
    message(mnist(&path), &["integers from 0 to 9", "label: str"]);
    write_columns(&path, vec![labels(&[]), images(&[])]);
    message(mnist(&path), &["no rows"]);

    write_columns(&path, vec![labels(&[1, 2]), images(&[&image, b"no image"])]);
    message(mnist(&path), &["row 1", "cannot decode the image"]);
    write_columns(
        &path,
        vec![
            labels(&[1, 2]),
            images(&[&image, &image[..image.len() / 2]]),
        ],
    );
    message(mnist(&path), &["row 1", "cannot decode the image"]);
    let missing = Column::new("image".into(), [Some(&image[..]), None]);
    write_columns(&path, vec![labels(&[1, 2]), missing]);
    message(mnist(&path), &["row 1 has no image"]);
    write_columns(
        &path,
        vec![
            labels(&[1, 2, 3]),
            images(&[&image, &png(8, 9), &png(9, 8)]),
        ],
    );
    message(mnist(&path), &["row 1", "8×9", "square"]);
    write_columns(&path, vec![labels(&[1]), images(&[&png(300, 300)])]);
    message(mnist(&path), &["row 0", "256 pixels"]);
    write_columns(&path, vec![labels(&[1, 10]), images(&[&image, &image])]);
    message(mnist(&path), &["row 1 has label 10", "0 to 9"]);
    write_columns(&path, vec![labels(&[1, -1]), images(&[&image, &image])]);
    message(mnist(&path), &["row 1 has -1 for label"]);
    let missing = Column::new("label".into(), [Some(1i64), None]);
    write_columns(
        &path,
        vec![missing.into_column(), images(&[&image, &image])],
    );
    message(mnist(&path), &["row 1 has nothing for label"]);

    // Equal images may be kept once: a short file of many rows is no mistake.
    let many = 5000;
    write_columns(
        &path,
        vec![labels(&vec![7; many]), images(&vec![&image[..]; many])],
    );
    let table = mnist(&path)?;
    assert_eq!(
        SPLITS.iter().filter_map(|&s| table.len(s)).sum::<u64>(),
        many as u64
    );

    // Too few rows for every part: said when that part is asked for.
    write_columns(&path, vec![labels(&[1]), images(&[&image])]);
    let table = mnist(&path)?;
    let empty = SPLITS.iter().filter(|&&s| table.is_empty(s));
    assert_eq!(empty.clone().count(), 2);
    for &split in empty {
        message(table.batch(split, 0, 1), &[&split.name(), "more rows"]);
        message(table.pairs(split, 0, 1, "digit"), &["more rows"]);
    }
    Ok(())
}

#[test]
fn the_hubs_mnist_is_read() -> Result<()> {
    let Some(path) = shared("data/mnist_t10k.parquet") else {
        return Ok(());
    };
    let table = Images::parquet(&[&path], &ImageColumns::default())?;
    assert_eq!(table.len(), 10_000);
    let labels = table.labels().unwrap();
    assert_eq!(labels.iter().filter(|&&l| l == 0).count(), 980);
    assert_eq!(table.image(0)?.dims(), [3, 28, 28]);

    let digits = Digits::mnist(&path, 32, 0)?;
    let lengths: Vec<u64> = SPLITS.iter().filter_map(|&s| digits.len(s)).collect();
    println!("train, validation, test: {lengths:?}");
    assert_eq!(lengths.iter().sum::<u64>(), 10_000);
    assert!(lengths[0].abs_diff(8000) < 160 && lengths[2].abs_diff(1000) < 120);
    let batch = digits.batch(Split::Test, 0, lengths[2] as usize)?;
    let (foreground, background) = measure_colours(&batch.images)?;
    let (r2_fg, error_fg) = agreement(&foreground, &batch.factors.foreground())?;
    let (r2_bg, error_bg) = agreement(&background, &batch.factors.background())?;
    println!(
        "MNIST: foreground R² {r2_fg:.4} error {error_fg:.4}, background R² {r2_bg:.4} error {error_bg:.4}"
    );
    assert!(r2_fg > 0.97 && r2_bg > 0.97);
    Ok(())
}

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

/// Smoothed by [1, 2, 1]/4 down and across, the softness of a decoder's edges.
fn smoothed(images: &Tensor) -> Result<Tensor> {
    let mut smooth = images.clone();
    for dim in [2, 3] {
        let padded = smooth.pad_with_same(dim, 1, 1)?;
        let size = smooth.dim(dim)?;
        let [a, b, c] = [0, 1, 2].map(|k| padded.narrow(dim, k, size));
        smooth = (((a? + c?)? * 0.25)? + (b? * 0.5)?)?;
    }
    Ok(smooth)
}

#[test]
fn colours_of_images_are_measured() -> Result<()> {
    for size in [28, 32, 64] {
        let batch = Digits::strokes(size, 0)?.batch(Split::Test, 0, 2000)?;
        let noise = (Rng::new(1).normal(batch.images.dims(), &Device::Cpu)? * 0.05)?;
        let cases = [
            ("as drawn", batch.images.clone(), 0.999, 0.999),
            ("with noise", (&batch.images + noise)?, 0.99, 0.99),
            // Thin strokes no longer have the ink's full colour anywhere: its estimate leans towards the paper's.
            ("smoothed", smoothed(&batch.images)?, 0.9, 0.999),
        ];
        for (name, images, least_fg, least_bg) in &cases {
            let (foreground, background) = measure_colours(images)?;
            let (r2_fg, error_fg) = agreement(&foreground, &batch.factors.foreground())?;
            let (r2_bg, error_bg) = agreement(&background, &batch.factors.background())?;
            println!(
                "{size} {name}: foreground R² {r2_fg:.4} error {error_fg:.4}, background R² {r2_bg:.4} error {error_bg:.4}"
            );
            assert!(r2_fg > *least_fg && r2_bg > *least_bg);
        }
    }
    // One colour: both are it. Values outside the range are clamped, others refused.
    let plain = (Tensor::ones((2, 3, 5, 4), DType::F32, &Device::Cpu)? * 1e30)?;
    let (foreground, background) = measure_colours(&plain)?;
    assert_eq!(foreground.to_vec2::<f32>()?, [[1.0; 3]; 2]);
    assert_eq!(background.to_vec2::<f32>()?, [[1.0; 3]; 2]);
    message(
        measure_colours(&(plain * f64::INFINITY)?),
        &["image 0", "inf"],
    );
    message(
        measure_colours(&Tensor::zeros((2, 1, 5, 5), DType::F32, &Device::Cpu)?),
        &["(n, 3, height, width)", "[2, 1, 5, 5]"],
    );
    Ok(())
}
