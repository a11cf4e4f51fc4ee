//! Figures: image grids, charts, the paper's overview; PNG, SVG and a notebook's page from one drawing.
//!
//! Every figure is a [`Figure`], which shows itself as a cell's last expression, is saved as PNG or
//! SVG, and carries the configuration that made it in the file. Lengths are logical pixels (1/96 inch).

mod axes;
mod bars;
mod canvas;
mod chart;
mod font;
mod grid;
mod heat;
mod histogram;
mod html;
mod overview;
mod panel;
mod plot;
mod png;
mod raster;
mod style;
mod svg;
mod table;

pub use bars::Bars;
pub use chart::Chart;
pub use grid::ImageGrid;
pub use heat::heat;
pub use histogram::Histogram;
pub(crate) use html::show;
pub use overview::Overview;
pub use panel::Panel;
pub use plot::Plot;
pub use style::Colour;
pub(crate) use svg::escape;
pub use table::Table;

use crate::ops::files::write_atomic;
use crate::{Error, Result};
use base64::Engine as _;
use canvas::Canvas;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The pixels per logical pixel of a notebook's figures.
const SCALE: f64 = 2.0;
/// No side of a picture is longer, in pixels: beyond it lie mistakes, and memory.
const LONGEST: f64 = 16_384.0;

/// A finished drawing. Cheap to clone.
///
/// ```
/// use invariances::figure::Chart;
/// let figure = Chart::new("Loss").line("train", &[1.0, 2.0, 3.0], &[3.0, 2.0, 1.5]).figure()?;
/// let figure = figure.note("seed", 7);
/// assert!(figure.svg()?.contains("seed"));
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    canvas: Arc<Canvas>,
    title: String,
    notes: BTreeMap<String, String>,
}

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
        let notes = [("version".to_string(), crate::VERSION.to_string())].into();
        Ok(Self {
            canvas: Arc::new(canvas),
            title: title.into(),
            notes,
        })
    }

    /// Width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.canvas.width as u32, self.canvas.height as u32)
    }

    /// What the figure is called.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The same figure with an entry of its configuration added, which every file of it carries.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut figure = self.clone();
        figure.notes.insert(key.into(), value.to_string());
        figure
    }

    /// The configuration: what was added by [`Figure::note`], and the crate's version.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The bytes of a PNG file with `scale` pixels per logical pixel (2 is what a notebook shows;
    /// 300 dots per inch are 3.125). The configuration is the iTXt chunk `invariances`, as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scale that gives no pixels or too many.
    pub fn png(&self, scale: f64) -> Result<Vec<u8>> {
        let longest = self.canvas.width.max(self.canvas.height) * scale;
        if scale.is_nan() || scale < 0.1 || longest > LONGEST {
            return Err(Error::invalid(format!(
                "a PNG's scale must be at least 0.1 and give at most {LONGEST} pixels a side, found {scale} \
                 for a figure of {} × {}",
                self.canvas.width, self.canvas.height
            )));
        }
        let pixels = raster::draw(&self.canvas, scale);
        let software = format!("invariances {}", crate::VERSION);
        let texts = [
            ("Title", self.title.as_str()),
            ("Software", software.as_str()),
            ("invariances", &self.configuration()),
        ];
        png::encode(&pixels, Some(scale * 96.0), &texts)
    }

    /// The text of an SVG file. The configuration is the `metadata` element, as JSON.
    pub fn svg(&self) -> Result<String> {
        svg::draw(&self.canvas, &self.title, &self.configuration())
    }

    /// Writes the figure, as PNG or SVG by the path's ending; the file is whole or not there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another ending, [`Error::Io`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "png" => write_atomic(path, &self.png(SCALE)?),
            "svg" => write_atomic(path, self.svg()?.as_bytes()),
            _ => Err(Error::invalid(format!(
                "a figure is saved as .png or .svg, found {}",
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
