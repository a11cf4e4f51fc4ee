//! Small tables, shown in notebooks and written as HTML, Markdown, CSV or LaTeX.

use super::svg::escape;
use super::{Display, texts};
use crate::{Error, Result};
use invariances_core::files::write_atomic;
use polars::prelude::{AnyValue, DataFrame};
use std::fmt;
use std::path::Path;

/// Number of characters above which LaTeX breaks a cell into lines.
const LONG: usize = 48;

/// A small table. A notebook shows it as HTML, exports of the notebook as LaTeX or Markdown;
/// elsewhere it is printed as aligned text.
///
/// ```
/// use invariances_figure::Table;
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
    /// Creates a table with these columns and no rows.
    pub fn new<I: IntoIterator<Item: ToString>>(header: I) -> Self {
        Self {
            header: texts(header),
            ..Self::default()
        }
    }

    /// Creates a table from the first 20 rows of a data frame. Floating-point numbers are rounded
    /// to three decimals.
    ///
    /// # Errors
    /// [`Error::Frame`] if the frame cannot be read.
    pub fn from_frame(frame: &DataFrame) -> Result<Self> {
        const MAX_ROWS: usize = 20;
        let shown = frame.height().min(MAX_ROWS);
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

    /// Adds a row. Missing cells stay empty; cells beyond the header are left out.
    pub fn row<I: IntoIterator<Item: ToString>>(mut self, cells: I) -> Self {
        let mut cells = texts(cells);
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
        self
    }

    /// Sets a text below the table.
    pub fn caption(mut self, caption: &str) -> Self {
        self.caption = Some(caption.into());
        self
    }

    /// Returns the table as HTML.
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

    /// Returns the table as the text of a CSV file. The first row is the header.
    ///
    /// ```
    /// use invariances_figure::Table;
    /// let table = Table::new(["layer", "share"]).row(["fc6, first", "0.41"]);
    /// assert_eq!(table.csv(), "layer,share\n\"fc6, first\",0.41\n");
    /// ```
    pub fn csv(&self) -> String {
        let lines = std::iter::once(&self.header).chain(&self.rows).cloned();
        csv(&lines.collect::<Vec<_>>())
    }

    /// Returns the table for a paper: LaTeX's `tabular` with the rules of `booktabs`. Columns of
    /// numbers are aligned to the right, cells with more than 48 characters are broken into lines,
    /// and the caption is a comment.
    ///
    /// ```
    /// use invariances_figure::Table;
    /// let table = Table::new(["layer", "free_share"]).row(["conv5 & fc6", "0.41"]);
    /// let tex = table.latex();
    /// assert!(tex.contains("\\begin{tabular}{lr}") && tex.contains(r"conv5 \& fc6 & 0.41 \\"), "{tex}");
    /// ```
    pub fn latex(&self) -> String {
        let is_long = |c: usize| self.rows.iter().any(|r| r[c].chars().count() > LONG);
        let columns = 0..self.header.len();
        let long = columns.clone().filter(|c| is_long(*c)).count();
        let align: String = columns
            .map(|c| match (is_long(c), self.is_numeric(c)) {
                // Text that would not fit on one line of a page.
                (true, _) => format!("p{{{:.2}\\linewidth}}", 0.9 / (long + 1) as f64),
                (false, true) => "r".into(),
                (false, false) => "l".into(),
            })
            .collect();
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| tex(c)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let mut out = String::from("% \\usepackage{booktabs}\n");
        for note in self.notes() {
            out.push_str(&format!("% {}\n", note.replace(['\n', '\r'], " ")));
        }
        out.push_str(&format!("\\begin{{tabular}}{{{align}}}\n\\toprule\n"));
        out.push_str(&line(&self.header));
        out.push_str("\\midrule\n");
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out.push_str("\\bottomrule\n\\end{tabular}\n");
        out
    }

    /// Returns the table in GitHub's Markdown. Columns of numbers are aligned to the right.
    ///
    /// ```
    /// use invariances_figure::Table;
    /// let table = Table::new(["layer", "a|b"]).row(["*fc6*", "0.41"]);
    /// assert_eq!(table.markdown(), "| layer | a\\|b |\n| :------ | ---: |\n| \\*fc6\\* | 0.41 |\n");
    /// ```
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let escaped = |cells: &Vec<String>| -> Vec<String> {
            cells.iter().map(|c| escape_markdown(c)).collect()
        };
        let header = escaped(&self.header);
        let rows: Vec<Vec<String>> = self.rows.iter().map(escaped).collect();
        let mut out = String::new();
        if !header.is_empty() {
            // pandoc divides the width of a page in proportion to these rules.
            let rule = |c: usize| {
                let cells = rows.iter().chain([&header]).map(|cells| &cells[c]);
                let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
                let dashes = "-".repeat(width.clamp(3, 60) - 1);
                match self.is_numeric(c) {
                    true => format!("{dashes}:"),
                    false => format!(":{dashes}"),
                }
            };
            out += &line(&header);
            out += &line(&(0..header.len()).map(rule).collect::<Vec<_>>());
            rows.iter().for_each(|cells| out += &line(cells));
        }
        for note in self.notes() {
            out += &format!("\n{}\n", escape_markdown(&note));
        }
        out
    }

    /// Whether all cells of a column are numbers or empty.
    fn is_numeric(&self, column: usize) -> bool {
        let number = |text: &str| {
            let text = text.trim_start_matches(['−', '-', '<', '>', '≤', '≥', ' ']);
            text.is_empty() || text == "–" || text.starts_with(|c: char| c.is_ascii_digit())
        };
        !self.rows.is_empty() && self.rows.iter().all(|r| number(&r[column]))
    }

    /// Writes the table to a file. The path's extension selects the format: `.tex`, `.csv`, `.md`
    /// or `.html`. The file is written atomically: it is never left incomplete.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another extension, [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str());
        let text = match ending.unwrap_or_default().to_ascii_lowercase().as_str() {
            "tex" => self.latex(),
            "csv" => self.csv(),
            "md" => self.markdown(),
            "html" => self.html(),
            _ => {
                return Err(Error::unsupported(format!(
                    "expected a file name that ends in .tex, .csv, .md or .html for a table, found {}",
                    path.display()
                )));
            }
        };
        write_atomic(path, text.as_bytes())
    }

    /// Returns the table as a notebook shows it: as HTML, Markdown, LaTeX and aligned text.
    pub fn display(&self) -> Display {
        let mut latex = self.latex();
        for note in self.notes() {
            latex += &format!("\n{{\\small {}}}\n", tex(&note));
        }
        Display::new(self)
            .html(self.html())
            .markdown(self.markdown())
            .latex(latex)
    }

    /// Shows the table in a notebook. The kernel calls it for a cell's last expression.
    pub fn evcxr_display(&self) {
        self.display().show();
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

/// Formats a number with three decimals. Numbers for which three decimals would all be 0, and
/// numbers of at least 1e9 in absolute value, are in scientific notation.
fn fraction(v: f64) -> String {
    if v != 0.0 && v.is_finite() && !(5e-4..1e9).contains(&v.abs()) {
        format!("{v:.2e}")
    } else {
        format!("{v:.3}")
    }
}

/// Formats rows as CSV (RFC 4180, but lines end with a line feed).
pub(super) fn csv(rows: &[Vec<String>]) -> String {
    let cell = |text: &String| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.clone(),
    };
    let line = |row: &Vec<String>| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
    rows.iter().map(line).collect()
}

/// Escapes text for Markdown, so that it appears as it is, also in a cell of a table. Line breaks
/// become spaces.
///
/// ```
/// use invariances_figure::escape_markdown;
/// assert_eq!(escape_markdown("a_b | $c$\n<d>"), r"a\_b \| \$c\$ \<d\>");
/// ```
pub fn escape_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '$' | '~' | '&' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Escapes text for LaTeX. Characters with a special meaning in LaTeX become plain signs; signs
/// that its fonts lack and that this crate's tables use become mathematics.
fn tex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '±' => out.push_str("$\\pm$"),
            '×' => out.push_str("$\\times$"),
            '−' => out.push_str("$-$"),
            '≤' => out.push_str("$\\le$"),
            '≥' => out.push_str("$\\ge$"),
            '→' => out.push_str("$\\to$"),
            'Φ' => out.push_str("$\\Phi$"),
            'Ψ' => out.push_str("$\\Psi$"),
            '‖' => out.push_str("$\\|$"),
            '²' => out.push_str("$^2$"),
            // A tilde or a bar above the preceding letter.
            '\u{303}' | '\u{304}' => {
                let accent = if c == '\u{303}' { "tilde" } else { "bar" };
                if let Some(letter) = out.pop() {
                    out.push_str(&format!("$\\{accent}{{{letter}}}$"));
                }
            }
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
