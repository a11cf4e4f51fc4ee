//! Characters in figures: what the shipped fonts have, what other fonts give, and what none has.

use invariances::figure::{Bars, Chart, Figure, add_font};
use invariances::metric::Estimate;
use invariances::plotters::prelude::{BLACK, IntoTextStyle};
use invariances::{Error, Result};
use std::io::Cursor;
use std::path::PathBuf;
use std::process::Command;

/// Fonts of a few characters, made by `make.py` in the folder.
fn font(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/fonts");
    PathBuf::from(folder).join(name)
}

/// A figure whose only ink is black text, 100 logical pixels per em, from (20, 100) on.
fn drawn(text: &str) -> Result<Figure> {
    Figure::plot("", 400, 160, |area| {
        // plotters measures from the highest ascender to the lowest descender.
        let style = ("sans-serif", 121).into_text_style(area).color(&BLACK);
        area.draw_text(text, &style, (20, 20))?;
        Ok(())
    })
}

/// Width and RGB of a PNG file.
fn decode(bytes: &[u8]) -> (usize, Vec<u8>) {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut rgb).unwrap();
    (frame.width as usize, rgb)
}

/// Left, bottom, right and top of a text's ink in hundredths of an em from its origin, y
/// upwards, and the ink's area in hundredths of an em squared.
fn ink(text: &str) -> Result<([f64; 4], f64)> {
    const SCALE: usize = 4;
    let (width, rgb) = decode(&drawn(text)?.png(SCALE as f64)?);
    let mut found = [f64::MAX, f64::MAX, f64::MIN, f64::MIN];
    let mut area = 0.0;
    for (i, pixel) in rgb.chunks(3).enumerate() {
        let cover = f64::from(255 - pixel[0]) / 255.0;
        area += cover / (SCALE * SCALE) as f64;
        if cover > 0.25 {
            let place = |pixels: usize| pixels as f64 / SCALE as f64;
            let (x, y) = (place(i % width) - 20.0, 100.0 - place(i / width));
            let step = place(1);
            found[0] = found[0].min(x);
            found[1] = found[1].min(y - step);
            found[2] = found[2].max(x + step);
            found[3] = found[3].max(y);
        }
    }
    Ok((found, area))
}

/// Runs the calling test again in a process of its own, where it does its work, and returns
/// what that wrote to standard error; `None` there. Only the fonts that it names and those of
/// the system are known in it.
fn in_process(test: &str, fonts: &[PathBuf]) -> Option<String> {
    const INSIDE: &str = "INVARIANCES_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("INVARIANCES_FONTS", std::env::join_paths(fonts).unwrap())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
    Some(err)
}

/// Whether a figure's text comes from the shipped fonts alone.
fn only_shipped(figure: &Figure) -> bool {
    figure.missing_characters().is_empty() && !figure.notes().contains_key("fonts")
}

#[test]
fn the_shipped_fonts_have_european_scripts_and_formulas() -> Result<()> {
    for text in [
        "Ελληνικά: ά έ ή ί ό ύ ώ ΐ ΰ Ά Ώ",
        "Привет, Київ, Ђорђе",
        "Việt Nam, București, Ὀδυσσεύς",
        "‖∇ℒ‖, x ∈ ℝ, 𝔼[𝐱], 𝒩(0, 1), f∘g, a ⊕ b, ∀ ∃ ∝ ⟨⟩ ⌈⌉",
        "z̄ x̂ x̃ ṽ ẍ ẋ r⃗ ŷ q̇ ȳ",
        "½ ℃ № € ₿ ™ ✔ ✘ ﬁ ﬂ",
        "a\u{2003}b\u{3000}c\u{2009}d\u{200b}e\u{feff}❤\u{fe0f}",
    ] {
        for (face, style) in [("bold", true), ("regular", false)] {
            let chart = Chart::new(if style { text } else { "" }).line("loss", &[1.0], &[1.0]);
            let figure = chart.x_label(text).figure()?;
            let notes = figure.notes();
            assert!(
                only_shipped(&figure),
                "{face} {text}: {:?}, {notes:?}",
                figure.missing_characters()
            );
        }
    }
    Ok(())
}

#[test]
fn equivalent_texts_are_drawn_the_same() -> Result<()> {
    let png = |text: &str| drawn(text)?.png(1.0);
    for (a, b) in [
        ("\u{1f71}", "\u{3ac}"),
        ("α\u{301}", "\u{3ac}"),
        ("e\u{301}", "\u{e9}"),
        ("\u{212b}", "\u{c5}"),
        ("v\u{303}", "\u{1e7d}"),
        ("o\u{302}\u{301}", "\u{1ed1}"),
        ("\u{fb01}x", "fix"),
    ] {
        assert_eq!(png(a)?, png(b)?, "{a} {b}");
        assert_ne!(png(a)?, png("?")?);
    }
    assert_ne!(png("\u{3ac}")?, png("α")?);
    Ok(())
}

/// Accents that are not part of a glyph stand above, below or on the middle of their letter,
/// and do not move what follows.
#[test]
fn accents_stand_where_they_belong() -> Result<()> {
    let (z, area) = ink("z")?;
    for (text, above) in [
        ("z\u{304}", true),
        ("z\u{302}", true),
        ("z\u{303}", true),
        ("z\u{307}", true),
        ("z\u{20d7}", true),
        ("z\u{324}", false),
    ] {
        let (found, more) = ink(text)?;
        assert!(more > area * 1.03, "{text} has no accent");
        let (gap, low, high) = match above {
            true => (found[3] - z[3], found[1], z[1]),
            false => (z[1] - found[1], found[3], z[3]),
        };
        assert!((10.0..40.0).contains(&gap), "{text}: {gap}");
        assert_eq!(low, high, "{text}");
        // Accents as wide as the letter at most: nothing sticks out.
        assert!(
            found[0] >= z[0] - 6.0 && found[2] <= z[2] + 6.0,
            "{text}: {found:?}, {z:?}"
        );
        // The letter after it is where it is without the accent.
        assert_eq!(ink(&format!("{text}l"))?.0[2], ink("zl")?.0[2]);
    }
    // The bar of z̄ lies 0.09 em above the letter and is 0.075 em high.
    assert!((ink("z\u{304}")?.0[3] - z[3] - 16.5).abs() < 0.3);
    // A second accent stands on the first.
    assert!(ink("z\u{304}\u{302}")?.0[3] > ink("z\u{304}")?.0[3] + 10.0);
    Ok(())
}

/// The outlines are those of the named fonts, whether they are compact (in a collection) or
/// TrueType. The numbers are FreeType's and fontTools', printed by make.py.
#[test]
fn named_fonts_give_what_the_shipped_ones_lack() -> Result<()> {
    let fonts = [font("missing.otf"), font("cjk.ttc"), font("emoji.ttf")];
    if let Some(err) = in_process("named_fonts_give_what_the_shipped_ones_lack", &fonts) {
        assert_eq!(err.matches("warning").count(), 1, "{err}");
        assert!(err.contains("missing.otf from INVARIANCES_FONTS"), "{err}");
        return Ok(());
    }
    for (text, expected, advance, area) in [
        ("猫", [3.4, -7.8, 94.6, 84.0], 100.0, 3638.0),
        ("犬", [4.1, -7.9, 96.7, 83.9], 100.0, 2198.0),
        ("🐕", [16.94, -16.6, 110.01, 84.96], 126.95, 2975.0),
    ] {
        let (found, covered) = ink(text)?;
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.5, "{text}: {found} {expected}");
        }
        assert!(
            (covered / area - 1.0).abs() < 0.01,
            "{text}: {covered} {area}"
        );
        // What follows stands at the glyph's own width.
        let follows = ink(&format!("{text}l"))?.0[2] - ink("l")?.0[2];
        assert!(
            (follows - advance).abs() < 0.3,
            "{text}: {follows} {advance}"
        );
    }
    let figure = drawn("A猫🐕é")?;
    assert_eq!(figure.missing_characters(), []);
    assert_eq!(figure.notes()["fonts"], "Noto Emoji, Noto Sans CJK JP");
    // In SVG, glyphs of other fonts begin with f.
    let svg = figure.svg()?;
    assert_eq!(svg.matches("<use href=\"#f").count(), 2, "{svg}");
    assert_eq!(svg.matches("<use href=\"#r").count(), 2, "{svg}");
    // In PDF they are embedded, and stand for their characters.
    let pdf = String::from_utf8_lossy(&figure.pdf()?).into_owned();
    assert_eq!(pdf.matches("/CIDFontType0C").count(), 2);
    assert_eq!(pdf.matches("/CIDFontType2").count(), 1);
    assert_eq!(pdf.matches("/FontFile2").count(), 1);
    assert!(pdf.contains("+NotoSansCJKJP-Subset") && pdf.contains("+NotoEmoji-Subset"));
    for utf16 in ["<732B>", "<D83DDC15>", "<0041>", "<00E9>"] {
        assert!(pdf.contains(utf16), "{utf16}");
    }
    Ok(())
}

/// A font that was added is asked only for what the shipped ones lack, although it has more.
#[test]
fn shipped_glyphs_never_come_from_another_font() -> Result<()> {
    let before: Vec<Vec<u8>> = ["AéάO", "A\u{301}"]
        .map(|text| drawn(text)?.png(2.0))
        .into_iter()
        .collect::<Result<_>>()?;
    add_font(font("cjk.ttc"))?;
    assert_eq!(drawn("猫")?.notes()["fonts"], "Noto Sans CJK JP");
    for (text, before) in ["AéάO", "A\u{301}"].iter().zip(before) {
        let figure = drawn(text)?;
        assert!(only_shipped(&figure));
        assert!(!figure.svg()?.contains("href=\"#f"));
        assert_eq!(figure.png(2.0)?, before);
    }
    Ok(())
}

/// A figure stays as it was drawn when a font is added, in every format.
#[test]
fn a_figure_does_not_change_when_a_font_is_added() -> Result<()> {
    if in_process("a_figure_does_not_change_when_a_font_is_added", &[]).is_some() {
        return Ok(());
    }
    let before = drawn("x一y")?;
    let files = (before.png(1.0)?, before.svg()?, before.pdf()?);
    add_font(font("variable.ttf"))?;
    assert_eq!(files, (before.png(1.0)?, before.svg()?, before.pdf()?));
    let after = drawn("x一y")?;
    assert_eq!(after.notes()["fonts"], "Variable Bar");
    assert_ne!(files.0, after.png(1.0)?);
    Ok(())
}

/// A box stands for a character that no font has, as wide in every format, and the user is told
/// once.
#[test]
fn a_missing_character_is_a_box_and_a_warning() -> Result<()> {
    const TEST: &str = "a_missing_character_is_a_box_and_a_warning";
    if let Some(err) = in_process(TEST, &[font("pictures.ttf")]) {
        assert_eq!(err.matches("U+10FFFD").count(), 1, "{err}");
        assert!(
            err.contains("add_font") && err.contains("INVARIANCES_FONTS"),
            "{err}"
        );
        // The font has a picture of this one: the user learns why it is of no use.
        assert!(
            err.contains("Pictures has \u{10fffc} (U+10FFFC), but only as a picture"),
            "{err}"
        );
        assert!(err.contains("Arabic text letter by letter"), "{err}");
        return Ok(());
    }
    let figure = drawn("l\u{10fffd}l")?;
    assert_eq!(figure.missing_characters(), ['\u{10fffd}']);
    let chart = Chart::new("\u{10fffd}\u{10fffc}").line("\u{10fffd}", &[1.0], &[1.0]);
    assert_eq!(
        chart.figure()?.missing_characters(),
        ['\u{10fffc}', '\u{10fffd}']
    );
    drawn("\u{627}")?;
    // A box, not the question mark that anybody may have written.
    assert_ne!(figure.png(1.0)?, drawn("l?l")?.png(1.0)?);
    let ([left, bottom, right, top], area) = ink("\u{10fffd}")?;
    assert!(
        right - left > 40.0 && top - bottom > 60.0 && area < 0.5 * (right - left) * (top - bottom)
    );
    // How far it moves the second letter: by pixels, by SVG, by PDF.
    let single = ink("ll")?.0[2] - ink("l")?.0[2];
    let moved = ink("l\u{10fffd}l")?.0[2] - ink("l")?.0[2];
    let svg = figure.svg()?;
    let last = svg.rsplit("<use href=\"#r").next().unwrap();
    let x = last
        .split("x=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let units: f64 = x.parse().unwrap();
    assert!((units / 28.16 - moved).abs() < 0.3, "{units} {moved}");
    let places = text_places(&figure.pdf()?);
    assert_eq!(places.len(), 2);
    assert!(
        (places[1] - places[0] - moved).abs() < 0.3,
        "{places:?} {moved}"
    );
    assert!((moved - single - 62.0).abs() < 0.3, "{moved} {single}");
    Ok(())
}

/// Where the strings of a PDF's page begin, from left to right in logical pixels.
fn text_places(pdf: &[u8]) -> Vec<f64> {
    use std::io::Read;
    let find = |from: usize, what: &[u8]| {
        let found = pdf[from..].windows(what.len()).position(|w| w == what);
        from + found.unwrap()
    };
    let start = find(0, b"\nstream\n") + 8;
    let end = find(start, b"\nendstream");
    let mut content = String::new();
    let mut packed = flate2::read::ZlibDecoder::new(&pdf[start..end]);
    // Glyph numbers are not text.
    let mut bytes = Vec::new();
    packed.read_to_end(&mut bytes).unwrap();
    content += &String::from_utf8_lossy(&bytes);
    let matrices = content.lines().filter_map(|line| line.strip_suffix(" Tm"));
    matrices
        .map(|m| m.split(' ').nth(4).unwrap().parse().unwrap())
        .collect()
}

/// A variable font is drawn in the weight of the text (the bar is 0.21 em high at 400), also in
/// PDF, where its file cannot be embedded.
#[test]
fn variable_fonts_have_the_weight_of_the_text() -> Result<()> {
    add_font(font("variable.ttf"))?;
    let (found, area) = ink("一")?;
    for (found, expected) in found.iter().zip([10.0, 30.0, 90.0, 51.0]) {
        assert!((found - expected).abs() < 0.3, "{found} {expected}");
    }
    assert!((area - 80.0 * 21.0).abs() < 5.0);
    let pdf = String::from_utf8_lossy(&drawn("l一")?.pdf()?).into_owned();
    assert_eq!(
        pdf.matches("/FontFile").count(),
        1,
        "only Inter is embedded"
    );
    Ok(())
}

/// A PDF, rendered by others, looks as the PNG does, and its text can be searched.
#[test]
fn text_of_other_fonts_is_the_same_in_pdf() -> Result<()> {
    let missing = Command::new("pdftotext").arg("-v").output().is_err();
    if missing {
        assert!(
            std::env::var_os("CI").is_none(),
            "pdftotext is missing: install poppler-utils"
        );
        println!("skipped: no pdftotext; install poppler-utils");
        return Ok(());
    }
    for name in ["cjk.ttc", "emoji.ttf", "variable.ttf"] {
        add_font(font(name))?;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.pdf");
    let figure = drawn("猫🐕一")?;
    figure.save(&file)?;
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    };
    let path = file.to_str().unwrap();
    let text = run("pdftotext", &[path, "-"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("猫🐕"), "{text}");
    let fonts = String::from_utf8_lossy(&run("pdffonts", &[path]).stdout).into_owned();
    assert!(
        fonts.contains("CID Type 0C") && fonts.contains("CID TrueType"),
        "{fonts}"
    );
    let picture = folder.path().join("f");
    run(
        "pdftoppm",
        &[
            "-r",
            "96",
            "-png",
            "-singlefile",
            path,
            picture.to_str().unwrap(),
        ],
    );
    let (width, theirs) = decode(&std::fs::read(picture.with_extension("png")).unwrap());
    let (ours_width, ours) = decode(&figure.png(1.0)?);
    assert_eq!((width, theirs.len()), (ours_width, ours.len()));
    let differences = theirs
        .iter()
        .zip(&ours)
        .map(|(a, b)| f64::from(a.abs_diff(*b)));
    let ink: f64 = ours.iter().map(|v| f64::from(255 - v)).sum();
    // Edges are smoothed differently.
    let share = differences.sum::<f64>() / ink;
    assert!(share < 0.05, "{share} of the ink differs");
    Ok(())
}

#[test]
fn what_is_not_a_font_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(matches!(add_font(at("no.ttf")), Err(Error::Io { .. })));
    std::fs::write(at("text.ttf"), "This is not a font, it is a sentence.").unwrap();
    std::fs::write(at("empty.ttf"), "").unwrap();
    // A collection that claims four billion fonts.
    std::fs::write(
        at("huge.ttc"),
        [&b"ttcf\0\x01\0\0"[..], &[255; 64]].concat(),
    )
    .unwrap();
    for (name, words) in [
        ("text.ttf", "not a TrueType or OpenType font"),
        ("empty.ttf", "ends too early"),
        ("huge.ttc", "1 to 64 fonts"),
        ("", "found none"),
    ] {
        match add_font(at(name)) {
            Err(Error::Content { what, .. }) => assert!(what.contains(words), "{what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Damaged font files are skipped or drawn somehow; they never end the process.
#[test]
fn damaged_fonts_do_no_harm() -> Result<()> {
    const TEST: &str = "damaged_fonts_do_no_harm";
    let folder = tempfile::tempdir().unwrap();
    let mut number = 7u64;
    let mut random = || {
        number = number
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (number >> 33) as usize
    };
    for i in 0..12 {
        let file = folder.path().join(format!("{i}.ttf"));
        let mut bytes =
            std::fs::read(font(["cjk.ttc", "emoji.ttf", "variable.ttf"][i % 3])).unwrap();
        match i % 4 {
            0 => bytes.truncate(bytes.len() * (i + 1) / 13),
            _ => {
                for _ in 0..1 + i * 2 {
                    let at = random() % bytes.len();
                    bytes[at] = random() as u8;
                }
            }
        }
        std::fs::write(&file, bytes).unwrap();
        if in_process(TEST, &[file]).is_none() {
            for text in ["猫犬", "🐕", "一"] {
                let figure = drawn(text)?;
                figure.png(1.0)?;
                figure.svg()?;
                figure.pdf()?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Text without spaces is broken where Chinese and Japanese text may be, not before a full
/// stop.
#[test]
fn labels_without_spaces_are_broken_into_lines() -> Result<()> {
    add_font(font("cjk.ttc"))?;
    let label = "猫犬猫犬猫犬猫犬猫犬猫犬猫犬猫犬猫犬猫犬猫犬猫犬.";
    let one = [Estimate::exact(1.0)];
    let bars = Bars::new("", [label])
        .series("s", &one)
        .size(160, 200)
        .figure()?;
    let svg = bars.svg()?;
    let lines: Vec<&str> = svg
        .split("aria-label=\"")
        .skip(1)
        .map(|part| part.split('"').next().unwrap())
        .filter(|text| text.contains('猫'))
        .collect();
    assert!(lines.len() > 1, "{lines:?}");
    assert_eq!(lines.concat(), label);
    assert!(lines.iter().all(|line| !line.starts_with('.')), "{lines:?}");
    Ok(())
}
