use super::canvas::Pixels;
use super::grid::pixels;
use super::{Figure, ImageGrid, LONGEST, escape, html, png, texts};
use crate::{Error, Result};
use base64::Engine as _;
use candle_core::Tensor;
use invariances_core::files::write_atomic;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The side that an image is enlarged to at most, in logical pixels.
const SIDE: usize = 288;
/// The bytes of PNG up to which a page has all images pixel by pixel; more of them are JPEG, or a notebook would not be small enough to be kept.
const EXACT: usize = 128 << 10;
/// Of 100: a notebook is to stay small, and the images that a paper takes are those of the figure.
const QUALITY: u8 = 85;
/// What the page does: draws the image that the sliders name, and moves the first and the last of them with the pointer.
const SCRIPT: &str = include_str!("explorer.js");

/// Images that a reader moves through: a slider for each axis (a layer, a sample, a factor), and the pointer over the image moves the first axis upwards and
/// downwards and the last to the left and right. One HTML element without a server or another file, in JupyterLab, in an executed notebook and in a
/// page. Where scripts are not run, the image it begins at is shown. Many images are in the page as JPEG; [`Explorer::figure`] has them pixel by pixel.
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
    /// Axes and the places that they begin at, where it is not the first.
    begin: Vec<(String, String)>,
    title: String,
    notes: BTreeMap<String, String>,
}

impl Explorer {
    /// All images (n, 3 or 1, height, width) in [−1, 1]: n is the product of the axes' lengths, and the axis that is named last changes first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape, or values that are not numbers.
    pub fn new(images: &Tensor) -> Result<Self> {
        Ok(Self {
            images: pixels(images)?,
            tensor: images.detach(),
            axes: Vec::new(),
            begin: Vec::new(),
            title: String::new(),
            notes: [("version".to_string(), crate::VERSION.to_string())].into(),
        })
    }

    /// An axis and the names of its places.
    pub fn axis<I: IntoIterator<Item: ToString>>(mut self, name: &str, places: I) -> Self {
        self.axes.push((name.into(), texts(places)));
        self
    }

    /// Where an axis begins, of its places: what a reader sees first, and what [`Explorer::figure`] shows of the axes that a grid has no room for.
    pub fn begin(mut self, axis: &str, place: impl ToString) -> Self {
        self.begin.push((axis.into(), place.to_string()));
        self
    }

    /// What is shown.
    pub fn title(mut self, title: &str) -> Self {
        self.title = title.into();
        self
    }

    /// The same with an entry of its configuration added, which its files carry.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut explorer = self.clone();
        explorer.notes.insert(key.into(), value.to_string());
        explorer
    }

    /// The number of the place that each axis begins at, where the axes name all images.
    fn start(&self) -> Result<Vec<usize>> {
        let lengths: Vec<usize> = self.axes.iter().map(|(_, places)| places.len()).collect();
        let wanted = lengths.iter().try_fold(1usize, |n, l| n.checked_mul(*l));
        if lengths.is_empty() || wanted != Some(self.images.len()) || wanted == Some(0) {
            return Err(Error::invalid(format!(
                "axes of {lengths:?} places do not name {} images: their product must be as many",
                self.images.len()
            )));
        }
        let mut start = vec![0; self.axes.len()];
        for (name, place) in &self.begin {
            let axes = self.axes.iter().zip(&mut start);
            let mut named = axes.filter(|((axis, _), _)| axis == name);
            let Some(((_, places), start)) = named.next() else {
                let names: Vec<&str> = self.axes.iter().map(|(n, _)| n.as_str()).collect();
                return Err(Error::invalid(format!(
                    "there is no axis {name:?} to begin at, but {}",
                    names.join(", ")
                )));
            };
            let found = places.iter().position(|p| p == place);
            *start = found.ok_or_else(|| {
                Error::invalid(format!(
                    "the axis {name:?} cannot begin at {place:?}, it has {}",
                    places.join(", ")
                ))
            })?;
        }
        Ok(start)
    }

    /// The number of the image at these places.
    fn index(&self, places: &[usize]) -> usize {
        let axes = self.axes.iter().zip(places);
        axes.fold(0, |index, ((_, all), place)| index * all.len() + place)
    }

    /// All images in one picture, so many in a row.
    fn atlas(&self) -> Result<(Pixels, usize)> {
        let (w, h) = (self.images[0].width, self.images[0].height);
        let count = self.images.len();
        let columns = (count as f64).sqrt().ceil() as usize;
        let rows = count.div_ceil(columns);
        if (columns * w).max(rows * h) as f64 > LONGEST {
            return Err(Error::invalid(format!(
                "{count} images of {w}×{h} pixels are more than a page should hold: show fewer, or smaller ones"
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

    /// The element for a page.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the axes do not name all images, or these are more than a page should hold.
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
        // In a script no `<` of a text may stand: `</` ends it, `<!--` changes how it is read.
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

    /// A page of its own.
    ///
    /// # Errors
    /// As [`Explorer::html`].
    pub fn page(&self) -> Result<String> {
        Ok(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\n<body style=\"margin:12px\">{}</body></html>\n",
            escape(&self.title),
            self.html()?
        ))
    }

    /// What a paper can show of it: the last axis across, the one before it downwards, all others where they begin.
    ///
    /// # Errors
    /// As [`Explorer::html`] and [`ImageGrid::figure`].
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

    /// Writes the page; the file is whole or not there.
    ///
    /// # Errors
    /// As [`Explorer::html`]; [`Error::Invalid`] for another ending than `.html`, [`Error::Io`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str());
        if !ending.is_some_and(|e| e.eq_ignore_ascii_case("html")) {
            return Err(Error::invalid(format!(
                "what a reader moves is saved as .html, found {}; its `figure()` as the others",
                path.display()
            )));
        }
        write_atomic(path, self.page()?.as_bytes())
    }

    /// Shows it in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        // The kernel reads lines: an element is one of them.
        html::show(self.html().map(|h| h.replace('\n', " ")));
    }
}
