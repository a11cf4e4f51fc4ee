use std::path::{Path, PathBuf};

/// What can go wrong, said for the person who has to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting, shape or name that cannot be used: what was expected, what was found, what to do.
    #[error("{0}")]
    Invalid(String),
    /// A file that cannot be read or written.
    #[error("{}: {source}{}", path.display(), advice(.hint))]
    Io {
        path: PathBuf,
        source: std::io::Error,
        hint: String,
    },
    /// A file whose content is not what it must be.
    #[error("{}: {what}", path.display())]
    Content { path: PathBuf, what: String },
    /// A file that could not be fetched: which, why, and what to do.
    #[error("{0}")]
    Download(String),
    /// Training that left the numbers: what was kept, and where it happened.
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
    /// A setting, shape or name that cannot be used.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// An operating system's error, with the file that it is about.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().into(),
            source,
            hint: String::new(),
        }
    }

    /// A file whose content is not what it must be.
    pub fn content(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Content {
            path: path.as_ref().into(),
            what: what.into(),
        }
    }

    /// A file that could not be fetched: which, why, and what to do.
    pub fn download(what: impl Into<String>) -> Self {
        Self::Download(what.into())
    }

    /// Adds what to do about an [`Error::Io`].
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

/// The crate's result. Not in the prelude, where it would hide `std::result::Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;
