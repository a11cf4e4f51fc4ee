//! Class names of a model on the hub, read from its `config.json`.

use crate::{Error, Hub, Result};
use invariances_core::names::shown;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Largest `config.json` that is read, in bytes.
const LABELS: u64 = 16 << 20;

impl Hub {
    /// Returns the class names of a model, by class index, from `id2label` in its `config.json`.
    /// For example, `google/vit-base-patch16-224` has the class names of ImageNet.
    ///
    /// # Errors
    /// [`Error::Download`] if the file cannot be fetched, [`Error::Content`] if it contains no
    /// class names.
    pub fn class_names(&self, model: &str) -> Result<Vec<String>> {
        let path = self.model(model)?.file("config.json")?;
        let wrong = |what: String| Error::content(&path, what);
        let length = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
        if length.len() > LABELS {
            return Err(wrong(format!(
                "expected a file of at most {LABELS} bytes, found {}",
                length.len()
            )));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        #[derive(Deserialize)]
        struct Config {
            id2label: Option<BTreeMap<String, String>>,
        }
        let config: Config = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let labels = config.id2label.ok_or_else(|| {
            wrong("expected id2label with the names of the classes, found none".into())
        })?;
        let name = |i: usize| {
            let found = labels.get(&i.to_string()).cloned();
            found.ok_or_else(|| {
                wrong(format!(
                    "id2label has {} classes, but no class with index {}",
                    labels.len(),
                    shown(&i.to_string())
                ))
            })
        };
        (0..labels.len()).map(name).collect()
    }
}
