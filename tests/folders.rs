//! Folders of images as users have them: which files are read, which are left out and counted, and
//! how classes are numbered.

mod common;

use common::says;
use image::{ImageFormat, Rgb, RgbImage};
use invariances::data::{Batch, FolderOptions, Images};
use invariances::notebook::Lab;
use invariances::{Error, Result};
use std::path::Path;

/// An image of one colour whose red is its number.
fn encoded(red: u8, format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(4, 4, Rgb([red, 40, 90]));
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn png(red: u8) -> Vec<u8> {
    encoded(red, ImageFormat::Png)
}

/// Writes a file below a folder, with the folders that it needs.
fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The paths of all images.
fn paths(images: &Images) -> Result<Vec<String>> {
    let frame = images.frame()?;
    let paths = frame.column("path")?.str()?.iter().flatten();
    Ok(paths.map(String::from).collect())
}

/// The red of all images in 8 bits.
fn reds(images: &Images) -> Result<Vec<u8>> {
    let rows: Vec<usize> = (0..images.len()).collect();
    let Batch { images, .. } = images.batch(&rows, 4)?;
    let values = images.flatten_all()?.to_vec1::<f32>()?;
    let red = |n: usize| ((values[n * 48] + 1.0) * 127.5).round() as u8;
    Ok((0..rows.len()).map(red).collect())
}

/// Class folders of relative links to files named by their hash, outside of the folder: a snapshot
/// in the hub's cache.
#[cfg(unix)]
#[test]
fn the_cache_of_the_hub_is_read() -> Result<()> {
    use std::os::unix::fs::symlink;
    let cache = folder();
    let snapshot = cache.path().join("snapshots/abc");
    for i in 0..6u8 {
        let class = ["dog", "cat"][i as usize % 2];
        put(cache.path(), &format!("blobs/{i:064x}"), &png(i));
        std::fs::create_dir_all(snapshot.join(class)).unwrap();
        let target = format!("../../../blobs/{i:064x}");
        symlink(target, snapshot.join(class).join(format!("{i}.png"))).unwrap();
    }
    put(cache.path(), "blobs/readme", b"# Animals");
    symlink("../../blobs/readme", snapshot.join("README.md")).unwrap();
    symlink("../../../blobs/none", snapshot.join("cat/9.png")).unwrap();
    let images = Images::folder(&snapshot)?;
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(reds(&images)?, [1, 3, 5, 0, 2, 4]);
    assert_eq!(images.labels(), Some(vec![0, 0, 0, 1, 1, 1]));
    let report = images.report().unwrap();
    assert_eq!((report.missing_files, report.other_files["md"]), (1, 1));
    // The hash is that of the content, whether there are links or not.
    let copy = cache.path().join("copy");
    for path in paths(&images)? {
        put(&copy, &path, &std::fs::read(snapshot.join(&path)).unwrap());
    }
    assert_eq!(Images::folder(&copy)?.hash()?, images.hash()?);
    Ok(())
}

#[cfg(unix)]
#[test]
fn links_to_folders_are_followed_and_loops_end() -> Result<()> {
    use std::os::unix::fs::symlink;
    let place = folder();
    let root = place.path().join("set");
    put(&root, "cat/1.png", &png(1));
    put(&root, "cat/more/2.png", &png(2));
    put(place.path(), "pool/dog/3.png", &png(3));
    put(place.path(), "pool/dog/puppies/4.png", &png(4));
    // A class that lies elsewhere, with links to itself, to the folder, and to each other.
    symlink("../pool/dog", root.join("dog")).unwrap();
    symlink("..", place.path().join("pool/dog/puppies/up")).unwrap();
    symlink(".", root.join("cat/self")).unwrap();
    symlink(&root, root.join("cat/more/all")).unwrap();
    symlink("more", root.join("cat/again")).unwrap();
    symlink("b", root.join("a")).unwrap();
    symlink("a", root.join("b")).unwrap();
    let images = Images::folder(&root)?;
    assert_eq!(
        paths(&images)?,
        [
            "cat/1.png",
            "cat/more/2.png",
            "dog/3.png",
            "dog/puppies/4.png"
        ]
    );
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(reds(&images)?, [1, 2, 3, 4]);
    let report = images.report().unwrap();
    assert_eq!((report.repeated_folders, report.missing_files), (4, 2));
    // Many links between few folders: each folder once for a class, instead of each way through the
    // links.
    let tangle = place.path().join("tangle");
    for i in 0..12 {
        put(&tangle, &format!("a/{i}/x.png"), &png(i));
    }
    for i in 0..12 {
        for j in 0..12 {
            let target = format!("../{j}");
            symlink(target, tangle.join(format!("a/{i}/to{j}"))).unwrap();
        }
    }
    assert_eq!(Images::folder(&tangle)?.len(), 12);
    Ok(())
}

/// Reading a pipe would wait for ever.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_counted() -> Result<()> {
    let root = folder();
    put(root.path(), "a/1.png", &png(1));
    std::os::unix::fs::symlink("/dev/zero", root.path().join("a/zero.png")).unwrap();
    let pipe = root.path().join("a/pipe.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let images = Images::folder(root.path())?;
    assert_eq!(images.len(), 1);
    assert_eq!(images.report().unwrap().missing_files, 2);
    // One that takes the place of a file later.
    std::fs::rename(&pipe, root.path().join("a/1.png")).unwrap();
    says(images.image(0), &["a/1.png", "expected a regular file"]);
    Ok(())
}

#[test]
fn other_files_are_counted_by_extension() -> Result<()> {
    let root = folder();
    let formats = [
        ("0.png", ImageFormat::Png),
        ("1.webp", ImageFormat::WebP),
        ("2.BMP", ImageFormat::Bmp),
        ("3.tif", ImageFormat::Tiff),
        ("4.tiff", ImageFormat::Tiff),
        ("5.gif", ImageFormat::Gif),
        ("6.ppm", ImageFormat::Pnm),
        // The content decides.
        ("7.jpg", ImageFormat::Png),
        ("8.png", ImageFormat::Bmp),
    ];
    for (i, (name, format)) in formats.iter().enumerate() {
        let bytes = encoded(20 * i as u8, *format);
        put(root.path(), &format!("cat/{name}"), &bytes);
    }
    for name in ["a.heic", "b.HEIC", "c.txt", "labels"] {
        put(root.path(), &format!("cat/{name}"), b"something");
    }
    put(root.path(), "cover.png", &png(0));
    let images = Images::folder(root.path())?;
    assert_eq!(reds(&images)?, [0, 20, 40, 60, 80, 100, 120, 140, 160]);
    let report = images.report().unwrap();
    let others: Vec<_> = report.other_files.iter().map(|(e, n)| (&**e, *n)).collect();
    assert_eq!(others, [("", 1), ("heic", 2), ("txt", 1)]);
    assert_eq!((report.images, report.beside_classes), (9, 1));
    let expected = format!(
        "{}: 9 images in 1 class; left out: 1 file without extension, 2 .heic files, 1 .txt file, \
         1 image beside the class folders",
        root.path().display()
    );
    assert_eq!(report.to_string(), expected);
    // Without any image, what is there instead is said.
    let tables = folder();
    put(tables.path(), "data/train-00000-of-00001.parquet", b"PAR1");
    put(tables.path(), "data/photo.heic", b"");
    says(
        Images::folder(tables.path()),
        &[
            "no images",
            "1 .heic file, 1 .parquet file",
            "Images::parquet",
        ],
    );
    Ok(())
}

/// The line that is printed when a folder is opened: nothing where there is nothing to say.
#[test]
fn what_is_left_out_is_printed() -> Result<()> {
    const INSIDE: &str = "INVARIANCES_FOLDERS_PRINTED";
    if let Some(path) = std::env::var_os(INSIDE) {
        Images::folder(path)?;
        return Ok(());
    }
    let root = folder();
    let printed = || {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_is_left_out_is_printed", "--nocapture"])
            .env(INSIDE, root.path())
            .output()
            .unwrap();
        assert!(child.status.success());
        String::from_utf8(child.stdout).unwrap()
    };
    put(root.path(), "cat/1.png", &png(1));
    put(root.path(), "cat/.DS_Store", b"");
    assert!(!printed().contains("1 image in"));
    put(root.path(), "cat/2.avif", b"");
    let line = "1 image in 1 class; left out: 1 .avif file, 1 hidden file\n";
    assert!(printed().contains(line), "{}", printed());
    Ok(())
}

#[test]
fn leftovers_are_no_classes_and_no_images() -> Result<()> {
    let root = folder();
    put(root.path(), "cat/1.png", &png(1));
    let leftovers = [
        "__MACOSX/cat/._1.png",
        "__MACOSX/a.png",
        "cat/._1.png",
        "cat/.ipynb_checkpoints/1-checkpoint.png",
        ".ipynb_checkpoints/1.png",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/.DS_Store",
        ".git/image.png",
        "@eaDir/1.png",
        "$RECYCLE.BIN/1.png",
    ];
    for name in leftovers {
        put(root.path(), name, &png(99));
    }
    let images = Images::folder(root.path())?;
    assert_eq!(images.classes(), ["cat"]);
    assert_eq!(paths(&images)?, ["cat/1.png"]);
    let report = images.report().unwrap();
    // Folders count once.
    assert_eq!((report.system_files, report.needs_attention()), (10, false));
    assert!(report.other_files.is_empty() && report.empty_classes.is_empty());
    // An archive of a data set with parts.
    let parts = folder();
    put(parts.path(), "train/cat/1.png", &png(1));
    put(parts.path(), "train/__MACOSX/1.png", &png(1));
    put(parts.path(), "test/cat/1.png", &png(1));
    put(parts.path(), "__MACOSX/1.png", &png(1));
    let images = Images::folder(parts.path())?;
    assert_eq!(images.classes(), ["cat"]);
    assert_eq!(images.of_split("test")?.len(), 1);
    Ok(())
}

#[test]
fn a_class_without_images_keeps_its_number_and_is_reported() -> Result<()> {
    let root = folder();
    put(root.path(), "cat/0.png", &png(0));
    put(root.path(), "dog/notes.txt", b"none yet");
    put(root.path(), "fish/1.png", &png(1));
    let images = Images::folder(root.path())?;
    assert_eq!(images.classes(), ["cat", "dog", "fish"]);
    assert_eq!(images.labels(), Some(vec![0, 2]));
    assert_eq!(images.of_class("dog")?.len(), 0);
    let report = images.report().unwrap();
    assert_eq!((report.classes, report.empty_classes.len()), (3, 1));
    let line = "2 images in 3 classes, none in dog; left out: 1 .txt file";
    assert!(report.to_string().ends_with(line), "{report}");
    // The same numbers as with an image there.
    put(root.path(), "dog/2.png", &png(2));
    assert_eq!(Images::folder(root.path())?.labels(), Some(vec![0, 1, 2]));
    // In parts, a class needs images in one of them.
    let parts = folder();
    put(parts.path(), "train/cat/0.png", &png(0));
    put(parts.path(), "train/dog/0.png", &png(0));
    put(parts.path(), "test/cat/0.png", &png(0));
    std::fs::create_dir_all(parts.path().join("test/dog")).unwrap();
    std::fs::create_dir_all(parts.path().join("test/fish")).unwrap();
    std::fs::create_dir_all(parts.path().join("docs")).unwrap();
    let images = Images::folder(parts.path())?;
    assert_eq!(images.classes(), ["cat", "dog", "fish"]);
    assert_eq!(images.report().unwrap().empty_classes, ["fish"]);
    Ok(())
}

#[test]
fn a_list_of_names_fixes_the_class_numbers() -> Result<()> {
    let root = folder();
    put(root.path(), "cat/0.png", &png(0));
    put(root.path(), "fish/1.png", &png(1));
    let with = |names: &[&str]| {
        let classes = names.iter().map(|n| n.to_string()).collect();
        let options = FolderOptions {
            classes: Some(classes),
            ..Default::default()
        };
        Images::folder_with(root.path(), &options)
    };
    let images = with(&["fish", "dog", "cat"])?;
    assert_eq!(images.classes(), ["fish", "dog", "cat"]);
    assert_eq!(images.labels(), Some(vec![2, 0]));
    assert_eq!(
        images
            .of_class("fish")?
            .batch(&[0], 4)?
            .labels
            .to_vec1::<u32>()?,
        [0]
    );
    assert_eq!(images.report().unwrap().empty_classes, ["dog"]);
    // Other labels are other data.
    let plain = Images::folder(root.path())?.hash()?;
    assert_eq!(with(&["cat", "fish"])?.hash()?, plain);
    let hashes = [plain, with(&["fish", "cat"])?.hash()?, images.hash()?];
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2]);

    says(
        with(&["cat", "fsh"]),
        &["found images in \"fish\"", "without images are \"fsh\""],
    );
    says(with(&[]), &["at least one name"]);
    says(with(&["cat", "fish", "cat"]), &["\"cat\" twice"]);
    says(with(&["cat", "fish", ""]), &["\"\" twice or empty"]);
    // A folder without images needs no place in the list.
    std::fs::create_dir(root.path().join("docs")).unwrap();
    assert_eq!(with(&["cat", "fish"])?.len(), 2);
    Ok(())
}

#[test]
fn unreadable_files_are_left_out_and_listed() -> Result<()> {
    let root = folder();
    for i in 0..8u8 {
        put(
            root.path(),
            &format!("{}/{i}.png", ["a", "b"][i as usize % 2]),
            &png(i),
        );
    }
    let cut = encoded(3, ImageFormat::Jpeg);
    put(root.path(), "a/cut.jpg", &cut[..cut.len() / 2]);
    put(root.path(), "b/empty.png", b"");
    put(
        root.path(),
        "b/pointer.png",
        b"version https://git-lfs.github.com/spec/v1\n",
    );
    put(
        root.path(),
        "b/page.jpg",
        b"<!DOCTYPE html><title>404</title>",
    );
    put(
        root.path(),
        "b/phone.jpg",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    );
    let images = Images::folder(root.path())?;
    // Each is an error that names its file.
    let rows: Vec<usize> = (0..images.len()).collect();
    let error = says(images.batch(&rows, 4), &["a/cut.jpg", "truncated"]);
    assert!(matches!(error, Error::Content { .. }));
    let (good, left_out) = images.readable()?;
    assert_eq!(reds(&good)?, [0, 2, 4, 6, 1, 3, 5, 7]);
    assert_eq!(good.labels(), Some(vec![0, 0, 0, 0, 1, 1, 1, 1]));
    assert_eq!(left_out.rows, [4, 9, 10, 11, 12]);
    let text = left_out.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "left out 5 images that cannot be decoded");
    for (line, parts) in lines[1..].iter().zip([
        ["a/cut.jpg", "truncated"],
        ["b/empty.png", "an empty file"],
        ["b/page.jpg", "HTML"],
        ["b/phone.jpg", "HEIC"],
        ["b/pointer.png", "git lfs pull"],
    ]) {
        assert!(parts.iter().all(|p| line.contains(p)), "{line}: {parts:?}");
    }
    // Of a selection, and where there is nothing to leave out.
    let (again, none) = good.readable()?;
    assert!(none.is_empty() && again.len() == 8);
    let part = images.select(&[5, 4, 0])?;
    let (part, left_out) = part.readable()?;
    assert_eq!((left_out.rows, left_out.errors.len()), (vec![1], 1));
    assert_eq!(reds(&part)?, [1, 0]);
    // A file that is gone is as unreadable.
    std::fs::remove_file(root.path().join("a/0.png")).unwrap();
    assert_eq!(good.readable()?.1.rows, [0]);
    Ok(())
}

/// The images of a notebook, with the setting that leaves out what cannot be decoded.
#[test]
fn a_notebook_leaves_out_unreadable_files_by_a_setting() -> Result<()> {
    const INSIDE: &str = "INVARIANCES_FOLDERS_LAB";
    if std::env::var_os(INSIDE).is_some() {
        match Lab::open("example")?.images() {
            Ok(images) => println!("opened {} images", images.len()),
            Err(error) => println!("{error}"),
        }
        return Ok(());
    }
    let root = folder();
    put(root.path(), "cat/1.png", &png(1));
    put(root.path(), "cat/2.png", &png(2)[..40]);
    let printed = |settings: &str| {
        let name = "a_notebook_leaves_out_unreadable_files_by_a_setting";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .env("INVARIANCES_IMAGES", root.path())
            .env("INVARIANCES_SET", settings)
            .output()
            .unwrap();
        assert!(child.status.success());
        String::from_utf8(child.stdout).unwrap()
    };
    assert!(printed("").contains("opened 2 images"));
    assert!(printed("unreadable=error").contains("opened 2 images"));
    let text = printed("unreadable=leave-out");
    assert!(
        text.contains("left out 1 image that cannot be decoded"),
        "{text}"
    );
    assert!(
        text.contains("cat/2.png") && text.contains("opened 1 images"),
        "{text}"
    );
    let text = printed("unreadable=skip");
    assert!(
        text.contains("expected one of error, leave-out, found \"skip\""),
        "{text}"
    );
    Ok(())
}
