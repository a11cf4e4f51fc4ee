//! Grids of images with labels, groups of columns and coloured frames.

use super::canvas::{Anchor, Canvas, Pixels};
use super::font::{self, Face};
use super::style::{Colour, LABEL, LEADING, MARGIN, SMALL, TITLE};
use super::{Figure, texts};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Width that the enlarged images fill, in logical pixels.
const WIDTH: f64 = 760.0;
/// Largest side to which one image is enlarged, in logical pixels.
const SIDE: f64 = 96.0;
/// Gap between groups of columns.
const GROUP: f64 = 14.0;

/// A grid of images. Every pixel is drawn as a square.
///
/// Columns can be grouped (input | reconstruction | samples). Rows, and either columns or groups,
/// can have labels. Images can be marked by a coloured frame.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use invariances_figure::ImageGrid;
/// let images = Tensor::zeros((2 * 4, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let figure = ImageGrid::new(&images, 4)?
///     .groups([1, 1, 2])
///     .column_labels(["input", "reconstruction", "samples"])
///     .row_labels(["7", "2"])
///     .title("What the last layer ignores")
///     .figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageGrid {
    images: Vec<Arc<Pixels>>,
    columns: usize,
    groups: Vec<usize>,
    column_labels: Vec<String>,
    row_labels: Vec<String>,
    title: Option<String>,
    caption: Option<String>,
    marks: Vec<(Vec<usize>, Colour, String)>,
    magnify: Option<usize>,
}

impl ImageGrid {
    /// Creates a grid of images (rows·columns, 3 or 1, height, width) in [-1, 1], row by row.
    /// Values outside this range are clamped.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape or a number of images that is not a multiple of
    /// `columns`; [`Error::Invalid`] for 0 columns or NaN values.
    pub fn new(images: &Tensor, columns: usize) -> Result<Self> {
        let images = pixels(images)?;
        if columns == 0 {
            return Err(Error::invalid(
                "expected a number of columns above 0 for an image grid, found 0",
            ));
        }
        if images.is_empty() || images.len() % columns != 0 {
            return Err(Error::shape(format!(
                "expected rows·{columns} images, at least one row, for an image grid with {columns} columns, found {}",
                images.len()
            )));
        }
        Ok(Self {
            images,
            columns,
            groups: vec![columns],
            column_labels: Vec::new(),
            row_labels: Vec::new(),
            title: None,
            caption: None,
            marks: Vec::new(),
            magnify: None,
        })
    }

    /// Creates a grid from one batch per row, each (columns, 3 or 1, height, width).
    ///
    /// # Errors
    /// Same as [`ImageGrid::new`]; [`Error::Shape`] if the batches differ in shape.
    pub fn of_rows(rows: &[Tensor]) -> Result<Self> {
        let columns = first_dimension(rows)?;
        Self::new(&Tensor::cat(rows, 0)?, columns)
    }

    /// Creates a grid from one batch per column, each (rows, 3 or 1, height, width). Images with
    /// the same index in their batches form a row.
    ///
    /// # Errors
    /// Same as [`ImageGrid::of_rows`].
    pub fn of_columns(columns: &[Tensor]) -> Result<Self> {
        first_dimension(columns)?;
        Self::new(&Tensor::stack(columns, 1)?.flatten(0, 1)?, columns.len())
    }

    /// Creates a cross grid: one image to the left of each row, one above each column, and in
    /// each cell the result of combining both.
    ///
    /// `cells` is (rows · columns, 3 or 1, height, width), row by row. The first column is one
    /// group, all other columns are the second.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use invariances_figure::ImageGrid;
    /// let images = |n: usize| Tensor::zeros((n, 3, 8, 8), DType::F32, &Device::Cpu);
    /// ImageGrid::cross(&images(2)?, &images(3)?, &images(6)?)?.column_labels(["v of", "z of"]).figure()?;
    /// # Ok::<(), invariances_figure::Error>(())
    /// ```
    ///
    /// # Errors
    /// Same as [`ImageGrid::new`]; [`Error::Shape`] if `cells` does not have rows · columns
    /// images of the rows' shape.
    pub fn cross(rows: &Tensor, columns: &Tensor, cells: &Tensor) -> Result<Self> {
        let (down, channels, h, w) = rows.dims4()?;
        let across = columns.dims4()?.0;
        if cells.dims() != [down * across, channels, h, w] {
            return Err(Error::shape(format!(
                "expected {} cells of shape {channels}×{h}×{w} for a cross of {down} rows and {across} columns, found {:?}",
                down * across,
                cells.dims()
            )));
        }
        // White, the background colour of the page.
        let corner = Tensor::ones((1, channels, h, w), rows.dtype(), rows.device())?;
        let mut tiles = vec![corner, columns.clone()];
        for row in 0..down {
            tiles.push(rows.narrow(0, row, 1)?);
            tiles.push(cells.narrow(0, row * across, across)?);
        }
        Ok(Self::new(&Tensor::cat(&tiles, 0)?, across + 1)?.groups([1, across]))
    }

    /// Groups columns. `sizes` are the numbers of columns per group, from left to right; a gap
    /// separates the groups.
    pub fn groups(mut self, sizes: impl IntoIterator<Item = usize>) -> Self {
        self.groups = sizes.into_iter().collect();
        self
    }

    /// Sets a label above every column, or above every group of columns.
    pub fn column_labels<I: IntoIterator<Item: ToString>>(mut self, labels: I) -> Self {
        self.column_labels = texts(labels);
        self
    }

    /// Sets a label to the left of every row.
    pub fn row_labels<I: IntoIterator<Item: ToString>>(mut self, labels: I) -> Self {
        self.row_labels = texts(labels);
        self
    }

    /// Sets a title above the grid.
    pub fn title(mut self, title: &str) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Sets a text below the grid.
    pub fn caption(mut self, caption: &str) -> Self {
        self.caption = Some(caption.into());
        self
    }

    /// Draws a frame around these images (their indices, row by row from 0) and explains it below
    /// the grid.
    ///
    /// Use it, for example, for images that an independent classifier assigns to another class.
    /// The method can be called again for other images: each call uses another colour of the
    /// palette.
    pub fn mark(mut self, images: impl IntoIterator<Item = usize>, meaning: &str) -> Self {
        // The first two colours of the palette are swapped: the first mark usually shows errors.
        let colour = Colour::palette(match self.marks.len() {
            0 => 1,
            1 => 0,
            n => n,
        });
        self.marks
            .push((images.into_iter().collect(), colour, meaning.into()));
        self
    }

    /// Sets the side of the square that one pixel becomes, in logical pixels. Default: chosen
    /// from the grid's size.
    pub fn magnify(mut self, factor: usize) -> Self {
        self.magnify = Some(factor);
        self
    }

    /// Draws the grid.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the groups, labels or marks do not fit the grid, or for a
    /// magnification of 0.
    pub fn figure(&self) -> Result<Figure> {
        self.check()?;
        let rows = self.images.len() / self.columns;
        let (w, h) = (self.images[0].width as f64, self.images[0].height as f64);
        let groups = self.groups.len() as f64;
        let gap = if self.marks.is_empty() { 2.0 } else { 6.0 };
        let columns = self.columns as f64;

        // Rounded down to half logical pixels, which are whole pixels in a notebook's figure.
        let room = WIDTH - (groups - 1.0) * GROUP - (columns - groups) * gap;
        let fits = (room / columns / w).min(SIDE / w.max(h));
        let factor = match self.magnify {
            Some(f) => f as f64,
            None if fits >= 1.0 => fits.floor(),
            None => ((fits * 2.0).floor() / 2.0).max(0.5),
        };
        let (cell_w, cell_h) = (w * factor, h * factor);

        let label_width = |t: &String| font::width(Face::Regular, LABEL, t);
        let row_label = self.row_labels.iter().map(label_width).fold(0.0, f64::max);
        let left = MARGIN
            + if row_label > 0.0 {
                (row_label + 8.0).ceil()
            } else {
                0.0
            };

        // The left edge of every column, and both edges of every group.
        let mut x = left;
        let mut column_x = Vec::with_capacity(self.columns);
        let mut spans = Vec::with_capacity(self.groups.len());
        for (g, size) in self.groups.iter().enumerate() {
            if g > 0 {
                x += GROUP;
            }
            let start = x;
            for c in 0..*size {
                x += if c > 0 { gap } else { 0.0 };
                column_x.push(x);
                x += cell_w;
            }
            spans.push((start, x));
        }
        let right = x;
        let by_column: Vec<(f64, f64)> = column_x.iter().map(|x| (*x, x + cell_w)).collect();
        let by_group = self.column_labels.len() == spans.len();
        let label_spans = if by_group { &spans } else { &by_column };
        let slack = if by_group { GROUP } else { gap } - 3.0;

        // A label that is wider than its column is broken into lines or set in a smaller size.
        let mut headings: Vec<(Vec<String>, f64)> = self
            .column_labels
            .iter()
            .zip(label_spans)
            .map(|(label, (from, to))| heading(label, (to - from + slack).max(12.0)))
            .collect();
        let smallest = headings.iter().map(|(_, size)| *size).fold(LABEL, f64::min);
        if smallest >= 0.8 * LABEL {
            // All labels get the smaller size: a single smaller label would look like a mistake.
            headings.iter_mut().for_each(|(_, size)| *size = smallest);
        }
        let heading_lines = headings.iter().map(|(l, _)| l.len()).max().unwrap_or(0);

        let notes = self.notes_below();
        let widest = notes
            .iter()
            .map(|(_, t)| font::width(Face::Regular, SMALL, t) + 16.0);
        let caption_room = (right - left).max(360.0);
        let caption = self.caption.as_ref();
        let caption = caption.map_or(Vec::new(), |c| {
            font::wrap(Face::Regular, SMALL, c, caption_room)
        });
        let caption_width = caption.iter().map(|l| font::width(Face::Regular, SMALL, l));
        let title_width = self.title.iter().map(|t| font::width(Face::Bold, TITLE, t));
        let content = widest
            .chain(caption_width)
            .chain(title_width)
            .fold(right - left, f64::max);

        let mut y = MARGIN;
        let title_y = y + TITLE * 0.8;
        if self.title.is_some() {
            y += TITLE + 10.0;
        }
        let heading_y = y;
        if heading_lines > 0 {
            y += (heading_lines as f64 * LABEL * 1.2 + 3.0).ceil();
        }
        let top = y;
        y += rows as f64 * (cell_h + gap) - gap;
        let bottom = y;
        let lines = (notes.len() + caption.len()) as f64;
        if lines > 0.0 {
            y += 8.0 + (lines * SMALL * LEADING).ceil();
        }
        let mut canvas = Canvas::new(left + content + MARGIN, y + MARGIN);

        if let Some(title) = &self.title {
            canvas.text(
                [left, title_y],
                Anchor::Start,
                Face::Bold,
                TITLE,
                Colour::INK,
                title,
            );
        }
        for ((lines, size), (from, to)) in headings.iter().zip(label_spans) {
            let lift = (heading_lines - lines.len()) as f64;
            for (i, line) in lines.iter().enumerate() {
                let y = heading_y + (lift + i as f64) * LABEL * 1.2 + LABEL * 0.85;
                let middle = [(from + to) / 2.0, y];
                canvas.text(
                    middle,
                    Anchor::Middle,
                    Face::Regular,
                    *size,
                    Colour::GREY,
                    line,
                );
            }
        }
        for row in 0..rows {
            let y = top + row as f64 * (cell_h + gap);
            if let Some(label) = self.row_labels.get(row) {
                let at = [left - 8.0, y + cell_h / 2.0 + LABEL * 0.36];
                canvas.text(at, Anchor::End, Face::Regular, LABEL, Colour::GREY, label);
            }
            for (column, x) in column_x.iter().enumerate() {
                let number = row * self.columns + column;
                if let Some(image) = self.images.get(number) {
                    canvas.image([*x, y, cell_w, cell_h], image.clone());
                }
                let marks = self.marks.iter().filter(|(m, _, _)| m.contains(&number));
                for (_, colour, _) in marks.take(1) {
                    let frame = [x - 1.5, y - 1.5, cell_w + 3.0, cell_h + 3.0];
                    canvas.rounded(frame, 0.0, None, Some((*colour, 2.0)));
                }
            }
        }
        let mut y = bottom + 8.0 + SMALL * 0.9;
        for (colour, text) in &notes {
            let swatch = [left + 1.0, y - SMALL * 0.75, 8.0, 8.0];
            canvas.rounded(swatch, 0.0, None, Some((*colour, 2.0)));
            canvas.text(
                [left + 16.0, y],
                Anchor::Start,
                Face::Regular,
                SMALL,
                Colour::GREY,
                text,
            );
            y += SMALL * LEADING;
        }
        for line in &caption {
            canvas.text(
                [left, y],
                Anchor::Start,
                Face::Regular,
                SMALL,
                Colour::GREY,
                line,
            );
            y += SMALL * LEADING;
        }
        Figure::new(canvas, self.title.as_deref().unwrap_or("images"))
    }

    fn notes_below(&self) -> Vec<(Colour, String)> {
        let marks = self
            .marks
            .iter()
            .filter(|(_, _, meaning)| !meaning.is_empty());
        marks.map(|(_, c, meaning)| (*c, meaning.clone())).collect()
    }

    fn check(&self) -> Result<()> {
        let rows = self.images.len() / self.columns;
        let total: usize = self.groups.iter().sum();
        if total != self.columns || self.groups.contains(&0) {
            return Err(Error::invalid(format!(
                "expected group sizes of at least 1 that add up to {} columns, found {:?} with {total} columns",
                self.columns, self.groups
            )));
        }
        let labels = self.column_labels.len();
        if labels != 0 && labels != self.columns && labels != self.groups.len() {
            return Err(Error::invalid(format!(
                "expected one label for each column or for each group, found {labels} column labels for {} columns in {} groups",
                self.columns,
                self.groups.len()
            )));
        }
        let labels = self.row_labels.len();
        if labels != 0 && labels != rows {
            return Err(Error::invalid(format!(
                "expected one label for each row, found {labels} row labels for {rows} rows"
            )));
        }
        if let Some(beyond) = self
            .marks
            .iter()
            .flat_map(|m| &m.0)
            .find(|i| **i >= self.images.len())
        {
            return Err(Error::invalid(format!(
                "cannot mark image {beyond}: the grid has {} images, counted from 0",
                self.images.len()
            )));
        }
        if self.magnify == Some(0) {
            return Err(Error::invalid(
                "expected a magnification of at least 1, found 0",
            ));
        }
        Ok(())
    }
}

/// Fits a column's label into its width: on one line, in several lines, or in a smaller size.
pub(super) fn heading(label: &str, room: f64) -> (Vec<String>, f64) {
    if font::width(Face::Regular, LABEL, label) <= room {
        return (vec![label.into()], LABEL);
    }
    let lines = font::wrap(Face::Regular, LABEL, label, room);
    let widest = lines
        .iter()
        .map(|l| font::width(Face::Regular, LABEL, l))
        .fold(0.0, f64::max);
    (lines, (LABEL * (room / widest).min(1.0)).max(6.0))
}

/// Returns the number of images per batch, after a check that all batches have the same shape.
fn first_dimension(batches: &[Tensor]) -> Result<usize> {
    let shapes: Vec<&[usize]> = batches.iter().map(Tensor::dims).collect();
    match shapes.first() {
        Some(first) if shapes.iter().all(|s| s == first) => Ok(first.first().copied().unwrap_or(0)),
        _ => Err(Error::shape(format!(
            "expected rows or columns of the same shape (images, 3, height, width), found {shapes:?}"
        ))),
    }
}

/// Converts images (n, 3 or 1, height, width) in [-1, 1] to 8-bit pixels.
pub(crate) fn pixels(images: &Tensor) -> Result<Vec<Arc<Pixels>>> {
    let (n, channels, height, width) = match *images.dims() {
        [n, c @ (1 | 3), h, w] if h > 0 && w > 0 => (n, c, h, w),
        _ => {
            return Err(Error::shape(format!(
                "expected images of shape (number, 1 or 3 channels, height, width), found {:?}",
                images.dims()
            )));
        }
    };
    let values = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
    let plane = height * width;
    let mut all = Vec::with_capacity(n);
    for (i, image) in values.chunks_exact(channels * plane).enumerate() {
        if let Some(v) = image.iter().find(|v| v.is_nan()) {
            return Err(Error::invalid(format!(
                "expected images without NaN, found {v} in image {i}: check for a step size that is too large or a division by 0"
            )));
        }
        let byte = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        let rgb = (0..plane)
            .flat_map(|p| {
                (0..3).map(move |c| byte(image[if channels == 3 { c * plane + p } else { p }]))
            })
            .collect();
        all.push(Arc::new(Pixels { width, height, rgb }));
    }
    Ok(all)
}
