//! Speed of reading images from a parquet file, and the memory that this takes compared with the
//! file's size.
//!
//! Run it with `cargo bench --bench images`, on Linux. It writes 256×256 JPEG images of noise to
//! a temporary folder (`INVARIANCES_BENCH_MIB` MiB, default 300). Each line of output is from its
//! own process. The memory is the peak that the system reports (VmHWM), minus the peak after
//! opening the file.

mod common;

use common::{arguments, peak};
use image::{ImageFormat, RgbImage};
use invariances::data::{ImageColumns, Order};
use invariances::polars::prelude::*;
use invariances::prelude::{Images, Rng};
use invariances::{Error, Result};
use polars::frame::DataFrame;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const SIDE: u32 = 256;
/// Images per row group, as in files of the hub.
const GROUP: usize = 100;

/// Returns a JPEG file with blurred spots and grain. It has about 25 kB, like a photograph.
fn photograph(rng: &mut Rng) -> Vec<u8> {
    let coarse = RgbImage::from_fn(16, 16, |_, _| {
        image::Rgb([0; 3].map(|_: u8| rng.below(256) as u8))
    });
    let mut image =
        image::imageops::resize(&coarse, SIDE, SIDE, image::imageops::FilterType::Triangle);
    for value in image.iter_mut() {
        *value = value.saturating_add(rng.below(24) as u8);
    }
    let mut file = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut file, ImageFormat::Jpeg)
        .expect("a JPEG file in memory");
    file.into_inner()
}

/// Writes row groups until the file has about `mib` MiB, and returns the number of images.
fn write(path: &Path, mib: u64) -> Result<usize> {
    let mut rng = Rng::new(0);
    let some: Vec<Vec<u8>> = (0..GROUP).map(|_| photograph(&mut rng)).collect();
    let group = |from: usize| -> Result<DataFrame> {
        // A number at the end of each file makes the files differ, so that parquet cannot store
        // one for several.
        let files = some.iter().enumerate().map(|(i, file)| {
            let mut file = file.clone();
            file.extend_from_slice(&((from + i) as u64).to_le_bytes());
            file
        });
        let bytes = Series::new("bytes".into(), files.collect::<Vec<_>>());
        let names: Vec<String> = (from..from + GROUP).map(|i| format!("{i}.jpg")).collect();
        let names = Series::new("path".into(), names);
        let image = StructChunked::from_series("image".into(), GROUP, [bytes, names].iter())?;
        let labels: Vec<i64> = (from..from + GROUP).map(|i| i as i64 % 10).collect();
        let columns = vec![
            image.into_series().into_column(),
            Column::new("label".into(), labels),
        ];
        Ok(DataFrame::new(GROUP, columns)?)
    };
    let size: usize = some.iter().map(Vec::len).sum();
    let groups = ((mib as usize) << 20).div_ceil(size).max(1);
    let file = std::fs::File::create(path).map_err(|e| Error::io(path, e))?;
    let first = group(0)?;
    let mut writer = ParquetWriter::new(file)
        .with_compression(ParquetCompression::Snappy)
        .batched(first.schema())?;
    for n in 0..groups {
        writer.write_batch(&group(n * GROUP)?)?;
    }
    writer.finish()?;
    Ok(groups * GROUP)
}

fn read(path: &str, size: usize, order: &str) -> Result<()> {
    let start = Instant::now();
    let images = Images::parquet(&[path], &ImageColumns::default())?;
    let open = start.elapsed().as_secs_f64();
    let before = peak();
    let order_of = match order {
        "shuffled" => Order::Shuffled(0),
        _ => Order::InOrder,
    };
    let start = Instant::now();
    let mut count = 0;
    for batch in images.batches(64, size, order_of)? {
        count += batch?.labels.dim(0)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    println!(
        "{size:3} pixels, {order:8}: {count} images in {seconds:.1} s, {:.0} a second; memory {:.0} MiB beside a file of {:.0} MiB, opened in {open:.2} s",
        count as f64 / seconds,
        peak() - before,
        bytes as f64 / 1048576.0
    );
    Ok(())
}

fn main() -> Result<()> {
    let given = arguments();
    if let [path, size, order] = given.as_slice() {
        return read(path, size.parse().expect("a size"), order);
    }
    let mib = std::env::var("INVARIANCES_BENCH_MIB").ok();
    let mib = mib.map_or(300, |v| v.parse().expect("a number of MiB"));
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let path = folder.path().join("train-00000-of-00001.parquet");
    let count = write(&path, mib)?;
    println!("{count} JPEG images of {SIDE}×{SIDE} pixels in row groups of {GROUP}, batches of 64");
    let program = std::env::current_exe().map_err(|e| Error::io("the bench", e))?;
    for size in ["64", "224"] {
        for order in ["in-order", "shuffled"] {
            let status = Command::new(&program)
                .arg(&path)
                .args([size, order])
                .status()
                .map_err(|e| Error::io(&program, e))?;
            assert!(status.success());
        }
    }
    Ok(())
}
