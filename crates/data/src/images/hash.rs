//! The hash of a set of images, which identifies the networks that were trained on it.

use super::{Images, Source};
use crate::{Error, Result};
use std::fs::File;
use std::path::Path;

impl Images {
    /// Returns a short hash of the files' content, the selected columns and the selection.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let of_file = |path: &Path| {
            let mut hash = blake3::Hasher::new();
            let file = File::open(path).and_then(|file| hash.update_reader(file).map(drop));
            file.map_err(|e| Error::io(path, e))?;
            Ok::<_, Error>(hash.finalize())
        };
        let mut hash = blake3::Hasher::new();
        match &self.set.source {
            Source::Shards(shards) => {
                let paths = shards.paths();
                let columns = shards.unusual_columns();
                // A single complete file with the usual columns: the hash of the file alone,
                // which identifies the networks that were trained on it.
                if let ([path], None, None) = (paths.as_slice(), &self.rows, columns) {
                    return Ok(of_file(path)?.to_hex()[..16].into());
                }
                // The same file with other labels is another dataset.
                if let Some((image, label)) = columns {
                    hash.update(serde_json::json!([image, label]).to_string().as_bytes());
                }
                for path in paths {
                    hash.update(of_file(path)?.as_bytes());
                }
            }
            Source::Folder(folder) => {
                for row in 0..folder.len() {
                    hash.update(folder.name(row).as_bytes());
                    hash.update(&[0]);
                    hash.update(blake3::hash(&folder.read(row)?).as_bytes());
                }
                // The same images with other class numbers are another dataset.
                for name in folder.numbering() {
                    hash.update(name.as_bytes());
                    hash.update(&[0]);
                }
            }
        }
        for row in self.rows.iter().flat_map(|rows| rows.iter()) {
            hash.update(&row.to_le_bytes());
        }
        Ok(hash.finalize().to_hex()[..16].into())
    }
}
