//! Which columns of parquet files hold images and labels, and what their labels mean. The files are
//! by pyarrow: see `tests/reference/parquet_columns/make.py`, where the expected values are written
//! down.

mod common;
#[path = "common/hub.rs"]
mod loopback;

use common::{says, shared};
use invariances::Result;
use invariances::data::ImageColumns;
use invariances::polars::prelude::*;
use invariances::prelude::{Dataset, Digits, Images, Lab, Photographs, Split, Store};
use invariances::recipes::PhotographsNetworks;
use loopback::{LoopbackHub, Repo};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/parquet_columns")
        .join(format!("{name}.parquet"))
}

/// The images of a file, with settings as `INVARIANCES_IMAGES` has them behind a `?`.
fn open(name: &str, columns: &str) -> Result<Images> {
    Images::parquet(&[reference(name)], &columns.parse()?)
}

/// The red of an image, from which its number is known: 20 i.
fn red(images: &Images, row: usize) -> Result<f32> {
    let image = images.image(row)?;
    assert_eq!(image.dims(), [3, 8, 8]);
    let value = image.flatten_all()?.to_vec1::<f32>()?[0];
    Ok(((value + 1.0) * 127.5).round())
}

fn counting(values: [u32; 3]) -> Vec<u32> {
    (0..7).map(|i| values[i % 3]).collect()
}

#[test]
fn a_described_class_column_is_preferred_by_its_name_and_can_be_set() -> Result<()> {
    let fine = open("cifar100", "")?;
    assert_eq!(fine.classes(), ["trout", "oak", "shark"]);
    assert_eq!(fine.labels(), Some(counting([0, 1, 2])));
    assert_eq!(red(&fine, 6)?, 120.0);
    // The other label column stays an attribute.
    let frame = fine.frame()?;
    assert_eq!(frame.column("coarse_label")?.i64()?.get(3), Some(1));
    assert_eq!(frame.column("class")?.str()?.get(2), Some("shark"));
    assert_eq!(frame.column("path")?.str()?.get(2), Some("2.png"));

    let coarse = open("cifar100", "label=coarse_label")?;
    assert_eq!(coarse.classes(), ["fish", "tree"]);
    assert_eq!(coarse.labels(), Some(vec![0, 1, 0, 1, 0, 1, 0]));
    assert_eq!(open("cifar100", "label=")?.labels(), None);
    says(
        open("cifar100", "label=label"),
        &[
            "cifar100.parquet",
            "expected a column \"label\"",
            "fine_label: i64",
        ],
    );
    // Networks trained on one label column are not those of another.
    let hashes = [
        fine.hash()?,
        coarse.hash()?,
        open("cifar100", "label=")?.hash()?,
    ];
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2]);
    assert_eq!(
        open("cifar100", "image=img&label=fine_label")?.hash()?,
        hashes[0]
    );
    Ok(())
}

#[test]
fn text_labels_have_the_same_number_in_every_file() -> Result<()> {
    let paths = [
        reference("pets-00000-of-00002"),
        reference("pets-00001-of-00002"),
    ];
    let both = Images::parquet(&paths, &ImageColumns::default())?;
    // Python's sorted(): capital letters first.
    assert_eq!(both.classes(), ["Bengal", "Sphynx", "beagle", "pug"]);
    let (first, second) = (counting([3, 0, 2]), [3, 1, 3, 1, 3, 1, 3]);
    assert_eq!(both.labels(), Some([&first[..], &second].concat()));
    assert_eq!(both.of_class("Sphynx")?.len(), 3);
    assert_eq!(both.frame()?.column("class")?.str()?.get(8), Some("Sphynx"));
    assert_eq!(red(&both, 9)?, 40.0);
    let other_order: Vec<_> = paths.iter().rev().collect();
    let reversed = Images::parquet(&other_order, &ImageColumns::default())?;
    assert_eq!(reversed.classes(), both.classes());
    assert_eq!(reversed.labels(), Some([&second[..], &first].concat()));
    // The boolean is an attribute, and a label where it is named.
    assert_eq!(both.batch(&[1], 8)?.factors.column("dog")?, [0.0]);
    let dogs = open("pets-00000-of-00002", "label=dog")?;
    assert_eq!(dogs.classes(), ["false", "true"]);
    assert_eq!(dogs.labels(), Some(counting([1, 0, 1])));
    Ok(())
}

/// With every method of packing, version of pages, type of text and of bytes, several row groups,
/// with and without dictionaries. `INVARIANCES_PARQUET_COLUMNS` is a folder of such files (`make.py
/// FOLDER --all`).
#[test]
fn every_form_of_text_labels_is_read() -> Result<()> {
    let mut paths = vec![reference("pets-00000-of-00002")];
    if let Some(more) = std::env::var_os("INVARIANCES_PARQUET_COLUMNS") {
        let entries = std::fs::read_dir(&more).unwrap();
        let entries = entries.map(|e| e.unwrap());
        let entries = entries.filter(|e| e.file_name().to_string_lossy().starts_with("all"));
        paths.extend(entries.map(|e| e.path()));
    }
    println!("{} files", paths.len());
    for path in paths {
        let images = Images::parquet(&[&path], &ImageColumns::default())?;
        let what = path.display();
        assert_eq!(images.classes(), ["Bengal", "beagle", "pug"], "{what}");
        assert_eq!(images.labels(), Some(counting([2, 0, 1])), "{what}");
        assert_eq!((red(&images, 0)?, red(&images, 6)?), (0.0, 120.0), "{what}");
    }
    Ok(())
}

#[test]
fn bytes_that_start_as_an_image_are_the_images() -> Result<()> {
    says(
        open("plain", ""),
        &[
            "row 4 has nothing for label",
            "\"species\"",
            "1 of 7 rows",
            "unlabelled=skip",
            "label: None",
        ],
    );
    let known = open("plain", "unlabelled=skip")?;
    assert_eq!(known.classes(), ["fox", "lynx"]);
    assert_eq!(known.labels(), Some(vec![1, 0, 1, 0, 0, 1]));
    assert_eq!(red(&known, 4)?, 100.0);
    says(known.image(0), &["row 0 has no image"]);
    assert_eq!(known.frame()?.column("key")?.str()?.get(5), Some("k6"));
    // Of two structs of bytes the one that is described as an image, or that looks so.
    for name in ["sound", "described_sound"] {
        assert_eq!(red(&open(name, "")?, 3)?, 60.0, "{name}");
    }
    assert_eq!(open("sound", "")?.labels(), Some(vec![0, 1, 0, 1, 0, 1, 0]));
    // Of two that are described, the one with a common name.
    assert_eq!(red(&open("two_images", "")?, 1)?, 20.0);
    assert_eq!(red(&open("two_images", "image=mask")?, 1)?, 100.0);
    Ok(())
}

#[test]
fn labels_of_every_type_are_read() -> Result<()> {
    for name in [
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    ] {
        let images = open("types", &format!("label={name}"))?;
        assert_eq!(images.labels(), Some(counting([0, 1, 2])), "{name}");
        assert!(images.classes().is_empty());
    }
    let flags = open("types", "label=flag")?;
    assert_eq!(flags.classes(), ["false", "true"]);
    assert_eq!(flags.labels(), Some(vec![1, 0, 1, 0, 1, 0, 1]));
    for name in ["plain_text", "large_text"] {
        let images = open("types", &format!("label={name}"))?;
        assert_eq!(images.classes(), ["a", "b", "ä"]);
        assert_eq!(images.labels(), Some(counting([1, 0, 2])), "{name}");
    }
    for name in ["real", "list", "image"] {
        says(
            open("types", &format!("label={name}")),
            &[
                &format!("integers, booleans or text in column {name:?}"),
                "real: f64",
            ],
        );
    }
    // Beside these names and types nothing looks like a label.
    assert_eq!(open("types", "")?.labels(), None);
    Ok(())
}

#[test]
fn a_missing_label_is_no_class() -> Result<()> {
    // As in the hub's test splits: nothing is known, but what the classes are called.
    let hidden = open("unlabelled", "")?;
    assert_eq!((hidden.len(), hidden.labels()), (7, None));
    assert_eq!(hidden.classes(), ["cat", "dog"]);
    assert_eq!(hidden.frame()?.column("class")?.null_count(), 7);
    assert_eq!(red(&hidden, 2)?, 40.0);
    says(
        hidden.of_class("cat"),
        &["no labels", "set the label column"],
    );

    let said = [
        "row 1 has -1 for label",
        "2 of 7 rows",
        "skip_unlabelled: true",
    ];
    says(open("partly", ""), &said);
    let known = open("partly", "unlabelled=skip")?;
    assert_eq!(known.labels(), Some(vec![0, 1, 1, 0, 1]));
    assert_eq!((red(&known, 1)?, red(&known, 2)?), (40.0, 80.0));
    assert_ne!(known.hash()?, open("partly", "label=")?.hash()?);
    // With a file that has all its labels, those of the other are missing.
    let mixed = [reference("sound"), reference("unlabelled")];
    let columns = "image=picture&label=label".parse()?;
    says(
        Images::parquet(&mixed, &columns),
        &["unlabelled.parquet", "expected a column \"picture\""],
    );
    let mixed = [reference("partly"), reference("unlabelled")];
    says(
        Images::parquet(&mixed, &ImageColumns::default()),
        &["partly.parquet", "9 of 14 rows"],
    );
    says(
        Digits::mnist(reference("unlabelled"), 16, 0),
        &["integers from 0 to 9", "no label in any row"],
    );
    Ok(())
}

#[test]
fn images_without_labels_are_read_and_only_a_class_is_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let paths = [reference("no_label"), reference("no_label")];
    let images = Images::parquet(&paths, &ImageColumns::default())?;
    assert_eq!((images.len(), images.labels()), (14, None));
    assert!(images.classes().is_empty());
    assert_eq!(images.batch(&[3], 8)?.factors.column("id")?, [3.0]);

    let photographs = Photographs::new(&images, 16, 0)?;
    assert!(photographs.classes().is_empty() && photographs.counts().is_empty());
    assert!(photographs.attributes().is_empty() && photographs.concepts().is_empty());
    let batch = photographs.batch(Split::Train, 0, 4)?;
    assert_eq!(batch.images.dims(), [4, 3, 16, 16]);
    assert!(batch.factors.names().is_empty());
    says(
        photographs.pairs(Split::Train, 0, 2, "class"),
        &["no labels", "label=COLUMN"],
    );
    let start = invariances::prelude::CreaturesNetworks::load()?.autoencoder;
    says(
        PhotographsNetworks::fit(&photographs, &start, 1, &Store::open(folder.path())),
        &["two classes, found 0", "label=COLUMN"],
    );
    // A number per image is no class.
    let path = folder.path().join("numbers.parquet");
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(8, 8, image::Rgb([9, 9, 9]));
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let table = vec![
        Column::new("image".into(), vec![&png[..]; 12]),
        Column::new("label".into(), vec![4_000_000_000i64; 12]),
    ];
    let mut frame = DataFrame::new_infer_height(table).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    ParquetWriter::new(file).finish(&mut frame).unwrap();
    let numbers = Images::parquet(&[&path], &ImageColumns::default())?;
    says(
        Photographs::new(&numbers, 16, 0),
        &["below 100000", "found 4000000000", "another label column"],
    );
    Ok(())
}

#[test]
fn tables_without_images_are_said() -> Result<()> {
    let what = "expected a column of images (such as \"image\")";
    says(
        open("paths", ""),
        &[what, "image: str", "paths and addresses cannot be read"],
    );
    says(
        open("lists", ""),
        &[what, "images: list", "lists of images"],
    );
    says(
        open("paths", "image=image"),
        &["found text", "not in the file"],
    );
    // Written by a `to_parquet` that leaves the images in their files.
    says(
        open("no_bytes", "")?.image(2),
        &["row 2 has no image", "only the path \"2.png\""],
    );
    says(
        open("types", "image=flag"),
        &["as bytes or as a struct", "flag: bool"],
    );
    says(
        open("types", "image=picture"),
        &["expected a column \"picture\""],
    );
    Ok(())
}

#[test]
fn webp_is_read() -> Result<()> {
    let images = open("webp", "")?;
    assert_eq!(images.labels(), Some(vec![0, 1, 0, 1, 0, 1, 0]));
    for row in 0..7 {
        assert_eq!(red(&images, row)?, 20.0 * row as f32);
    }
    Ok(())
}

/// Runs the test `name` of this file again in a process of its own with a variable.
fn with_images(name: &str, value: &str, home: &Path, more: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("INVARIANCES_IMAGES", value)
        .env("INVARIANCES_OUT", home)
        .env("INVARIANCES_CACHE", home)
        .env("HF_HOME", home)
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("INVARIANCES_OFFLINE")
        .envs(more.iter().copied())
        .output()
        .unwrap()
}

/// Files, folders and datasets of the hub, with the line that says what was chosen.
#[test]
fn the_variable_names_files_columns_and_splits() -> Result<()> {
    let name = "the_variable_names_files_columns_and_splits";
    if std::env::var_os("INVARIANCES_IMAGES").is_some() {
        match Lab::open("columns")?.images() {
            Ok(images) => println!("{} {:?}", images.len(), images.classes()),
            Err(error) => println!("{error}"),
        }
        return Ok(());
    }
    let home = tempfile::tempdir().unwrap();
    let run = |value: &str, more: &[(&str, &str)]| {
        let output = with_images(name, value, home.path(), more);
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let path = |name: &str| reference(name).to_string_lossy().into_owned();
    let cifar = path("cifar100");
    for (value, expected) in [
        (
            cifar.clone(),
            "cifar100.parquet: images in column \"img\", labels in column \"fine_label\" (also possible: coarse_label), 7 rows, 3 classes\n7 [\"trout\", \"oak\", \"shark\"]\n",
        ),
        (
            format!("{cifar}?label=coarse_label"),
            "cifar100.parquet: images in column \"img\", labels in column \"coarse_label\", 7 rows, 2 classes\n7 [\"fish\", \"tree\"]\n",
        ),
        (format!("{cifar}?image=img&label="), " 7 []\n"),
        (
            path("no_label"),
            "no_label.parquet: images in column \"image\", no labels (no column has the type and a usual name of labels; select one with label=COLUMN), 7 rows\n7 []\n",
        ),
        (
            path("unlabelled"),
            "unlabelled.parquet: images in column \"image\", labels in column \"label\", 7 rows, no row has a label (all are null or -1)\n7 [\"cat\", \"dog\"]\n",
        ),
        (
            format!("{}?unlabelled=skip", path("partly")),
            "partly.parquet: images in column \"image\", labels in column \"label\", 7 rows, 2 classes, 2 rows without a label left out\n5 []\n",
        ),
        (format!("{cifar}?lable=x"), "INVARIANCES_IMAGES: "),
        (format!("{cifar}?split=test"), "no split \"test\""),
    ] {
        let said = run(&value, &[]);
        assert!(said.contains(expected), "{value}: {said}");
    }

    // A folder of parquet files is a dataset as the hub has it.
    let folder = home.path().join("pets/data");
    std::fs::create_dir_all(&folder).unwrap();
    for (from, to) in [
        ("pets-00000-of-00002", "train-00000-of-00002"),
        ("pets-00001-of-00002", "train-00001-of-00002"),
        ("pets-00000-of-00002", "test-00000-of-00001"),
    ] {
        std::fs::copy(reference(from), folder.join(format!("{to}.parquet"))).unwrap();
    }
    let pets = home.path().join("pets").to_string_lossy().into_owned();
    let said = run(&pets, &[]);
    let expected = "train-00000-of-00002.parquet and 1 more: images in column \"image\", labels in column \"label\", 14 rows, 4 classes\n";
    assert!(said.contains(expected), "{said}");
    let said = run(&format!("{pets}?split=test"), &[]);
    assert!(
        said.contains("7 [\"Bengal\", \"beagle\", \"pug\"]"),
        "{said}"
    );
    let said = run(&format!("{pets}?split=tset"), &[]);
    assert!(
        said.contains("has no split \"tset\"; its splits are test, train"),
        "{said}"
    );

    let server = LoopbackHub::start(vec![
        Repo::dataset("some/cifar")
            .large(
                "data/train-00000-of-00001.parquet",
                std::fs::read(reference("cifar100")).unwrap(),
            )
            .large(
                "data/test-00000-of-00001.parquet",
                std::fs::read(reference("unlabelled")).unwrap(),
            ),
    ]);
    let endpoint = server.endpoint().to_string();
    let hub = [("HF_ENDPOINT", endpoint.as_str())];
    let said = run("some/cifar?label=coarse_label", &hub);
    assert!(said.contains("7 [\"fish\", \"tree\"]"), "{said}");
    let said = run("some/cifar?split=test", &hub);
    assert!(said.contains("no row has a label"), "{said}");
    Ok(())
}

/// Tables that others wrote; they are not part of the project.
#[test]
fn shared_tables_are_read() -> Result<()> {
    let known = [
        ("data/animalfaces10_128", 867, 10),
        ("data/mnist_t10k", 10_000, 10),
        ("real/smiles", 13_165, 2),
        ("real/cifar10_train", 20_000, 10),
        ("real/cifar10_test", 2_000, 10),
        ("real/imagenet_samples", 1_000, 1_000),
        ("real/cue_conflict", 1_200, 16),
    ];
    for (name, rows, classes) in known {
        let Some(path) = shared(&format!("{name}.parquet")) else {
            continue;
        };
        let images = Images::parquet(&[&path], &ImageColumns::default())?;
        assert_eq!(images.len(), rows, "{name}");
        let mut labels = images.labels().unwrap();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), classes, "{name}");
        images.image(rows - 1)?;
    }
    Ok(())
}
