//! What a [`Lab`] saves and shows: figures, films, interactive figures and claims.

use super::lab::check_name;
use super::{Claim, ClaimBuilder, Claims, Lab, Measured};
use crate::figure::{Display, Explorer, Figure, Film, escape, escape_markdown};
use crate::ops::device_name;
use crate::{Result, revision};
use std::path::PathBuf;

impl Lab {
    /// Saves a figure as `figures/<notebook>-<name>.png`, `.svg` and `.pdf` in the output folder,
    /// and its data as `.csv`. The notebook, the scale, the seed, the device, the version and the
    /// revisions of the code ([`revision::all`]) are added to the metadata. Returns the figure, so
    /// that it is shown if it is a cell's last expression (`lab.figure("samples", &figure)?`).
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a name that cannot be part of a file name,
    /// [`Error::Io`](crate::Error::Io) if a file cannot be written.
    pub fn figure(&self, name: &str, figure: &Figure) -> Result<Figure> {
        check_name("a figure", name)?;
        let figure = figure
            .note("notebook", self.notebook())
            .note("scale", self.scale())
            .note("seed", self.seed())
            .note("device", device_name(self.device()))
            .note("version", crate::VERSION)
            .note("code", revision::all());
        let table = figure.has_numbers().then_some("csv");
        for extension in ["png", "svg", "pdf"].into_iter().chain(table) {
            figure.save(self.figure_path(name, extension))?;
        }
        Ok(figure)
    }

    /// Saves a film as `figures/<notebook>-<name>.png`, like [`Lab::figure`], and returns it.
    ///
    /// # Errors
    /// As [`Lab::figure`] and [`Film::png`].
    pub fn film(&self, name: &str, film: &Film) -> Result<Film> {
        check_name("a figure", name)?;
        let film = film
            .note("notebook", self.notebook())
            .note("scale", self.scale())
            .note("seed", self.seed())
            .note("device", device_name(self.device()))
            .note("code", revision::all());
        film.save(self.figure_path(name, "png"))?;
        Ok(film)
    }

    /// Saves an interactive figure as `figures/<notebook>-<name>.html`, and a static version for
    /// a paper like [`Lab::figure`]. Returns the interactive figure.
    ///
    /// # Errors
    /// As [`Lab::figure`] and [`Explorer::html`].
    pub fn explorer(&self, name: &str, explorer: &Explorer) -> Result<Explorer> {
        self.figure(name, &explorer.figure()?)?;
        let explorer = explorer
            .note("notebook", self.notebook())
            .note("scale", self.scale())
            .note("seed", self.seed())
            .note("device", device_name(self.device()))
            .note("code", revision::all());
        explorer.save(self.figure_path(name, "html"))?;
        Ok(explorer)
    }

    /// The path of a figure's file.
    fn figure_path(&self, name: &str, extension: &str) -> PathBuf {
        let folder = self.out().join("figures");
        folder.join(format!("{}-{name}.{extension}", self.notebook()))
    }

    /// Starts a claim:
    /// `lab.claim("samples-keep-class", kept).statement("…").at_least(0.9).state()?`. Its value
    /// is a number, or an [`Estimate`](crate::metric::Estimate) or a
    /// [`Resampled`](crate::metric::Resampled) with its interval. A number has no interval, so its
    /// expectation stays undecided.
    pub fn claim(&self, name: &str, value: impl Into<Measured>) -> ClaimBuilder {
        ClaimBuilder::new(self, name, value)
    }

    /// Combines several claims of one cell in one table.
    pub fn claims<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> Claims {
        Claims::new(claims)
    }

    /// Returns the settings as a notebook shows them: as HTML, Markdown and plain text.
    pub fn display(&self) -> Display {
        let text = self.to_string();
        Display::new(&text)
            .html(format!("<code>{}</code>", escape(&text)))
            .markdown(escape_markdown(&text))
    }

    /// Shows the settings in a notebook. The kernel calls it if the value is a cell's last
    /// expression.
    pub fn evcxr_display(&self) {
        self.display().show();
    }
}
