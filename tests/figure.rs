//! Figures, and what a notebook keeps beside them.

use invariances::candle_core::{DType, Device, Tensor};
use invariances::figure::{
    Bars, Boxes, Chart, Explorer, Figure, Film, HeatMap, Histogram, ImageGrid, Overview, Panel,
    Table, Width,
};
use invariances::metric::{Estimate, bootstrap_mean};
use invariances::notebook::{Expected, Lab, Scale};
use invariances::ops::Rng;
use invariances::{Error, Result};
use std::io::Cursor;

/// n images of random pixels.
fn images(n: usize, side: usize) -> Result<Tensor> {
    Rng::new(n as u64).uniform(-1.0, 1.0, (n, 3, side, side), &Device::Cpu)
}

/// Width, height, RGB and the texts of a PNG file.
fn decode(bytes: &[u8]) -> (usize, usize, Vec<u8>, Vec<(String, String)>) {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut rgb).unwrap();
    assert_eq!(frame.color_type, png::ColorType::Rgb);
    let chunks = &reader.info().utf8_text;
    let texts = chunks
        .iter()
        .map(|c| (c.keyword.clone(), c.get_text().unwrap()))
        .collect();
    (frame.width as usize, frame.height as usize, rgb, texts)
}

/// Fails unless every element is closed in order and no quote or bracket is left open.
#[track_caller]
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a stray >");
        let end = start + rest[start..].find('>').expect("an element is not closed");
        let element = &rest[start + 1..end];
        assert_eq!(element.matches('"').count() % 2, 0, "quotes in <{element}>");
        assert!(!element.contains('<'), "a < in <{element}>");
        if let Some(name) = element.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !element.ends_with('/') {
            open.push(element.split_whitespace().next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "left open: {open:?}");
    let mut ampersands = xml.match_indices('&');
    let entities = ampersands.all(|(i, _)| xml[i..].find(';').is_some_and(|n| n < 8));
    assert!(entities, "a stray &");
}

fn chart() -> Result<Figure> {
    let x = [0.0, 1.0, 2.0];
    Chart::new("Loss <of> \"t\" & 'e'")
        .band(
            "a",
            &x,
            &[1.0, 2.0, 1.5],
            &[0.5, 1.5, 1.0],
            &[1.5, 2.5, 2.0],
        )
        .line("b", &[0u32, 1, 2], &[1.0f32, f32::NAN, 3.0])
        .smooth(3)
        .dots()
        .reference(1.2, "chance")
        .x_label("z̄ → x̃")
        .y_label("∂t/∂z̄ 漢")
        .figure()
}

/// One of every kind.
fn all() -> Result<Vec<Figure>> {
    let value = bootstrap_mean(&[0.0, 1.0, 1.0, 1.0], 3);
    let missing = bootstrap_mean(&[], 0);
    let bars = Bars::new("Kept", ["one", "two words and some more of them"])
        .series("network", &[value, missing])
        .series("judge", &[Estimate::exact(-0.2), value])
        .reference(0.1, "chance")
        .figure()?;
    let boxes = Boxes::new("Distances", ["one", "two words and some more of them"])
        .series("network", &[vec![0.5, 2.0, 1.0], vec![]])
        .series("noise", &[vec![3.0], vec![0.1, 10.0]])
        .reference(1.0, "another image")
        .y_label("distance")
        .log_y()
        .figure()?;
    let v: Vec<f32> = images(2, 16)?.flatten_all()?.to_vec1()?;
    let histogram = Histogram::new("v").values("v", &v).normal().figure()?;
    let grid = ImageGrid::new(&images(6, 8)?, 3)?
        .groups([1, 2])
        .column_labels(["in", "a label that is much too wide for its columns"])
        .row_labels([7, 2])
        .title("T")
        .caption("A caption of several words, long enough for a second line: z̄ = E(x) and x̃ = D(z̄) and v = t(z̄ | z).")
        .mark([1, 4], "differs")
        .figure()?;
    let overview = Overview::with_images(&images(1, 32)?, &images(5, 28)?)?.figure()?;
    let row = Panel::row([&bars, &histogram]).figure()?;
    let panel = Panel::column([&row, &grid]).title("All").figure()?;
    let shares = [
        [value, missing],
        [Estimate::exact(-0.2), Estimate::exact(2.0)],
    ];
    let heat_map = HeatMap::new("Swapped & changed", ["a", "b"], ["x", "two words of it"])
        .values(&shares.map(Vec::from))
        .row_title("v of")
        .column_title("z̄")
        .figure()?;
    let empty = Overview::new().figure()?;
    Ok(vec![
        chart()?,
        bars,
        boxes,
        histogram,
        grid,
        overview,
        empty,
        panel,
        heat_map,
    ])
}

#[test]
fn png_has_the_size_that_was_asked_for_and_carries_its_configuration() -> Result<()> {
    for figure in all()? {
        let figure = figure.note("seed", 7).note("layer", "fc6 \"ä\"");
        for scale in [1.0, 2.0, 3.125] {
            let (w, h, _, texts) = decode(&figure.png(scale)?);
            let (a, b) = figure.size();
            let size = |v: u32| (f64::from(v) * scale).round() as usize;
            assert_eq!((w, h), (size(a), size(b)));
            let kept = texts.iter().find(|(k, _)| k == "invariances");
            let kept: serde_json::Value = serde_json::from_str(&kept.unwrap().1).unwrap();
            assert_eq!(kept["seed"], "7");
            assert_eq!(kept["layer"], "fc6 \"ä\"");
            assert_eq!(kept["version"], invariances::VERSION);
        }
    }
    Ok(())
}

#[test]
fn svg_is_well_formed_and_carries_its_configuration() -> Result<()> {
    for figure in all()? {
        let svg = figure.note("seed", 7).note("odd", "<&\"\u{0}'>").svg()?;
        assert_well_formed(&svg);
        let (_, rest) = svg.split_once("<metadata id=\"invariances\">").unwrap();
        let (json, _) = rest.split_once("</metadata>").unwrap();
        let json = json
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&#39;", "'");
        let json = json.replace("&gt;", ">").replace("&amp;", "&");
        let kept: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(kept["seed"], "7");
        assert_eq!(kept["odd"], "<&\"\u{0}'>");
    }
    Ok(())
}

/// The streams of a PDF's objects whose dictionary has this part, unpacked.
fn streams(pdf: &[u8], part: &str) -> Vec<Vec<u8>> {
    use std::io::Read;
    let find = |from: usize, what: &[u8]| {
        let found = pdf[from..].windows(what.len()).position(|w| w == what);
        found.map(|i| from + i)
    };
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = find(at, b"\nstream\n") {
        let end = find(start, b"\nendstream").unwrap();
        let head = String::from_utf8_lossy(&pdf[at..start]).into_owned();
        if head.rsplit(" obj").next().unwrap().contains(part) {
            let mut bytes = Vec::new();
            let mut packed = flate2::read::ZlibDecoder::new(&pdf[start + 8..end]);
            packed.read_to_end(&mut bytes).unwrap();
            found.push(bytes);
        }
        at = end;
    }
    found
}

/// A PDF is as wide as was asked for, embeds the glyphs that it shows, has no Type 3 font, and its images pixel by pixel.
#[test]
fn pdf_is_what_conferences_take() -> Result<()> {
    let figure = chart()?.note("seed", 7).width(Width::Single);
    let pdf = figure.pdf()?;
    let text = String::from_utf8_lossy(&pdf).into_owned();
    let tall = 234.0 * f64::from(figure.size().1) / f64::from(figure.size().0);
    assert!(
        text.contains(&format!("/MediaBox [0 0 234 {tall}")),
        "{text:.2000}"
    );
    assert_eq!(text.matches("/Subtype /CIDFontType0C").count(), 2);
    assert_eq!(text.matches("/ToUnicode").count(), 2);
    assert!(!text.contains("/Type3"));
    assert!(text.contains("\"seed\":\"7\""));
    assert_eq!(pdf, figure.pdf()?);
    // Each face's outlines are those of the few glyphs that are shown.
    for font in streams(&pdf, "CIDFontType0C") {
        assert!((200..20_000).contains(&font.len()), "{} bytes", font.len());
    }
    let tiles = images(2, 8)?;
    let grid = ImageGrid::new(&tiles, 2)?.figure()?;
    let shown = streams(&grid.pdf()?, "/Subtype /Image");
    assert_eq!(shown.len(), 2);
    for (n, rgb) in shown.iter().enumerate() {
        let expected = ((tiles.get(n)?.permute((1, 2, 0))? + 1.0)? * 127.5)?;
        let expected = expected.flatten_all()?.to_vec1::<f32>()?;
        // Enlarged, if at all, by whole pixels: its corners are the image's.
        let last = rgb.len() - 3;
        for c in 0..3 {
            assert!((f32::from(rgb[c]) - expected[c]).abs() <= 1.0);
            let at = expected.len() - 3 + c;
            assert!((f32::from(rgb[last + c]) - expected[at]).abs() <= 1.0);
        }
    }
    // Twice as wide, twice as large text.
    let small = figure.smallest_text().unwrap();
    let large = figure.width(Width::Points(468.0)).smallest_text().unwrap();
    assert!((large - 2.0 * small).abs() < 1e-9);
    for points in [0.0, -3.0, 1e6, f64::NAN] {
        refused(
            figure.width(Width::Points(points)).pdf(),
            "1 to 14400 points",
        );
    }
    Ok(())
}

/// What is saved for paper has its size there: the pixels of a PNG, the points of an SVG.
#[test]
fn a_width_on_paper_is_that_of_every_file() -> Result<()> {
    let dir = folder();
    let figure = chart()?.width(Width::Double);
    let file = |name: &str| dir.path().join(name);
    figure.save(file("a.png"))?;
    figure.dpi(150.0).save(file("b.png"))?;
    figure.save(file("a.svg"))?;
    figure.save(file("a.pdf"))?;
    figure.save(file("a.csv"))?;
    let wide = |name: &str| decode(&std::fs::read(file(name)).unwrap()).0 as f64;
    assert!((wide("a.png") - 6.875 * 300.0).abs() <= 1.0);
    assert!((wide("b.png") - 6.875 * 150.0).abs() <= 1.0);
    let svg = std::fs::read_to_string(file("a.svg")).unwrap();
    assert!(svg.contains("width=\"495pt\""), "{svg:.300}");
    assert_well_formed(&svg);
    // A notebook shows the drawing as it is.
    assert_eq!(figure.html()?, chart()?.html()?);
    refused(figure.save(file("a.jpg")), ".pdf");
    Ok(())
}

/// A PDF, rendered by others, is the PNG to the eye.
#[test]
fn pdf_and_png_are_the_same_drawing() -> Result<()> {
    let missing = std::process::Command::new("pdftoppm")
        .arg("-v")
        .output()
        .is_err();
    if missing {
        assert!(
            std::env::var_os("CI").is_none(),
            "pdftoppm is missing: install poppler-utils"
        );
        println!("skipped: no pdftoppm; install poppler-utils");
        return Ok(());
    }
    let dir = folder();
    let grid = ImageGrid::new(&images(4, 16)?, 2)?
        .row_labels(["a", "z̄"])
        .figure()?;
    let figure = Panel::column([&chart()?, &grid, &Overview::new().figure()?]).figure()?;
    let file = dir.path().join("f.pdf");
    figure.save(&file)?;
    let rendered = std::process::Command::new("pdftoppm")
        .args(["-r", "192", "-png", "-singlefile"])
        .arg(&file)
        .arg(dir.path().join("f"))
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{rendered:?}");
    let (w, h, a, _) = decode(&std::fs::read(dir.path().join("f.png")).unwrap());
    let (v, g, b, _) = decode(&figure.png(2.0)?);
    assert!(w.abs_diff(v) <= 1 && h.abs_diff(g) <= 1, "{w}×{h}, {v}×{g}");
    let mut worst = 0.0f64;
    for y in (0..h.min(g) - 16).step_by(16) {
        for x in (0..w.min(v) - 16).step_by(16) {
            let mut sums = [0.0; 2];
            for (dy, dx) in (0..16).flat_map(|dy| (0..16).map(move |dx| (dy, dx))) {
                let mean = |rgb: &[u8], wide: usize| {
                    let at = 3 * ((y + dy) * wide + x + dx);
                    rgb[at..at + 3].iter().map(|v| f64::from(*v)).sum::<f64>() / 3.0
                };
                sums[0] += mean(&a, w);
                sums[1] += mean(&b, v);
            }
            worst = worst.max((sums[0] - sums[1]).abs() / 256.0);
        }
    }
    // Of 255: edges are smoothed a little otherwise.
    assert!(worst < 20.0, "a square of 16 pixels differs by {worst}");
    Ok(())
}

/// The numbers behind a figure and a table are there to be used elsewhere.
#[test]
fn numbers_can_be_taken_out() -> Result<()> {
    let csv = chart()?.csv()?;
    let mut lines = csv.lines();
    assert_eq!(lines.next().unwrap().split(',').count(), 5);
    assert!(lines.next().unwrap().starts_with("a,0,1,"), "{csv}");
    let e = Estimate::exact(0.5);
    let of = |mean, low, high| Estimate {
        mean,
        low,
        high,
        ..e
    };
    let line = Chart::new("").estimates("s", &[1.0, 2.0], &[of(0.5, 0.25, 1.0), of(2.0, 2.0, 2.0)]);
    let by_hand = Chart::new("").band("s", &[1.0, 2.0], &[0.5, 2.0], &[0.25, 2.0], &[1.0, 2.0]);
    assert_eq!(line.figure()?.csv()?, by_hand.figure()?.csv()?);
    let bars = Bars::new("", ["x, y"]).series("s", &[e]).figure()?;
    assert_eq!(
        bars.csv()?,
        "series,group,mean,low,high,n\ns,\"x, y\",0.5,0.5,0.5,1\n"
    );
    let boxes = Boxes::new("", ["a", "b"]).series("s", &[vec![4.0, 0.0, 2.0], vec![]]);
    assert_eq!(
        boxes.figure()?.csv()?,
        "series,group,p5,p25,median,p75,p95,n\ns,a,0.2,1,2,3,3.8,3\ns,b,,,,,,0\n"
    );
    let v: Vec<f32> = (0..100).map(|i| i as f32 / 50.0 - 1.0).collect();
    let histogram = Histogram::new("v").values("v", &v).bins(4).figure()?;
    let total: f64 = histogram
        .csv()?
        .lines()
        .skip(1)
        .map(|line| {
            let n: Vec<f64> = line
                .split(',')
                .skip(1)
                .map(|c| c.parse().unwrap())
                .collect();
            (n[1] - n[0]) * n[2]
        })
        .sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
    let panel = Panel::row([&bars, &chart()?]).figure()?;
    assert!(panel.csv()?.contains(&bars.csv()?));
    refused(
        ImageGrid::new(&images(1, 8)?, 1)?.figure()?.csv(),
        "no numbers",
    );
    let table = Table::new(["a_b", "n"])
        .row(["50 % & more", "1.5 ± 0.1"])
        .caption("c");
    let tex = table.latex();
    assert!(
        tex.contains(r"a\_b & n \\") && tex.contains(r"50 \% \& more & 1.5 $\pm$ 0.1 \\"),
        "{tex}"
    );
    let long = Table::new(["a", "b"]).row(["x\u{303} of z\u{304}".to_string(), "w".repeat(49)]);
    let broken = long.latex();
    assert!(
        broken.contains(r"\begin{tabular}{lp{0.45\linewidth}}")
            && broken.contains(r"$\tilde{x}$ of $\bar{z}$ & www"),
        "{broken}"
    );
    let dir = folder();
    for ending in ["tex", "csv", "md", "html"] {
        table.save(dir.path().join(format!("t.{ending}")))?;
    }
    assert_eq!(
        std::fs::read_to_string(dir.path().join("t.tex")).unwrap(),
        tex
    );
    refused(table.save(dir.path().join("t.doc")), ".tex");
    Ok(())
}

/// A film has every figure, for as long as was asked.
#[test]
fn films_show_every_figure() -> Result<()> {
    let mut frames = Vec::new();
    for i in 0..3 {
        let image = (images(1, 8)? * (i as f64 / 3.0))?;
        frames.push(ImageGrid::new(&image, 1)?.figure()?.note("seed", 4));
    }
    let film = Film::new(&frames)?.rate(5.0);
    let bytes = film.png()?;
    let mut reader = png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap();
    let control = *reader.info().animation_control().unwrap();
    assert_eq!((control.num_frames, control.num_plays), (3, 0));
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    for frame in &frames {
        reader.next_frame(&mut rgb).unwrap();
        let shown = reader.info().frame_control().unwrap();
        let wait = u32::from(shown.delay_num) * 1000 / u32::from(shown.delay_den);
        assert_eq!(wait, 200);
        assert_eq!(rgb, decode(&frame.png(2.0)?).2);
    }
    let (.., texts) = decode(&bytes);
    assert!(texts.iter().any(|(_, t)| t.contains("\"seed\":\"4\"")));
    assert!(film.html()?.starts_with("<img") && film.seconds() == 0.6);
    refused(Film::new(&[]), "at least one");
    let other = ImageGrid::new(&images(2, 8)?, 2)?.figure()?;
    refused(Film::new(&[frames[0].clone(), other]), "the same size");
    refused(film.clone().rate(0.0).png(), "per second");
    let dir = folder();
    refused(film.save(dir.path().join("f.gif")), ".png");
    film.save(dir.path().join("f.png"))
}

/// What a reader moves is one element with all images in it, whatever its texts are, and has a still of it for paper.
#[test]
fn explorers_hold_all_their_images() -> Result<()> {
    let tiles = images(6, 8)?;
    let explorer = Explorer::new(&tiles)?
        .axis("layer", ["</script><!--<script>", "fc6 \"&\""])
        .axis("sample", 1..=3)
        .title("<Move> it")
        .note("seed", 9);
    let html = explorer.html()?;
    assert_eq!(
        html.matches("</script>").count(),
        1,
        "a label ends the script"
    );
    assert!(html.contains("&lt;Move&gt; it") && html.contains("\"seed\":\"9\""));
    let atlas = html
        .rsplit_once("atlas.src = \"data:image/png;base64,")
        .unwrap()
        .1;
    let atlas = atlas.split('"').next().unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, atlas).unwrap();
    let (w, h, rgb, _) = decode(&bytes);
    assert_eq!((w, h), (24, 16));
    // The fifth image is the second of the second row.
    let expected = ((tiles.get(4)?.permute((1, 2, 0))? + 1.0)? * 127.5)?;
    let expected = expected.flatten_all()?.to_vec1::<f32>()?;
    for (i, value) in expected.iter().enumerate() {
        let (y, x, c) = (i / 24, i / 3 % 8, i % 3);
        let found = f32::from(rgb[((8 + y) * w + 8 + x) * 3 + c]);
        assert!((found - value).abs() <= 0.51, "{found} {value}");
    }
    assert!(explorer.figure()?.size().0 > 100);
    // Many images are JPEG, and still themselves.
    let many = images(40, 64)?;
    let html = Explorer::new(&many)?.axis("n", 0..40).html()?;
    let atlas = html
        .rsplit_once("atlas.src = \"data:image/jpeg;base64,")
        .unwrap();
    let atlas = atlas.1.split('"').next().unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, atlas).unwrap();
    let decoded = image::load_from_memory(&bytes).unwrap().to_rgb8();
    assert_eq!(decoded.dimensions(), (7 * 64, 6 * 64));
    let expected = ((many.get(8)?.permute((1, 2, 0))? + 1.0)? * 127.5)?;
    let expected = expected.flatten_all()?.to_vec1::<f32>()?;
    let gap = |(i, value): (usize, &f32)| {
        let (y, x, c) = ((i / 192) as u32, (i / 3 % 64) as u32, i % 3);
        (f32::from(decoded.get_pixel(64 + x, 64 + y)[c]) - value).abs()
    };
    let gap = expected.iter().enumerate().map(gap).sum::<f32>() / expected.len() as f32;
    assert!(
        gap < 16.0,
        "{gap} of 255, in noise; another image is 85 away"
    );
    // Where it begins is what is seen first, with scripts and without, and on paper.
    let tiles_of =
        |explorer: &Explorer| -> Result<Vec<u8>> { Ok(decode(&explorer.figure()?.png(1.0)?).2) };
    let eight = Explorer::new(&images(8, 8)?)?;
    let axes = |e: Explorer| e.axis("layer", ["a", "b"]).axis("z", 0..2).axis("v", 0..2);
    let late = axes(eight.clone()).begin("layer", "b").begin("v", 1);
    assert!(late.html()?.contains("\"start\":[1,0,1]"));
    let still = late.html()?;
    let still = still.split("src=\"data:image/png;base64,").nth(1).unwrap();
    let still = still.split('"').next().unwrap();
    let still = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, still).unwrap();
    let sixth = Explorer::new(&images(8, 8)?.narrow(0, 5, 1)?)?.axis("n", [0]);
    assert!(sixth.html()?.contains(&base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        still
    )));
    let last_four = Explorer::new(&images(8, 8)?.narrow(0, 4, 4)?)?;
    assert_eq!(
        tiles_of(&late)?,
        tiles_of(&last_four.axis("z", 0..2).axis("v", 0..2))?
    );
    refused(axes(eight.clone()).begin("lair", "b").html(), "layer");
    refused(
        axes(eight).begin("layer", "c").html(),
        "its values are a, b",
    );
    refused(
        Explorer::new(&tiles)?.html(),
        "the product of the axis lengths",
    );
    refused(
        Explorer::new(&tiles)?.axis("a", 0..5).html(),
        "the product of the axis lengths",
    );
    let dir = folder();
    let lab = lab(&dir)?;
    lab.explorer("move", &explorer)?;
    lab.film("run", &Film::new(&[chart()?, chart()?])?)?;
    for name in ["move.html", "move.png", "move.pdf", "run.png"] {
        assert!(
            dir.path().join(format!("figures/test-{name}")).is_file(),
            "{name}"
        );
    }
    refused(explorer.save(dir.path().join("e.png")), ".html");
    Ok(())
}

#[test]
fn same_figure_same_bytes() -> Result<()> {
    for (a, b) in all()?.iter().zip(all()?) {
        assert_eq!(a.png(2.0)?, b.png(2.0)?);
        assert_eq!(a.svg()?, b.svg()?);
    }
    Ok(())
}

#[test]
fn figures_have_ink() -> Result<()> {
    for figure in all()? {
        let (_, _, rgb, _) = decode(&figure.png(1.0)?);
        let ink = rgb.chunks(3).filter(|p| p.iter().any(|v| *v < 128)).count();
        assert!(ink > 200, "{}: {ink} dark pixels", figure.title());
    }
    Ok(())
}

#[test]
fn images_in_a_grid_are_exact() -> Result<()> {
    // Random pixels: no other place of the picture has an image's first colour.
    let (side, columns) = (5, 3);
    let images = images(6, side)?;
    let figure = ImageGrid::new(&images, columns)?
        .groups([1, 2])
        .column_labels(["a", "b"])
        .magnify(4)
        .figure()?;
    let bytes = (((&images + 1.0)? * 127.5)?.round()?).to_dtype(DType::U8)?;
    for scale in [1.0, 2.0] {
        let (width, height, rgb, _) = decode(&figure.png(scale)?);
        let pixel = |x: usize, y: usize| -> &[u8] { &rgb[(y * width + x) * 3..][..3] };
        let m = (4.0 * scale) as usize;
        for n in 0..6 {
            let image: Vec<Vec<Vec<u8>>> = bytes.get(n)?.to_vec3()?;
            let colour = |x: usize, y: usize| [image[0][y][x], image[1][y][x], image[2][y][x]];
            let corner = (0..height * width)
                .map(|i| (i % width, i / width))
                .find(|(x, y)| pixel(*x, *y) == colour(0, 0))
                .expect("the image's first pixel is in the picture");
            for y in 0..side * m {
                for x in 0..side * m {
                    let found = pixel(corner.0 + x, corner.1 + y);
                    assert_eq!(found, colour(x / m, y / m), "image {n}, pixel {x}, {y}");
                }
            }
        }
    }
    Ok(())
}

/// Rows, columns and crosses are the grids that one would lay out by hand.
#[test]
fn grids_can_be_laid_out_by_rows_columns_and_crosses() -> Result<()> {
    let six = images(6, 4)?;
    let at = |numbers: &[u32]| six.index_select(&Tensor::new(numbers, &Device::Cpu)?, 0);
    let same = |a: ImageGrid, b: ImageGrid| -> Result<bool> {
        Ok(a.figure()?.png(1.0)? == b.figure()?.png(1.0)?)
    };
    let rows = [six.narrow(0, 0, 3)?, six.narrow(0, 3, 3)?];
    assert!(same(ImageGrid::of_rows(&rows)?, ImageGrid::new(&six, 3)?)?);
    let columns = [at(&[0, 3])?, at(&[1, 4])?, at(&[2, 5])?];
    assert!(same(
        ImageGrid::of_columns(&columns)?,
        ImageGrid::new(&six, 3)?
    )?);
    let cross = ImageGrid::cross(&at(&[0, 1])?, &at(&[2])?, &at(&[3, 4])?)?;
    let white = Tensor::ones((1, 3, 4, 4), DType::F32, &Device::Cpu)?;
    let by_hand = Tensor::cat(&[white, at(&[2, 0, 3, 1, 4])?], 0)?;
    assert!(same(cross, ImageGrid::new(&by_hand, 2)?.groups([1, 1]))?);
    Ok(())
}

#[test]
fn bars_are_as_long_as_their_values() -> Result<()> {
    let blue = |value| -> Result<f64> {
        let figure = Bars::new("", ["x"])
            .series("", &[Estimate::exact(value)])
            .y_range(0.0, 1.0)
            .figure()?;
        let (_, _, rgb, _) = decode(&figure.png(2.0)?);
        Ok(rgb.chunks(3).filter(|p| *p == [0x00, 0x72, 0xb2]).count() as f64)
    };
    let (half, whole) = (blue(0.5)?, blue(1.0)?);
    assert!((half / whole - 0.5).abs() < 0.01, "{half} of {whole}");
    Ok(())
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &str) {
    match result {
        Err(
            Error::Invalid(text)
            | Error::Shape(text)
            | Error::Unknown(text)
            | Error::Unsupported(text),
        ) => assert!(text.contains(words), "“{text}” lacks “{words}”"),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("not refused ({words})"),
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() -> Result<()> {
    let six = images(6, 4)?;
    let grid = || ImageGrid::new(&six, 3);
    refused(ImageGrid::new(&six, 4), "rows·4 images");
    refused(ImageGrid::new(&six, 0), "number of columns");
    refused(ImageGrid::new(&six.narrow(0, 0, 0)?, 3), "found 0");
    refused(ImageGrid::new(&six.get(0)?, 1), "found [3, 4, 4]");
    refused(ImageGrid::new(&six.narrow(1, 0, 2)?, 3), "1 or 3 channels");
    refused(ImageGrid::new(&(six.zeros_like()? / 0.0)?, 3), "NaN");
    refused(
        ImageGrid::of_rows(&[six.clone(), six.narrow(0, 0, 3)?]),
        "the same shape",
    );
    refused(ImageGrid::of_rows(&[]), "the same shape");
    refused(
        ImageGrid::of_columns(&[six.clone(), six.narrow(0, 0, 3)?]),
        "the same shape",
    );
    refused(
        ImageGrid::cross(&six.narrow(0, 0, 2)?, &six.narrow(0, 0, 2)?, &six),
        "4 cells",
    );
    refused(grid()?.groups([1, 1]).figure(), "that add up to");
    refused(grid()?.groups([3, 0]).figure(), "that add up to");
    refused(
        grid()?.column_labels(["a", "b"]).figure(),
        "2 column labels",
    );
    refused(
        grid()?.row_labels(["a"]).figure(),
        "1 row labels for 2 rows",
    );
    refused(grid()?.mark([6], "").figure(), "image 6");
    refused(grid()?.magnify(0).figure(), "at least 1");
    refused(grid()?.magnify(9_000).figure(), "pixels per side");
    refused(Chart::new("").figure(), "at least one line");
    let uneven = Chart::new("").line("a", &[1.0, 2.0], &[1.0]);
    refused(uneven.figure(), "2 values of x and 1");
    let line = || Chart::new("").line("a", &[1.0], &[1.0]);
    refused(line().y_range(1.0, 1.0).figure(), "low < high");
    refused(line().x_range(f64::NAN, 1.0).figure(), "low < high");
    refused(line().x_range(0.0, 1.0).log_x().figure(), "positive");
    refused(line().size(10, 10).figure(), "160");
    let frame = invariances::polars::df!("step" => [1, 2], "loss" => [0.5, 0.4])?;
    let columns = |y: &str| Chart::new("").columns("a", &frame, "step", y).figure();
    refused(
        columns("los"),
        "no column los in the data frame; the columns are step, loss",
    );
    columns("loss")?;
    refused(Bars::new("", ["a"]).figure(), "one series");
    let few = Bars::new("", ["a", "b"]).series("s", &[Estimate::exact(1.0)]);
    refused(few.figure(), "1 values for 2");
    let boxes = |values: &[Vec<f64>]| Boxes::new("", ["a"]).series("s", values);
    refused(Boxes::new("", ["a"]).figure(), "one series");
    refused(boxes(&[]).figure(), "0 vectors for 1");
    let infinite = [vec![1.0, f64::INFINITY]];
    refused(boxes(&infinite).figure(), "series “s”, found inf");
    refused(boxes(&infinite).figure(), "v.is_finite()");
    let zero = [vec![1.0, 0.0]];
    boxes(&zero).figure()?;
    refused(boxes(&zero).log_y().figure(), "series “s” for a log");
    let one = [vec![1.0]];
    let hidden = boxes(&one).reference(0.0, "none");
    refused(hidden.log_y().figure(), "reference line “none”");
    refused(boxes(&one).y_range(1.0, 1.0).figure(), "low < high");
    refused(boxes(&one).y_range(0.0, 1.0).log_y().figure(), "positive");
    refused(boxes(&one).size(10, 10).figure(), "160");
    boxes(&[vec![]]).figure()?.png(1.0)?;
    let map = |values: &[Vec<Estimate>]| HeatMap::new("", ["a"], ["b"]).values(values);
    refused(map(&[]).figure(), "1 × 1");
    let one = [vec![Estimate::exact(1.0)]];
    refused(map(&one).range(1.0, 0.0).figure(), "range of colours");
    refused(map(&one).cell(1, 20).figure(), "8 to 400");
    refused(
        Histogram::new("").values("a", &[f64::NAN]).figure(),
        "found 0 values",
    );
    refused(Panel::row([]).figure(), "at least one figure");
    refused(Figure::plot("", 0, 5, |_| Ok(())), "found 0 × 5");
    let failed = Figure::plot("", 5, 5, |_| Err("no luck".into())).unwrap_err();
    assert_eq!(failed.to_string(), "drawing failed: no luck");
    refused(line().figure()?.png(0.0), "scale");
    refused(line().figure()?.png(f64::NAN), "scale");
    refused(line().figure()?.save("x.eps"), ".png, .svg, .pdf");
    // Strange numbers are drawn, not refused.
    let strange = line().line("b", &[f64::NAN, f64::INFINITY], &[0.0, 0.0]);
    strange.figure()?.png(1.0)?;
    let vast = line().line("b", &[0.0, 1e300], &[-1e300, 1e-300]);
    vast.figure()?.png(1.0)?;
    let negative = line().log_y().line("b", &[1.0, 2.0], &[0.0, -1.0]);
    negative.figure()?.png(1.0)?;
    Ok(())
}

#[test]
fn a_table_shows_a_frame() -> Result<()> {
    let frame = invariances::polars::df!(
        "layer" => ["fc6", "<fc8>"], "share" => [Some(0.12345), None], "n" => [1u32, 2], "tiny" => [1e-7, 0.0]
    )?;
    let table = Table::from_frame(&frame)?.caption("c");
    let html = table.html();
    assert_well_formed(&html);
    for cell in ["0.123", "–", "&lt;fc8&gt;", "1.00e-7", "0.000", "2"] {
        assert!(
            html.contains(&format!("<td>{cell}</td>")),
            "{html} lacks {cell}"
        );
    }
    assert!(table.to_string().starts_with("layer  share"));
    let long = invariances::polars::df!("i" => (0..50).collect::<Vec<i32>>())?;
    assert!(
        Table::from_frame(&long)?
            .html()
            .contains("and 30 more rows")
    );
    Ok(())
}

/// A lab whose output goes to a folder of the test's own.
fn lab(folder: &tempfile::TempDir) -> Result<Lab> {
    let lab = Lab::open("test")?.with_out(folder.path());
    Ok(lab.with_scale(Scale::Quick).with_seed(5))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_lab_keeps_figures_with_its_settings() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let kept = lab.figure("loss", &chart()?)?;
    assert_eq!(kept.notes()["seed"], "5");
    assert_eq!(kept.notes()["code"], invariances::revision::all());
    let png = std::fs::read(dir.path().join("figures/test-loss.png")).unwrap();
    let (_, _, _, texts) = decode(&png);
    let has = |part: &str| texts.iter().any(|(_, t)| t.contains(part));
    assert!(has("\"notebook\":\"test\"") && has("\"scale\":\"quick\""));
    let svg = std::fs::read_to_string(dir.path().join("figures/test-loss.svg")).unwrap();
    assert_well_formed(&svg);
    let files = std::fs::read_dir(dir.path().join("figures")).unwrap();
    // PNG, SVG, PDF, and the numbers as CSV.
    assert_eq!(files.count(), 4);
    for name in ["", "a/b", "..", "ä", "a b"] {
        refused(lab.figure(name, &kept), "letters, digits");
        refused(Lab::open(name), "letters, digits");
        refused(lab.claim(name, 1.0).state(), "letters, digits");
    }
    Ok(())
}

#[test]
fn claims_are_kept_by_name() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let read = || -> serde_json::Value {
        let text = std::fs::read(dir.path().join("claims/test.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let kept = Estimate {
        mean: 0.93,
        low: 0.91,
        high: 0.95,
        n: 100,
    };
    let claim = lab
        .claim("class-kept", kept)
        .statement("Samples keep the class")
        .figure("samples")
        .at_least(0.9)
        .state()?;
    assert!(claim.holds());
    let text = "✓ Samples keep the class: 0.93 [0.91, 0.95], expected ≥ 0.9";
    assert_eq!(claim.to_string(), text);
    assert_eq!(read()[0]["figure"], "test-samples");
    assert_eq!(read()[0]["high"], 0.95);
    lab.claim("free", 0.5)
        .above("shuffled", 0.8)
        .unit("dB")
        .state()?;
    let broken = lab.claim("broken", f64::NAN).at_most(1.0);
    broken.interval(0.0, f64::INFINITY).state()?;
    // The first again: it stays first, with its new value.
    let again = lab.with_seed(6).claim("class-kept", 0.25);
    again.expect(Expected::Between(0.5, 1.0)).state()?;
    let found = read();
    let names: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["class-kept", "free", "broken"]);
    assert_eq!(
        found[0],
        serde_json::json!({
            "notebook": "test", "name": "class-kept", "statement": "class kept", "figure": null, "value": 0.25,
            "unit": "", "low": null, "high": null, "expected": "0.5 to 1", "history": null,
            "direction": {"between": [0.5, 1.0]}, "other": null,
            "difference": {"value": -0.25, "low": null, "high": null}, "p": null, "p_holm": null,
            "verdict": "undecided", "holds": false, "scale": "quick", "seed": 6, "network_seed": 0,
            "version": invariances::VERSION,
        })
    );
    assert_eq!(found[1]["expected"], "> shuffled 0.8");
    assert_eq!(found[1]["other"]["name"], "shuffled");
    assert_eq!(found[1]["verdict"], "undecided");
    assert_eq!(found[1]["holds"], false);
    assert_eq!(found[2]["value"], serde_json::Value::Null);
    assert_eq!(found[2]["low"], 0.0);
    assert_eq!(found[2]["high"], serde_json::Value::Null);
    assert_eq!(found[2]["holds"], false);
    let expected = found[2]["expected"].as_str().unwrap();
    assert!(expected.contains("not a number"), "{expected}");
    let both = lab.claims([&claim, &claim]);
    assert!(both.hold());
    assert_well_formed(&both.html());
    let smoke = lab.with_scale(Scale::Smoke).claim("smoke", kept);
    let smoke = smoke.at_least(0.9).state()?;
    assert!(smoke.to_string().contains("not meaningful"));
    assert!(!smoke.holds() && !lab.claims([&smoke]).hold());
    Ok(())
}

#[test]
fn claims_stated_at_once_are_all_kept() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    std::thread::scope(|scope| {
        for i in 0..8 {
            let lab = &lab;
            scope.spawn(move || lab.claim(&format!("c{i}"), f64::from(i)).state().unwrap());
        }
    });
    let text = std::fs::read_to_string(dir.path().join("claims/test.json")).unwrap();
    assert_eq!(text.matches("\"name\"").count(), 8);
    Ok(())
}

#[test]
fn a_file_that_holds_no_claims_is_left_alone() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let file = dir.path().join("claims/test.json");
    std::fs::create_dir_all(dir.path().join("claims")).unwrap();
    for content in ["not json", "{}", "[1]", "[{\"name\": 3}]", ""] {
        std::fs::write(&file, content).unwrap();
        let error = lab.claim("a", 1.0).state().unwrap_err();
        assert!(matches!(error, Error::Content { .. }), "{error}");
        assert!(
            error.to_string().contains("move or delete this file"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() -> Result<()> {
    // A file where the folder should be: not even an administrator can write into it.
    let dir = folder();
    let blocked = dir.path().join("out");
    std::fs::write(&blocked, "a file").unwrap();
    let lab = Lab::open("test")?.with_out(&blocked);
    for error in [
        lab.figure("loss", &chart()?).unwrap_err(),
        lab.claim("a", 1.0).state().unwrap_err(),
        chart()?.save(blocked.join("x.png")).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("out"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&blocked).unwrap(), "a file");
    Ok(())
}

#[test]
fn scales_have_four_names() {
    for (text, scale) in [
        ("smoke", Scale::Smoke),
        (" Quick ", Scale::Quick),
        ("real", Scale::Real),
        ("paper", Scale::Paper),
    ] {
        assert_eq!(text.parse::<Scale>().unwrap(), scale);
        assert_eq!(scale.to_string().parse::<Scale>().unwrap(), scale);
    }
    for text in ["", "fast", "smoke,quick"] {
        refused(text.parse::<Scale>(), "smoke, quick, real or paper");
    }
    assert_eq!(Scale::Real.pick(1, 2, 3, 4), 3);
}

#[test]
fn a_bootstrap_interval_covers_as_often_as_it_says() {
    // Two hundred experiments of 60 throws: the truth lies in about 95 % of the intervals.
    let mut rng = Rng::new(1);
    let covered = (0..200)
        .filter(|_| {
            let throws: Vec<f64> = (0..60)
                .map(|_| f64::from(u8::from(rng.f32() < 0.7)))
                .collect();
            let e = bootstrap_mean(&throws, 0);
            e.low <= 0.7 && 0.7 <= e.high
        })
        .count();
    assert!((178..=199).contains(&covered), "{covered} of 200");
    assert!(bootstrap_mean(&[], 0).mean.is_nan());
    assert!(bootstrap_mean(&[1.0, f64::NAN], 0).low.is_nan());
    assert_eq!(bootstrap_mean(&[2.0], 0).to_string(), "2.000");
    let same = bootstrap_mean(&[2.0, 2.0], 0);
    assert_eq!(same.to_string(), "2.000 [2.000, 2.000]");
}

/// A notebook shows a large grid of images as a JPEG if its PNG would be larger; saved files and small
/// grids are PNG.
#[test]
fn large_grids_are_jpeg_in_notebooks() -> Result<()> {
    // Slow waves with a little noise, as photographs have it.
    let waves = |n: usize| -> Result<Tensor> {
        let noise = (Rng::new(0).normal((n, 3, 64, 64), &Device::Cpu)? * 0.02)?;
        let x = (Tensor::arange(0f32, 64.0, &Device::Cpu)? * 0.1)?.sin()?;
        Ok(((noise * 1.0)?.broadcast_add(&x)? * 0.8)?)
    };
    let large = ImageGrid::new(&waves(40)?, 10)?.figure()?;
    let png = large.png(2.0)?;
    assert!(png.len() > 150_000, "{}", png.len());
    let display = large.display();
    let jpeg = display.form("image/jpeg").expect("a JPEG").len();
    assert!(display.form("image/png").is_none() && jpeg < png.len());
    let small = ImageGrid::new(&waves(2)?, 2)?.figure()?.display();
    assert!(small.form("image/png").is_some() && small.form("image/jpeg").is_none());
    Ok(())
}
