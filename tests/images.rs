//! Images from parquet files and folders: what is read, in which order, and what is said of what cannot be read.

mod common;
#[path = "common/hub.rs"]
mod loopback;

use common::{alone, bound_memory, says, shared};
use image::{
    DynamicImage, GrayAlphaImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage,
};
use invariances::data::{FolderOptions, ImageColumns, Order};
use invariances::hub::Hub;
use invariances::polars::prelude::*;
use invariances::prelude::{Batch, Dataset, Digits, Images, Rng, Split, Tensor};
use invariances::{Error, Result};
use loopback::{LoopbackHub, Repo};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// By pyarrow: see `make.py` there.
const FILES: [&str; 8] = [
    "none", "snappy", "gzip_v2", "brotli", "zstd_v2", "lz4", "pages", "rich",
];

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/parquet")
        .join(format!("{name}.parquet"))
}

/// A table with other columns: see `make.py` there.
fn columns_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/parquet_columns")
        .join(format!("{name}.parquet"))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn columns() -> ImageColumns {
    ImageColumns::default()
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let image = RgbImage::from_pixel(width, height, Rgb(colour));
    encoded(image, ImageFormat::Png)
}

/// A file below a folder, with the folders that it needs.
fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn write(path: &Path, columns: Vec<Column>, rows_per_group: usize, codec: ParquetCompression) {
    let mut frame = DataFrame::new_infer_height(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    ParquetWriter::new(file)
        .with_row_group_size(Some(rows_per_group))
        .with_compression(codec)
        .finish(&mut frame)
        .unwrap();
}

/// Images of 4×4 pixels whose red tells their number, in row groups of five, by polars.
fn numbered(path: &Path, numbers: std::ops::Range<usize>) {
    let images: Vec<Vec<u8>> = numbers
        .clone()
        .map(|i| png(4, 4, [i as u8, 255 - i as u8, 9]))
        .collect();
    let labels: Vec<i64> = numbers.clone().map(|i| i as i64 % 4).collect();
    let sizes: Vec<f64> = numbers.map(|i| i as f64 / 2.0).collect();
    let columns = vec![
        Column::new("image".into(), images),
        Column::new("label".into(), labels),
        Column::new("size".into(), sizes),
    ];
    write(path, columns, 5, ParquetCompression::Snappy);
}

/// The red of each image of a batch, in 8 bits.
fn reds(batch: &Batch) -> Result<Vec<usize>> {
    let (count, _, size, _) = batch.images.dims4()?;
    let values = batch.images.flatten_all()?.to_vec1::<f32>()?;
    let red = |n: usize| ((values[n * 3 * size * size] + 1.0) * 127.5).round() as usize;
    Ok((0..count).map(red).collect())
}

/// The red of all images in an order, and the sizes of the batches.
fn sequence(images: &Images, batch: usize, order: Order) -> Result<(Vec<usize>, Vec<usize>)> {
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    for batch in images.batches(batch, 4, order)? {
        let batch = batch?;
        sizes.push(batch.labels.dim(0)?);
        all.extend(reds(&batch)?);
    }
    Ok((all, sizes))
}

/// Asserts that a file holds what `make.py` writes.
fn assert_reference(path: &Path) -> Result<()> {
    let images = Images::parquet(&[path], &columns())?;
    let what = path.display();
    assert_eq!(images.len(), 7, "{what}");
    assert_eq!(images.classes(), ["cat", "dog", "emu"], "{what}");
    assert_eq!(images.labels().unwrap(), [0, 1, 2, 0, 1, 2, 0], "{what}");
    let frame = images.frame()?;
    let expected = df!(
        "row" => [0u32, 1, 2, 3, 4, 5, 6],
        "label" => [0u32, 1, 2, 0, 1, 2, 0],
        "class" => ["cat", "dog", "emu", "cat", "dog", "emu", "cat"],
        "split" => [None::<&str>; 7],
        "path" => [Some("0.png"), Some("1.png"), Some("2.png"), Some("3.png"), Some("4.png"), None, Some("6.png")],
        "score" => [Some(0f32), Some(0.25), Some(0.5), Some(0.75), None, Some(1.25), Some(1.5)],
        "exact" => [0f64, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75],
        "age" => [0u32, 10, 20, 30, 40, 50, 60],
        "depth" => [0i32, -1, -2, -3, -4, -5, -6],
        "wide" => (0..7).map(|i| (1u64 << 63) + i).collect::<Vec<_>>(),
        "tame" => [true, false, true, false, true, false, true],
        "name" => ["näme 0", "näme 0", "näme 1", "näme 1", "näme 2", "näme 2", "näme 3"],
    )?;
    let same = frame.equals_missing(&expected) && frame.schema() == expected.schema();
    assert!(same, "{what}: {frame:?}, expected {expected:?}");

    let batch = images.batch(&[6, 0, 5, 5, 3], 8)?;
    assert_eq!(batch.images.dims(), [5, 3, 8, 8]);
    assert_eq!(reds(&batch)?, [120, 0, 100, 100, 60], "{what}");
    assert_eq!(batch.labels.to_vec1::<u32>()?, [0, 0, 2, 2, 0]);
    let factors = &batch.factors;
    let names = ["row", "score", "exact", "age", "depth", "wide", "tame"];
    assert_eq!(factors.names(), names, "{what}");
    assert_eq!(factors.column("row")?, [6.0, 0.0, 5.0, 5.0, 3.0]);
    assert_eq!(factors.column("depth")?, [-6.0, 0.0, -5.0, -5.0, -3.0]);
    assert_eq!(factors.column("tame")?, [1.0, 1.0, 0.0, 0.0, 0.0]);
    assert!(images.batch(&[4], 8)?.factors.column("score")?[0].is_nan());
    let image = images.image(3)?;
    assert_eq!(image.dims(), [3, 8, 8]);
    let levels = image.to_vec3::<f32>()?.into_iter();
    let levels: Vec<f32> = levels.map(|p| ((p[7][7] + 1.0) * 127.5).round()).collect();
    assert_eq!(levels, [60.0, 195.0, 100.0], "{what}");
    for order in [Order::InOrder, Order::Shuffled(3)] {
        let (mut all, sizes) = sequence(&images, 4, order)?;
        assert_eq!(sizes, [4, 3]);
        all.sort_unstable();
        assert_eq!(all, [0, 20, 40, 60, 80, 100, 120], "{what}");
    }
    Ok(())
}

/// With every method of packing, versions 1 and 2 of pages, with and without dictionaries, several row groups and pages.
/// `INVARIANCES_PARQUET` is a folder of more such files (`make.py FOLDER --all`).
#[test]
fn files_of_pyarrow_are_read() -> Result<()> {
    let mut paths: Vec<PathBuf> = FILES.iter().map(|f| reference(f)).collect();
    if let Some(more) = std::env::var_os("INVARIANCES_PARQUET") {
        let entries = std::fs::read_dir(&more).unwrap();
        paths.extend(entries.map(|e| e.unwrap().path()));
    }
    println!("{} files", paths.len());
    for path in paths {
        assert_reference(&path)?;
    }
    let error = says(
        Images::parquet(&[reference("refused_delta")], &columns())?.image(0),
        &[
            "image.bytes",
            "delta_length_byte_array",
            "write it with plain",
        ],
    );
    assert!(matches!(error, Error::Content { .. }));
    Ok(())
}

#[test]
fn files_of_polars_are_read() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("table.parquet");
    let codecs = [
        ParquetCompression::Uncompressed,
        ParquetCompression::Snappy,
        ParquetCompression::Gzip(None),
        ParquetCompression::Brotli(None),
        ParquetCompression::Zstd(None),
        ParquetCompression::Lz4Raw,
    ];
    for codec in codecs {
        for group in [1, 4, 100] {
            // Equal images, which are kept once, others, and none.
            let images: Vec<Option<Vec<u8>>> = (0..9)
                .map(|i| (i != 7).then(|| png(4, 4, [i / 2 * 10, 0, 0])))
                .collect();
            let bytes = Series::new("bytes".into(), images);
            let names = Series::new("path".into(), ["a"; 9]);
            let image = StructChunked::from_series("image".into(), 9, [bytes, names].iter())?;
            let table = vec![
                image.into_series().into_column(),
                Column::new("label".into(), [1u8, 2, 3, 4, 5, 6, 7, 8, 9]),
                Column::new("row".into(), [0.5f32; 9]),
                Column::new("nothing".into(), [None::<&str>; 9]),
            ];
            write(&path, table, group, codec);
            let images = Images::parquet(&[&path], &columns())?;
            let rows: Vec<usize> = (0..9).filter(|&i| i != 7).collect();
            let expected = [0, 0, 10, 10, 20, 20, 30, 40];
            assert_eq!(
                reds(&images.batch(&rows, 4)?)?,
                expected,
                "{codec:?} {group}"
            );
            says(images.batch(&[0, 7], 4), &["row 7 has no image"]);
            let frame = images.frame()?;
            assert_eq!(frame.column("column_row")?.f32()?.get(8), Some(0.5));
            assert_eq!(frame.column("nothing")?.null_count(), 9);
            assert_eq!(frame.column("class")?.null_count(), 9);
            assert_eq!(frame.column("label")?.u32()?.get(8), Some(9));
            let factors = images.batch(&[2], 4)?.factors;
            assert_eq!(factors.column("column_row")?, [0.5]);
            assert_eq!(factors.column("row")?, [2.0]);
            let good = images.select(&rows)?;
            let (mut all, _) = sequence(&good, 3, Order::Shuffled(1))?;
            all.sort_unstable();
            assert_eq!(all, expected);
            says(
                sequence(&images, 3, Order::Shuffled(1)),
                &["row 7 has no image"],
            );
        }
    }
    Ok(())
}

#[test]
fn a_batch_written_is_read_again() -> Result<()> {
    let folder = folder();
    let columns = ImageColumns::named("picture", "class");
    let batch = Digits::strokes(20, 0)?.batch(Split::Test, 0, 12)?;
    let path = folder.path().join("new/folder/drawn.parquet");
    batch.write_parquet(&path, &columns)?;
    let read = Images::parquet(&[&path], &columns)?;
    assert_eq!((read.len(), read.is_empty()), (12, false));
    assert_eq!(read.labels(), Some(batch.labels.to_vec1::<u32>()?));
    let again = read.batch(&(0..12).collect::<Vec<_>>(), 20)?;
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    for (a, b) in values(&again.images)?.iter().zip(values(&batch.images)?) {
        // Half an 8-bit level.
        assert!((a - b).abs() <= 1.0 / 255.0 + 1e-6);
    }
    for name in batch.factors.names() {
        let (a, b) = (again.factors.column(&name)?, batch.factors.column(&name)?);
        assert_eq!(a, b, "{name}");
    }
    // Without labels.
    let bare = ImageColumns {
        label: None,
        ..columns.clone()
    };
    batch.write_parquet(&path, &bare)?;
    let read = Images::parquet(&[&path], &bare)?;
    assert_eq!(read.labels(), None);
    assert_eq!(read.frame()?.column("label")?.null_count(), 12);
    assert_eq!(read.batch(&[0, 1], 20)?.labels.to_vec1::<u32>()?, [0, 0]);
    says(
        Images::parquet(&[&path], &columns),
        &["\"class\"", "picture: struct"],
    );

    // Whole or not at all: a folder that is a file.
    let error = says(
        batch.write_parquet(path.join("below.parquet"), &columns),
        &[],
    );
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(left.count(), 1, "no temporary file stays behind");
    let odd = Batch {
        labels: batch.labels.narrow(0, 0, 3)?,
        ..batch
    };
    says(
        odd.write_parquet(&path, &columns),
        &["3 labels", "12 images"],
    );
    Ok(())
}

#[test]
fn several_files_are_one_set() -> Result<()> {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (one, two) = (
        path("train-00000-of-00002.parquet"),
        path("train-00001-of-00002-0a1b2c.parquet"),
    );
    let test = path("test-00000-of-00001.parquet");
    numbered(&one, 0..13);
    numbered(&two, 13..20);
    numbered(&test, 20..32);
    let images = Images::parquet(&[&one, &two, &test], &columns())?;
    assert_eq!(images.len(), 32);
    let (all, sizes) = sequence(&images, 10, Order::InOrder)?;
    assert_eq!(all, (0..32).collect::<Vec<_>>());
    assert_eq!(sizes, [10, 10, 10, 2]);
    let frame = images.frame()?;
    let split = frame.column("split")?.str()?.clone();
    assert_eq!(
        (split.get(19), split.get(20)),
        (Some("train"), Some("test"))
    );
    assert_eq!(frame.column("size")?.f64()?.get(31), Some(15.5));

    // The parts, of a part, by name, by mask and by number.
    let test_set = images.of_split("test")?;
    assert_eq!(
        sequence(&test_set, 50, Order::InOrder)?.0,
        (20..32).collect::<Vec<_>>()
    );
    let large = test_set.frame()?;
    let large = test_set.filter(&large.column("size")?.f64()?.gt(14))?;
    assert_eq!(
        sequence(&large, 2, Order::InOrder)?,
        (vec![29, 30, 31], vec![2, 1])
    );
    let picked = large.select(&[2, 0, 2])?;
    assert_eq!(reds(&picked.batch(&[0, 1, 2], 4)?)?, [31, 29, 31]);
    assert_eq!(sequence(&picked, 3, Order::InOrder)?.0, [31, 29, 31]);
    assert_eq!(picked.labels(), Some(vec![3, 1, 3]));
    assert_eq!(picked.batch(&[1], 4)?.factors.column("row")?, [1.0]);
    assert_eq!(picked.frame()?.column("row")?.u32()?.get(2), Some(2));
    assert_eq!(picked.frame()?.column("size")?.f64()?.get(1), Some(14.5));
    let none = images.select(&[])?;
    assert!(none.is_empty() && none.frame()?.height() == 0);
    assert_eq!(none.batches(4, 8, Order::Shuffled(0))?.count(), 0);
    assert_eq!(none.batches(4, 8, Order::InOrder)?.count(), 0);

    says(images.of_split("tset"), &["\"tset\"", "train, test"]);
    says(images.of_class("cat"), &["\"cat\"", "no class names"]);
    says(images.select(&[32]), &["no row 32", "32 rows"]);
    says(picked.image(3), &["no row 3", "3 rows"]);
    says(images.batch(&[], 8), &["at least one"]);
    says(images.batch(&[0], 0), &["1 to 4096", "found 0"]);
    says(images.batch(&[0], 4097), &["1 to 4096"]);
    says(images.batches(0, 8, Order::InOrder), &["at least one", "0"]);
    let vast = images.select(&vec![0; 1 << 18])?;
    says(
        vast.batches(usize::MAX, 4096, Order::InOrder),
        &["not enough memory"],
    );
    says(
        images.filter(&BooleanChunked::new("m".into(), [true])),
        &["32 images", "found 1"],
    );
    says(images.split(0, 1.5), &["0 to 1", "1.5"]);
    says(images.split(0, f64::NAN), &["0 to 1"]);
    says(
        Images::parquet::<PathBuf>(&[], &columns()),
        &["at least one"],
    );
    Ok(())
}

#[test]
fn a_random_split_is_the_same_for_a_seed() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.parquet");
    numbered(&path, 0..100);
    let images = Images::parquet(&[&path], &columns())?;
    let of = |images: &Images| Ok::<_, Error>(sequence(images, 64, Order::InOrder)?.0);
    let (a, b) = images.split(5, 0.3)?;
    let (a, b) = (of(&a)?, of(&b)?);
    assert_eq!((a.len(), b.len()), (30, 70));
    assert!(a.is_sorted() && b.is_sorted());
    let mut both = [a.clone(), b].concat();
    both.sort_unstable();
    assert_eq!(both, (0..100).collect::<Vec<_>>());
    assert_eq!(of(&images.split(5, 0.3)?.0)?, a);
    assert_ne!(of(&images.split(6, 0.3)?.0)?, a);
    assert_eq!(images.split(5, 0.0)?.0.len(), 0);
    assert_eq!(images.split(5, 1.0)?.0.len(), 100);

    // The hash tells files and selections apart, and nothing else.
    let (one, two) = images.split(5, 0.3)?;
    let again = Images::parquet(&[&path], &columns())?;
    assert_eq!(images.hash()?, again.hash()?);
    assert_eq!(again.split(5, 0.3)?.0.hash()?, one.hash()?);
    assert!(one.hash()? != two.hash()? && one.hash()? != images.hash()?);
    Ok(())
}

#[test]
fn shuffled_batches_are_a_seeded_permutation() -> Result<()> {
    let folder = folder();
    let root = folder.path().join("folder");
    let path = folder.path().join("a.parquet");
    numbered(&path, 0..200);
    for i in 0..200u8 {
        put(
            &root,
            &format!("class {}/{i:03}.png", i % 2),
            &png(4, 4, [i, 0, 0]),
        );
    }
    let sets = [
        Images::parquet(&[&path], &columns())?,
        Images::folder(&root)?,
        Images::parquet(&[&path], &columns())?.select(&(50..150).collect::<Vec<_>>())?,
    ];
    for images in sets {
        let (in_order, _) = sequence(&images, 7, Order::InOrder)?;
        let (all, sizes) = sequence(&images, 7, Order::Shuffled(1))?;
        let rest = images.len() % 7;
        assert_eq!(sizes.last(), Some(&rest));
        assert!(sizes[..sizes.len() - 1].iter().all(|&s| s == 7));
        assert_eq!(sequence(&images, 7, Order::Shuffled(1))?.0, all);
        // The batch's size and the number of threads change nothing.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3);
        let other = pool.build().unwrap();
        let other = other.install(|| sequence(&images, 64, Order::Shuffled(1)))?;
        assert_eq!(other.0, all);
        assert_ne!(sequence(&images, 7, Order::Shuffled(2))?.0, all);
        let (mut a, mut b) = (all.clone(), in_order.clone());
        a.sort_unstable();
        b.sort_unstable();
        assert_eq!(a, b, "every image once");
        // Neighbours here were not neighbours there, and none stays about where it was.
        let near = all.windows(2).filter(|w| w[0].abs_diff(w[1]) <= 3).count();
        assert!(near < images.len() / 8, "{near}");
        let place = |r: &usize| in_order.iter().position(|x| x == r).unwrap();
        let moved: usize = all
            .iter()
            .enumerate()
            .map(|(i, r)| place(r).abs_diff(i))
            .sum();
        // A third of the length on average.
        let mean = moved as f64 / (images.len() * images.len()) as f64;
        assert!((mean - 1.0 / 3.0).abs() < 0.08, "{mean}");
    }
    Ok(())
}

#[test]
fn batches_are_what_batch_gives() -> Result<()> {
    let images = Images::parquet(&[reference("pages"), reference("snappy")], &columns())?;
    for order in [Order::InOrder, Order::Shuffled(4)] {
        for batch in images.batches(5, 6, order)? {
            let batch = batch?;
            let rows = batch.factors.column("row")?;
            let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
            let same = images.batch(&rows, 6)?;
            let bits = |b: &Batch| b.images.flatten_all()?.to_vec1::<f32>();
            assert_eq!(bits(&batch)?, bits(&same)?);
            assert_eq!(
                batch.labels.to_vec1::<u32>()?,
                same.labels.to_vec1::<u32>()?
            );
            assert_eq!(batch.factors.column("wide")?, same.factors.column("wide")?);
        }
    }
    Ok(())
}

#[test]
fn a_folder_of_classes_is_a_set() -> Result<()> {
    let folder = folder();
    let root = folder.path().join("faces");
    put(&root, "lynx/b.png", &png(9, 5, [10, 20, 30]));
    put(
        &root,
        "lynx/a.JPG",
        &encoded(
            RgbImage::from_pixel(8, 8, Rgb([200, 100, 50])),
            ImageFormat::Jpeg,
        ),
    );
    put(&root, "fox/deep/er/1.jpeg", &png(5, 9, [40, 50, 60]));
    put(&root, "fox/2.png", &png(1, 1, [70, 80, 90]));
    put(&root, "fox/notes.txt", b"nothing");
    put(&root, "fox/.hidden.png", &png(1, 1, [0, 0, 0]));
    put(&root, ".thumbs/2.png", &png(1, 1, [0, 0, 0]));
    put(&root, "outside a class.png", &png(1, 1, [0, 0, 0]));
    let images = Images::folder(&root)?;
    assert_eq!(images.classes(), ["fox", "lynx"]);
    let frame = images.frame()?;
    let text = |name: &str| -> Result<Vec<String>> {
        let column = frame.column(name)?.str()?;
        Ok(column.iter().map(|v| v.unwrap_or("-").into()).collect())
    };
    assert_eq!(
        text("path")?,
        [
            "fox/2.png",
            "fox/deep/er/1.jpeg",
            "lynx/a.JPG",
            "lynx/b.png"
        ]
    );
    assert_eq!(text("class")?, ["fox", "fox", "lynx", "lynx"]);
    assert_eq!(text("split")?, ["-"; 4]);
    assert_eq!(images.labels(), Some(vec![0, 0, 1, 1]));
    assert_eq!(images.image(3)?.dims(), [3, 5, 9]);
    let batch = images.batch(&[0, 1, 3], 7)?;
    assert_eq!(reds(&batch)?, [70, 40, 10]);
    // JPEG loses a little.
    assert!(reds(&images.batch(&[2], 7)?)?[0].abs_diff(200) <= 3);
    let lynx = images.of_class("lynx")?;
    assert_eq!((lynx.len(), lynx.labels()), (2, Some(vec![1, 1])));
    says(images.of_class("wolf"), &["\"wolf\"", "fox, lynx"]);
    says(images.of_split("train"), &["no split names"]);

    // The same below the names of a data set's parts.
    let parts = folder.path().join("parts");
    put(&parts, "Train/a/1.png", &png(2, 2, [1, 0, 0]));
    put(&parts, "Train/b/1.png", &png(2, 2, [2, 0, 0]));
    put(&parts, "test/b/1.png", &png(2, 2, [3, 0, 0]));
    let images = Images::folder(&parts)?;
    assert_eq!(images.classes(), ["a", "b"]);
    assert_eq!(
        reds(&images.of_split("test")?.of_class("b")?.batch(&[0], 2)?)?,
        [3]
    );
    assert_eq!(images.of_split("Train")?.len(), 2);
    // One folder that is no part, and all are classes.
    put(&parts, "cat/a/1.png", &png(2, 2, [4, 0, 0]));
    assert_eq!(Images::folder(&parts)?.classes(), ["Train", "cat", "test"]);

    let hash = Images::folder(&parts)?.hash()?;
    let moved = folder.path().join("moved");
    std::fs::rename(&parts, &moved).unwrap();
    assert_eq!(Images::folder(&moved)?.hash()?, hash);
    put(&moved, "cat/a/1.png", &png(2, 2, [5, 0, 0]));
    assert_ne!(Images::folder(&moved)?.hash()?, hash);
    Ok(())
}

#[test]
fn bad_folders_and_files_are_said() -> Result<()> {
    let folder = folder();
    let root = folder.path().join("set");
    let error = says(Images::folder(&root), &["set", "per class"]);
    assert!(matches!(error, Error::Io { .. }));
    std::fs::create_dir(&root).unwrap();
    put(&root, "notes.txt", b"no image");
    says(Images::folder(&root), &["no images", "class/1.png"]);
    // Files alone are one class; beside folders they are none.
    put(&root, "2.png", &png(2, 2, [2, 0, 0]));
    put(&root, "1.png", &png(2, 2, [1, 0, 0]));
    let frames = Images::folder(&root)?;
    assert_eq!(
        (frames.len(), frames.classes()),
        (2, vec!["set".to_string()])
    );
    let first = frames
        .batch(&[0], 2)?
        .images
        .flatten_all()?
        .to_vec1::<f32>()?[0];
    assert!((first - (1.0 / 127.5 - 1.0)).abs() < 1e-6);
    says(Images::folder(root.join("1.png")), &["1.png"]);
    put(&root, "a/1.png", &png(2, 2, [1, 0, 0]));
    put(&root, "a/2.png", b"no image");
    put(&root, "a/3.png", &png(2, 2, [1, 0, 0])[..40]);
    put(&root, "a/4.png", b"");
    let mut vast = png(2, 2, [1, 0, 0]);
    vast[16..24].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]);
    put(&root, "a/5.png", &vast);
    let images = Images::folder(&root)?;
    assert_eq!(images.len(), 5);
    for row in 1..5 {
        let name = format!("a/{}.png", row + 1);
        let error = says(
            images.image(row),
            &[&name, "cannot decode the image", "`Images::readable`"],
        );
        assert!(matches!(error, Error::Content { .. }));
    }
    // Of several the first, whatever the threads do.
    says(images.batch(&[0, 3, 2, 1], 8), &["a/4.png"]);
    // What was read before an error comes, then the error, then nothing.
    let mut batches = images.batches(1, 8, Order::InOrder)?;
    assert!(batches.next().unwrap().is_ok());
    says(batches.next().unwrap(), &["a/2.png"]);
    assert!(batches.next().is_none() && batches.next().is_none());
    // A file that is gone.
    std::fs::remove_file(root.join("a/1.png")).unwrap();
    let error = says(images.image(0), &["1.png"]);
    assert!(matches!(error, Error::Io { .. }));
    Ok(())
}

#[cfg(unix)]
#[test]
fn links_do_not_leave_a_folder_without_follow_links() -> Result<()> {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let (root, elsewhere) = (folder.path().join("set"), folder.path().join("elsewhere"));
    put(&root, "a/1.png", &png(2, 2, [1, 0, 0]));
    put(&elsewhere, "secret.png", &png(2, 2, [99, 0, 0]));
    symlink("1.png", root.join("a/inside.png")).unwrap();
    symlink(elsewhere.join("secret.png"), root.join("a/outside.png")).unwrap();
    symlink(&elsewhere, root.join("b")).unwrap();
    symlink(&root, root.join("a/circle")).unwrap();
    symlink("nowhere", root.join("a/gone.png")).unwrap();
    let options = FolderOptions {
        follow_links: false,
        ..Default::default()
    };
    let images = Images::folder_with(&root, &options)?;
    let report = images.report().unwrap();
    assert_eq!((report.refused_links, report.missing_files), (3, 1));
    let frame = images.frame()?;
    let paths: Vec<_> = frame.column("path")?.str()?.iter().flatten().collect();
    assert_eq!(paths, ["a/1.png", "a/inside.png"]);
    assert_eq!(images.classes(), ["a"]);
    assert_eq!(reds(&images.batch(&[0, 1], 2)?)?, [1, 1]);
    // One that is put in a file's place later.
    std::fs::remove_file(root.join("a/1.png")).unwrap();
    symlink(elsewhere.join("secret.png"), root.join("a/1.png")).unwrap();
    says(
        images.image(0),
        &["a/1.png", "leaves the folder", "follow_links"],
    );
    Ok(())
}

#[test]
fn pixels_are_what_the_file_shows() -> Result<()> {
    let folder = folder();
    let root = folder.path();
    let grey16 = image::ImageBuffer::from_pixel(3, 3, Luma([51u16 * 257]));
    let clear = RgbaImage::from_pixel(3, 3, Rgba([255, 0, 0, 51]));
    let nothing = GrayAlphaImage::from_pixel(3, 3, LumaA([0, 0]));
    put(root, "a/1.png", &encoded(grey16, ImageFormat::Png));
    put(root, "a/2.png", &encoded(clear, ImageFormat::Png));
    put(root, "a/3.png", &encoded(nothing, ImageFormat::Png));
    // Left third red, middle green, right blue; and the same upright.
    let stripes =
        |along: u32| [Rgb([255, 0, 0]), Rgb([0, 255, 0]), Rgb([0, 0, 255])][along as usize / 8];
    let wide = RgbImage::from_fn(24, 8, |x, _| stripes(x));
    let tall = RgbImage::from_fn(8, 24, |_, y| stripes(y));
    put(root, "a/4.png", &encoded(wide, ImageFormat::Png));
    put(root, "a/5.png", &encoded(tall, ImageFormat::Png));
    let checks = RgbImage::from_fn(64, 64, |x, y| Rgb([255 * ((x + y) % 2) as u8; 3]));
    put(root, "a/6.png", &encoded(checks, ImageFormat::Png));
    let images = Images::folder(root)?;
    let batch = images.batch(&[0, 1, 2, 3, 4, 5], 4)?;
    assert_eq!(batch.images.dims(), [6, 3, 4, 4]);
    let colours = [
        [51.0, 51.0, 51.0],
        [255.0, 204.0, 204.0],
        [255.0; 3],
        [0.0, 255.0, 0.0],
        [0.0, 255.0, 0.0],
        [127.5; 3],
    ];
    for (n, colour) in colours.iter().enumerate() {
        let image = ((batch.images.get(n)? + 1.0)? * 127.5)?.to_vec3::<f32>()?;
        for (plane, expected) in image.iter().zip(colour) {
            for value in plane.iter().flatten() {
                assert!(
                    (value - expected).abs() <= 0.51,
                    "{n}: {value}, expected {expected}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn bad_tables_are_said() -> Result<()> {
    let folder = folder();
    let (path, other) = (
        folder.path().join("a.parquet"),
        folder.path().join("b.parquet"),
    );
    let image = png(4, 4, [1, 2, 3]);
    let plain = ParquetCompression::Uncompressed;
    let open = |path: &Path| Images::parquet(&[path], &columns());
    let labelled = |labels: Column| {
        let images = vec![&image[..]; labels.len()];
        vec![
            Column::new("image".into(), images),
            labels.with_name("label".into()),
        ]
    };
    let error = says(open(&path), &["a.parquet", "expected a parquet file"]);
    assert!(matches!(error, Error::Io { .. }));
    for labels in [
        Column::new("l".into(), [0i64, -1]),
        Column::new("l".into(), [0i64, 1 << 32]),
        Column::new("l".into(), [0u64, u64::MAX]),
        Column::new("l".into(), [Some(0i32), None]),
    ] {
        write(&path, labelled(labels), 9, plain);
        says(open(&path), &["row 1 has", "for label", "label: None"]);
        let bare = ImageColumns {
            label: None,
            ..columns()
        };
        assert_eq!(
            Images::parquet(&[&path], &bare)?.image(1)?.dims(),
            [3, 4, 4]
        );
    }
    let wide = Column::new("l".into(), [u32::MAX, 0]);
    write(&path, labelled(wide), 9, plain);
    assert_eq!(open(&path)?.labels(), Some(vec![u32::MAX, 0]));

    // Files that are not of one kind.
    numbered(&path, 0..3);
    write(&other, labelled(Column::new("l".into(), [0i64])), 9, plain);
    says(
        Images::parquet(&[&path, &other], &columns()),
        &["b.parquet", "a.parquet", "size: f64"],
    );
    says(
        Images::parquet(&[reference("none"), path.clone()], &columns()),
        &["differs from", "score: f32"],
    );

    // A file that is another when it is read.
    let images = open(&path)?;
    numbered(&path, 0..9);
    says(images.image(0), &["has changed", "open it again"]);
    std::fs::remove_file(&path).unwrap();
    let error = says(images.image(0), &["a.parquet"]);
    assert!(matches!(error, Error::Io { .. }));

    // Page and image damaged, and none of the others.
    write(
        &path,
        vec![
            Column::new("image".into(), [&image[..], b"no image", &image[..50]]),
            Column::new("label".into(), [0i64, 1, 2]),
        ],
        1,
        plain,
    );
    let images = open(&path)?;
    assert_eq!(images.image(0)?.dims(), [3, 4, 4]);
    says(
        images.image(1),
        &["row 1: cannot decode the image", "expected PNG, JPEG, WebP"],
    );
    says(
        images.batch(&[2, 1], 4),
        &["row 2: cannot decode the image"],
    );
    Ok(())
}

/// A page that promises far more than it has is refused before memory is set aside for it.
#[test]
fn promises_are_not_believed() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.parquet");
    // 40 MB of zeros are 2 kB in zstd.
    let zeros = vec![0u8; 40_000_000];
    let columns_of = || {
        vec![
            Column::new("image".into(), [&zeros[..]]),
            Column::new("label".into(), [0i64]),
        ]
    };
    write(&path, columns_of(), 9, ParquetCompression::Zstd(None));
    let images = Images::parquet(&[&path], &columns())?;
    says(
        images.image(0),
        &["uncompressed size of 40000", "the limit is 64 times"],
    );
    // The same as it is can be read, and is no image.
    write(&path, columns_of(), 9, ParquetCompression::Uncompressed);
    let images = Images::parquet(&[&path], &columns())?;
    says(images.image(0), &["row 0: cannot decode the image"]);
    Ok(())
}

/// From the hub to a batch.
#[test]
fn a_data_set_of_the_hub_is_read() -> Result<()> {
    let folder = folder();
    let bytes = std::fs::read(reference("snappy")).unwrap();
    let server = LoopbackHub::start(vec![
        Repo::dataset("some/animals")
            .large("data/train-00000-of-00002.parquet", bytes.clone())
            .large(
                "data/train-00001-of-00002.parquet",
                std::fs::read(reference("rich")).unwrap(),
            )
            .large("data/test-00000-of-00001.parquet", bytes),
    ]);
    let hub = Hub::open()?
        .with_offline(false)
        .with_endpoint(server.endpoint())?
        .with_cache(folder.path())?
        .with_token("")?
        .with_progress(false)
        .with_timeouts(Duration::from_secs(20), Duration::from_secs(20));
    let animals = hub.dataset("some/animals")?;
    let test = Images::parquet(&animals.parquet("test")?, &ImageColumns::default())?;
    assert_eq!((test.len(), test.classes().len()), (7, 3));
    assert_eq!(reds(&test.batch(&[1, 6], 8)?)?, [20, 120]);
    assert_eq!(test.of_split("test")?.len(), 7);
    let train = Images::parquet(&animals.parquet("train")?, &ImageColumns::default())?;
    assert_eq!((train.len(), train.of_class("cat")?.len()), (14, 6));
    assert_eq!(train.batch(&[13], 8)?.labels.to_vec1::<u32>()?, [0]);
    Ok(())
}

/// The number of threads of this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[cfg(target_os = "linux")]
#[test]
fn batches_that_are_dropped_stop_their_thread() -> Result<()> {
    if !alone("batches_that_are_dropped_stop_their_thread") {
        return Ok(());
    }
    let folder = folder();
    let path = folder.path().join("a.parquet");
    numbered(&path, 0..200);
    let images = Images::parquet(&[&path], &columns())?;
    // The threads that all share are there from here on.
    images.batch(&[0, 1], 8)?;
    let before = threads();
    // The system lists a thread for a moment after its end.
    let is_over = || {
        let start = Instant::now();
        while threads() > before && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        threads() == before
    };
    for order in [Order::InOrder, Order::Shuffled(0)] {
        for taken in [0, 1, 3] {
            let mut batches = images.batches(2, 8, order)?;
            for _ in 0..taken {
                batches.next().unwrap()?;
            }
            // It waits with a batch that nobody takes, or is at one.
            assert_eq!(threads(), before + 1);
            drop(batches);
            assert!(is_over());
        }
        let mut batches = images.batches(2, 8, order)?;
        assert_eq!(batches.by_ref().count(), 100);
        assert!(is_over(), "at the end as well");
        assert!(batches.next().is_none());
    }
    Ok(())
}

/// Memory is bounded by batches and pages, not by the file.
#[cfg(target_os = "linux")]
#[test]
fn a_file_is_read_in_less_memory_than_it_has() -> Result<()> {
    const SIZE: usize = 160 << 20;
    let name = "a_file_is_read_in_less_memory_than_it_has";
    const FILE: &str = "INVARIANCES_IMAGES_FILE";
    let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else {
        let folder = folder();
        let path = folder.path().join("large.parquet");
        // What follows an image in its file is not looked at.
        let image = png(4, 4, [7, 0, 0]);
        let rows: Vec<Vec<u8>> = (0..SIZE >> 20)
            .map(|i| {
                let mut file = image.clone();
                let mut rng = Rng::at(0, "rest", i as u64);
                file.extend((0..1 << 18).flat_map(|_| (rng.below(1 << 32) as u32).to_le_bytes()));
                file
            })
            .collect();
        let labels = vec![0i64; rows.len()];
        let table = vec![
            Column::new("image".into(), rows),
            Column::new("label".into(), labels),
        ];
        write(&path, table, 8, ParquetCompression::Snappy);
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(FILE, &path)
            .status();
        assert!(status.unwrap().success());
        return Ok(());
    };
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches("kB").trim();
        kib.parse::<usize>().unwrap() << 10
    };
    let images = Images::parquet(&[&path], &columns())?;
    let before = peak();
    let (all, _) = sequence(&images, 16, Order::InOrder)?;
    let in_order = peak() - before;
    assert_eq!(all, vec![7; SIZE >> 20]);
    println!("{} MiB: {} MiB in order", SIZE >> 20, in_order >> 20);
    // 64 MiB of pages, the page that is read, and little else.
    assert!(in_order < 112 << 20, "{in_order}");
    Ok(())
}

#[test]
fn real_images_are_read() -> Result<()> {
    let Some(path) = shared("data/animalfaces10_128.parquet") else {
        return Ok(());
    };
    let images = Images::parquet(&[&path], &columns())?;
    assert_eq!(images.len(), 867);
    let labels = images.labels().unwrap();
    assert_eq!(labels.iter().max(), Some(&9));
    assert_eq!(images.image(0)?.dims(), [3, 128, 128]);
    let mut seen = vec![0; 867];
    for batch in images.batches(100, 64, Order::Shuffled(0))? {
        let batch = batch?;
        assert_eq!(batch.images.dims()[1..], [3, 64, 64]);
        let rows = batch.factors.column("row")?;
        for (row, label) in rows.iter().zip(batch.labels.to_vec1::<u32>()?) {
            seen[*row as usize] += 1;
            assert_eq!(labels[*row as usize], label);
        }
        let mean = batch.images.mean_all()?.to_scalar::<f32>()?;
        assert!(mean.abs() < 0.5, "{mean}");
    }
    assert_eq!(seen, vec![1; 867]);
    // An image alone is what it is in a batch.
    let one = images.batch(&[400], 128)?.images.get(0)?;
    let same = (one - images.image(400)?)?.abs()?.max_all()?;
    assert_eq!(same.to_scalar::<f32>()?, 0.0);
    Ok(())
}

/// At any length.
#[test]
fn a_table_cut_short_is_refused() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("cut.parquet");
    let whole = std::fs::read(reference("none")).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = says(Images::parquet(&[&path], &columns()), &["cut.parquet"]);
        assert!(matches!(error, Error::Content { .. }), "{error}");
    }
    Ok(())
}

const HUGE: [u64; 8] = [
    0,
    1 << 60,
    u64::MAX,
    u32::MAX as u64,
    1 << 31,
    i64::MAX as u64,
    1 << 63,
    0xffff_fff0,
];

/// A file with a few faults.
fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut file = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=[0, 0, 0, 1, 4][rng.below(5)] {
        // Where the list of contents begins, if the file still says so.
        let size = file.last_chunk::<8>().map_or(0, |end| {
            u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize
        });
        let Some(start) = file.len().checked_sub(size.saturating_add(8)) else {
            break;
        };
        if start == 0 {
            break;
        }
        let place = |rng: &mut Rng| match rng.below(3) {
            0 => start + rng.below(file.len() - start),
            _ => rng.below(start),
        };
        let (at, to) = (place(rng), place(rng));
        let before = file.len();
        match rng.below(12) {
            0..5 => file[at] ^= 1 << rng.below(8),
            5 => {
                let (low, high) = (at.min(to), at.max(to));
                for _ in 0..=rng.below(8) {
                    file[low + rng.below(high - low + 1)] = rng.below(256) as u8;
                }
            }
            6 => {
                let number = HUGE[rng.below(HUGE.len())].to_le_bytes();
                let size = [1, 2, 4, 8][rng.below(4)];
                for (byte, new) in file[at..].iter_mut().zip(&number[8 - size..]) {
                    *byte = *new;
                }
            }
            // A number of Thrift in the place of one or more bytes.
            7 | 8 => {
                let small = [rng.below(128), rng.below(1 << 20)][rng.below(2)] as u64;
                let mut number = [HUGE[rng.below(HUGE.len())], small][rng.below(2)];
                let mut bytes = Vec::new();
                while number > 127 {
                    bytes.push(number as u8 | 128);
                    number >>= 7;
                }
                bytes.push(number as u8);
                let taken = if rng.below(2) == 0 { bytes.len() } else { 1 };
                let end = (at + taken).min(file.len());
                file.splice(at..end, bytes);
            }
            9 => {
                let end = (at + 1 + rng.below(64)).min(file.len());
                let piece: Vec<u8> = file[at..end].to_vec();
                if rng.below(2) == 0 {
                    file.splice(to..to, piece);
                } else {
                    file.drain(at..end);
                }
            }
            // A piece of another file over this one.
            10 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = rng.below(other.len());
                let size = (1 + rng.below(200)).min(other.len() - from);
                for (byte, new) in file[at..].iter_mut().zip(&other[from..from + size]) {
                    *byte = *new;
                }
            }
            _ => {
                let other = &seeds[rng.below(seeds.len())];
                file.truncate(at);
                file.extend_from_slice(&other[rng.below(other.len())..]);
            }
        }
        // The length of the list of contents as it is now, or nearly all would be refused for it.
        if at >= start && file.len() != before && file.len() >= start + 8 && rng.below(4) > 0 {
            let end = file.len() - 8;
            file[end..end + 4].copy_from_slice(&((end - start) as u32).to_le_bytes());
        }
    }
    file
}

/// Reads everything that a file promises, or much of it; how many images there were.
fn read_all(path: &Path) -> Result<usize> {
    // Labels of other types, where the file has them.
    for label in ["plain_text", "flag", "uint8", "species"] {
        let named = format!("label={label}&unlabelled=skip").parse()?;
        if let Ok(images) = Images::parquet(&[path], &named) {
            assert!(images.labels().is_none_or(|l| l.len() == images.len()));
        }
    }
    let images = Images::parquet(&[path], &columns())?;
    let frame = images.frame()?;
    assert_eq!(frame.height(), images.len());
    assert!(images.labels().is_none_or(|l| l.len() == images.len()));
    let mut read = 0;
    for row in 0..images.len().min(20) {
        read += usize::from(images.image(row).is_ok());
    }
    if let Some(last) = images.len().checked_sub(1) {
        let _ = images.image(last);
    }
    for order in [Order::InOrder, Order::Shuffled(1)] {
        for batch in images.batches(4, 8, order)?.take(3) {
            match batch {
                Ok(batch) => assert_eq!(batch.images.dims()[1..], [3, 8, 8]),
                // What a thread that panics leaves behind.
                Err(error) => assert!(!error.to_string().contains("ended before")),
            }
        }
    }
    Ok(read)
}

/// Damaged files are errors: no panic, no abort for want of memory, no endless work.
///
/// Runs in a process of its own, whose memory is bounded, so that a length that is believed is a failure.
/// `INVARIANCES_FUZZ` is the number of files, `INVARIANCES_FUZZ_SEED` where they begin.
#[test]
fn damaged_files_are_errors_in_bounded_memory() -> Result<()> {
    if !alone("damaged_files_are_errors_in_bounded_memory") {
        return Ok(());
    }
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |v| {
            v.parse()
                .unwrap_or_else(|_| panic!("{name} is {v:?}, expected a number"))
        })
    };
    let (count, first) = (
        number("INVARIANCES_FUZZ", 5_000),
        number("INVARIANCES_FUZZ_SEED", 0),
    );
    let folder = folder();
    let path = folder.path().join("file.parquet");
    numbered(&path, 0..12);
    let mut seeds = vec![
        std::fs::read(&path).unwrap(),
        std::fs::read(reference("snappy")).unwrap(),
    ];
    let drawn = Digits::strokes(16, 0)?.batch(Split::Train, 0, 4)?;
    drawn.write_parquet(&path, &columns())?;
    seeds.push(std::fs::read(&path).unwrap());
    for name in FILES.iter().chain(&["refused_delta"]) {
        seeds.push(std::fs::read(reference(name)).unwrap());
    }
    for name in ["cifar100", "pets-00000-of-00002", "plain", "types", "sound"] {
        seeds.push(std::fs::read(columns_of(name)).unwrap());
    }
    // Threads and their stacks are there before memory is bounded.
    for seed in &seeds {
        std::fs::write(&path, seed).unwrap();
        if let Err(error) = read_all(&path) {
            // One of them lacks a label.
            assert!(error.to_string().contains("unlabelled=skip"), "{error}");
        }
    }
    bound_memory(512 << 20);

    let (mut whole, mut some, mut refused, mut slowest) = (0u64, 0u64, 0u64, Duration::ZERO);
    let started = Instant::now();
    // One wrong bit at each byte of a file by polars, of one by pyarrow and of one with a
    // dictionary of texts, or each wrong bit where more is asked for.
    let bits = if count >= 100_000 { 8 } else { 1 };
    let flipped = [&seeds[0], &seeds[1], &seeds[seeds.len() - 4]];
    let wrong_bits = flipped.into_iter().enumerate().flat_map(|(s, seed)| {
        (0..bits * seed.len()).map(move |n| {
            let mut file = seed.clone();
            file[n / bits] ^= 1 << (n % 8);
            (
                format!("seed {s}, bit {} of byte {}", n % 8, n / bits),
                file,
            )
        })
    });
    let mutated = (first..first + count).map(|i| {
        let name = format!("INVARIANCES_FUZZ_SEED={i} INVARIANCES_FUZZ=1");
        (name, mutated(&mut Rng::at(21, "damaged", i), &seeds))
    });
    let mut files = 0;
    for (name, file) in wrong_bits.chain(mutated) {
        files += 1;
        std::fs::write(&path, &file).unwrap();
        let begun = Instant::now();
        let result = std::panic::catch_unwind(|| read_all(&path));
        slowest = slowest.max(begun.elapsed());
        match result {
            Ok(Ok(0)) => whole += 1,
            Ok(Ok(_)) => some += 1,
            Ok(Err(error)) => {
                refused += 1;
                let text = error.to_string();
                assert!(
                    text.len() < 6000,
                    "{name}: an error of {} bytes",
                    text.len()
                );
            }
            Err(_) => panic!("{name} panicked"),
        }
    }
    println!(
        "{files} damaged files in {:.1} s: {some} have images that could be read, {whole} none, {refused} were refused, the slowest took {slowest:?}",
        started.elapsed().as_secs_f64()
    );
    assert!(slowest < Duration::from_secs(10));
    if count >= 1000 {
        // Both kinds occur, or the faults would test nothing.
        assert!(some > files / 10 && refused > files / 5);
    }
    Ok(())
}
