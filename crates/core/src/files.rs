//! Atomic file writes (a file is complete or does not exist), and the location of the project's
//! cache folder.

use crate::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` atomically: a reader sees either the old file or the new one, never a
/// partial file.
///
/// The bytes go to a temporary file in the same folder, which is flushed to disk and then
/// renamed. Missing folders are created.
///
/// # Errors
/// [`Error::Io`] with the path. A file that already existed at `path` is then unchanged.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// Writes a file atomically, as [`write_atomic`] does, for content that is produced in pieces.
///
/// The function `write` receives a buffered writer for the temporary file.
///
/// # Errors
/// As [`write_atomic`]; this includes an error that `write` returns.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut std::io::BufWriter<&std::fs::File>) -> std::io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let temporary = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .tempfile_in(folder)
        .map_err(|e| Error::io(folder, e).with_hint("is the folder writable?"))?;
    let attempt = || -> std::io::Result<()> {
        let mut buffer = std::io::BufWriter::new(temporary.as_file());
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        temporary.as_file().sync_all()
    };
    attempt().map_err(|e| Error::io(path, e))?;
    // A temporary file is private by default; the final file gets the usual permissions.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        let _ = temporary.as_file().set_permissions(mode);
    }
    temporary
        .persist(path)
        .map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Returns the project's cache folder.
///
/// This is `INVARIANCES_CACHE` if it is set. Otherwise it is `invariances` in the user's cache
/// folder (`XDG_CACHE_HOME`, else `~/.cache`; on macOS `~/Library/Caches`).
///
/// # Errors
/// [`Error::Invalid`] if `INVARIANCES_CACHE` is not set and the user has no home folder.
pub fn cache_dir() -> Result<PathBuf> {
    let set = std::env::var_os("INVARIANCES_CACHE").filter(|v| !v.is_empty());
    if let Some(dir) = set {
        return std::path::absolute(&dir).map_err(|e| Error::io(dir, e));
    }
    let caches = dirs::cache_dir().ok_or_else(|| {
        Error::invalid("found no cache folder: neither INVARIANCES_CACHE nor HOME is set; set INVARIANCES_CACHE to a folder")
    })?;
    Ok(caches.join("invariances"))
}
