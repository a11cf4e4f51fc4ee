//! The parts that charts share: plot area, axes, title and legend, drawn with plotters on a
//! [`Plot`].
//!
//! plotters draws the grid lines, the numbers and labels of the axes, the line of the x axis with
//! its marks, and every series (`ChartBuilder`, `configure_mesh`, `LineSeries`, `AreaSeries`,
//! `Rectangle` and other elements). We decide, on the same drawing area,
//!
//! - the size of the plot area: the label areas of plotters have a fixed size, ours is that of the
//!   widest number;
//! - the title, which wraps and is aligned at the left: the caption of plotters is one centred line;
//! - the legend, which is above the plot: the legend of plotters covers data;
//! - where lines end: plotters moves points outside the plot area to its edge, which bends lines;
//!   ours are clipped.

use super::axis::Axis;
use super::backend::{Dashed, stroke, text};
use super::font::{self, Face};
use super::plot::{Drawn, Plot, failed, units};
use super::style::{Colour, LABEL, LEADING, MARGIN, SMALL, TITLE};
use super::{Figure, Result};
use plotters::chart::{ChartBuilder, ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::DrawingArea;
use plotters::element::{Drawable, PathElement, PointCollection, Rectangle};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The drawing area of a figure of ours.
pub(super) type Area = DrawingArea<Plot, Shift>;
type Coordinates = Cartesian2d<Axis, Axis>;

/// The symbol of a series in a legend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    Line,
    Dashed,
    Square,
    /// No symbol: a note.
    Text,
}

/// The smallest font size of the name of an axis, as a share of the usual one.
const SMALLEST_NAME: f64 = 0.6;

/// How the labels of the axes look.
pub(super) struct Labels {
    /// Colour and size of the text at the x axis.
    pub x: (Colour, f64),
    /// Colour and size of the text at the y axis.
    pub y: (Colour, f64),
    /// Colour of what the axes are called.
    pub names: Colour,
    /// Distance of the labels from the x axis and from the y axis.
    pub gaps: [f64; 2],
    /// Whether the x axis is above the plot.
    pub above: bool,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            x: (Colour::GREY, SMALL),
            y: (Colour::GREY, SMALL),
            names: Colour::INK,
            gaps: [7.1, 7.0],
            above: false,
        }
    }
}

/// A chart with everything except its data.
pub(super) struct Axes {
    plot: Plot,
    chart: ChartContext<'static, Plot, Coordinates>,
    /// The coordinates of the chart on an area so large that plotters moves no point to its edge.
    data: DrawingArea<Plot, Coordinates>,
    /// Left, top, width and height of the plot area.
    pub area: [f64; 4],
}

impl Axes {
    /// Lays out a chart and draws its title, legend, grid and labels.
    pub fn new(
        (width, height): (f64, f64),
        title: &str,
        legend: &[(String, Colour, Key)],
        (x, y): (Axis, Axis),
        labels: &Labels,
    ) -> Result<Self> {
        let number_width = |t: &String| font::width(Face::Regular, SMALL, t);
        let numbers = (y.ticks.iter().map(|(_, t)| number_width(t))).fold(0.0, f64::max);
        let left = MARGIN + if y.label.is_some() { 18.0 } else { 0.0 } + (numbers + 7.0).ceil();
        let last = x.ticks.last().map_or(0.0, |(v, t)| {
            let lines = t.split('\n').map(|t| number_width(&t.to_string()));
            lines.fold(0.0, f64::max) / 2.0 - (1.0 - x.share(*v)) * (width - left - MARGIN)
        });
        let right = width - MARGIN - last.max(0.0).ceil();
        let plot = Plot::fine(width, height);
        let root = plot.area();
        let top = heading(&root, width, title, legend).map_err(failed)?;
        let lines = x.ticks.iter().map(|(_, t)| t.split('\n').count()).max();
        let more = lines.unwrap_or(1).saturating_sub(1) as f64;
        let name = x.label.as_ref().map_or(0.0, |_| LABEL * LEADING + 3.0);
        let below = name + (1.0 + 1.2 * more) * SMALL + 6.0;
        let bottom = (height - MARGIN - below).floor();
        let area = [
            left,
            top,
            (right - left).max(10.0),
            (bottom - top).max(10.0),
        ];
        let around = [left - MARGIN, (height - MARGIN - bottom).max(below)];
        Self::on(plot, area, around, (x, y), labels).map_err(failed)
    }

    /// Draws the grid and the labels of a chart whose plot area is `area`, with `around` pixels
    /// for the labels beside it and below (or above) it.
    pub fn on(
        plot: Plot,
        area: [f64; 4],
        around: [f64; 2],
        (x, y): (Axis, Axis),
        labels: &Labels,
    ) -> Drawn<Self> {
        let [left, top, width, height] = area;
        let [beside, along] = around;
        let (above, below) = if labels.above {
            (along, 0.0)
        } else {
            (0.0, along)
        };
        let root = plot.area();
        let size = {
            let canvas = plot.canvas.borrow();
            [canvas.width, canvas.height]
        };
        let whole = root.margin(
            units(top - above),
            units(size[1] - top - height - below),
            units(left - beside),
            units(size[0] - left - width),
        );
        let names = [&x, &y].map(|a| one_line(a.label.as_deref().unwrap_or_default()));
        let side = if labels.above {
            LabelAreaPosition::Top
        } else {
            LabelAreaPosition::Bottom
        };
        let mut chart = ChartBuilder::on(&whole)
            .set_label_area_size(LabelAreaPosition::Left, units(beside))
            .set_label_area_size(side, units(along))
            .build_cartesian_2d(x, y)?;
        let name_size = name_size([&names[0], &names[1]], [width, height]);
        let [x_name, y_name] = names;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .bold_line_style(stroke(Colour::GRID, 1.0))
            .axis_style(Colour::GRID.with_alpha(0.0))
            .x_label_style(text(Face::Regular, labels.x.1, labels.x.0))
            .y_label_style(text(Face::Regular, labels.y.1, labels.y.0))
            .axis_desc_style(text(Face::Regular, name_size, labels.names))
            .x_desc(x_name)
            .y_desc(y_name)
            // plotters puts labels at twice the length of the marks.
            .set_tick_mark_size(side, units(labels.gaps[0] / 2.0))
            .set_tick_mark_size(LabelAreaPosition::Left, units(labels.gaps[1] / 2.0));
        if labels.above {
            mesh.disable_y_mesh();
        }
        mesh.draw()?;
        let far = units(-10.0 * (size[0] + size[1]));
        let wide = root.margin(far, far, far, far);
        let data = wide.apply_coord_spec(chart.as_coord_spec().clone());
        Ok(Self {
            plot,
            chart,
            data,
            area,
        })
    }

    pub fn x(&self) -> &Axis {
        self.data.as_coord_spec().x_spec()
    }

    pub fn y(&self) -> &Axis {
        self.data.as_coord_spec().y_spec()
    }

    /// Draws a series of plotters, or elements, in the coordinates of the data.
    pub fn draw<E, I>(&self, series: I) -> Drawn
    where
        I: IntoIterator<Item = E>,
        E: Drawable<Plot>,
        for<'e> &'e E: PointCollection<'e, (f64, f64)>,
    {
        series.into_iter().try_for_each(|e| self.data.draw(&e))
    }

    /// Draws the line of the x axis and, if `marks` is set, a mark at each of its numbers. Call
    /// it after the data are drawn, so that the line is on top.
    pub fn close(&mut self, marks: bool) -> Drawn {
        let mark = if marks { units(4.0) } else { 0 };
        self.chart
            .configure_mesh()
            .disable_mesh()
            .disable_y_axis()
            .axis_style(stroke(Colour::GREY, 1.0))
            .x_label_formatter(&|_| String::new())
            .set_tick_mark_size(LabelAreaPosition::Bottom, mark)
            .draw()
    }

    /// Returns the figure.
    pub fn figure(&self, title: &str, numbers: Vec<Vec<String>>) -> Result<Figure> {
        Ok(self.plot.figure(title)?.with_numbers(numbers))
    }

    /// Converts a point of the data to logical pixels.
    pub fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let (x, y) = self.chart.backend_coord(&(x, y));
        [x, y].map(|v| f64::from(v) / f64::from(units(1.0)))
    }

    /// Restricts the shapes that follow to the plot area, or ends the restriction.
    pub fn inside(&self, on: bool) {
        let [l, t, w, h] = self.area;
        let area = on.then_some([l - 1.0, t - 1.0, w + 2.0, h + 2.0]);
        self.plot.clip(area);
    }

    /// Draws a dashed line across the plot at a value. Its label is in the legend.
    pub fn reference(&self, value: f64, colour: Colour) -> Drawn {
        if (-1e-3..=1.001).contains(&self.y().share(value)) {
            let (low, high) = (self.x().low, self.x().high);
            self.draw([Dashed {
                points: vec![(low, value), (high, value)],
                colour,
                width: 1.2,
                dash: [4.0, 3.0],
            }])?;
        }
        Ok(())
    }

    /// Writes a line of text whose baseline is at `y`, in logical pixels.
    pub fn write(&self, at: [f64; 2], h: HPos, size: f64, colour: Colour, words: &str) -> Drawn {
        write(
            &self.plot.area(),
            at,
            h,
            (Face::Regular, size, colour),
            words,
        )
    }
}

/// Writes a line of text whose baseline is at `y`, in logical pixels.
pub(super) fn write(
    area: &Area,
    [x, y]: [f64; 2],
    h: HPos,
    (face, size, colour): (Face, f64, Colour),
    words: &str,
) -> Drawn {
    let style = text(face, size, colour).pos(Pos::new(h, VPos::Bottom));
    // The bottom of a text is this far below its baseline.
    let at = (units(x), units(y + 0.2 * size));
    area.draw_text(&one_line(words), &style, at)
}

/// Returns the font size of the names of the axes: smaller than usual if a name is longer than its axis,
/// so that it does not reach into the title.
fn name_size(names: [&str; 2], lengths: [f64; 2]) -> f64 {
    let share = |(name, length): (&str, f64)| match font::width(Face::Regular, LABEL, name) {
        wide if wide > length => length / wide,
        _ => 1.0,
    };
    let least = names
        .into_iter()
        .zip(lengths)
        .map(share)
        .fold(1.0, f64::min);
    LABEL * least.max(SMALLEST_NAME)
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Draws title and legend. Returns the top of the plot area.
fn heading(area: &Area, width: f64, title: &str, legend: &[(String, Colour, Key)]) -> Drawn<f64> {
    let mut top = MARGIN;
    if !title.is_empty() {
        let style = (Face::Bold, TITLE, Colour::INK);
        let lines = font::wrap(Face::Bold, TITLE, title, width - 2.0 * MARGIN);
        for (i, line) in lines.iter().enumerate() {
            let y = top + TITLE * 0.8 + i as f64 * TITLE * 1.25;
            write(area, [MARGIN, y], HPos::Left, style, line)?;
        }
        top += lines.len() as f64 * TITLE * 1.25 + 5.0;
    }
    if !legend.is_empty() {
        let (mut x, mut y) = (MARGIN, top + SMALL * 0.85);
        for (label, colour, key) in legend {
            let indent = match key {
                Key::Line | Key::Dashed => 23.0,
                Key::Square => 15.0,
                Key::Text => 0.0,
            };
            let wide = indent + font::width(Face::Regular, SMALL, label) + 15.0;
            if x > MARGIN && x + wide > width - MARGIN + 15.0 {
                (x, y) = (MARGIN, y + SMALL * 1.5);
            }
            let middle = y - SMALL * 0.36;
            let point = |dx: f64, dy: f64| (units(x + dx), units(middle + dy));
            let line = vec![point(0.0, 0.0), point(18.0, 0.0)];
            match key {
                Key::Line => area.draw(&PathElement::new(line, stroke(*colour, 2.0)))?,
                Key::Dashed => area.draw(&Dashed {
                    points: line,
                    colour: *colour,
                    width: 1.5,
                    dash: [4.0, 3.0],
                })?,
                Key::Square => {
                    let corners = [point(0.0, -5.0), point(10.0, 5.0)];
                    area.draw(&Rectangle::new(corners, colour.filled()))?;
                }
                Key::Text => {}
            }
            let style = (Face::Regular, SMALL, Colour::GREY);
            write(area, [x + indent, y], HPos::Left, style, label)?;
            x += wide;
        }
        top = y + SMALL * 0.4 + 4.0;
    }
    Ok((top + 6.0).ceil())
}

/// Returns the legend's entries for reference lines.
pub(super) fn references(references: &[(f64, String)]) -> Vec<(String, Colour, Key)> {
    let entry = |(i, (_, label)): (usize, &(f64, String))| {
        (label.clone(), reference_colour(i), Key::Dashed)
    };
    references.iter().enumerate().map(entry).collect()
}

pub(super) fn reference_colour(index: usize) -> Colour {
    match index {
        0 => Colour::INK,
        n => Colour::palette(n + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_of_axes_are_smaller() {
        assert_eq!(name_size(["epsilon", "share"], [300.0, 200.0]), LABEL);
        let long = "misclassified, share of those that were correct before the attack";
        let wide = font::width(Face::Regular, LABEL, long);
        let size = name_size(["epsilon", long], [600.0, 0.8 * wide]);
        assert!((size - 0.8 * LABEL).abs() < 1e-9);
        assert_eq!(name_size([long, ""], [1.0, 1.0]), SMALLEST_NAME * LABEL);
    }
}
