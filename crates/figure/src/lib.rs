//! Figures: image grids, charts, the paper's overview; PNG, SVG, PDF and a notebook's page from one drawing.
//!
//! Every figure is a [`Figure`], which shows itself as a cell's last expression, is saved as PNG, SVG or PDF at a paper's [`Width`] (and the numbers
//! behind it as CSV), and carries the configuration that made it in the file. Lengths are logical pixels (1/96 inch).

mod axes;
mod bars;
mod canvas;
mod chart;
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
mod html;
mod missing;
mod overview;
mod panel;
mod pdf;
mod plot;
mod png;
mod raster;
mod style;
mod svg;
mod table;
mod width;

pub use bars::Bars;
pub use chart::Chart;
pub use estimate::Estimate;
pub use explorer::Explorer;
pub use fallback::add_font;
pub use film::Film;
pub use grid::ImageGrid;
pub use heat::heat;
pub use heatmap::HeatMap;
pub use histogram::Histogram;
pub use html::show;
pub use overview::Overview;
pub use panel::Panel;
pub use plot::Plot;
pub use style::Colour;
pub use svg::escape;
pub use table::Table;
pub use width::Width;

use invariances_core::files::write_atomic;
pub use invariances_core::{Error, Result};

use base64::Engine as _;
use canvas::Canvas;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The crate's version, kept with everything that is drawn.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The pixels per logical pixel of a notebook's figures.
const SCALE: f64 = 2.0;
/// No side of a picture is longer, in pixels: beyond it lie mistakes, and memory.
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
    /// The numbers behind the drawing, a header and rows; empty for images.
    numbers: Arc<Vec<Vec<String>>>,
}

/// Without its pixels: where a cell shows a figure as text, it should stay short.
impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size();
        write!(f, "Figure({:?}, {width} × {height})", self.title)
    }
}

/// The dots per inch of a PNG on paper, unless others are asked for.
const DPI: f64 = 300.0;
/// No page is wider, in points: PDF ends there.
const WIDEST: f64 = 14_400.0;

impl Figure {
    fn new(canvas: Canvas, title: &str) -> Result<Self> {
        font::register_with_plotters();
        let longest = canvas.width.max(canvas.height) * SCALE;
        if longest.is_nan() || longest > LONGEST {
            return Err(Error::invalid(format!(
                "a figure may have at most {LONGEST} pixels a side, this one would have {longest}: \
                 show fewer images, or smaller ones"
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
        })
    }

    /// The same figure, with the numbers that it shows.
    fn with_numbers(mut self, numbers: Vec<Vec<String>>) -> Self {
        self.numbers = Arc::new(numbers);
        self
    }

    /// The same figure at a width on paper, for the files that [`Figure::save`] writes: everything in it, its text too, is scaled to that, so look at
    /// [`Figure::smallest_text`]. How a notebook shows it stays.
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

    /// The same figure with other dots per inch where it is saved as PNG at a width on paper; 300 otherwise.
    pub fn dpi(&self, dpi: f64) -> Self {
        Self {
            dpi,
            ..self.clone()
        }
    }

    /// The width on paper in points (1/72 inch): that of [`Figure::width`], else that of the figure's logical pixels.
    fn points(&self) -> Result<f64> {
        let points = match self.width {
            Some(width) => width.points(),
            None => pdf::natural_width(&self.canvas),
        };
        if !(1.0..=WIDEST).contains(&points) {
            return Err(Error::invalid(format!(
                "a figure's width on paper is 1 to {WIDEST} points (1/72 inch), found {points}"
            )));
        }
        Ok(points)
    }

    /// The size in points of the smallest text at the figure's width on paper; nothing where it has no text. Conferences ask for 6 to 8 and more.
    pub fn smallest_text(&self) -> Option<f64> {
        let scale = self.points().ok()? / self.canvas.width;
        let sizes = self.canvas.items.iter().filter_map(|i| match &i.shape {
            canvas::Shape::Text { size, .. } => Some(size * scale),
            _ => None,
        });
        sizes.min_by(f64::total_cmp)
    }

    /// The bytes of a PDF file of one page, at the figure's width on paper: vectors, the glyphs that it shows embedded, images pixel by pixel. The
    /// configuration is the entry `invariances` of the document's information, as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width that is no paper's.
    pub fn pdf(&self) -> Result<Vec<u8>> {
        let points = self.points()?;
        pdf::draw(&self.canvas, points, &self.title, &self.configuration())
    }

    /// The numbers behind the figure as the text of a CSV file, a header first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a figure of images, or one that was drawn otherwise.
    pub fn csv(&self) -> Result<String> {
        if self.numbers.is_empty() {
            return Err(Error::invalid(format!(
                "{:?} has no numbers to save: charts, bars and histograms have",
                self.title
            )));
        }
        Ok(table::csv(&self.numbers))
    }

    /// Whether [`Figure::csv`] has something to tell.
    pub fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.canvas.width as u32, self.canvas.height as u32)
    }

    /// What the figure is called.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The characters of the figure's text that no font has, in order: boxes stand for them in every
    /// format. See [`add_font`].
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

    /// The same figure with an entry of its configuration added, which every file of it carries.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut figure = self.clone();
        figure.notes.insert(key.into(), value.to_string());
        figure
    }

    /// The configuration: what was added by [`Figure::note`], the crate's version, and as `fonts` the
    /// families of the characters that the shipped font lacks.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The bytes of a PNG file with `scale` pixels per logical pixel (2 is what a notebook shows;
    /// 300 dots per inch are 3.125). The configuration is the iTXt chunk `invariances`, as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scale that gives no pixels or too many.
    pub fn png(&self, scale: f64) -> Result<Vec<u8>> {
        Self {
            width: None,
            ..self.clone()
        }
        .png_at(scale)
    }

    /// As [`Figure::png`], and the dots per inch that the file names are those at the width on paper.
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
        let is_image = |item: &canvas::Item| matches!(item.shape, canvas::Shape::Image { .. });
        let drawn = !self.canvas.items.iter().any(is_image);
        let density = Some(scale * self.canvas.width / inches);
        png::encode(&pixels, drawn, density, &texts)
    }

    fn check_scale(&self, scale: f64) -> Result<()> {
        let longest = self.canvas.width.max(self.canvas.height) * scale;
        if scale.is_nan() || scale < 0.1 || longest > LONGEST {
            return Err(Error::invalid(format!(
                "a PNG's scale must be at least 0.1 and give at most {LONGEST} pixels a side, found {scale} \
                 for a figure of {} × {}",
                self.canvas.width, self.canvas.height
            )));
        }
        Ok(())
    }

    /// The text of an SVG file. The configuration is the `metadata` element, as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width that is no paper's.
    pub fn svg(&self) -> Result<String> {
        let points = self.width.map(|_| self.points()).transpose()?;
        svg::draw(&self.canvas, points, &self.title, &self.configuration())
    }

    /// Writes the figure by the path's ending, as PNG, SVG or PDF, or the numbers behind it as CSV; the file is whole or not there. A PNG has two pixels per
    /// logical pixel, or [`Figure::dpi`] at the [`Figure::width`] on paper.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another ending, or as [`Figure::png`], [`Figure::pdf`] and [`Figure::csv`]; [`Error::Io`] where the file cannot be written.
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
            _ => Err(Error::invalid(format!(
                "a figure is saved as .png, .svg, .pdf or, its numbers, .csv, found {}",
                path.display()
            ))),
        }
    }

    /// The figure as an HTML element that needs no other file.
    ///
    /// # Errors
    /// As [`Figure::png`].
    pub fn html(&self) -> Result<String> {
        let data = base64::engine::general_purpose::STANDARD.encode(self.png(SCALE)?);
        Ok(format!(
            "<img width=\"{}\" style=\"max-width:100%;height:auto\" alt=\"{}\" src=\"data:image/png;base64,{data}\">",
            self.canvas.width,
            escape(&self.title)
        ))
    }

    /// Shows the figure in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        html::show(self.html());
    }

    fn configuration(&self) -> String {
        serde_json::json!(self.notes).to_string()
    }
}

/// Numbers a chart can draw.
fn numbers<T: Into<f64> + Copy>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| (*v).into()).collect()
}

/// Things that can be written, as text.
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
