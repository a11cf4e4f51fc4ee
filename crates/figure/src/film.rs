//! Films: figures shown one after the other, as an animated PNG.

use super::{Display, Figure, SCALE, png, raster};
use crate::{Error, Result};
use base64::Engine as _;
use invariances_core::files::write_atomic;
use std::path::Path;

/// Figures shown one after the other, as an animated PNG. Every browser and Jupyter play it;
/// programs that do not support animated PNG show the first figure.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use invariances_figure::{Film, ImageGrid};
/// let mut frames = Vec::new();
/// for shade in [-1.0, 0.0, 1.0] {
///     let image = Tensor::full(shade, (1, 3, 8, 8), &Device::Cpu)?.to_dtype(DType::F32)?;
///     frames.push(ImageGrid::new(&image, 1)?.figure()?);
/// }
/// let film = Film::new(&frames)?.rate(2.0);
/// assert_eq!(film.seconds(), 1.5);
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Film {
    frames: Vec<Figure>,
    rate: f64,
    scale: f64,
}

impl Film {
    /// Creates a film of figures of equal size. It shows eight figures per second and repeats
    /// forever.
    ///
    /// # Errors
    /// [`Error::Invalid`] without figures, or if the figures differ in size.
    pub fn new(frames: &[Figure]) -> Result<Self> {
        let Some(first) = frames.first() else {
            return Err(Error::invalid(
                "expected at least one figure for a film, found 0",
            ));
        };
        if let Some(other) = frames.iter().find(|f| f.size() != first.size()) {
            return Err(Error::invalid(format!(
                "expected figures of the same size for a film, found {:?} and {:?}",
                first.size(),
                other.size()
            )));
        }
        Ok(Self {
            frames: frames.to_vec(),
            rate: 8.0,
            scale: SCALE,
        })
    }

    /// Sets the number of figures per second. Default: 8.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = per_second;
        self
    }

    /// Sets the number of pixels per logical pixel. Default: 2. A smaller number makes the file
    /// smaller.
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Returns the duration in seconds of one pass through the film.
    pub fn seconds(&self) -> f64 {
        self.frames.len() as f64 / self.rate
    }

    /// Returns the film with an entry added to its configuration, which its file contains.
    pub fn note(&self, key: &str, value: impl ToString) -> Self {
        let mut film = self.clone();
        if let Some(first) = film.frames.first_mut() {
            *first = first.note(key, value);
        }
        film
    }

    /// Returns the bytes of the animated PNG. It contains the configuration of the first figure.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a rate outside one figure per minute to 100 per second, or for the
    /// reasons given at [`Figure::png`].
    pub fn png(&self) -> Result<Vec<u8>> {
        if !(1.0 / 60.0..=100.0).contains(&self.rate) {
            return Err(Error::invalid(format!(
                "expected a rate from one figure per minute to 100 figures per second, found {} per second",
                self.rate
            )));
        }
        let mut frames = Vec::with_capacity(self.frames.len());
        for figure in &self.frames {
            figure.check_scale(self.scale)?;
            frames.push(raster::draw(&figure.canvas, self.scale));
        }
        let milliseconds = (1000.0 / self.rate).round() as u16;
        let first = &self.frames[0];
        let configuration = first.configuration();
        let software = format!("invariances {}", crate::VERSION);
        let texts = [
            ("Title", first.title.as_str()),
            ("Software", software.as_str()),
            ("invariances", configuration.as_str()),
        ];
        png::animate(&frames, milliseconds, &texts)
    }

    /// Writes the film as PNG. The file is written atomically: it is never left incomplete.
    ///
    /// # Errors
    /// Same as [`Film::png`]; [`Error::Unsupported`] for an extension other than `.png`,
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str());
        if !ending.is_some_and(|e| e.eq_ignore_ascii_case("png")) {
            return Err(Error::unsupported(format!(
                "expected a file name that ends in .png (animated PNG) for a film, found {}",
                path.display()
            )));
        }
        write_atomic(path, &self.png()?)
    }

    /// Returns the film as an HTML element that needs no other file.
    ///
    /// # Errors
    /// Same as [`Film::png`].
    pub fn html(&self) -> Result<String> {
        let data = base64::engine::general_purpose::STANDARD.encode(self.png()?);
        let (width, _) = self.frames[0].size();
        Ok(format!(
            "<img width=\"{width}\" style=\"max-width:100%;height:auto\" alt=\"{}\" src=\"data:image/png;base64,{data}\">",
            super::escape(self.frames[0].title())
        ))
    }

    /// Returns the film as a notebook shows it: an animated PNG, and a description as plain text.
    pub fn display(&self) -> Display {
        let first = &self.frames[0];
        let (width, height) = first.size();
        let text = format!(
            "{}\nFilm, {} figures in {:.1} s, {width} × {height} pixels",
            first.title(),
            self.frames.len(),
            self.seconds()
        );
        Display::new(text.trim_start()).png(self.png(), width, &first.alternative())
    }

    /// Shows the film in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        self.display().show();
    }
}
