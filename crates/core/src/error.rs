//! The error type of all crates of `invariances`, [`Error`], and the matching [`Result`].

use std::path::{Path, PathBuf};

/// An error of `invariances`. Each message is written for the user who has to fix the problem.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or argument whose value cannot be used. As in the next three, the message states
    /// what was expected, what was found and what to do.
    #[error("{0}")]
    Invalid(String),
    /// A tensor whose shape, number of elements or number type does not fit.
    #[error("{0}")]
    Shape(String),
    /// A name that does not exist: of a layer, a parameter, a dataset, a factor.
    #[error("{0}")]
    Unknown(String),
    /// A request that is valid, but that this network, device, file format or build does not
    /// support.
    #[error("{0}")]
    Unsupported(String),
    /// A file that cannot be read or written.
    #[error("{}: {source}{}", path.display(), advice(.hint))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
        /// What to do, or nothing.
        hint: String,
    },
    /// A file whose content is not valid.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
    },
    /// A file that could not be downloaded. The message states which file, why, and what to do.
    #[error("{0}")]
    Download(String),
    /// Training diverged (loss is NaN or infinite). The message states where it happened and what
    /// was saved.
    #[error("{0}")]
    Diverged(String),
    /// An error of the tensor library.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
    /// An error of the data frame library.
    #[error("{0}")]
    Frame(#[from] polars_error::PolarsError),
    /// An error while drawing.
    #[error("drawing failed: {0}")]
    Drawing(String),
}

fn advice(hint: &str) -> String {
    if hint.is_empty() {
        String::new()
    } else {
        format!(" ({hint})")
    }
}

impl Error {
    /// Creates an [`Error::Invalid`]: a setting or argument whose value cannot be used.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// Creates an [`Error::Shape`]: a tensor whose shape, number of elements or number type does
    /// not fit.
    pub fn shape(what: impl Into<String>) -> Self {
        Self::Shape(what.into())
    }

    /// Creates an [`Error::Unknown`]: a name that does not exist.
    pub fn unknown(what: impl Into<String>) -> Self {
        Self::Unknown(what.into())
    }

    /// Creates an [`Error::Unsupported`]: a valid request that is not supported here.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }

    /// Creates an [`Error::Io`] from an error of the operating system and the file that it
    /// concerns.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().into(),
            source,
            hint: String::new(),
        }
    }

    /// Creates an [`Error::Content`]: a file whose content is not valid.
    pub fn content(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Content {
            path: path.as_ref().into(),
            what: what.into(),
        }
    }

    /// Creates an [`Error::Download`]: which file could not be downloaded, why, and what to do.
    pub fn download(what: impl Into<String>) -> Self {
        Self::Download(what.into())
    }

    /// Sets the hint of an [`Error::Io`], which states what to do. Other errors are returned
    /// unchanged.
    pub fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Io { path, source, .. } => Self::Io {
                path,
                source,
                hint: text.into(),
            },
            other => other,
        }
    }
}

/// The result type of all crates of `invariances`. It is not in the prelude, where it would hide
/// `std::result::Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;
