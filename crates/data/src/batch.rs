//! A batch of images with labels and factors, and the splits of a dataset.

use crate::{Error, Result};
use candle_core::Tensor;
use polars::prelude::{Column, DataFrame};

/// The disjoint splits of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training networks.
    Train,
    /// For decisions during training.
    Validation,
    /// For reported results.
    Test,
}

impl Split {
    /// The split's name: `train`, `validation` or `test`.
    pub fn name(self) -> String {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
        .into()
    }
}

/// A batch of images with their labels and known factors.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Images, shape (n, 3, height, width), f32 in [−1, 1].
    pub images: Tensor,
    /// Labels, shape (n,), u32.
    pub labels: Tensor,
    /// The known factors, one row per image.
    pub factors: Factors,
}

impl Batch {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.dims().first().copied().unwrap_or(0)
    }

    /// Whether the batch has no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the first image of each class, in the order of the classes: images of shape
    /// (classes, 3, height, width) and labels.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty batch.
    pub fn one_of_each(&self) -> Result<(Tensor, Tensor)> {
        let mut first = std::collections::BTreeMap::new();
        for (row, label) in self.labels.to_vec1::<u32>()?.into_iter().enumerate() {
            first.entry(label).or_insert(row as u32);
        }
        if first.is_empty() {
            return Err(Error::shape(
                "expected at least one image in the batch, found 0",
            ));
        }
        let rows: Vec<u32> = first.into_values().collect();
        let rows = Tensor::new(rows, self.images.device())?;
        Ok((
            self.images.index_select(&rows, 0)?,
            self.labels
                .index_select(&rows.to_device(self.labels.device())?, 0)?,
        ))
    }
}

/// The known factors of a set of images: named columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    columns: Vec<(String, Values)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Whole(Vec<u32>),
    Real(Vec<f32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Whole(v) => v.len(),
            Self::Real(v) => v.len(),
        }
    }
}

impl Factors {
    /// Creates factors without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a column of integers, such as a class.
    ///
    /// # Errors
    /// [`Error::Shape`] if its length differs from that of the other columns.
    pub fn with_whole(&self, name: &str, values: Vec<u32>) -> Result<Self> {
        self.with(name, Values::Whole(values))
    }

    /// Adds or replaces a column of real numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if its length differs from that of the other columns.
    pub fn with_real(&self, name: &str, values: Vec<f32>) -> Result<Self> {
        self.with(name, Values::Real(values))
    }

    fn with(&self, name: &str, values: Values) -> Result<Self> {
        let mut columns = self.columns.clone();
        columns.retain(|(n, _)| n != name);
        if let Some((first, other)) = columns.first()
            && other.len() != values.len()
        {
            return Err(Error::shape(format!(
                "expected one value per image, but factor {name:?} has {} values and factor {first:?} has {}",
                values.len(),
                other.len()
            )));
        }
        columns.push((name.into(), values));
        Ok(Self { columns })
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, v)| v.len())
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the names of the columns.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(n, _)| n.clone()).collect()
    }

    /// Returns the values of a column; integers are converted to f32.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name; the message lists the known names.
    pub fn column(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.columns.iter().find(|(n, _)| n == name);
        match found {
            Some((_, Values::Real(v))) => Ok(v.clone()),
            Some((_, Values::Whole(v))) => Ok(v.iter().map(|&x| x as f32).collect()),
            None => Err(Error::unknown(format!(
                "no factor {name:?}; the factors are {}",
                self.names().join(", ")
            ))),
        }
    }

    /// Concatenates the factors of these images and those of `other`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the columns differ in name, [`Error::Shape`] if they differ in type.
    /// Factors without columns can be followed by any others.
    pub fn then(&self, other: &Self) -> Result<Self> {
        if self.columns.is_empty() {
            return Ok(other.clone());
        }
        if self.names() != other.names() {
            return Err(Error::invalid(format!(
                "cannot append factors {} to factors {}: expected the same names",
                other.names().join(", "),
                self.names().join(", ")
            )));
        }
        let joined = self.columns.iter().zip(&other.columns);
        let joined = joined.map(|((name, a), (_, b))| match (a, b) {
            (Values::Whole(a), Values::Whole(b)) => {
                Ok((name.clone(), Values::Whole([&a[..], b].concat())))
            }
            (Values::Real(a), Values::Real(b)) => {
                Ok((name.clone(), Values::Real([&a[..], b].concat())))
            }
            _ => Err(Error::shape(format!(
                "expected the same type of factor {name:?} in both parts, found integers in one and real numbers in the other"
            ))),
        });
        Ok(Self {
            columns: joined.collect::<Result<_>>()?,
        })
    }

    /// Returns the foreground colour of each image: red, green and blue in [0, 1]. Empty if
    /// unknown.
    pub fn foreground(&self) -> Vec<[f32; 3]> {
        self.colour("foreground")
    }

    /// Returns the background colour of each image: red, green and blue in [0, 1]. Empty if
    /// unknown.
    pub fn background(&self) -> Vec<[f32; 3]> {
        self.colour("background")
    }

    /// Returns a colour of each image from the columns `NAME_r`, `NAME_g` and `NAME_b`: red,
    /// green and blue in [0, 1]. Empty if unknown.
    pub fn colour(&self, name: &str) -> Vec<[f32; 3]> {
        let columns = rgb(name).map(|column| self.column(&column));
        match &columns {
            [Ok(r), Ok(g), Ok(b)] => (0..r.len()).map(|i| [r[i], g[i], b[i]]).collect(),
            _ => Vec::new(),
        }
    }

    /// Adds or replaces the three columns of a colour.
    pub(super) fn with_colour(&self, name: &str, values: &[[f32; 3]]) -> Result<Self> {
        let mut factors = self.clone();
        for (c, column) in rgb(name).iter().enumerate() {
            factors = factors.with_real(column, values.iter().map(|v| v[c]).collect())?;
        }
        Ok(factors)
    }

    /// Returns the factors as a polars data frame, one row per image.
    pub fn frame(&self) -> Result<DataFrame> {
        let columns = self.columns.iter().map(|(name, values)| match values {
            Values::Whole(v) => Column::new(name.into(), v.as_slice()),
            Values::Real(v) => Column::new(name.into(), v.as_slice()),
        });
        Ok(DataFrame::new(self.len(), columns.collect())?)
    }
}

/// The names of the three columns of a colour.
fn rgb(name: &str) -> [String; 3] {
    ["r", "g", "b"].map(|c| format!("{name}_{c}"))
}
