//! The report on a folder of images: what was found and what was left out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What was found in a folder of images, and what was left out; see
/// [`Images::report`](crate::Images::report).
///
/// `Display` prints one line:
/// `animals: 12 images in 3 classes, none in dog; left out: 2 .heic files, 1 broken link`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderReport {
    /// The folder, as passed by the caller.
    pub folder: PathBuf,
    /// Number of images.
    pub images: usize,
    /// Number of classes, including those without images.
    pub classes: usize,
    /// The classes without images.
    pub empty_classes: Vec<String>,
    /// Number of files that are not images by their extension, per extension in lower case (empty
    /// if there is none).
    pub other_files: BTreeMap<String, usize>,
    /// Number of images outside the class folders, which belong to no class.
    pub beside_classes: usize,
    /// Number of image names without a regular file: broken links, pipes, devices.
    pub missing_files: usize,
    /// Number of links that were not followed because `follow_links` is off.
    pub refused_links: usize,
    /// Number of links to folders that were already read for the same class, for example in a
    /// loop of links.
    pub repeated_folders: usize,
    /// Number of hidden files and folders, and of leftovers of operating systems and archives.
    pub system_files: usize,
}

impl FolderReport {
    /// Whether something may be unexpected: classes without images, or files left out other than
    /// hidden files.
    pub fn needs_attention(&self) -> bool {
        let nothing = Self {
            folder: self.folder.clone(),
            images: self.images,
            classes: self.classes,
            system_files: self.system_files,
            ..Default::default()
        };
        *self != nothing
    }

    /// Describes what was left out, one text per reason.
    pub(super) fn left_out(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (extension, &count) in self.other_files.iter().take(10) {
            all.push(match extension.as_str() {
                "" => of(count, "file without extension", "files without extension"),
                e => of(count, &format!(".{e} file"), &format!(".{e} files")),
            });
        }
        let others: usize = self.other_files.values().skip(10).sum();
        let mut add = |count, one, many| {
            if count > 0 {
                all.push(of(count, one, many));
            }
        };
        add(
            others,
            "file of another extension",
            "files of other extensions",
        );
        add(
            self.beside_classes,
            "image beside the class folders",
            "images beside the class folders",
        );
        add(self.missing_files, "broken link", "broken links");
        add(
            self.refused_links,
            "link that is not followed (`follow_links` is off)",
            "links that are not followed (`follow_links` is off)",
        );
        add(
            self.repeated_folders,
            "link to a folder that was read already",
            "links to folders that were read already",
        );
        add(self.system_files, "hidden file", "hidden files");
        all
    }
}

fn of(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl fmt::Display for FolderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} in {}",
            self.folder.display(),
            of(self.images, "image", "images"),
            of(self.classes, "class", "classes")
        )?;
        let empty = &self.empty_classes;
        if !empty.is_empty() {
            write!(f, ", none in {}", empty[..empty.len().min(10)].join(", "))?;
            if empty.len() > 10 {
                write!(f, " and {} more", empty.len() - 10)?;
            }
        }
        let left_out = self.left_out();
        if !left_out.is_empty() {
            write!(f, "; left out: {}", left_out.join(", "))?;
        }
        Ok(())
    }
}
