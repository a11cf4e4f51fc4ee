//! Heat maps: tables whose cells are coloured by their numbers.

use super::canvas::{Anchor, Canvas};
use super::font::{self, Face};
use super::grid::heading;
use super::heat::tint;
use super::style::{Colour, LABEL, MARGIN, SMALL, TITLE};
use super::{Figure, texts};
use crate::Estimate;
use crate::{Error, Result};

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
        let mut headings: Vec<(Vec<String>, f64)> =
            (self.columns.iter()).map(|c| heading(c, w - 2.0)).collect();
        // All headings have one size: the smallest that any of them needs.
        let smallest = headings.iter().map(|h| h.1).fold(SMALL, f64::min);
        headings.iter_mut().for_each(|h| h.1 = smallest);
        let lines = headings.iter().map(|h| h.0.len()).max().unwrap_or(1) as f64;
        let mut top = MARGIN;
        let title_y = top + TITLE * 0.8;
        if !self.title.is_empty() {
            top += TITLE + 10.0;
        }
        let above = top;
        if !self.column_title.is_empty() {
            top += LABEL * 1.4;
        }
        let heading_y = top;
        top += (lines * SMALL * 1.2 + 4.0).ceil();
        let place = |n: usize, side: f64| n as f64 * (side + GAP);
        let right = left + place(self.columns.len(), w) - GAP;
        let bottom = top + place(self.rows.len(), h) - GAP;
        let wanted = MARGIN + font::width(Face::Bold, TITLE, &self.title);
        let mut canvas = Canvas::new(right.max(wanted) + MARGIN, bottom + MARGIN);
        let mut text = |at, anchor, face, size, colour, text: &str| {
            canvas.text(at, anchor, face, size, colour, text);
        };
        let (start, middle) = (Anchor::Start, Anchor::Middle);
        let ink = Colour::INK;
        text(
            [MARGIN, title_y],
            start,
            Face::Bold,
            TITLE,
            ink,
            &self.title,
        );
        let at = [(left + right) / 2.0, above + LABEL * 0.85];
        let (face, grey) = (Face::Regular, Colour::GREY);
        text(at, middle, face, LABEL, grey, &self.column_title);
        for (c, (words, size)) in headings.iter().enumerate() {
            let x = left + place(c, w) + w / 2.0;
            let lift = lines - words.len() as f64;
            for (i, line) in words.iter().enumerate() {
                let y = heading_y + (lift + i as f64) * SMALL * 1.2 + SMALL * 0.85;
                text([x, y], middle, face, *size, ink, line);
            }
        }
        for (r, row) in self.rows.iter().enumerate() {
            let y = top + place(r, h) + h / 2.0 + LABEL * 0.36;
            text([left - 8.0, y], Anchor::End, face, LABEL, ink, row);
        }
        if !self.row_title.is_empty() {
            let at = [MARGIN + LABEL * 0.85, (top + bottom) / 2.0];
            canvas.text_upwards(at, LABEL, grey, &self.row_title);
        }
        let (low, high) = self.range;
        for (r, row) in self.values.iter().enumerate() {
            for (c, value) in row.iter().enumerate() {
                let (x, y) = (left + place(c, w), top + place(r, h));
                let area = [x, y, w, h];
                if !value.mean.is_finite() {
                    canvas.rounded(area, 0.0, None, Some((Colour::GRID, 1.0)));
                    continue;
                }
                let share = ((value.mean - low) / (high - low)).clamp(0.0, 1.0);
                let [red, green, blue] = tint(share as f32).map(|c| c.round() as u8);
                canvas.rounded(
                    area,
                    0.0,
                    Some(Colour::rgb(red, green, blue)),
                    Some((Colour::GRID, 1.0)),
                );
                let number = format!("{:.2}", value.mean).replace('-', "−");
                let colour = if share > 0.5 { Colour::WHITE } else { ink };
                let at = [x + w / 2.0, y + h / 2.0 + SMALL * 0.36];
                if font::width(face, SMALL, &number) <= w {
                    canvas.text(at, middle, face, SMALL, colour, &number);
                }
            }
        }
        Ok(Figure::new(canvas, &self.title)?.with_numbers(self.numbers()))
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
