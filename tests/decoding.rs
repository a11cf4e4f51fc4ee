//! Image files as pixels: the values against Pillow's, files cut short or damaged, large
//! photographs, and memory.

mod common;

use common::{alone, bound_memory, says};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use invariances::Result;
use invariances::prelude::{Images, Rng};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files by Pillow, with what it finds in them: see `make.py` there.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/images")
}

/// The reference files, in the order of their names.
fn references() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(reference())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "py" && e != "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A folder with one image file, which may be written anew.
struct One {
    _folder: tempfile::TempDir,
    path: PathBuf,
    images: Images,
}

impl One {
    fn new() -> Result<Self> {
        let folder = folder();
        // The content decides what it is.
        let path = folder.path().join("image.png");
        std::fs::write(&path, b"").unwrap();
        let images = Images::folder(folder.path())?;
        Ok(Self {
            _folder: folder,
            path,
            images,
        })
    }

    /// The image in a size of `side` pixels, 8 bits each.
    fn batch(&self, bytes: &[u8], side: usize) -> Result<Vec<u8>> {
        std::fs::write(&self.path, bytes).unwrap();
        let values = self.images.batch(&[0], side)?.images;
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        Ok(values
            .iter()
            .map(|v| ((v + 1.0) * 127.5).round() as u8)
            .collect())
    }

    /// Width, height and pixels in planes of 8 bits.
    fn image(&self, bytes: &[u8]) -> Result<(usize, usize, Vec<u8>)> {
        std::fs::write(&self.path, bytes).unwrap();
        let image = self.images.image(0)?;
        let (_, height, width) = image.dims3()?;
        let values = image.flatten_all()?.to_vec1::<f32>()?;
        let values = values.iter().map(|v| ((v + 1.0) * 127.5).round() as u8);
        Ok((width, height, values.collect()))
    }
}

/// All formats, and all eight EXIF orientations of four formats.
#[test]
fn pixels_are_those_of_pillow() -> Result<()> {
    let text = std::fs::read_to_string(reference().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = references();
    assert_eq!(files.len(), expected.as_object().unwrap().len());
    let one = One::new()?;
    for (name, bytes) in &files {
        let expected = &expected[name];
        let number = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
        let tolerance = number(&expected["tolerance"]);
        let (width, height, pixels) = one.image(bytes)?;
        assert_eq!(
            [width, height],
            [number(&expected["size"][0]), number(&expected["size"][1])],
            "{name}"
        );
        let middles = expected["middles"].as_array().unwrap();
        let places = (4..height)
            .step_by(8)
            .flat_map(|y| (4..width).step_by(8).map(move |x| (x, y)));
        let places: Vec<(usize, usize)> = places.collect();
        assert_eq!(places.len(), middles.len());
        for ((x, y), middle) in places.into_iter().zip(middles) {
            for c in 0..3 {
                let found = usize::from(pixels[(c * height + y) * width + x]);
                let right = number(&middle[c]);
                assert!(
                    found.abs_diff(right) <= tolerance,
                    "{name}: {found} at ({x}, {y}), channel {c}, Pillow has {right}"
                );
            }
        }
        // The square in the middle of what is shown: its first block is cut to four pixels on the
        // longer side.
        let square = one.batch(bytes, 16)?;
        let (x, y) = if width > height { (0, 4) } else { (4, 0) };
        for c in 0..3 {
            let found = usize::from(square[(c * 16 + y) * 16 + x]);
            let right = number(&middles[0][c]);
            assert!(found.abs_diff(right) <= tolerance, "{name}, in a batch");
        }
    }
    Ok(())
}

/// Wherever a file ends too early, it is an error or its pixels are whole: nothing is filled in.
#[test]
fn files_cut_anywhere_are_whole_or_an_error() -> Result<()> {
    let one = One::new()?;
    let (mut errors, mut whole) = (0, 0);
    for (name, bytes) in references() {
        let expected = one.image(&bytes)?;
        for length in 0..bytes.len() {
            match one.image(&bytes[..length]) {
                Ok(image) => {
                    whole += 1;
                    assert!(!name.ends_with("jpg"), "{name} of {length} bytes");
                    assert!(
                        image == expected,
                        "{name} of {length} bytes has other pixels"
                    );
                }
                Err(error) => {
                    errors += 1;
                    assert!(
                        error
                            .to_string()
                            .contains("image.png: cannot decode the image"),
                        "{error}"
                    );
                }
            }
        }
    }
    println!("{errors} errors, {whole} whole");
    assert!(errors > 10 * whole);
    Ok(())
}

/// A JPEG of noise, and where its image data begin.
fn noise() -> (Vec<u8>, usize) {
    let mut rng = Rng::new(3);
    let image = RgbImage::from_fn(64, 64, |_, _| Rgb([0; 3].map(|_: u8| rng.below(256) as u8)));
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 90)
        .encode_image(&image)
        .unwrap();
    let scan = file.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    let data = scan + 2 + usize::from(u16::from_be_bytes([file[scan + 2], file[scan + 3]]));
    (file, data)
}

/// A decoder's message may repeat what it found in the file, whose length says nothing about the message's.
#[test]
fn messages_do_not_repeat_the_file() -> Result<()> {
    let one = One::new()?;
    let file = ["P7\n", &"9x".repeat(100_000), "\nENDHDR\n"].concat();
    let text = match one.batch(file.as_bytes(), 8) {
        Ok(pixels) => panic!("{} pixels", pixels.len()),
        Err(error) => error.to_string(),
    };
    assert!(text.contains("9x9x") && text.contains('…'), "{text}");
    assert!(text.len() < 1000, "{} bytes", text.len());
    Ok(())
}

#[test]
fn damaged_jpeg_data_is_an_error() -> Result<()> {
    let one = One::new()?;
    let (file, data) = noise();
    assert_eq!(one.image(&file)?.0, 64);
    let middle = data + (file.len() - data) / 2;
    // Codes that no table has: all bits set.
    let mut codes = file.clone();
    for pair in codes[middle..middle + 64].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0xFF, 0]);
    }
    says(one.image(&codes), &["cannot decode the image", "uffman"]);
    // A header in the middle of the data, as where a block of a disk was lost.
    let mut header = file.clone();
    header.splice(middle..middle, [0xFF, 0xC0, 0, 4, 0, 0]);
    says(one.image(&header), &["cannot decode the image"]);
    // The end of the file follows too early, as some programs write it behind what they have.
    let cuts = (data + 1..file.len() - 6).step_by(7);
    let cuts: Vec<usize> = cuts.filter(|&cut| file[cut - 1] != 0xFF).collect();
    assert!(cuts.len() > 100);
    for cut in cuts {
        let early = [&file[..cut], &[0xFF, 0xD9]].concat();
        says(one.image(&early), &["cannot decode the image"]);
    }
    // Bytes between the headers harm nothing: Pillow reads such files as well.
    let mut padded = file.clone();
    let table = file.windows(2).position(|w| w == [0xFF, 0xDB]).unwrap();
    padded.splice(table..table, [0; 8]);
    assert_eq!(one.image(&padded)?, one.image(&file)?);
    // What follows the end does not matter.
    let tail = [&file[..], &[7; 100]].concat();
    assert_eq!(one.image(&tail)?, one.image(&file)?);
    Ok(())
}

/// The most memory that this process had so far.
#[cfg(target_os = "linux")]
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches("kB").trim();
    kib.parse::<usize>().unwrap() << 10
}

/// 6000 × 4000 pixels, left half red and right half blue, as a camera held upright has them: to be
/// turned.
#[cfg(target_os = "linux")]
#[test]
fn a_photograph_of_24_megapixels_is_read_within_the_limit() -> Result<()> {
    let name = "a_photograph_of_24_megapixels_is_read_within_the_limit";
    const FILE: &str = "INVARIANCES_DECODING_FILE";
    if let Some(path) = std::env::var_os(FILE) {
        // The reader has its threads and buffers before memory is measured.
        let images = Images::folder(Path::new(&path))?;
        images.batch(&[1], 64)?;
        let before = peak();
        let batch = images.batch(&[0], 64)?;
        let taken = peak() - before;
        println!("{} MiB", taken >> 20);
        // Twice the image, as it is turned, the file, and little else.
        assert!(taken < 2 * 72_000_000 + (48 << 20), "{taken}");
        assert!(taken as u64 <= Images::DECODING_LIMIT);
        // Turned by 90° clockwise, the left half is above.
        let planes = batch.images.squeeze(0)?.to_vec3::<f32>()?;
        for (y, colour) in [(8, [1.0f32, -1.0, -1.0]), (56, [-1.0, -1.0, 1.0])] {
            for (plane, value) in planes.iter().zip(colour) {
                for found in &plane[y] {
                    assert!(
                        (found - value).abs() < 0.03,
                        "row {y}: {found}, expected {value}"
                    );
                }
            }
        }
        return Ok(());
    }
    let folder = folder();
    let colour = |x| {
        if x < 3000 {
            Rgb([255, 0, 0])
        } else {
            Rgb([0, 0, 255])
        }
    };
    let image = RgbImage::from_fn(6000, 4000, |x, _| colour(x));
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 90)
        .encode_image(&image)
        .unwrap();
    // EXIF: big-endian, one entry, orientation (0x0112) 6.
    let mut exif = b"\xFF\xE1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01".to_vec();
    exif.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    file.splice(2..2, exif);
    std::fs::write(folder.path().join("1.jpg"), &file).unwrap();
    let small = std::fs::read(reference().join("sub_420.jpg")).unwrap();
    std::fs::write(folder.path().join("2.jpg"), small).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FILE, folder.path())
        .status();
    assert!(status.unwrap().success());
    Ok(())
}

/// Headers that promise more pixels than the limit are refused before memory is set aside for them.
#[test]
fn decompression_bombs_are_refused() -> Result<()> {
    if !alone("decompression_bombs_are_refused") {
        return Ok(());
    }
    let one = One::new()?;
    let (jpeg, _) = noise();
    one.image(&jpeg)?;
    let of = |name: &str| std::fs::read(reference().join(name)).unwrap();
    let mut png = of("turned_1.png");
    let header = png.windows(4).position(|w| w == b"IHDR").unwrap();
    png[header + 4..header + 12].copy_from_slice(b"\0\0\xEA\x60\0\0\xEA\x60");
    let mut crc = flate2::Crc::new();
    crc.update(&png[header..header + 17]);
    let sum = crc.sum().to_be_bytes();
    png[header + 17..header + 21].copy_from_slice(&sum);
    let mut jpeg = jpeg;
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(b"\xEA\x60\xEA\x60");
    let mut gif = of("palette.gif");
    gif[6..10].copy_from_slice(b"\x60\xEA\x60\xEA");
    let mut bmp = of("plain.bmp");
    bmp[18..26].copy_from_slice(b"\x60\xEA\0\0\x60\xEA\0\0");
    let pnm = b"P6 60000 60000 255\n".to_vec();
    let mut tiff = of("plain.tif");
    for tag in [0x100u16, 0x101, 0x116] {
        // Width, height and rows of the strip: entries of one number of 32 bits.
        let entry = [&tag.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0]].concat();
        let at = tiff.windows(8).position(|w| w == entry).unwrap();
        tiff[at + 8..at + 12].copy_from_slice(b"\x60\xEA\0\0");
    }
    bound_memory(128 << 20);
    for file in [png, jpeg, gif, bmp, pnm, tiff] {
        let limit = format!("the limit is {}", Images::DECODING_LIMIT);
        says(one.batch(&file, 8), &["60000×60000", &limit]);
    }
    Ok(())
}

#[test]
fn long_sides_are_read() -> Result<()> {
    let one = One::new()?;
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(50_000, 3, Rgb([10, 20, 30]));
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    let (width, height, pixels) = one.image(file.get_ref())?;
    assert_eq!((width, height, pixels[0]), (50_000, 3, 10));
    assert_eq!(
        one.batch(file.get_ref(), 2)?,
        [10, 10, 10, 10, 20, 20, 20, 20, 30, 30, 30, 30]
    );
    Ok(())
}

const HUGE: [u32; 8] = [
    0,
    1,
    0x7F,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
];

/// A file with one to a few faults.
fn mutated(rng: &mut Rng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut file = seeds[rng.below(seeds.len())].1.clone();
    for _ in 0..=[0, 0, 1, 3, 8][rng.below(5)] {
        if file.is_empty() {
            break;
        }
        // Headers matter most, and are short.
        let place = |rng: &mut Rng| match rng.below(3) {
            0 => rng.below(file.len().min(64)),
            _ => rng.below(file.len()),
        };
        let (at, to) = (place(rng), place(rng));
        match rng.below(8) {
            0..3 => file[at] ^= 1 << rng.below(8),
            3 => file[at] = rng.below(256) as u8,
            4 => {
                let number = HUGE[rng.below(HUGE.len())];
                let bytes = match rng.below(2) {
                    0 => number.to_be_bytes(),
                    _ => number.to_le_bytes(),
                };
                let size = [1, 2, 4][rng.below(3)];
                let bytes = if rng.below(2) == 0 {
                    &bytes[..size]
                } else {
                    &bytes[4 - size..]
                };
                for (byte, new) in file[at..].iter_mut().zip(bytes) {
                    *byte = *new;
                }
            }
            5 => {
                let end = (at + 1 + rng.below(32)).min(file.len());
                if rng.below(2) == 0 {
                    let piece: Vec<u8> = file[at..end].to_vec();
                    file.splice(to..to, piece);
                } else {
                    file.drain(at..end);
                }
            }
            // A piece of another file over this one.
            6 => {
                let other = &seeds[rng.below(seeds.len())].1;
                let from = rng.below(other.len());
                let size = (1 + rng.below(100)).min(other.len() - from);
                for (byte, new) in file[at..].iter_mut().zip(&other[from..from + size]) {
                    *byte = *new;
                }
            }
            _ => file.truncate(at),
        }
        repair_checksums(&mut file);
    }
    file
}

/// Right checksums for the chunks of a PNG file, or nearly every fault would end there.
fn repair_checksums(file: &mut [u8]) {
    if !file.starts_with(b"\x89PNG\r\n\x1a\n") {
        return;
    }
    let mut at = 8;
    while let Some(length) = file.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(chunk) = file.get(at + 4..(at + 8).saturating_add(length)) else {
            return;
        };
        let mut crc = flate2::Crc::new();
        crc.update(chunk);
        let sum = crc.sum().to_be_bytes();
        at += 8 + length;
        let Some(place) = file.get_mut(at..at + 4) else {
            return;
        };
        place.copy_from_slice(&sum);
        at += 4;
    }
}

/// Damaged files are pixels or errors: no panic, no abort for want of memory, no endless work.
///
/// Runs in a process of its own, which has the memory of the documented limit and little more.
/// `INVARIANCES_FUZZ` is the number of files, `INVARIANCES_FUZZ_SEED` where they begin.
#[test]
fn damaged_images_are_pixels_or_errors_in_bounded_memory() -> Result<()> {
    if !alone("damaged_images_are_pixels_or_errors_in_bounded_memory") {
        return Ok(());
    }
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |v| {
            v.parse()
                .unwrap_or_else(|_| panic!("{name} is {v:?}, expected a number"))
        })
    };
    let count = number("INVARIANCES_FUZZ", 5_000);
    let first = number("INVARIANCES_FUZZ_SEED", 0);
    let seeds = references();
    let one = One::new()?;
    // Threads and their stacks are there before memory is bounded.
    for (_, bytes) in &seeds {
        one.batch(bytes, 8)?;
    }
    bound_memory(Images::DECODING_LIMIT + (64 << 20));
    let (mut read, mut refused) = (0u64, 0u64);
    let mut slowest = (Duration::ZERO, 0);
    let started = Instant::now();
    for i in first..first + count {
        let file = mutated(&mut Rng::at(33, "images", i), &seeds);
        let begun = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.batch(&file, 8)));
        slowest = slowest.max((begun.elapsed(), i));
        match result {
            Ok(Ok(pixels)) => {
                read += 1;
                assert_eq!(pixels.len(), 192);
            }
            Ok(Err(error)) => {
                refused += 1;
                let length = error.to_string().len();
                assert!(length < 2000, "file {i}: an error of {length} bytes");
            }
            Err(_) => panic!("INVARIANCES_FUZZ_SEED={i} INVARIANCES_FUZZ=1 panicked"),
        }
    }
    println!(
        "{count} damaged files in {:.1} s: {read} have pixels, {refused} are errors, \
         the slowest took {:?} (file {})",
        started.elapsed().as_secs_f64(),
        slowest.0,
        slowest.1
    );
    assert!(slowest.0 < Duration::from_secs(10));
    if count >= 1000 {
        // Both kinds occur, or the faults would test nothing.
        assert!(read > count / 20 && refused > count / 4);
    }
    Ok(())
}
