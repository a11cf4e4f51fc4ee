//! An interactive view of many images: one HTML element with a slider per axis.

use super::canvas::Pixels;
use super::grid::pixels;
use super::{Display, Figure, ImageGrid, LONGEST, escape, png, texts};
use crate::{Error, Result};
use base64::Engine as _;
use candle_core::{Device, Tensor};
use invariances_core::files::write_atomic;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Largest side to which an image is enlarged, in logical pixels.
const SIDE: usize = 288;
/// Largest PNG with all images that a page contains, in bytes. Above this size the images are
/// stored as JPEG: otherwise the notebook would be too large to store.
const EXACT: usize = 128 << 10;
/// JPEG quality, at most 100. It keeps the notebook small; images for a paper come from
/// [`Explorer::figure`].
const QUALITY: u8 = 85;
/// The page's script. It draws the image that the sliders select; the pointer moves the first and
/// the last slider.
const SCRIPT: &str = include_str!("explorer.js");

/// Images that a reader explores with one slider per axis (a layer, a sample, a factor of
/// variation).
///
/// The pointer over the image moves the sliders too: its vertical position sets the first axis,
/// its horizontal position the last one. The explorer is one HTML element that needs no server
/// and no other file. It works in JupyterLab, in an executed notebook and in a web page. Where
/// scripts do not run (a notebook that is not trusted), the initial image is shown; exports to
/// LaTeX and PDF contain [`Explorer::figure`]. A page with many images stores them as JPEG;
/// [`Explorer::figure`] uses the exact pixels.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use invariances_figure::Explorer;
/// let images = Tensor::zeros((2 * 3, 3, 16, 16), DType::F32, &Device::Cpu)?;
/// let explorer = Explorer::new(&images)?.axis("layer", ["conv5", "fc6"]).axis("sample", 1..=3);
/// assert!(explorer.html()?.contains("conv5"));
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Explorer {
    images: Vec<Arc<Pixels>>,
    tensor: Tensor,
    axes: Vec<(String, Vec<String>)>,
    /// Axes and their initial places, where these are not the first.
    begin: Vec<(String, String)>,
    title: String,
    notes: BTreeMap<String, String>,
}

impl Explorer {
    /// Creates an explorer of images (n, 3 or 1, height, width) in [−1, 1].
    ///
    /// n is the product of the axes' lengths. The axis that is added last changes fastest.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, [`Error::Invalid`] for NaN values.
    pub fn new(images: &Tensor) -> Result<Self> {
        Ok(Self {
            images: pixels(images)?,
            // On the CPU, so that a figure keeps no memory of a GPU.
            tensor: images.detach().to_device(&Device::Cpu)?,
            axes: Vec::new(),
            begin: Vec::new(),
            title: String::new(),
            notes: [("version".to_string(), crate::VERSION.to_string())].into(),
        })
    }

    /// Adds an axis with its name and the labels of its places (the positions of its slider).
    pub fn axis<I: IntoIterator<Item: ToString>>(mut self, name: &str, places: I) -> Self {
        self.axes.push((name.into(), texts(places)));
        self
    }

    /// Sets the initial place of an axis. A reader sees it first, and [`Explorer::figure`] shows
    /// it for the axes that do not fit into a grid.
    pub fn begin(mut self, axis: &str, place: impl ToString) -> Self {
        self.begin.push((axis.into(), place.to_string()));
        self
    }

    /// Sets the title.
    pub fn title(mut self, title: &str) -> Self {
        self.title = title.into();
        self
    }

    /// Returns the explorer with an entry added to its configuration, which its files contain.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut explorer = self.clone();
        explorer.notes.insert(key.into(), value.to_string());
        explorer
    }

    /// Returns the index of each axis' initial place. The number of images must be the product of
    /// the axes' lengths.
    fn start(&self) -> Result<Vec<usize>> {
        let lengths: Vec<usize> = self.axes.iter().map(|(_, places)| places.len()).collect();
        let wanted = lengths.iter().try_fold(1usize, |n, l| n.checked_mul(*l));
        if lengths.is_empty() || wanted != Some(self.images.len()) || wanted == Some(0) {
            return Err(Error::shape(format!(
                "expected the number of images to be the product of the axis lengths {lengths:?}, found {} images",
                self.images.len()
            )));
        }
        let mut start = vec![0; self.axes.len()];
        for (name, place) in &self.begin {
            let axes = self.axes.iter().zip(&mut start);
            let mut named = axes.filter(|((axis, _), _)| axis == name);
            let Some(((_, places), start)) = named.next() else {
                let names: Vec<&str> = self.axes.iter().map(|(n, _)| n.as_str()).collect();
                return Err(Error::unknown(format!(
                    "no axis {name:?}; the axes are {}",
                    names.join(", ")
                )));
            };
            let found = places.iter().position(|p| p == place);
            *start = found.ok_or_else(|| {
                Error::unknown(format!(
                    "the axis {name:?} has no value {place:?}; its values are {}",
                    places.join(", ")
                ))
            })?;
        }
        Ok(start)
    }

    /// Returns the index of the image at these places.
    fn index(&self, places: &[usize]) -> usize {
        let axes = self.axes.iter().zip(places);
        axes.fold(0, |index, ((_, all), place)| index * all.len() + place)
    }

    /// Combines all images into one picture. Also returns the number of images per row.
    fn atlas(&self) -> Result<(Pixels, usize)> {
        let (w, h) = (self.images[0].width, self.images[0].height);
        let count = self.images.len();
        let columns = (count as f64).sqrt().ceil() as usize;
        let rows = count.div_ceil(columns);
        if (columns * w).max(rows * h) as f64 > LONGEST {
            return Err(Error::invalid(format!(
                "expected at most {LONGEST} pixels per side, found {count} images of {w}×{h} pixels: show fewer or smaller images"
            )));
        }
        let mut rgb = vec![255u8; columns * w * rows * h * 3];
        for (i, image) in self.images.iter().enumerate() {
            let (x, y) = (i % columns * w, i / columns * h);
            for (line, source) in image.rgb.chunks_exact(3 * w).enumerate() {
                let at = ((y + line) * columns * w + x) * 3;
                rgb[at..at + 3 * w].copy_from_slice(source);
            }
        }
        let (width, height) = (columns * w, rows * h);
        Ok((Pixels { width, height, rgb }, columns))
    }

    /// Returns the HTML element.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of images is not the product of the axes' lengths;
    /// [`Error::Unknown`] if the axis or the place given to [`Explorer::begin`] does not exist;
    /// [`Error::Invalid`] if a side of the picture with all images is longer than 16,384 pixels.
    pub fn html(&self) -> Result<String> {
        let start = self.start()?;
        let data = |kind: &str, bytes: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!("data:image/{kind};base64,{text}")
        };
        let (atlas, columns) = self.atlas()?;
        let exact = png::encode(&atlas, false, None, &[])?;
        let atlas = match exact.len() <= EXACT {
            true => data("png", &exact),
            false => data("jpeg", &png::jpeg(&atlas, QUALITY)?),
        };
        let first = &self.images[self.index(&start)];
        let magnify = (SIDE / first.width.max(first.height)).max(1);
        let (width, height) = (first.width * magnify, first.height * magnify);
        let axes: Vec<_> = self
            .axes
            .iter()
            .map(|(name, places)| json!({"name": name, "places": places}))
            .collect();
        let about = json!({
            "title": self.title, "axes": axes, "start": start, "columns": columns, "size": [first.width, first.height], "magnify": magnify,
            "notes": self.notes,
        });
        let key = blake3::hash(format!("{about}{atlas}").as_bytes()).to_hex()[..12].to_string();
        // A script must not contain `<` in a text: `</` ends the script, `<!--` changes how it is
        // parsed.
        let about = about.to_string().replace('<', "\\u003c");
        let script = SCRIPT
            .replace("$KEY", &key)
            .replace("$ABOUT", &about)
            .replace("$ATLAS", &atlas);
        Ok(format!(
            "<figure data-invariances=\"{key}\" style=\"margin:0;font-family:Inter,system-ui,sans-serif;font-size:14px\">\
             <figcaption style=\"font-weight:600;margin-bottom:6px\">{}</figcaption>\
             <img width=\"{width}\" height=\"{height}\" style=\"image-rendering:pixelated\" alt=\"{}\" src=\"{}\"></figure>\n<script>{script}</script>",
            escape(&self.title),
            escape(&self.title),
            data("png", &png::encode(first, false, None, &[])?)
        ))
    }

    /// Returns a complete HTML page.
    ///
    /// # Errors
    /// Same as [`Explorer::html`].
    pub fn page(&self) -> Result<String> {
        Ok(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\n<body style=\"margin:12px\">{}</body></html>\n",
            escape(&self.title),
            self.html()?
        ))
    }

    /// Returns a still figure for a paper: the last axis across, the one before it downwards, all
    /// other axes at their initial places.
    ///
    /// # Errors
    /// Same as [`Explorer::html`] (except for the size of the picture with all images) and
    /// [`ImageGrid::figure`].
    pub fn figure(&self) -> Result<Figure> {
        let mut start = self.start()?;
        let across = self.axes.last().map_or(1, |(_, p)| p.len());
        let down = match &self.axes[..] {
            [.., (_, places), _] => places.clone(),
            _ => Vec::new(),
        };
        let shown = across * down.len().max(1);
        start.iter_mut().rev().take(2).for_each(|place| *place = 0);
        let shown = self.tensor.narrow(0, self.index(&start), shown)?;
        let grid = ImageGrid::new(&shown, across)?;
        let grid = grid.row_labels(down).title(&self.title);
        let names = self.axes.last().map(|(_, p)| p.clone()).unwrap_or_default();
        let mut figure = grid.column_labels(names).figure()?;
        for (key, value) in &self.notes {
            figure = figure.note(key, value);
        }
        Ok(figure)
    }

    /// Writes the HTML page. The file is written atomically: it is never left incomplete.
    ///
    /// # Errors
    /// Same as [`Explorer::html`]; [`Error::Unsupported`] for an extension other than `.html`,
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str());
        if !ending.is_some_and(|e| e.eq_ignore_ascii_case("html")) {
            return Err(Error::unsupported(format!(
                "expected a file name that ends in .html for an interactive figure, found {}: save its `figure()` in other formats",
                path.display()
            )));
        }
        write_atomic(path, self.page()?.as_bytes())
    }

    /// Returns the explorer as a notebook shows it: the interactive element as HTML, the still
    /// figure as PNG or JPEG ([`Figure::display`]) for exports without scripts, and a description as plain text.
    pub fn display(&self) -> Display {
        let axes = self.axes.iter();
        let axes: Vec<String> = axes
            .map(|(n, p)| format!("{n} ({})", p.join(", ")))
            .collect();
        let count = self.images.len();
        let text = format!(
            "{}\nInteractive figure, {count} images: {}",
            self.title,
            axes.join("; ")
        );
        let display = Display::new(text.trim_start()).with("text/html", self.html());
        match self.figure() {
            // One pixel per logical pixel: the still figure must not double the notebook's size.
            Ok(still) => still.shown(display, 1.0),
            Err(error) => display.with("image/png", Err(error)),
        }
    }

    /// Shows the explorer in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        self.display().show();
    }
}
