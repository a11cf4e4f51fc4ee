//! Figures for notebooks and papers: image grids, charts, heat maps, tables, the overview of the
//! method.
//!
//! Every drawing is a [`Figure`]. A notebook shows it when it is the last expression of a cell, or
//! where a cell calls `figure.display().show()`. [`Figure::save`] writes it as PNG, SVG or PDF at a
//! paper's [`Width`], or the numbers behind it as CSV. All formats are made from the same drawing,
//! and PNG, SVG and PDF files contain the configuration that made the figure. Lengths are logical
//! pixels (1/96 inch).
//!
//! `display.rs` writes what a cell shows, in several forms ([`Display`]), and `progress.rs` a bar
//! that moves in place ([`ProgressBar`]).
//!
//! [`Figure::pdf`] is written by `pdf.rs`, with the fonts in `crates/figure/fonts/` (Inter, and Noto
//! Sans Math for signs that Inter lacks). `font.rs` chooses the font of each character, `fallback.rs`
//! finds other fonts for characters that these lack, and `embed.rs` embeds the glyphs that are used.

#![forbid(unsafe_code)]

mod axes;
mod axis;
mod backend;
mod bars;
mod boxes;
mod canvas;
mod chart;
mod display;
mod embed;
mod estimate;
mod explorer;
mod fallback;
mod film;
mod font;
mod fontfile;
mod grid;
mod heat;
mod heatmap;
mod histogram;
mod missing;
mod overview;
mod panel;
mod pdf;
mod plot;
mod png;
mod progress;
mod raster;
mod style;
mod svg;
mod table;
mod width;

pub use bars::Bars;
pub use boxes::Boxes;
pub use chart::Chart;
pub use display::{Display, DisplayHandle};
pub use estimate::Estimate;
pub use explorer::Explorer;
pub use fallback::add_font;
pub use film::Film;
pub use grid::ImageGrid;
pub use heat::heat;
pub use heatmap::HeatMap;
pub use histogram::Histogram;
pub use overview::Overview;
pub use panel::Panel;
pub use plot::Plot;
pub use progress::ProgressBar;
pub use style::Colour;
pub use svg::escape;
pub use table::{Table, escape_markdown};
pub use width::Width;

use invariances_core::files::write_atomic;
pub use invariances_core::{Error, Result};

use base64::Engine as _;
use canvas::Canvas;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The crate's version, stored in every figure.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Pixels per logical pixel in a notebook's figures.
const SCALE: f64 = 2.0;

/// Notebooks show a figure with images as JPEG if its PNG has more bytes than this.
const LARGE: usize = 75_000;

/// The quality of such a JPEG, of at most 100.
const QUALITY: u8 = 90;
/// Largest side of a picture in pixels. A larger size is most likely a mistake and needs too much
/// memory.
const LONGEST: f64 = 16_384.0;

/// A finished drawing. Cheap to clone.
///
/// ```
/// use invariances_figure::Chart;
/// let figure = Chart::new("Loss").line("train", &[1.0, 2.0, 3.0], &[3.0, 2.0, 1.5]).figure()?;
/// let figure = figure.note("seed", 7);
/// assert!(figure.svg()?.contains("seed"));
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Figure {
    canvas: Arc<Canvas>,
    title: String,
    notes: BTreeMap<String, String>,
    width: Option<Width>,
    dpi: f64,
    /// The numbers behind the drawing: a header, then rows. Empty for images.
    numbers: Arc<Vec<Vec<String>>>,
    /// The titles of the figures that a panel combines.
    parts: Arc<Vec<String>>,
}

/// Prints the title and the size, not the pixels: a figure that a cell shows as text stays short.
impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size();
        write!(f, "Figure({:?}, {width} × {height})", self.title)
    }
}

/// Default resolution of a PNG at a width on paper, in dots per inch.
const DPI: f64 = 300.0;
/// Largest page width in points, a limit of the PDF format.
const WIDEST: f64 = 14_400.0;

impl Figure {
    fn new(canvas: Canvas, title: &str) -> Result<Self> {
        font::register_with_plotters();
        let longest = canvas.width.max(canvas.height) * SCALE;
        if longest.is_nan() || longest > LONGEST {
            return Err(Error::invalid(format!(
                "expected a figure of at most {LONGEST} pixels per side, found {longest}: \
                 show fewer or smaller images"
            )));
        }
        let mut notes: BTreeMap<String, String> =
            [("version".to_string(), crate::VERSION.to_string())].into();
        let fonts = canvas.other_fonts();
        if !fonts.is_empty() {
            notes.insert("fonts".into(), fonts.join(", "));
        }
        missing::report(&canvas);
        Ok(Self {
            canvas: Arc::new(canvas),
            title: title.into(),
            notes,
            width: None,
            dpi: DPI,
            numbers: Arc::default(),
            parts: Arc::default(),
        })
    }

    /// Returns the figure together with the numbers that it shows.
    fn with_numbers(mut self, numbers: Vec<Vec<String>>) -> Self {
        self.numbers = Arc::new(numbers);
        self
    }

    /// Returns the figure with a width on paper, used for the files that [`Figure::save`] writes.
    ///
    /// The whole figure is scaled to this width, including its text: check
    /// [`Figure::smallest_text`]. The display in a notebook does not change.
    ///
    /// ```
    /// use invariances_figure::{Chart, Width};
    /// let figure = Chart::new("").line("train", &[1.0, 2.0, 3.0], &[3.0, 2.0, 1.5]).size(312, 200).figure()?;
    /// let figure = figure.width(Width::Single);
    /// assert!((figure.smallest_text().unwrap() - 7.9).abs() < 0.1);
    /// assert!(figure.pdf()?.starts_with(b"%PDF-1.7"));
    /// # Ok::<(), invariances_figure::Error>(())
    /// ```
    pub fn width(&self, width: Width) -> Self {
        Self {
            width: Some(width),
            ..self.clone()
        }
    }

    /// Returns the figure with another resolution, in dots per inch. It is used when the figure
    /// is saved as PNG at a width on paper. Default: 300.
    pub fn dpi(&self, dpi: f64) -> Self {
        Self {
            dpi,
            ..self.clone()
        }
    }

    /// Returns the width on paper in points (1/72 inch): the width set by [`Figure::width`],
    /// otherwise the figure's width in logical pixels (1/96 inch) converted to points.
    fn points(&self) -> Result<f64> {
        let points = match self.width {
            Some(width) => width.points(),
            None => pdf::natural_width(&self.canvas),
        };
        if !(1.0..=WIDEST).contains(&points) {
            return Err(Error::invalid(format!(
                "expected a width on paper of 1 to {WIDEST} points (1/72 inch), found {points}"
            )));
        }
        Ok(points)
    }

    /// Returns the size in points of the smallest text at the figure's width on paper. Returns
    /// `None` if the figure has no text or the width is invalid. Conferences require 6 to 8
    /// points or more.
    pub fn smallest_text(&self) -> Option<f64> {
        let scale = self.points().ok()? / self.canvas.width;
        let sizes = self.canvas.items.iter().filter_map(|i| match &i.shape {
            canvas::Shape::Text { size, .. } => Some(size * scale),
            _ => None,
        });
        sizes.min_by(f64::total_cmp)
    }

    /// Returns the bytes of a PDF file with one page, at the figure's width on paper.
    ///
    /// Shapes are vectors, the glyphs used by the figure are embedded, and images are stored
    /// pixel by pixel. The configuration is stored as JSON in the entry `invariances` of the
    /// document's information.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width on paper outside 1 to 14,400 points.
    pub fn pdf(&self) -> Result<Vec<u8>> {
        let points = self.points()?;
        pdf::draw(&self.canvas, points, &self.title, &self.configuration())
    }

    /// Returns the numbers behind the figure as the text of a CSV file. The first row is the
    /// header.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a figure without numbers: an image grid, an overview, or a
    /// drawing of [`Figure::plot`].
    pub fn csv(&self) -> Result<String> {
        if self.numbers.is_empty() {
            return Err(Error::unsupported(format!(
                "the figure {:?} has no numbers to save as CSV: only charts, bars, boxes and histograms have numbers",
                self.title
            )));
        }
        Ok(table::csv(&self.numbers))
    }

    /// Returns whether the figure has numbers for [`Figure::csv`].
    pub fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Returns width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.canvas.width as u32, self.canvas.height as u32)
    }

    /// Returns the figure's title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns the characters of the figure's text that no font has, in order of their code
    /// points. Every format shows a box instead of such a character. See [`add_font`].
    ///
    /// ```
    /// use invariances_figure::Chart;
    /// let chart = |title| Chart::new(title).line("loss", &[1.0, 2.0], &[3.0, 2.0]).figure();
    /// assert!(chart("Loss of z̄, ά and ß")?.missing_characters().is_empty());
    /// assert_eq!(chart("a\u{10fffd}b")?.missing_characters(), ['\u{10fffd}']);
    /// # Ok::<(), invariances_figure::Error>(())
    /// ```
    pub fn missing_characters(&self) -> Vec<char> {
        self.canvas.missing_characters().into_iter().collect()
    }

    /// Returns the figure with an entry added to its configuration, which every PNG, SVG and PDF
    /// file of the figure contains.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut figure = self.clone();
        figure.notes.insert(key.into(), value.to_string());
        figure
    }

    /// Returns the configuration: the entries added by [`Figure::note`], the crate's version, and
    /// as `fonts` the families used for characters that the shipped fonts lack.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// Returns the bytes of a PNG file with `scale` pixels per logical pixel.
    ///
    /// A notebook shows 2 pixels per logical pixel; 300 dots per inch are 3.125. The
    /// configuration is stored as JSON in the iTXt chunk `invariances`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scale below 0.1, or one that gives more than 16,384 pixels a
    /// side.
    pub fn png(&self, scale: f64) -> Result<Vec<u8>> {
        Self {
            width: None,
            ..self.clone()
        }
        .png_at(scale)
    }

    /// Same as [`Figure::png`], but the resolution stored in the file is that at the width on
    /// paper.
    fn png_at(&self, scale: f64) -> Result<Vec<u8>> {
        self.check_scale(scale)?;
        let pixels = raster::draw(&self.canvas, scale);
        let software = format!("invariances {}", crate::VERSION);
        let texts = [
            ("Title", self.title.as_str()),
            ("Software", software.as_str()),
            ("invariances", &self.configuration()),
        ];
        let inches = self.points()? / 72.0;
        let density = Some(scale * self.canvas.width / inches);
        png::encode(&pixels, !self.has_images(), density, &texts)
    }

    fn check_scale(&self, scale: f64) -> Result<()> {
        let longest = self.canvas.width.max(self.canvas.height) * scale;
        if scale.is_nan() || scale < 0.1 || longest > LONGEST {
            return Err(Error::invalid(format!(
                "expected a PNG scale of at least 0.1 that gives at most {LONGEST} pixels per side, found {scale} \
                 for a figure of {} × {}",
                self.canvas.width, self.canvas.height
            )));
        }
        Ok(())
    }

    /// Returns the text of an SVG file. The configuration is stored as JSON in the `metadata`
    /// element.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width on paper outside 1 to 14,400 points.
    pub fn svg(&self) -> Result<String> {
        let points = self.width.map(|_| self.points()).transpose()?;
        svg::draw(&self.canvas, points, &self.title, &self.configuration())
    }

    /// Writes the figure to a file. The path's extension selects the format: `.png`, `.svg`,
    /// `.pdf`, or `.csv` for the numbers behind the figure.
    ///
    /// The file is written atomically: it is never left incomplete. A PNG has two pixels per
    /// logical pixel, or the resolution of [`Figure::dpi`] if [`Figure::width`] is set.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another extension; the errors of [`Figure::png`],
    /// [`Figure::svg`], [`Figure::pdf`] and [`Figure::csv`]; [`Error::Io`] if the file cannot be
    /// written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "png" => {
                let scale = match self.width {
                    Some(_) => self.points()? / 72.0 * self.dpi / self.canvas.width,
                    None => SCALE,
                };
                write_atomic(path, &self.png_at(scale)?)
            }
            "svg" => write_atomic(path, self.svg()?.as_bytes()),
            "pdf" => write_atomic(path, &self.pdf()?),
            "csv" => write_atomic(path, self.csv()?.as_bytes()),
            _ => Err(Error::unsupported(format!(
                "expected a file name that ends in .png, .svg, .pdf or (for its numbers) .csv, found {}",
                path.display()
            ))),
        }
    }

    /// Returns the figure as an HTML element that needs no other file.
    ///
    /// # Errors
    /// Same as [`Figure::png`].
    pub fn html(&self) -> Result<String> {
        let data = base64::engine::general_purpose::STANDARD.encode(self.png(SCALE)?);
        Ok(format!(
            "<img width=\"{}\" style=\"max-width:100%;height:auto\" alt=\"{}\" src=\"data:image/png;base64,{data}\">",
            self.canvas.width,
            escape(&self.title)
        ))
    }

    /// Returns the figure as a notebook shows it: a PNG with two pixels per logical pixel, and a
    /// description as plain text. A figure with images whose PNG is larger than 75 kB is a JPEG
    /// there if that is smaller, so that notebooks stay small. Saved files are PNG.
    ///
    /// ```
    /// use invariances_figure::Chart;
    /// let figure = Chart::new("Loss").line("train", &[1.0, 2.0], &[3.0, 2.0]).figure()?;
    /// let display = figure.display();
    /// display.show();
    /// assert_eq!(display.form("text/plain"), Some("Loss\nFigure, 420 × 280 pixels: train"));
    /// # Ok::<(), invariances_figure::Error>(())
    /// ```
    pub fn display(&self) -> Display {
        let text = format!("{}\n{}", self.title, self.description());
        self.shown(Display::new(text.trim_start()), SCALE)
    }

    /// Adds the figure to a display, as PNG or JPEG with `scale` pixels per logical pixel.
    pub(crate) fn shown(&self, display: Display, scale: f64) -> Display {
        let (width, alt) = (self.size().0, self.alternative());
        let png = self.png(scale);
        if let Ok(file) = &png
            && file.len() > LARGE
            && self.has_images()
            && let Ok(jpeg) = png::jpeg(&raster::draw(&self.canvas, scale), QUALITY)
            && jpeg.len() < file.len()
        {
            return display.image("image/jpeg", Ok(jpeg), width, &alt);
        }
        display.png(png, width, &alt)
    }

    fn has_images(&self) -> bool {
        let is_image = |item: &canvas::Item| matches!(item.shape, canvas::Shape::Image { .. });
        self.canvas.items.iter().any(is_image)
    }

    /// Shows the figure in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        self.display().show();
    }

    /// Returns the title, or a description of a figure without a title.
    fn alternative(&self) -> String {
        match self.title.trim() {
            "" => self.description(),
            title => title.to_string(),
        }
    }

    /// Returns size, panels and names of the data in one line.
    fn description(&self) -> String {
        const MOST: usize = 12;
        let (width, height) = self.size();
        let mut text = format!("Figure, {width} × {height} pixels");
        // The first column of the numbers has the names of lines, series or rows.
        let column = self.numbers.iter().skip(1).filter_map(|row| row.first());
        let names: Vec<&String> = match self.parts.is_empty() {
            true => column.collect(),
            false => self.parts.iter().collect(),
        };
        let mut shown: Vec<&str> = Vec::new();
        for name in names {
            let name = name.trim();
            if shown.len() <= MOST && !name.is_empty() && !shown.contains(&name) {
                shown.push(name);
            }
        }
        if !self.parts.is_empty() {
            text += &format!(", {} panels", self.parts.len());
        }
        let more = if shown.len() > MOST { "; …" } else { "" };
        shown.truncate(MOST);
        if !shown.is_empty() {
            text += &format!(": {}{more}", shown.join("; "));
        }
        text
    }

    fn configuration(&self) -> String {
        serde_json::json!(self.notes).to_string()
    }
}

/// Converts values to the numbers that a chart draws.
fn numbers<T: Into<f64> + Copy>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| (*v).into()).collect()
}

/// Converts items to strings.
fn texts<I: IntoIterator>(items: I) -> Vec<String>
where
    I::Item: ToString,
{
    items.into_iter().map(|t| t.to_string()).collect()
}

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
