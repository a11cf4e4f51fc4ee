//! Figures that plotters draws: the crate's own, and those of users' code on a `Plot`.

use invariances_figure::{Bars, Boxes, Chart, Colour, Estimate, Figure, HeatMap, Plot, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The points of every line of a figure in this colour.
fn lines(figure: &Figure, colour: &str) -> Vec<Vec<[f64; 2]>> {
    let svg = figure.svg().unwrap();
    let lines = svg
        .lines()
        .filter(|l| l.contains("<polyline") && l.contains(colour));
    lines
        .map(|line| {
            let points = line.split("points=\"").nth(1).unwrap();
            let points = points.split('"').next().unwrap();
            points
                .split(' ')
                .map(|p| {
                    let (x, y) = p.split_once(',').unwrap();
                    [x.parse().unwrap(), y.parse().unwrap()]
                })
                .collect()
        })
        .collect()
}

/// Where the texts of a figure are.
fn texts(figure: &Figure) -> Vec<(String, [f64; 2])> {
    let svg = figure.svg().unwrap();
    let texts = svg.split("aria-label=\"").skip(1);
    texts
        .map(|text| {
            let (label, rest) = text.split_once('"').unwrap();
            let at = rest.split("translate(").nth(1).unwrap();
            let (x, y) = at.split(')').next().unwrap().split_once(' ').unwrap();
            (label.into(), [x.parse().unwrap(), y.parse().unwrap()])
        })
        .collect()
}

/// plotters moves points outside the plot area to its edge; a line would be bent there.
#[test]
fn lines_that_leave_the_range_are_cut_not_bent() -> Result<()> {
    let chart = Chart::new("").line("", &[0.0, 1.0, 2.0], &[0.5, 2.5, 0.5]);
    let figure = chart.y_range(0.0, 1.0).figure()?;
    let [line] = &lines(&figure, "#0072b2")[..] else {
        panic!("expected one line");
    };
    let (from, top) = (line[0][1], line[1][1]);
    let unit = from - lines(&figure, "#e4e7ea").last().unwrap()[0][1];
    // 2 units of y are 4 times the distance from 0.5 to 1.
    assert!((from - top - 4.0 * unit).abs() < 2.5, "{from} {top} {unit}");
    assert!(figure.svg()?.contains("clip-path"));
    Ok(())
}

#[test]
fn axes_have_their_numbers_at_both_ends() -> Result<()> {
    let labels = |figure: &Figure| -> Vec<String> {
        texts(figure).into_iter().map(|(label, _)| label).collect()
    };
    let x = [0.003, 1.0, 1e4];
    let chart = Chart::new("").line("", &x, &[-0.25, 0.0, 1.0]);
    let chart = chart.log_x().x_range(1e-2, 1e4).y_range(-0.25, 1.0);
    let found = labels(&chart.x_label("x in\nmm").y_label("y").figure()?);
    for label in ["0.01", "10k", "−0.25", "1.00", "x in mm", "y"] {
        assert!(found.iter().any(|f| f == label), "{label} in {found:?}");
    }
    let bars = Bars::new("", ["a", "b"]).series("s", &[Estimate::exact(0.5); 2]);
    let found = labels(&bars.figure()?);
    for label in ["a", "b", "0.50", "s"] {
        assert!(found.iter().any(|f| f == label), "{label} in {found:?}");
    }
    Ok(())
}

/// The first row is at the top, and a number is in the middle of its cell.
#[test]
fn heat_maps_are_read_like_tables() -> Result<()> {
    let values = [[0.1, 0.2], [0.3, 0.4]].map(|row| row.map(Estimate::exact).to_vec());
    let figure = HeatMap::new("", ["r", "s"], ["c", "d"])
        .values(&values)
        .figure()?;
    let found = texts(&figure);
    let at = |label: &str| found.iter().find(|(l, _)| l == label).unwrap().1;
    assert!(at("c")[1] < at("r")[1] && at("r")[1] < at("s")[1]);
    assert!(at("r")[0] < at("c")[0] && at("c")[0] < at("d")[0]);
    let step = [at("0.20")[0] - at("0.10")[0], at("0.30")[1] - at("0.10")[1]];
    // A cell of 52 × 26 and a gap of 2. The digits have different widths.
    assert!(
        (step[0] - 54.0).abs() < 2.0 && (step[1] - 28.0).abs() < 0.1,
        "{step:?}"
    );
    assert!((at("r")[1] - at("0.10")[1]).abs() < 1.0);
    Ok(())
}

/// A number in the first element of this line of an SVG file that has it.
fn attribute(line: &str, name: &str) -> f64 {
    let value = line.split(&format!(" {name}=\"")).nth(1).unwrap();
    value.split('"').next().unwrap().parse().unwrap()
}

/// The heights of all horizontal lines in this colour, from the top to the bottom.
fn heights(figure: &Figure, colour: &str) -> Vec<f64> {
    let lines = lines(figure, colour);
    let flat = lines.iter().filter(|l| l[0][1] == l[1][1]);
    let mut heights: Vec<f64> = flat.map(|l| l[0][1]).collect();
    heights.sort_by(f64::total_cmp);
    heights
}

/// Whiskers, boxes and medians are where the percentiles are, and an empty place stays empty.
#[test]
fn boxes_are_at_their_percentiles() -> Result<()> {
    let values: Vec<f64> = (0..=10).map(f64::from).collect();
    let boxes = Boxes::new("", ["a", "b"]).series("", &[vec![], values]);
    let figure = boxes.y_range(0.0, 10.0).figure()?;
    let grid = heights(&figure, "#e4e7ea");
    let (ten, zero) = (grid[0], grid[grid.len() - 1]);
    // Grid lines are at the middle of a pixel: half a pixel from their exact height.
    let close = |found: f64, y: f64| (found - zero - (ten - zero) * y / 10.0).abs() < 1.0;
    let found = heights(&figure, "#1f2328");
    assert_eq!(found.len(), 3, "{found:?}");
    for (found, y) in found.into_iter().zip([9.5, 5.0, 0.5]) {
        assert!(close(found, y), "{y} at {found} of {grid:?}");
    }
    let svg = figure.svg()?;
    let drawn: Vec<&str> = svg.lines().filter(|l| l.contains("fill-opacity")).collect();
    let [one] = drawn[..] else {
        panic!("expected one box, found {drawn:?}");
    };
    let top = attribute(one, "y");
    let bottom = top + attribute(one, "height");
    assert!(close(top, 7.5) && close(bottom, 2.5), "{top} {bottom}");
    assert!(attribute(one, "x") > 210.0, "{one}");
    Ok(())
}

#[test]
fn the_axis_of_boxes_fits_the_whiskers() -> Result<()> {
    let boxes = Boxes::new("", ["a", "b"]).series("", &[vec![-900.0, 0.0, 1e4], vec![0.1]]);
    let figure = boxes.figure()?;
    let svg = figure.svg()?;
    let clip = svg.lines().find(|l| l.contains("<clipPath")).unwrap();
    let top = attribute(clip, "y");
    let bottom = top + attribute(clip, "height");
    let drawn = lines(&figure, "#1f2328");
    let points: Vec<&[f64; 2]> = drawn.iter().flatten().collect();
    assert_eq!(points.len(), 20);
    let inside = |p: &&[f64; 2]| p[1] > top + 2.0 && p[1] < bottom - 2.0;
    assert!(points.iter().all(inside), "{points:?} in {top} to {bottom}");
    Ok(())
}

/// 10 is halfway between 1 and 100.
#[test]
fn boxes_can_have_a_logarithmic_axis() -> Result<()> {
    let boxes = Boxes::new("", ["a"]).series("", &[vec![10.0]]);
    let figure = boxes.log_y().y_range(1.0, 100.0).figure()?;
    let grid = heights(&figure, "#e4e7ea");
    let middle = (grid[0] + grid[grid.len() - 1]) / 2.0;
    let found = heights(&figure, "#1f2328");
    let close = |y: &f64| (y - middle).abs() < 1.0;
    assert!(!found.is_empty() && found.iter().all(close), "{found:?}");
    Ok(())
}

/// A plot of a user has the same line as a chart, at any number of units per pixel.
#[test]
fn a_plot_is_a_figure() -> std::result::Result<(), Box<dyn std::error::Error>> {
    for units in [1, 10, 100] {
        let size = |pixels: u32| pixels * units;
        let plot = Plot::new(200, 100)?.with_units(units);
        let area = plot.area();
        assert_eq!(area.dim_in_pixel(), (200 * units, 100 * units));
        let mut chart = ChartBuilder::on(&area)
            .margin(size(10))
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        let style = Colour::VERMILLION.stroke_width(size(2));
        chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], style))?;
        let font = ("sans-serif", f64::from(size(10)) * 1.21).into_font();
        let font = TextStyle::from(font).pos(Pos::new(HPos::Left, VPos::Bottom));
        area.draw_text("above\nbelow", &font, (size(50) as i32, size(60) as i32))?;
        let figure = plot.figure("p")?;
        assert_eq!((figure.size(), figure.title()), ((200, 100), "p"));
        assert!(figure.svg()?.contains("stroke-width=\"2\""));
        let line = &lines(&figure, "#d55e00")[0];
        for (found, expected) in line.iter().flatten().zip([10.0, 90.0, 190.0, 10.0]) {
            assert!((found - expected).abs() <= 0.5, "{line:?}");
        }
        let [(above, a), (below, b)] = &texts(&figure)[..] else {
            panic!("expected two lines of text");
        };
        assert_eq!((above.as_str(), below.as_str()), ("above", "below"));
        assert_eq!((a, b), (&[50.0, 46.0], &[50.0, 58.0]));
        assert!(figure.pdf()?.starts_with(b"%PDF"));
        assert!(figure.png(1.0)?.starts_with(b"\x89PNG"));
    }
    Ok(())
}
