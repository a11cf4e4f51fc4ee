//! Several figures combined into one.

use super::Figure;
use super::canvas::{Anchor, Canvas};
use super::font::Face;
use super::style::{Colour, MARGIN};
use crate::{Error, Result};
use std::sync::Arc;

/// The size of the title above all figures.
const LARGE: f64 = 16.0;

/// Several figures combined into one, for a notebook's output or a file.
///
/// ```
/// use invariances_figure::{Chart, Panel};
/// let loss = Chart::new("Loss").line("train", &[1.0, 2.0], &[3.0, 2.0]).figure()?;
/// let both = Panel::row([&loss, &loss]).title("Twice").figure()?;
/// assert!(both.size().0 > loss.size().0);
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Panel {
    figures: Vec<Figure>,
    stacked: bool,
    title: Option<String>,
}

impl Panel {
    /// Arranges figures side by side, aligned at the top.
    pub fn row<'a>(figures: impl IntoIterator<Item = &'a Figure>) -> Self {
        Self {
            figures: figures.into_iter().cloned().collect(),
            stacked: false,
            title: None,
        }
    }

    /// Arranges figures one below the other, aligned at the left.
    pub fn column<'a>(figures: impl IntoIterator<Item = &'a Figure>) -> Self {
        Self {
            stacked: true,
            ..Self::row(figures)
        }
    }

    /// Sets a title above all figures.
    pub fn title(mut self, title: &str) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Draws the panel. The configurations are merged; if two figures have different values for a
    /// key, the first value is kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] without figures, or if a side of the panel has more than 16,384 pixels.
    pub fn figure(&self) -> Result<Figure> {
        if self.figures.is_empty() {
            return Err(Error::invalid(
                "expected at least one figure for a panel, found none",
            ));
        }
        let sizes = self
            .figures
            .iter()
            .map(|f| (f.canvas.width, f.canvas.height));
        let (width, height) = sizes.fold((0.0f64, 0.0f64), |(w, h), (a, b)| {
            if self.stacked {
                (w.max(a), h + b)
            } else {
                (w + a, h.max(b))
            }
        });
        let top = if self.title.is_some() {
            MARGIN + LARGE
        } else {
            0.0
        };
        let mut canvas = Canvas::new(width, height + top);
        if let Some(title) = &self.title {
            let at = [MARGIN, MARGIN + LARGE * 0.8];
            canvas.text(at, Anchor::Start, Face::Bold, LARGE, Colour::INK, title);
        }
        let (mut x, mut y) = (0.0, top);
        for figure in &self.figures {
            canvas.place(&figure.canvas, x, y);
            if self.stacked {
                y += figure.canvas.height;
            } else {
                x += figure.canvas.width;
            }
        }
        let titles: Vec<&str> = self.figures.iter().map(Figure::title).collect();
        let title = self.title.clone().unwrap_or_else(|| titles.join("; "));
        let mut figure = Figure::new(canvas, &title)?;
        figure.parts = Arc::new(titles.iter().map(|t| t.to_string()).collect());
        for (key, value) in self.figures.iter().flat_map(|f| &f.notes) {
            figure
                .notes
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        // The tables of all figures, one below the other, each under its title.
        let mut numbers = Vec::new();
        for part in self.figures.iter().filter(|f| f.has_numbers()) {
            numbers.push(vec![format!("# {}", part.title)]);
            numbers.extend(part.numbers.iter().cloned());
        }
        Ok(figure.with_numbers(numbers))
    }
}
