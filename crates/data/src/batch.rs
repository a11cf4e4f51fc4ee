use crate::{Error, Result};
use candle_core::Tensor;
use polars::prelude::{Column, DataFrame};

/// The disjoint parts of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What networks are trained on.
    Train,
    /// What decisions during training are made on.
    Validation,
    /// What is reported.
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

/// Images with their labels and with what is known about them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// (n, 3, height, width), f32 in [−1, 1].
    pub images: Tensor,
    /// (n,), u32.
    pub labels: Tensor,
    /// The known factors, a row per image.
    pub factors: Factors,
}

impl Batch {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.dims().first().copied().unwrap_or(0)
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first image of each class, in the order of the classes: images (classes, 3, height, width) and labels.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty batch.
    pub fn one_of_each(&self) -> Result<(Tensor, Tensor)> {
        let mut first = std::collections::BTreeMap::new();
        for (row, label) in self.labels.to_vec1::<u32>()?.into_iter().enumerate() {
            first.entry(label).or_insert(row as u32);
        }
        if first.is_empty() {
            return Err(Error::invalid("one image of each class of an empty batch"));
        }
        let rows: Vec<u32> = first.into_values().collect();
        let rows = Tensor::new(rows, self.images.device())?;
        Ok((
            self.images.index_select(&rows, 0)?,
            self.labels.index_select(&rows, 0)?,
        ))
    }
}

/// The known factors of some images: named columns of one length.
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
    /// No columns yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a column of whole numbers, such as a class.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless it has the length of the others.
    pub fn with_whole(&self, name: &str, values: Vec<u32>) -> Result<Self> {
        self.with(name, Values::Whole(values))
    }

    /// Adds or replaces a column of real numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless it has the length of the others.
    pub fn with_real(&self, name: &str, values: Vec<f32>) -> Result<Self> {
        self.with(name, Values::Real(values))
    }

    fn with(&self, name: &str, values: Values) -> Result<Self> {
        let mut columns = self.columns.clone();
        columns.retain(|(n, _)| n != name);
        if let Some((first, other)) = columns.first()
            && other.len() != values.len()
        {
            return Err(Error::invalid(format!(
                "factor {name:?} has {} values, {first:?} has {}: one per image is expected",
                values.len(),
                other.len()
            )));
        }
        columns.push((name.into(), values));
        Ok(Self { columns })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, v)| v.len())
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the columns.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(n, _)| n.clone()).collect()
    }

    /// A column's values.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not there, with those that are.
    pub fn column(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.columns.iter().find(|(n, _)| n == name);
        match found {
            Some((_, Values::Real(v))) => Ok(v.clone()),
            Some((_, Values::Whole(v))) => Ok(v.iter().map(|&x| x as f32).collect()),
            None => Err(Error::invalid(format!(
                "no factor {name:?} is known here; known are: {}",
                self.names().join(", ")
            ))),
        }
    }

    /// The factors of these images, then those of `other`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the columns differ; none are like any.
    pub fn then(&self, other: &Self) -> Result<Self> {
        if self.columns.is_empty() {
            return Ok(other.clone());
        }
        if self.names() != other.names() {
            return Err(Error::invalid(format!(
                "factors {} cannot follow factors {}",
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
            _ => Err(Error::invalid(format!(
                "factor {name:?} is whole in one part and real in the other"
            ))),
        });
        Ok(Self {
            columns: joined.collect::<Result<_>>()?,
        })
    }

    /// The ink's colour of each image, red, green and blue in [0, 1]; empty where it is not known.
    pub fn foreground(&self) -> Vec<[f32; 3]> {
        self.colour("foreground")
    }

    /// The paper's colour of each image, red, green and blue in [0, 1]; empty where it is not known.
    pub fn background(&self) -> Vec<[f32; 3]> {
        self.colour("background")
    }

    /// A colour of each image, from the columns `NAME_r`, `NAME_g` and `NAME_b`: red, green and blue in [0, 1]; empty where it is
    /// not known.
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

    /// The factors as a polars frame, a row per image.
    pub fn frame(&self) -> Result<DataFrame> {
        let columns = self.columns.iter().map(|(name, values)| match values {
            Values::Whole(v) => Column::new(name.into(), v.as_slice()),
            Values::Real(v) => Column::new(name.into(), v.as_slice()),
        });
        Ok(DataFrame::new(self.len(), columns.collect())?)
    }
}

/// The columns of a colour.
fn rgb(name: &str) -> [String; 3] {
    ["r", "g", "b"].map(|c| format!("{name}_{c}"))
}
