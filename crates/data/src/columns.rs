//! Selects the columns of a parquet file with the images and their labels.
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

/// The name of a column, or automatic selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnName {
    /// The column is selected by the rules of [`ImageColumns`].
    #[default]
    Auto,
    /// The column with this name.
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
    /// Returns the name, or `default` if the column is selected automatically.
    pub(super) fn or<'a>(&'a self, default: &'a str) -> &'a str {
        match self {
            Self::Auto => default,
            Self::Named(name) => name,
        }
    }
}

/// Which columns of a parquet table contain the images and the labels. By default both are selected
/// automatically, and [`Images::parquet`](super::Images::parquet) prints the choice in one line.
///
/// **The image column** is the first of these that the table has:
/// 1. a column that the Hugging Face metadata of the file describes as an `Image`;
/// 2. a struct with the field `bytes`, the form in which `datasets` stores images ({bytes, path});
/// 3. a column of bytes whose first value starts like an image file, or one with a common name.
///
/// If several columns match rule 2 or 3, those whose first value starts like an image file are
/// preferred. Then common names come first (`image`, `img`, `picture`, `photo`, `jpg`, `jpeg`,
/// `png`, `webp`, `images`, `imgs`, `pixels`, in this order), then the first column of the table.
///
/// **The label column** is the first of these:
/// 1. a column that the metadata describes as a `ClassLabel`; its class names are used;
/// 2. a column of integers, booleans or text with a common name: `label`, `labels`,
///    `fine_label`, `class`, `target`, `category`, `species`, `breed` and similar ones.
///
/// If several columns match, common names come first, in this order, then the first column of the
/// table. A table without such a column has no labels ([`Images::labels`](super::Images::labels)
/// is `None`).
///
/// **Labels** are one of the following: integers from 0 to 2³² − 1 of any width; booleans
/// (classes `false` and `true`); or text. The distinct values of a text column become the
/// classes, sorted by name over all files of the dataset. Open all splits of such a dataset
/// together and separate them with [`Images::of_split`](super::Images::of_split): a class that is
/// missing in one split then does not change the class numbers of the others. Null and −1 mean
/// that the class is unknown, as in test splits on the Hugging Face Hub. If no row has a label,
/// the dataset has no labels. If only some rows have one, opening the files is an error, unless
/// `skip_unlabelled` leaves out the rows without a label.
///
/// The configuration can be parsed from text in the form of a URL query:
/// `image=img&label=fine_label`. `label=` reads no labels, `unlabelled=skip` sets
/// `skip_unlabelled`. In a name, write `%26`, `%3D` and `%25` for `&`, `=` and `%`.
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
    /// The image column: a struct {bytes, path}, or the bytes of image files. Default: automatic.
    pub image: ColumnName,
    /// The label column; `None` reads no labels. Default: automatic.
    pub label: Option<ColumnName>,
    /// Whether to leave out rows without a label if other rows have one. Default: false, such
    /// rows are an error.
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
    /// Selects the columns with these names.
    pub fn named(image: &str, label: &str) -> Self {
        Self {
            image: image.into(),
            label: Some(label.into()),
            skip_unlabelled: false,
        }
    }

    /// Whether a column is selected automatically.
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

/// Common names of image columns, in order of preference.
const IMAGES: [&str; 11] = [
    "image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "images", "imgs", "pixels",
];

/// Common names of label columns, in order of preference.
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

/// Maximum number of columns whose first value is read to find the image column.
const PROBED: usize = 64;

/// The description of the columns in the Hugging Face metadata of a file.
#[derive(Debug, Default)]
struct Features(Value);

impl Features {
    fn read(text: Option<&str>) -> Self {
        let mut description: Value = text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Self(description["info"]["features"].take())
    }

    /// Returns the type of a column: `Image`, `ClassLabel`, `Value`, `Audio` and so on.
    fn kind(&self, column: &str) -> Option<&str> {
        self.0[column]["_type"].as_str()
    }

    /// Returns the class names of a `ClassLabel` column; empty if there are none.
    fn classes(&self, column: &str) -> Vec<String> {
        let names = self.0[column]["names"].as_array().map(Vec::as_slice);
        let names = names.unwrap_or_default().iter();
        let names = names.map(|n| n.as_str().map(String::from));
        names.collect::<Option<_>>().unwrap_or_default()
    }
}

/// The columns that were selected in the first file of a dataset.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub image: String,
    pub label: Option<String>,
    /// Whether the label column was selected automatically.
    searched: bool,
    /// Other columns that also match the rules.
    images: Vec<String>,
    labels: Vec<String>,
}

impl Chosen {
    /// Selects the columns of a file.
    ///
    /// # Errors
    /// [`Error::Content`] if a named column is missing, or if no column contains images.
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

    /// Returns the leaf index of the column with the images' bytes.
    ///
    /// # Errors
    /// [`Error::Content`] if the file lacks this column, or if the column does not contain bytes.
    pub(super) fn image_leaf(&self, parquet: &Parquet) -> Result<usize> {
        check_column(parquet, &self.image)?;
        if let Some(leaf) = image_leaf(parquet, &self.image) {
            return Ok(leaf);
        }
        let text = parquet.leaf(&[&self.image]);
        let found = match text.is_some_and(|l| parquet.is_text(l)) {
            true => "text, such as paths or addresses; the images themselves are not in the file",
            false => "another type",
        };
        Err(parquet.wrong(format!(
            "expected images in column {:?} as bytes or as a struct with a field \"bytes\", found {found}; the table has {}",
            shown(&self.image),
            parquet.describe()
        )))
    }

    /// Returns the leaf index of the label column, if there is one.
    ///
    /// # Errors
    /// [`Error::Content`] if the file lacks this column, or if it does not contain integers,
    /// booleans or text.
    pub(super) fn label_leaf(&self, parquet: &Parquet) -> Result<Option<usize>> {
        let Some(name) = &self.label else {
            return Ok(None);
        };
        check_column(parquet, name)?;
        let leaf = label_leaf(parquet, name).ok_or_else(|| {
            parquet.wrong(format!(
                "expected integers, booleans or text in column {:?}; the table has {}",
                shown(name),
                parquet.describe()
            ))
        })?;
        Ok(Some(leaf))
    }

    /// Returns the class names in the file's metadata; empty if there are none.
    pub(super) fn class_names(&self, parquet: &Parquet) -> Vec<String> {
        match &self.label {
            Some(label) => Features::read(parquet.hub()).classes(label),
            None => Vec::new(),
        }
    }

    /// Describes the choice, with other columns that match: `images in column "img", labels in
    /// column "label"`.
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
                "no labels (no column has the type and a usual name of labels; select one with label=COLUMN)"
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

/// Returns the leaf index of a column's bytes; `None` if the column cannot contain images.
fn image_leaf(parquet: &Parquet, name: &str) -> Option<usize> {
    let part = parquet.leaf(&[name, "bytes"]);
    let leaf = part.or(parquet.leaf(&[name]).filter(|&l| !parquet.is_text(l)));
    leaf.filter(|&l| parquet.is_binary(l))
}

fn label_leaf(parquet: &Parquet, name: &str) -> Option<usize> {
    let leaf = parquet.leaf(&[name])?;
    let can_be = parquet.is_integer(leaf) || parquet.is_flag(leaf) || parquet.is_text(leaf);
    can_be.then_some(leaf)
}

/// Returns the position of a name in a list of common names. Names that are not in the list come
/// last.
fn rank(name: &str, common: &[&str]) -> usize {
    let place = common.iter().position(|c| name.eq_ignore_ascii_case(c));
    place.unwrap_or(common.len())
}

/// Returns the image column, and other columns that match.
fn find_image(parquet: &Parquet, features: &Features) -> Result<(String, Vec<String>)> {
    let stored = parquet.image_columns();
    let described: Vec<&Stored> = stored
        .iter()
        .filter(|c| features.kind(&c.name) == Some("Image"))
        .collect();
    // The metadata may describe other columns as audio, video and so on, which are stored in the
    // same form. These are excluded.
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

/// Returns the columns whose first value starts like an image file. If there are none, those
/// whose first value could not be read; if there are none of these either, those with a common
/// name.
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
            // An error in the column is reported when the column is read.
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

/// Returns the label column, and other columns that match.
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
