//! Locks of files that are fetched, so that two processes do not fetch the same file.

use super::Hub;
use super::cache::CACHE_HINT;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

/// Waits until no other process fetches the same file, and locks it. The lock ends when the
/// returned file is dropped or the process ends.
///
/// If the file system has no locks, two processes can fetch the same file at once; sizes and
/// hashes are still checked.
pub(super) fn lock(path: &Path, what: &str, hub: &Hub) -> Result<File> {
    let io = |e| Error::io(path, e).with_hint(CACHE_HINT);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e).with_hint(CACHE_HINT))?;
    }
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                hub.say(format!("{what}: waiting for a download in progress"));
                file.lock().map_err(io)?;
            }
            Err(std::fs::TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
            Err(std::fs::TryLockError::Error(e)) => return Err(io(e)),
        }
        // Python's library may have removed the lock file meanwhile.
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if file.metadata().map_err(io)?.nlink() == 0 {
                continue;
            }
        }
        return Ok(file);
    }
}
