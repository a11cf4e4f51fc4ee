//! Which columns of a parquet file hold the images and their labels.
//!
//! ```
//! use invariances_data::*;
//! let fine = ImageColumns { label: Some("fine_label".into()), ..Default::default() };
//! assert_eq!("label=fine_label".parse::<ImageColumns>()?, fine);
//! # Ok::<(), invariances_data::Error>(())
//! ```

use super::parquet::{Budget, Parquet, Stored};
use crate::{Error, Result};
use invariances_core::names::shown;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::str::FromStr;

/// The name of a column, or the instruction to find it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnName {
    /// The column is found by the rules of [`ImageColumns`].
    #[default]
    Auto,
    /// The column of this name.
    Named(String),
}

impl From<&str> for ColumnName {
    fn from(name: &str) -> Self {
        Self::Named(name.into())
    }
}

impl From<String> for ColumnName {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

impl ColumnName {
    /// The name, or `default` where the column is to be found.
    pub(super) fn or<'a>(&'a self, default: &'a str) -> &'a str {
        match self {
            Self::Auto => default,
            Self::Named(name) => name,
        }
    }
}

/// Which columns of a parquet table hold the images and the labels. By default both are found, and
/// [`Images::parquet`](super::Images::parquet) prints the choice in one line.
///
/// **The image column** is the first of these that the table has:
/// 1. a column that the Hugging Face metadata of the file describes as an `Image`;
/// 2. a struct with the field `bytes`, as `datasets` stores images ({bytes, path});
/// 3. a column of bytes whose first value starts as an image file does, or one with a common name.
///
/// Among several columns of one kind, those whose first value starts as an image file come first,
/// then those with a common name (`image`, `img`, `picture`, `photo`, `jpg`, `jpeg`, `png`, `webp`,
/// in this order), then the first of the table.
///
/// **The label column** is the first of these:
/// 1. a column that the metadata describes as a `ClassLabel`, whose class names are kept;
/// 2. a column of whole numbers, booleans or text with a common name: `label`, `labels`,
///    `fine_label`, `class`, `target`, `category`, `species`, `breed` and the like.
///
/// Among several, the common names come first, in this order, then the first of the table. A table
/// without such a column has no labels ([`Images::labels`](super::Images::labels) is `None`).
///
/// **Labels** are whole numbers from 0 to 2³² − 1 of any width; booleans (classes `false` and
/// `true`); or text, whose distinct values become the classes, sorted by name over all files of the
/// data set. Open the splits of such a data set together
/// ([`Images::of_split`](super::Images::of_split) parts them), so that a class that one of them
/// lacks does not change the numbers of the others. A null label and −1 mean that the class is not
/// known, as in the hub's test splits: where no row has a label the data set has none, and where
/// only some rows have one, opening the files is an error unless `skip_unlabelled` leaves out the
/// others.
///
/// It is parsed from text as a query: `image=img&label=fine_label`. `label=` reads no labels,
/// `unlabelled=skip` sets `skip_unlabelled`, and `%26`, `%3D` and `%25` stand for `&`, `=` and `%`
/// in a name.
///
/// ```
/// use invariances_data::*;
/// let columns: ImageColumns = "image=img&label=coarse_label&unlabelled=skip".parse()?;
/// assert_eq!(columns.image, "img".into());
/// assert!(columns.skip_unlabelled);
/// assert_eq!("label=".parse::<ImageColumns>()?.label, None);
/// assert!("lable=species".parse::<ImageColumns>().is_err());
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageColumns {
    /// A struct {bytes, path}, or the bytes of image files. Default: found.
    pub image: ColumnName,
    /// The labels; `None` reads none. Default: found.
    pub label: Option<ColumnName>,
    /// Whether rows without a label are left out where others have one. Default: no, they are an
    /// error.
    pub skip_unlabelled: bool,
}

impl Default for ImageColumns {
    fn default() -> Self {
        Self {
            image: ColumnName::Auto,
            label: Some(ColumnName::Auto),
            skip_unlabelled: false,
        }
    }
}

impl ImageColumns {
    /// The columns of these names.
    pub fn named(image: &str, label: &str) -> Self {
        Self {
            image: image.into(),
            label: Some(label.into()),
            skip_unlabelled: false,
        }
    }

    /// Whether a column is to be found.
    pub(super) fn is_auto(&self) -> bool {
        self.image == ColumnName::Auto || self.label == Some(ColumnName::Auto)
    }
}

impl FromStr for ImageColumns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut columns = Self::default();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match (key, &*value) {
                ("image", "") => {
                    return Err(Error::invalid(
                        "expected the name of a column after image=, found nothing",
                    ));
                }
                ("image", name) => columns.image = name.into(),
                ("label", "") => columns.label = None,
                ("label", name) => columns.label = Some(name.into()),
                ("unlabelled", "skip") => columns.skip_unlabelled = true,
                ("unlabelled", found) => {
                    return Err(Error::invalid(format!(
                        "expected unlabelled=skip, found unlabelled={}",
                        shown(found)
                    )));
                }
                (other, _) => {
                    return Err(Error::invalid(format!(
                        "expected image=COLUMN, label=COLUMN or unlabelled=skip, found {:?}",
                        shown(other)
                    )));
                }
            }
        }
        Ok(columns)
    }
}

/// Common names of image columns, the preferred first.
const IMAGES: [&str; 11] = [
    "image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "images", "imgs", "pixels",
];

/// Common names of label columns, the preferred first.
const LABELS: [&str; 22] = [
    "label",
    "labels",
    "fine_label",
    "class",
    "class_label",
    "classes",
    "class_id",
    "class_idx",
    "class_name",
    "cls",
    "target",
    "targets",
    "category",
    "category_id",
    "category_name",
    "species",
    "breed",
    "label_id",
    "label_idx",
    "label_name",
    "label_text",
    "digit",
];

/// Number of columns whose first value is read in the search for images.
const PROBED: usize = 64;

/// What the Hugging Face metadata of a file says about its columns.
#[derive(Debug, Default)]
struct Features(Value);

impl Features {
    fn read(text: Option<&str>) -> Self {
        let mut description: Value = text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Self(description["info"]["features"].take())
    }

    /// `Image`, `ClassLabel`, `Value`, `Audio` and so on.
    fn kind(&self, column: &str) -> Option<&str> {
        self.0[column]["_type"].as_str()
    }

    /// The names of a `ClassLabel`'s classes; none where there are none.
    fn classes(&self, column: &str) -> Vec<String> {
        let names = self.0[column]["names"].as_array().map(Vec::as_slice);
        let names = names.unwrap_or_default().iter();
        let names = names.map(|n| n.as_str().map(String::from));
        names.collect::<Option<_>>().unwrap_or_default()
    }
}

/// The columns that were chosen in the first file of a data set.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub image: String,
    pub label: Option<String>,
    /// Whether a label column was looked for.
    searched: bool,
    /// Other columns that might have been meant.
    images: Vec<String>,
    labels: Vec<String>,
}

impl Chosen {
    /// Chooses the columns of a file.
    ///
    /// # Errors
    /// [`Error::Content`] for a named column that is missing, and where no column holds images.
    pub(super) fn choose(parquet: &Parquet, columns: &ImageColumns) -> Result<Self> {
        let features = Features::read(parquet.hub());
        let (image, images) = match &columns.image {
            ColumnName::Named(name) => (name.clone(), Vec::new()),
            ColumnName::Auto => find_image(parquet, &features)?,
        };
        let (label, labels) = match &columns.label {
            None => (None, Vec::new()),
            Some(ColumnName::Named(name)) => (Some(name.clone()), Vec::new()),
            Some(ColumnName::Auto) => find_label(parquet, &features, &image),
        };
        Ok(Self {
            image,
            label,
            searched: columns.label == Some(ColumnName::Auto),
            images,
            labels,
        })
    }

    /// The number of the column of the images' bytes.
    ///
    /// # Errors
    /// [`Error::Content`] for a file without this column, or where it holds something else.
    pub(super) fn image_leaf(&self, parquet: &Parquet) -> Result<usize> {
        check_column(parquet, &self.image)?;
        if let Some(leaf) = image_leaf(parquet, &self.image) {
            return Ok(leaf);
        }
        let text = parquet.leaf(&[&self.image]);
        let found = match text.is_some_and(|l| parquet.is_text(l)) {
            true => {
                "text, such as paths or addresses, and the images themselves are not in the file"
            }
            false => "something else",
        };
        Err(parquet.wrong(format!(
            "expected images in column {:?} as bytes or as a struct with a field \"bytes\", found {found}; the table has {}",
            shown(&self.image),
            parquet.describe()
        )))
    }

    /// The number of the label column, where there is one.
    ///
    /// # Errors
    /// As [`Chosen::image_leaf`].
    pub(super) fn label_leaf(&self, parquet: &Parquet) -> Result<Option<usize>> {
        let Some(name) = &self.label else {
            return Ok(None);
        };
        check_column(parquet, name)?;
        let leaf = label_leaf(parquet, name).ok_or_else(|| {
            parquet.wrong(format!(
                "expected whole numbers, booleans or text in column {:?}; the table has {}",
                shown(name),
                parquet.describe()
            ))
        })?;
        Ok(Some(leaf))
    }

    /// The names that the file's metadata gives the classes; none where it gives none.
    pub(super) fn class_names(&self, parquet: &Parquet) -> Vec<String> {
        match &self.label {
            Some(label) => Features::read(parquet.hub()).classes(label),
            None => Vec::new(),
        }
    }

    /// The choice in words: `images in column "img", labels in column "label"`, with other columns
    /// that are possible.
    pub(super) fn describe(&self) -> String {
        let others = |names: &[String]| match names {
            [] => String::new(),
            names => {
                let names: Vec<String> = names.iter().take(8).map(|n| shown(n)).collect();
                format!(" (also possible: {})", names.join(", "))
            }
        };
        let label = match &self.label {
            Some(name) => format!(
                "labels in column \"{}\"{}",
                shown(name),
                others(&self.labels)
            ),
            None if self.searched => {
                "no labels (no column has their type and a usual name; name one by label=COLUMN)"
                    .into()
            }
            None => "no labels".into(),
        };
        format!(
            "images in column \"{}\"{}, {label}",
            shown(&self.image),
            others(&self.images)
        )
    }
}

fn check_column(parquet: &Parquet, name: &str) -> Result<()> {
    if parquet.has(name) {
        return Ok(());
    }
    Err(parquet.wrong(format!(
        "expected a column {:?}; the table has {}",
        shown(name),
        parquet.describe()
    )))
}

/// The bytes of a column of images; `None` where it cannot hold any.
fn image_leaf(parquet: &Parquet, name: &str) -> Option<usize> {
    let part = parquet.leaf(&[name, "bytes"]);
    let leaf = part.or(parquet.leaf(&[name]).filter(|&l| !parquet.is_text(l)));
    leaf.filter(|&l| parquet.is_binary(l))
}

fn label_leaf(parquet: &Parquet, name: &str) -> Option<usize> {
    let leaf = parquet.leaf(&[name])?;
    let can_be = parquet.is_whole(leaf) || parquet.is_flag(leaf) || parquet.is_text(leaf);
    can_be.then_some(leaf)
}

/// The place of a name in a list of common names; names that are not there come last.
fn rank(name: &str, common: &[&str]) -> usize {
    let place = common.iter().position(|c| name.eq_ignore_ascii_case(c));
    place.unwrap_or(common.len())
}

/// The image column, and others that might have been meant.
fn find_image(parquet: &Parquet, features: &Features) -> Result<(String, Vec<String>)> {
    let stored = parquet.image_columns();
    let described: Vec<&Stored> = stored
        .iter()
        .filter(|c| features.kind(&c.name) == Some("Image"))
        .collect();
    // What is described as sound, video and the like is stored in the same way.
    let (structs, plain): (Vec<&Stored>, Vec<&Stored>) = stored
        .iter()
        .filter(|c| matches!(features.kind(&c.name), None | Some("Value")))
        .partition(|c| c.is_struct);
    let mut budget = parquet.budget();
    let mut found = match (described.as_slice(), structs.as_slice()) {
        ([], []) => looking_like_images(parquet, &plain, &mut budget)?,
        ([], [_]) => structs,
        ([], _) => match looking_like_images(parquet, &structs, &mut budget)? {
            images if images.is_empty() => structs,
            images => images,
        },
        _ => described,
    };
    found.sort_by_key(|column| rank(&column.name, &IMAGES));
    let mut found = found.into_iter().map(|column| column.name.clone());
    let first = found.next().ok_or_else(|| {
        let names = parquet.names();
        let is_image = |n: &String| features.kind(n) == Some("Image") || rank(n, &IMAGES) < IMAGES.len();
        let advice = match names.iter().any(is_image) {
            true => "; lists of images, pixels as numbers, paths and addresses cannot be read",
            false => "",
        };
        parquet.wrong(format!(
            "expected a column of images (such as \"image\"): a struct with a field \"bytes\", or images as bytes; the table has {}{advice}",
            parquet.describe()
        ))
    })?;
    Ok((first, found.collect()))
}

/// The columns whose first value starts as an image file does; where there is none, those of which
/// it is not known; where there is none of these either, those with a common name.
fn looking_like_images<'a>(
    parquet: &Parquet,
    columns: &[&'a Stored],
    budget: &mut Budget,
) -> Result<Vec<&'a Stored>> {
    let (mut images, mut unknown, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for column in columns.iter().take(PROBED) {
        match parquet.first_bytes(column.leaf, budget) {
            Ok(Some(start)) if image::guess_format(&start).is_ok() => images.push(*column),
            Ok(Some(_)) if rank(&column.name, &IMAGES) < IMAGES.len() => named.push(*column),
            Ok(Some(_)) => {}
            // What is wrong with the column is said when it is read.
            Ok(None) | Err(Error::Content { .. }) => unknown.push(*column),
            Err(error) => return Err(error),
        }
    }
    let tiers = [images, unknown, named];
    Ok(tiers
        .into_iter()
        .find(|t| !t.is_empty())
        .unwrap_or_default())
}

/// The label column, and others that might have been meant.
fn find_label(
    parquet: &Parquet,
    features: &Features,
    image: &str,
) -> (Option<String>, Vec<String>) {
    let is_class = |name: &str| features.kind(name) == Some("ClassLabel");
    let mut found: Vec<String> = parquet.names();
    found.retain(|name| {
        name != image
            && (is_class(name) || rank(name, &LABELS) < LABELS.len())
            && label_leaf(parquet, name).is_some()
    });
    found.sort_by_key(|name| (!is_class(name), rank(name, &LABELS)));
    let mut found = found.into_iter();
    (found.next(), found.collect())
}
