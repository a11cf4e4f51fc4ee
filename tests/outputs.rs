//! What the process of a cell writes for the kernel: displays in all their forms, and progress.
//!
//! Each test runs itself again in a process of its own, which is that of the cell, and reads its
//! standard output.

use base64::Engine as _;
use invariances::candle_core::{Device, Tensor};
use invariances::figure::{Chart, Display, Explorer, Figure, Film, ImageGrid, Panel, Table};
use invariances::notebook::{Claims, Lab, Progress, Scale};
use invariances::ops::{Init, Params, Rng};
use invariances::train::{Step, TrainConfig, Trainer};
use invariances::{Error, Result};
use serde_json::{Value, json};
use std::io::Cursor;
use std::process::Command;
use std::time::{Duration, Instant};

const FRAME: &str = "application/vnd.cargo-kernel+json";

/// Runs the calling test again in a process of its own, under the project's kernel or under
/// another one, and returns what it wrote to standard output and standard error; `None` there.
fn in_cell(test: &str, kernel: bool) -> Option<(String, String)> {
    const INSIDE: &str = "INVARIANCES_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env_remove("CARGO_KERNEL");
    if kernel {
        command.env("CARGO_KERNEL", "1");
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
    Some((out, err))
}

/// The MIME types and texts of all blocks, and the text between them.
fn blocks(out: &str) -> (Vec<(String, String)>, String) {
    let (mut found, mut text, mut rest) = (Vec::new(), String::new(), out);
    while let Some((before, after)) = rest.split_once("EVCXR_BEGIN_CONTENT ") {
        text += before;
        let (mime, after) = after.split_once('\n').unwrap();
        let (content, after) = after.split_once("\nEVCXR_END_CONTENT\n").unwrap();
        found.push((mime.to_string(), content.to_string()));
        rest = after;
    }
    (found, text + rest)
}

/// The Jupyter messages of a cell, and the text between them.
fn messages(out: &str) -> (Vec<Value>, String) {
    let (blocks, text) = blocks(out);
    let message = |(mime, content): (String, String)| -> Value {
        assert_eq!(mime, FRAME);
        assert!(!content.contains('\n'), "more than one line: {content}");
        serde_json::from_str(&content).unwrap()
    };
    (blocks.into_iter().map(message).collect(), text)
}

/// The forms of each display of a cell, with their metadata.
fn displays(out: &str) -> Vec<(Value, Value)> {
    let each = messages(out).0.into_iter().map(|message| {
        assert_eq!(message["msg_type"], "display_data");
        let content = &message["content"];
        assert_eq!(content["transient"], json!({}));
        (content["data"].clone(), content["metadata"].clone())
    });
    each.collect()
}

fn types(data: &Value) -> Vec<&str> {
    data.as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn bytes(png: &Value) -> Vec<u8> {
    let text = png.as_str().unwrap();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn images(n: usize) -> Result<Tensor> {
    Rng::new(n as u64).uniform(-1.0, 1.0, (n, 3, 8, 8), &Device::Cpu)
}

fn chart() -> Result<Figure> {
    let chart = Chart::new("Loss <of> t").line("train", &[1.0, 2.0], &[3.0, 2.0]);
    let figure = chart.line("held out", &[1.0, 2.0], &[4.0, 3.0]).figure()?;
    Ok(figure.note("seed", 7))
}

fn panel() -> Result<Figure> {
    let grid = ImageGrid::new(&images(2)?, 2)?.title("Faces").figure()?;
    Panel::row([&chart()?, &grid]).title("Both").figure()
}

/// Two charts without a title.
fn film() -> Result<Film> {
    let frame = |y: f64| Chart::new("").line("a", &[1.0, 2.0], &[0.0, y]).figure();
    Ok(Film::new(&[frame(1.0)?, frame(2.0)?])?.rate(4.0))
}

fn explorer() -> Result<Explorer> {
    let explorer = Explorer::new(&images(6)?)?.title("Move it");
    Ok(explorer
        .axis("layer", ["conv5", "fc6"])
        .axis("sample", 1..=3))
}

fn table() -> Table {
    let table = Table::new(["layer", "free | left"]).row(["fc_6 *", "0.41"]);
    table.row(["<z̄>", "0.82"]).caption("for $5")
}

#[test]
fn figures_are_png_with_a_description() -> Result<()> {
    let Some((out, err)) = in_cell("figures_are_png_with_a_description", true) else {
        chart()?.evcxr_display();
        panel()?.evcxr_display();
        return Ok(());
    };
    assert_eq!(err, "");
    let shown = displays(&out);
    let [(chart_data, chart_metadata), (panel_data, _)] = &shown[..] else {
        panic!("{} displays", shown.len());
    };
    assert_eq!(types(chart_data), ["image/png", "text/plain"]);
    let png = bytes(&chart_data["image/png"]);
    assert!(png == chart()?.png(2.0)?, "another PNG than the figure's");
    let mut reader = png::Decoder::new(Cursor::new(&png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    let (width, height) = chart()?.size();
    assert_eq!((frame.width, frame.height), (2 * width, 2 * height));
    assert_eq!(
        *chart_metadata,
        json!({"image/png": {"alt": "Loss <of> t", "width": width}})
    );
    assert_eq!(
        chart_data["text/plain"],
        format!("Loss <of> t\nFigure, {width} × {height} pixels: train; held out")
    );
    let (width, height) = panel()?.size();
    assert_eq!(
        panel_data["text/plain"],
        format!("Both\nFigure, {width} × {height} pixels, 2 panels: Loss <of> t; Faces")
    );
    Ok(())
}

#[test]
fn films_and_explorers_have_a_png() -> Result<()> {
    let Some((out, _)) = in_cell("films_and_explorers_have_a_png", true) else {
        film()?.evcxr_display();
        explorer()?.evcxr_display();
        return Ok(());
    };
    let shown = displays(&out);
    let [
        (film_data, film_metadata),
        (explorer_data, explorer_metadata),
    ] = &shown[..]
    else {
        panic!("{} displays", shown.len());
    };
    assert_eq!(types(film_data), ["image/png", "text/plain"]);
    assert!(bytes(&film_data["image/png"]) == film()?.png()?);
    let text = film_data["text/plain"].as_str().unwrap();
    assert!(text.starts_with("Film, 2 figures in 0.5 s, "), "{text}");
    // A film without a title is described by its first figure.
    let alt = film_metadata["image/png"]["alt"].as_str().unwrap();
    assert!(alt.starts_with("Figure, "), "{alt}");

    assert_eq!(
        types(explorer_data),
        ["image/png", "text/html", "text/plain"]
    );
    assert_eq!(explorer_data["text/html"], explorer()?.html()?);
    let still = explorer()?.figure()?;
    assert!(bytes(&explorer_data["image/png"]) == still.png(1.0)?);
    assert_eq!(
        *explorer_metadata,
        json!({"image/png": {"alt": "Move it", "width": still.size().0}})
    );
    assert_eq!(
        explorer_data["text/plain"],
        "Move it\nInteractive figure, 6 images: layer (conv5, fc6); sample (1, 2, 3)"
    );
    Ok(())
}

fn lab(folder: &tempfile::TempDir) -> Result<Lab> {
    let lab = Lab::open("test")?.with_out(folder.path());
    Ok(lab.with_scale(Scale::Quick).with_seed(5))
}

fn claims(lab: &Lab) -> Result<Claims> {
    let kept = lab.claim("kept", 0.93).statement("P(a | b) is <kept>");
    let kept = kept.interval(0.91, 0.95).at_least(0.9).state()?;
    let free = lab.claim("free", 0.5).statement("Shape is free");
    let free = free.interval(0.4, 0.6).at_least(0.8).state()?;
    Ok(lab.claims([&kept, &free]))
}

#[test]
fn tables_claims_and_settings_have_forms_for_exports() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let lab = lab(&folder)?;
    let test = "tables_claims_and_settings_have_forms_for_exports";
    let Some((out, _)) = in_cell(test, true) else {
        table().evcxr_display();
        claims(&lab)?.evcxr_display();
        claims(&lab)?.list()[1].evcxr_display();
        lab.evcxr_display();
        return Ok(());
    };
    let shown: Vec<Value> = displays(&out).into_iter().map(|(data, _)| data).collect();
    assert_eq!(shown.len(), 4);
    let all = ["text/html", "text/latex", "text/markdown", "text/plain"];
    assert_eq!(types(&shown[0]), all);
    assert_eq!(
        shown[0]["text/markdown"],
        "| layer | free \\| left |\n\
         | :------- | -----------: |\n\
         | fc\\_6 \\* | 0.41 |\n\
         | \\<z̄\\> | 0.82 |\n\
         \n\
         for \\$5\n"
    );
    let latex = shown[0]["text/latex"].as_str().unwrap();
    assert!(latex.starts_with(&table().latex()), "{latex}");
    assert!(latex.ends_with("\n{\\small for \\$5}\n"), "{latex}");
    assert_eq!(shown[0]["text/html"], table().html());
    assert_eq!(shown[0]["text/plain"], table().to_string().trim_end());

    let three = ["text/html", "text/markdown", "text/plain"];
    assert_eq!(types(&shown[1]), three);
    let markdown = shown[1]["text/markdown"].as_str().unwrap();
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(
        lines[0],
        "| claim | measured | expected | difference | verdict, alone |"
    );
    assert_eq!(
        lines[2],
        "| P(a \\| b) is \\<kept\\> | 0.93 \\[0.91, 0.95\\] | ≥ 0.9 | 0.03 \\[0.01, 0.05\\] | ✓ |"
    );
    assert_eq!(
        lines[3],
        "| Shape is free | 0.5 \\[0.4, 0.6\\] | ≥ 0.8 | −0.3 \\[−0.4, −0.2\\] | ✗ |"
    );
    assert_eq!(
        shown[1]["text/plain"],
        "✓ P(a | b) is <kept>: 0.93 [0.91, 0.95], expected ≥ 0.9\n\
         ✗ Shape is free: 0.5 [0.4, 0.6], expected ≥ 0.8"
    );
    assert_eq!(shown[1]["text/html"], claims(&lab)?.html());
    assert_eq!(
        shown[2]["text/plain"],
        "✗ Shape is free: 0.5 [0.4, 0.6], expected ≥ 0.8"
    );
    assert_eq!(types(&shown[3]), three);
    let settings = shown[3]["text/plain"].as_str().unwrap();
    assert!(
        settings.starts_with("test: scale quick, seed 5, "),
        "{settings}"
    );
    Ok(())
}

/// evcxr's kernel reads one block per form; nothing else is between them.
#[test]
fn another_kernel_gets_a_block_for_each_form() -> Result<()> {
    let Some((out, _)) = in_cell("another_kernel_gets_a_block_for_each_form", false) else {
        explorer()?.evcxr_display();
        return Ok(());
    };
    let (blocks, text) = blocks(&out);
    let mimes: Vec<&str> = blocks.iter().map(|(mime, _)| mime.as_str()).collect();
    assert_eq!(mimes, ["image/png", "text/html", "text/plain"]);
    let png = json!(blocks[0].1);
    assert!(bytes(&png) == explorer()?.figure()?.png(1.0)?);
    assert_eq!(blocks[1].1, explorer()?.html()?);
    assert!(!text.contains("EVCXR"), "{text}");
    let first = out.find("EVCXR_BEGIN_CONTENT image/png\n").unwrap();
    let last = out.rfind("\nEVCXR_END_CONTENT\n").unwrap();
    let between = out[first..last].matches("\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT ");
    assert_eq!(between.count(), 2);
    Ok(())
}

#[test]
fn what_cannot_be_shown_is_a_sentence() -> Result<()> {
    let Some((out, err)) = in_cell("what_cannot_be_shown_is_a_sentence", true) else {
        // Six images on an axis with five places.
        Explorer::new(&images(6)?)?
            .title("Wrong")
            .axis("n", 0..5)
            .evcxr_display();
        return Ok(());
    };
    let shown = displays(&out);
    assert_eq!(shown.len(), 1);
    assert_eq!(types(&shown[0].0), ["text/plain"]);
    assert_eq!(shown[0].1, json!({}));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(
        lines,
        [
            "This output has no text/html: expected the number of images to be the product of the \
             axis lengths [5], found 6 images"
        ]
    );
    Ok(())
}

#[test]
fn a_display_is_replaced_by_its_identifier() {
    let Some((out, _)) = in_cell("a_display_is_replaced_by_its_identifier", true) else {
        let handle = Display::new("one").show_as("counter");
        assert_eq!(handle.id(), "counter");
        handle.update(&Display::new("two").html("<b>two</b>"));
        return;
    };
    let message = |kind: &str, data: Value| {
        json!({"msg_type": kind, "content": {
            "data": data, "metadata": {}, "transient": {"display_id": "counter"},
        }})
    };
    assert_eq!(
        messages(&out).0,
        [
            message("display_data", json!({"text/plain": "one"})),
            message(
                "update_display_data",
                json!({"text/plain": "two", "text/html": "<b>two</b>"})
            ),
        ]
    );
}

/// Checks the messages of one progress bar and returns its last text.
fn last_of_a_bar(messages: &[Value], part: &str) -> String {
    assert!(messages.len() >= 2, "{messages:?}");
    let id = messages[0]["content"]["transient"]["display_id"].as_str();
    assert!(id.unwrap().starts_with("progress-"), "{id:?}");
    for (n, message) in messages.iter().enumerate() {
        let kind = ["update_display_data", "display_data"][usize::from(n == 0)];
        assert_eq!(message["msg_type"], kind);
        let content = &message["content"];
        assert_eq!(content["transient"]["display_id"].as_str(), id);
        let data = &content["data"];
        if n + 1 < messages.len() {
            assert_eq!(types(data), ["text/html", "text/plain"]);
            let text = data["text/plain"].as_str().unwrap();
            assert!(
                text.starts_with(['━', '─']) && text.contains(part),
                "{text}"
            );
            let html = data["text/html"].as_str().unwrap();
            assert!(
                html.starts_with("<progress ") && html.contains(part),
                "{html}"
            );
        } else {
            assert_eq!(types(data), ["text/plain"]);
            return data["text/plain"].as_str().unwrap().to_string();
        }
    }
    unreachable!("there are messages");
}

fn count_for_more_than_a_second() {
    let mut progress = Progress::new("things", 1_000_000_000);
    let start = Instant::now();
    let mut count = 0;
    loop {
        count += 1;
        progress.at(count, "half");
        if start.elapsed() >= Duration::from_millis(1400) {
            break;
        }
    }
    progress.done();
    let mut short = Progress::new("others", 10);
    short.at(10, "");
    short.done();
}

#[test]
fn progress_moves_in_place() {
    let Some((out, _)) = in_cell("progress_moves_in_place", true) else {
        return count_for_more_than_a_second();
    };
    let (messages, text) = messages(&out);
    // After 1 and 1.25 seconds, and the end.
    assert!(messages.len() <= 3, "{} messages", messages.len());
    let last = last_of_a_bar(&messages, "left, half");
    assert!(last.contains(" things in "), "{last}");
    assert!(!text.contains("things") && !out.contains("others"), "{out}");
}

#[test]
fn progress_is_lines_where_it_cannot_move() {
    let Some((out, _)) = in_cell("progress_is_lines_where_it_cannot_move", false) else {
        return count_for_more_than_a_second();
    };
    let lines: Vec<&str> = out.lines().filter(|l| l.contains("things")).collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].contains("/1000000000 things (") && lines[0].ends_with("left, half"));
    assert!(lines[1].contains(" things in "), "{}", lines[1]);
    assert!(!out.contains("EVCXR") && !out.contains("others"), "{out}");
}

#[test]
fn a_training_ends_with_its_summary() -> Result<()> {
    let Some((out, _)) = in_cell("a_training_ends_with_its_summary", true) else {
        let params = Params::new(0);
        let w = params.root().get(1, "w", Init::FanIn)?;
        let train = |steps: u64, time: Duration| -> Result<()> {
            let config = TrainConfig {
                steps,
                learning_rate: 0.05,
                ..Default::default()
            };
            let trained = Trainer::new(config).fit(&params, |_, _| {
                let start = Instant::now();
                while start.elapsed() < time {
                    std::hint::spin_loop();
                }
                Ok(Step::new(w.affine(1.0, -2.0)?.sqr()?.sum_all()?))
            })?;
            println!("\nsummary: {trained}");
            Ok(())
        };
        train(200, Duration::from_millis(7))?;
        // Too short for a bar: only the summary is printed.
        return train(2, Duration::ZERO);
    };
    let (messages, text) = messages(&out);
    let last = last_of_a_bar(&messages, " ms/step · ");
    let summaries: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("summary: "))
        .collect();
    assert_eq!(summaries.len(), 2, "{text}");
    assert_eq!(last, summaries[0]);
    assert!(last.starts_with("200 steps in "), "{last}");
    // Once as the trainer's line and once as the test's.
    assert_eq!(text.matches(summaries[0]).count(), 1, "{text}");
    assert_eq!(text.matches(summaries[1]).count(), 2, "{text}");
    Ok(())
}

#[test]
fn a_failed_form_keeps_the_others() {
    let display = Display::new("t").html("<b>t</b>").with(
        "image/png",
        Err(Error::invalid("expected a smaller figure")),
    );
    assert_eq!(display.form("text/html"), Some("<b>t</b>"));
    assert_eq!(display.form("image/png"), None);
    assert_eq!(
        display.problems(),
        ["This output has no image/png: expected a smaller figure"]
    );
}
