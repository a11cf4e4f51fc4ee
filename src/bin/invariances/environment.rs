//! Reads `environment.yml`, the only place where the versions of the Python packages are written.
//! Conda reads this file itself; for all other users this parser reads it. It accepts only the
//! syntax that this file needs. Any other line is an error with its line number, so that no
//! version pin is silently ignored.

use invariances::{Error, Result};
use std::path::Path;

/// The requirements in `environment.yml`.
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
    /// Reads the project's `environment.yml`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Content`] with the line that cannot be
    /// parsed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&text).map_err(|what| Error::content(path, what))
    }

    fn parse(text: &str) -> Result<Self, String> {
        #[derive(PartialEq)]
        enum Part {
            None,
            Channels,
            Packages,
            Pip,
        }
        let mut part = Part::None;
        let mut python = None;
        let mut packages: Vec<(String, String)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what: &str| format!("line {}: {what}: `{}`", number + 1, line.trim());
            let line = match line.find(" #") {
                Some(at) => &line[..at],
                None => line,
            }
            .trim_end();
            let content = line.trim_start();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let indent = line.len() - content.len();
            if content.starts_with('\t') || line[..indent].contains('\t') {
                return Err(wrong("a tab where spaces belong"));
            }
            let Some(entry) = content.strip_prefix("- ").map(str::trim) else {
                part = match content {
                    "channels:" => Part::Channels,
                    "dependencies:" => Part::Packages,
                    _ if content.starts_with("name:") => Part::None,
                    _ => return Err(wrong("expected name:, channels: or dependencies:, found")),
                };
                continue;
            };
            if part == Part::Pip && indent <= 2 {
                part = Part::Packages;
            }
            match part {
                Part::None => {
                    return Err(wrong("a list entry outside channels: and dependencies:"));
                }
                Part::Channels => {}
                Part::Packages if entry == "pip:" => part = Part::Pip,
                Part::Packages if entry == "pip" => {}
                Part::Packages if entry.starts_with("python>=") => {
                    let version = entry["python>=".len()..].split_once('.');
                    python = version.and_then(|(major, minor)| {
                        Some((major.parse().ok()?, minor.parse().ok()?))
                    });
                    if python.is_none() {
                        return Err(wrong("expected python>=MAJOR.MINOR, found"));
                    }
                }
                Part::Packages | Part::Pip => {
                    let pin = if part == Part::Pip {
                        entry.split_once("==")
                    } else {
                        entry.split_once('=')
                    };
                    let word = |s: &str, more: &str| {
                        !s.is_empty()
                            && s.chars()
                                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
                    };
                    match pin {
                        Some((name, version)) if word(name, "-_.") && word(version, ".") => {
                            packages.push((name.into(), version.into()));
                        }
                        _ => {
                            return Err(wrong(if part == Part::Pip {
                                "expected an exact version, name==1.2.3, found"
                            } else {
                                "expected an exact version, name=1.2.3, found"
                            }));
                        }
                    }
                }
            }
        }
        if packages.is_empty() {
            return Err("expected packages under dependencies:, found none".into());
        }
        let key = blake3_hex(text.as_bytes());
        Ok(Self {
            python: python.ok_or("expected python>=MAJOR.MINOR under dependencies:, found none")?,
            packages,
            key,
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
    use super::Environment;

    #[test]
    fn the_project_s_own_file_is_read() {
        let e = Environment::parse(include_str!("../../../environment.yml")).unwrap();
        assert!(e.python >= (3, 10));
        assert!(e.packages.iter().any(|(name, _)| name == "jupyterlab"));
        assert_eq!(e.key.len(), 12);
    }

    #[test]
    fn a_pip_part_and_comments() {
        let text = "# head\nname: x\nchannels:\n  - conda-forge\ndependencies:\n  - python>=3.11 # why\n  - a=1.2\n  - pip\n  - pip:\n    - b-c==3.4.5\n  - d=6\n";
        let e = Environment::parse(text).unwrap();
        assert_eq!(e.python, (3, 11));
        assert_eq!(e.requirements(), ["a==1.2", "b-c==3.4.5", "d==6"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (text, expected) in [
            (
                "dependencies:\n  - python>=3.10\n  - a>=1.2\n",
                "line 3: expected an exact version",
            ),
            (
                "dependencies:\n  - python>=3.10\n  - a=1.*\n",
                "line 3: expected an exact version",
            ),
            (
                "dependencies:\n  - python>=three\n",
                "line 2: expected python>=MAJOR.MINOR",
            ),
            ("dependencies:\n  - a=1\n", "found none"),
            ("dependencies:\n  - python>=3.10\n", "expected packages"),
            ("prefix: /opt\n", "line 1: expected name:"),
            ("- a=1\n", "line 1: a list entry outside"),
            ("dependencies:\n\t- a=1\n", "line 2: a tab"),
            ("dependencies:\n  - pip:\n    - a=1\n", "name==1.2.3"),
        ] {
            let error = Environment::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
