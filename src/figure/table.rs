use super::html;
use super::svg::escape;
use super::texts;
use crate::{Error, Result};
use polars::prelude::{AnyValue, DataFrame};
use std::fmt;

/// A small table: as HTML in a notebook, as aligned text elsewhere.
///
/// ```
/// use invariances::figure::Table;
/// let table = Table::new(["layer", "share"]).row(["fc6", "0.41"]).row(["fc8", "0.82"]);
/// assert!(table.html().contains("<td>fc6</td>"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    caption: Option<String>,
    left_out: usize,
}

impl Table {
    /// A table of these columns, without rows yet.
    pub fn new<I: IntoIterator<Item: ToString>>(header: I) -> Self {
        Self {
            header: texts(header),
            ..Self::default()
        }
    }

    /// A frame's first 20 rows, fractions rounded to three digits after the point.
    ///
    /// # Errors
    /// [`Error::Frame`] where the frame cannot be read.
    pub fn from_frame(frame: &DataFrame) -> Result<Self> {
        const MOST: usize = 20;
        let shown = frame.height().min(MOST);
        let mut table = Self::new(frame.get_column_names());
        for row in 0..shown {
            let mut cells = Vec::with_capacity(frame.width());
            for column in frame.columns() {
                cells.push(match column.get(row).map_err(Error::from)? {
                    AnyValue::Null => "–".to_string(),
                    AnyValue::Float32(v) => fraction(v.into()),
                    AnyValue::Float64(v) => fraction(v),
                    AnyValue::String(s) => s.to_string(),
                    AnyValue::Binary(bytes) => format!("{} bytes", bytes.len()),
                    other => other.to_string(),
                });
            }
            table.rows.push(cells);
        }
        table.left_out = frame.height() - shown;
        Ok(table)
    }

    /// Adds a row. Cells that are missing stay empty, those beyond the header are left out.
    pub fn row<I: IntoIterator<Item: ToString>>(mut self, cells: I) -> Self {
        let mut cells = texts(cells);
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
        self
    }

    /// A text below the table.
    pub fn caption(mut self, caption: &str) -> Self {
        self.caption = Some(caption.into());
        self
    }

    /// The table as HTML.
    pub fn html(&self) -> String {
        let cells = |cells: &[String], tag: &str| -> String {
            let cells = cells
                .iter()
                .map(|c| format!("<{tag}>{}</{tag}>", escape(c)));
            cells.collect()
        };
        let mut html = format!(
            "<table><thead><tr>{}</tr></thead><tbody>",
            cells(&self.header, "th")
        );
        for row in &self.rows {
            html.push_str(&format!("<tr>{}</tr>", cells(row, "td")));
        }
        html.push_str("</tbody></table>");
        for note in self.notes() {
            html.push_str(&format!("<p><small>{}</small></p>", escape(&note)));
        }
        html
    }

    /// Shows the table in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        html::show(Ok(self.html()));
    }

    fn notes(&self) -> Vec<String> {
        let more = (self.left_out > 0).then(|| format!("and {} more rows", self.left_out));
        more.into_iter().chain(self.caption.clone()).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|c| {
                lines()
                    .map(|l| l.get(c).map_or(0, |t| t.chars().count()))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for line in lines() {
            let cells = line.iter().zip(&widths).map(|(t, w)| format!("{t:<w$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        for note in self.notes() {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

/// Three digits after the point; more where they would all be 0.
fn fraction(v: f64) -> String {
    if v != 0.0 && v.is_finite() && !(5e-4..1e9).contains(&v.abs()) {
        format!("{v:.2e}")
    } else {
        format!("{v:.3}")
    }
}
