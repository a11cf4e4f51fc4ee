//! Heat maps: tables whose cells are coloured by their numbers. plotters draws the cells
//! (`Rectangle` with a margin), their numbers (`Text`) and the labels of rows and columns, which
//! are the labels of its axes. The size of the figure, which follows from that of a cell, and the
//! title at the left are ours.

use super::axes::{Axes, Labels, write};
use super::axis::Axis;
use super::backend::{stroke, text};
use super::font::{self, Face};
use super::grid::heading;
use super::heat::tint;
use super::plot::{Drawn, Plot, failed, units};
use super::style::{Colour, LABEL, MARGIN, SMALL, TITLE};
use super::{Figure, texts};
use crate::Estimate;
use crate::{Error, Result};
use plotters::element::{Rectangle, Text};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Gap between two cells.
const GAP: f64 = 2.0;

/// A table of numbers in coloured cells, for example how a change of one factor affects each
/// factor.
///
/// Darker means larger; the colours are those of [`heat`](super::heat()). A cell that is wide
/// enough also shows its number.
///
/// ```
/// use invariances_figure::HeatMap;
/// use invariances_figure::Estimate;
/// let shares = [[0.9, 0.1], [0.0, 0.8]].map(|row| row.map(Estimate::exact).to_vec());
/// let figure = HeatMap::new("Swapped", ["glasses", "beard"], ["glasses", "beard"])
///     .values(&shares)
///     .row_title("swapped")
///     .column_title("changed")
///     .figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<Estimate>>,
    range: (f64, f64),
    row_title: String,
    column_title: String,
    cell: (f64, f64),
}

impl HeatMap {
    /// Creates a table with these row and column labels.
    pub fn new<R, C>(title: &str, rows: R, columns: C) -> Self
    where
        R: IntoIterator<Item: ToString>,
        C: IntoIterator<Item: ToString>,
    {
        Self {
            title: title.into(),
            rows: texts(rows),
            columns: texts(columns),
            values: Vec::new(),
            range: (0.0, 1.0),
            row_title: String::new(),
            column_title: String::new(),
            cell: (52.0, 26.0),
        }
    }

    /// Sets the numbers, row by row. A value that is not finite leaves its cell empty.
    pub fn values(mut self, values: &[Vec<Estimate>]) -> Self {
        self.values = values.to_vec();
        self
    }

    /// Sets the number that is white and the number that is nearly black. Default: 0 and 1.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = (low, high);
        self
    }

    /// Sets the title of the rows: what they are.
    pub fn row_title(mut self, title: &str) -> Self {
        self.row_title = title.into();
        self
    }

    /// Sets the title of the columns: what they are.
    pub fn column_title(mut self, title: &str) -> Self {
        self.column_title = title.into();
        self
    }

    /// Sets width and height of a cell in logical pixels. Default: 52 × 26.
    pub fn cell(mut self, width: u32, height: u32) -> Self {
        self.cell = (width.into(), height.into());
        self
    }

    fn check(&self) -> Result<()> {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        let fits = self.values.len() == rows && self.values.iter().all(|r| r.len() == columns);
        if rows == 0 || columns == 0 || !fits {
            let found: Vec<usize> = self.values.iter().map(Vec::len).collect();
            return Err(Error::shape(format!(
                "expected one value for each cell of a {rows} × {columns} heat map with at least one cell, found rows of lengths {found:?}"
            )));
        }
        let (low, high) = self.range;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(Error::invalid(format!(
                "expected low < high for the range of colours, found {low} and {high}"
            )));
        }
        let sides = [self.cell.0, self.cell.1];
        if sides.iter().any(|s| !(8.0..=400.0).contains(s)) {
            return Err(Error::invalid(format!(
                "expected a cell width and height from 8 to 400 pixels, found {} × {}",
                self.cell.0, self.cell.1
            )));
        }
        Ok(())
    }

    /// Draws the table.
    ///
    /// # Errors
    /// [`Error::Shape`] without rows or columns, or if the numbers do not match the rows and
    /// columns; [`Error::Invalid`] for an empty range, or for a cell's side outside 8 to 400.
    pub fn figure(&self) -> Result<Figure> {
        self.check()?;
        let (w, h) = self.cell;
        let width = |text: &String| font::width(Face::Regular, LABEL, text);
        let names = self.rows.iter().map(width).fold(0.0, f64::max).ceil();
        let beside = if self.row_title.is_empty() { 0.0 } else { 18.0 };
        let left = MARGIN + beside + names + 8.0;
        let headings: Vec<(Vec<String>, f64)> =
            (self.columns.iter()).map(|c| heading(c, w - 2.0)).collect();
        // All headings have one size: the smallest that any of them needs.
        let smallest = headings.iter().map(|h| h.1).fold(SMALL, f64::min);
        let lines = headings.iter().map(|h| h.0.len()).max().unwrap_or(1) as f64;
        let mut above = MARGIN;
        if !self.title.is_empty() {
            above += TITLE + 10.0;
        }
        let name = if self.column_title.is_empty() {
            0.0
        } else {
            LABEL * 1.6
        };
        let along = name + (lines * smallest * 1.2 + 4.0).ceil();
        // Half a gap is around every cell.
        let side = |n: usize, side: f64| n as f64 * (side + GAP);
        let (across, down) = (side(self.columns.len(), w), side(self.rows.len(), h));
        let area = [left - GAP / 2.0, above + along - GAP / 2.0, across, down];
        let wanted = MARGIN + font::width(Face::Bold, TITLE, &self.title);
        let right = area[0] + across - GAP / 2.0;
        let bottom = area[1] + down - GAP / 2.0;
        let plot = Plot::fine(right.max(wanted) + MARGIN, bottom + MARGIN);
        let at = [MARGIN, MARGIN + TITLE * 0.8];
        let style = (Face::Bold, TITLE, Colour::INK);
        write(&plot.area(), at, HPos::Left, style, &self.title).map_err(failed)?;
        let axis = |label: &String, texts: Vec<String>, reversed: bool| {
            let n = texts.len() as f64;
            let middle = |(i, text)| (i as f64 + 0.5, text);
            Axis {
                low: if reversed { n } else { 0.0 },
                high: if reversed { 0.0 } else { n },
                label: Some(label.clone()),
                ticks: texts.into_iter().enumerate().map(middle).collect(),
                ..Axis::default()
            }
        };
        let headings = headings.iter().map(|h| h.0.join("\n")).collect();
        let x = axis(&self.column_title, headings, false);
        let y = axis(&self.row_title, self.rows.clone(), true);
        let labels = Labels {
            x: (Colour::INK, smallest),
            y: (Colour::INK, LABEL),
            names: Colour::GREY,
            gaps: [5.0, 7.0],
            above: true,
        };
        let around = [area[0] - MARGIN, along - GAP / 2.0];
        let axes = Axes::on(plot, area, around, (x, y), &labels).map_err(failed)?;
        self.draw(&axes).map_err(failed)?;
        axes.figure(&self.title, self.numbers())
    }

    fn draw(&self, axes: &Axes) -> Drawn {
        let (low, high) = self.range;
        let half = units(GAP / 2.0) as u32;
        for (r, row) in self.values.iter().enumerate() {
            for (c, value) in row.iter().enumerate() {
                let (x, y) = (c as f64, r as f64);
                let cell = |style| {
                    let mut cell = Rectangle::new([(x, y), (x + 1.0, y + 1.0)], style);
                    cell.set_margin(half, half, half, half);
                    cell
                };
                let share = ((value.mean - low) / (high - low)).clamp(0.0, 1.0);
                if value.mean.is_finite() {
                    let [red, green, blue] = tint(share as f32).map(|c| c.round() as u8);
                    axes.draw([cell(Colour::rgb(red, green, blue).filled())])?;
                }
                axes.draw([cell(stroke(Colour::GRID, 1.0))])?;
                let number = format!("{:.2}", value.mean).replace('-', "−");
                let width = font::width(Face::Regular, SMALL, &number);
                if value.mean.is_finite() && width <= self.cell.0 {
                    let colour = if share > 0.5 {
                        Colour::WHITE
                    } else {
                        Colour::INK
                    };
                    let style = text(Face::Regular, SMALL, colour);
                    let style = style.pos(Pos::new(HPos::Center, VPos::Center));
                    axes.draw([Text::new(number, (x + 0.5, y + 0.5), style)])?;
                }
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<Vec<String>> {
        let mut rows = vec![texts(["row", "column", "mean", "low", "high", "n"])];
        for (row, values) in self.rows.iter().zip(&self.values) {
            for (column, e) in self.columns.iter().zip(values) {
                let numbers = [e.mean, e.low, e.high].map(|v| v.to_string());
                let [mean, low, high] = numbers;
                let (row, column) = (row.clone(), column.clone());
                rows.push(vec![row, column, mean, low, high, e.n.to_string()]);
            }
        }
        rows
    }
}
