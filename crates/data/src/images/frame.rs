//! The labels and attributes of a selection as a data frame.

use super::{Images, Source};
use crate::Result;
use polars::prelude::*;

impl Images {
    /// Returns a data frame with one row per image: the columns `row` (its number in this
    /// selection, u32), `label` (u32), `class`, `split` and `path` (text), then the attributes.
    /// Unknown values are null. An attribute with one of these names is renamed to `column_row`
    /// and so on.
    pub fn frame(&self) -> Result<DataFrame> {
        const OURS: [&str; 5] = ["row", "label", "class", "split", "path"];
        let set = &self.set;
        let count = self.len();
        let pick = IdxCa::from_vec("".into(), self.origins());
        let row: Vec<u32> = (0..count as u32).collect();
        let label = match self.labels() {
            Some(labels) => Series::new("label".into(), labels),
            None => Series::full_null("label".into(), count, &DataType::UInt32),
        };
        // Each name is stored once, regardless of the number of rows that have it.
        let named = |name: &str, names: &[String], numbers: Option<&[u32]>| -> Result<Series> {
            let Some(numbers) = numbers.filter(|_| !names.is_empty()) else {
                return Ok(Series::full_null(name.into(), count, &DataType::String));
            };
            let number = |row: &u32| {
                let number = numbers.get(*row as usize).copied();
                number.filter(|&n| (n as usize) < names.len())
            };
            let numbers: Vec<Option<u32>> = match &self.rows {
                Some(rows) => rows.iter().map(number).collect(),
                None => (0..count as u32).map(|r| number(&r)).collect(),
            };
            let numbers = IdxCa::from_iter_options("".into(), numbers.into_iter());
            Ok(Series::new(name.into(), names).take(&numbers)?)
        };
        let path = match (&set.path, &set.source) {
            (Some(path), _) => path.take(&pick)?,
            (None, Source::Folder(folder)) => {
                let names = pick.iter().flatten().map(|r| folder.name(r as usize));
                Series::new("path".into(), names.collect::<Vec<_>>())
            }
            _ => Series::full_null("path".into(), count, &DataType::String),
        };
        let mut columns = vec![
            Column::new("row".into(), row),
            label.into_column(),
            named("class", &set.classes, set.labels.as_deref())?.into_column(),
            named("split", &set.splits, Some(&set.split))?.into_column(),
            path.with_name("path".into()).into_column(),
        ];
        for attribute in &set.attributes {
            let mut name = attribute.name().to_string();
            if OURS.contains(&name.as_str()) {
                name = format!("column_{name}");
            }
            let values = attribute.take(&pick)?.with_name(name.into());
            columns.push(values.into_column());
        }
        Ok(DataFrame::new(count, columns)?)
    }
}
