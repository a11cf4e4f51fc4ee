//! Reads `requirements.txt`, the only place where the versions of the Python packages are written.
//! Conda gets them from there too, through `environment.yml`. Each line must be an exact version:
//! any other line is an error with its line number, so that no version pin is silently ignored.

use invariances::{Error, Result};
use std::path::Path;

/// The oldest supported Python version, as in `environment.yml`.
const PYTHON: (u32, u32) = (3, 10);

/// The requirements in `requirements.txt`.
#[derive(Debug, PartialEq)]
pub struct Environment {
    /// The oldest supported Python version, as (major, minor).
    pub python: (u32, u32),
    /// Packages and their exact versions, in the order of the file.
    pub packages: Vec<(String, String)>,
    /// The first twelve hexadecimal digits of the file's hash, so each version of the file has
    /// its own environment.
    pub key: String,
}

impl Environment {
    /// Reads the project's `requirements.txt`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Content`] with the line that cannot be
    /// parsed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&text).map_err(|what| Error::content(path, what))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let word = |s: &str, more: &str| {
            !s.is_empty()
                && s.chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let mut packages = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once("==") {
                Some((name, version)) if word(name, "-_.") && word(version, ".") => {
                    packages.push((name.into(), version.into()));
                }
                _ => {
                    return Err(format!(
                        "line {}: expected an exact version, name==1.2.3, found `{line}`",
                        number + 1
                    ));
                }
            }
        }
        if packages.is_empty() {
            return Err("expected packages, found none".into());
        }
        Ok(Self {
            python: PYTHON,
            packages,
            key: blake3_hex(text.as_bytes()),
        })
    }

    /// Returns the packages in pip's format: `name==version`.
    pub fn requirements(&self) -> Vec<String> {
        self.packages
            .iter()
            .map(|(name, version)| format!("{name}=={version}"))
            .collect()
    }
}

/// Returns the first twelve hexadecimal digits of the hash of `bytes`, for file names.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Environment, PYTHON};

    #[test]
    fn the_project_s_own_files_agree() {
        let e = Environment::parse(include_str!("../../../requirements.txt")).unwrap();
        assert!(e.packages.iter().any(|(name, _)| name == "jupyterlab"));
        assert_eq!(e.key.len(), 12);
        let conda = include_str!("../../../environment.yml");
        let (major, minor) = PYTHON;
        assert!(conda.contains(&format!("- python>={major}.{minor}\n")));
        assert!(conda.contains("- -r requirements.txt\n"));
    }

    #[test]
    fn what_is_not_an_exact_version_is_refused_with_its_line() {
        let e = Environment::parse("# head\n\nb-c==3.4.5\na_d == 6\n").unwrap_err();
        assert!(e.contains("line 4: expected an exact version"), "{e}");
        let e = Environment::parse("# head\n\nb-c==3.4.5\nd==6\n").unwrap();
        assert_eq!(e.requirements(), ["b-c==3.4.5", "d==6"]);
        for line in ["a>=1.2", "a==1.*", "a=1", "a", "a==1 # why", "-r other.txt"] {
            let error = Environment::parse(line).unwrap_err();
            assert!(error.contains("name==1.2.3"), "{line}: {error}");
        }
        assert!(Environment::parse("# none\n").is_err());
    }
}
