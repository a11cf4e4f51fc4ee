//! The training log: rows in memory, tensors in a checkpoint, and a parquet file when the
//! training has finished.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use polars::prelude::{
    Column, DataFrame, NamedFrom, ParquetReader, ParquetWriter, SerReader, Series,
};
use std::collections::HashMap;
use std::path::Path;

/// Columns that every log has: step, seconds since the start, mean loss since the previous row,
/// and learning rate.
const FIXED: [&str; 4] = ["step", "seconds", "loss", "learning_rate"];

/// The log of a training run. It has about a thousand rows, independent of the number of steps.
#[derive(Clone, Debug)]
pub(super) struct Log {
    every: u64,
    /// NaN where a row has no value for a column.
    columns: Vec<(String, Vec<f64>)>,
    /// Sum and count of the losses since the last row.
    window: (f64, f64),
}

impl Log {
    pub fn new(steps: u64) -> Self {
        Self {
            every: (steps / 1000).max(1),
            columns: FIXED.iter().map(|c| (c.to_string(), vec![])).collect(),
            window: (0.0, 0.0),
        }
    }

    /// Adds a step's loss to the running mean.
    pub fn count(&mut self, loss: f64) {
        self.window.0 += loss;
        self.window.1 += 1.0;
    }

    /// Whether a row should be written after this step.
    pub fn is_due(&self, step: u64) -> bool {
        step == 1 || step.is_multiple_of(self.every)
    }

    pub fn row(
        &mut self,
        step: u64,
        seconds: f64,
        learning_rate: f64,
        report: &[(String, f64)],
    ) -> Result<()> {
        let loss = self.window.0 / self.window.1;
        let fixed = [step as f64, seconds, loss, learning_rate];
        for (name, _) in report {
            if FIXED.contains(&name.as_str()) || name.is_empty() {
                return Err(Error::invalid(format!(
                    "a step cannot report a value named {name:?}: choose a name that is not empty and not one of the log's columns {}",
                    FIXED.join(", ")
                )));
            }
        }
        let before = self.len();
        for (column, value) in self.columns.iter_mut().zip(fixed) {
            column.1.push(value);
        }
        for (name, value) in report {
            let index = self.columns.iter().position(|(n, _)| n == name);
            let index = index.unwrap_or_else(|| {
                self.columns.push((name.clone(), vec![f64::NAN; before]));
                self.columns.len() - 1
            });
            let column = &mut self.columns[index].1;
            column.truncate(before);
            column.push(*value);
        }
        for column in &mut self.columns {
            column.1.resize(before + 1, f64::NAN);
        }
        self.window = (0.0, 0.0);
        Ok(())
    }

    fn len(&self) -> usize {
        self.columns.first().map_or(0, |c| c.1.len())
    }

    /// Returns the last finite value of every column that has one.
    pub fn last(&self) -> Vec<(String, f64)> {
        let last = |(n, v): &(String, Vec<f64>)| {
            let value = v.iter().rev().find(|x| x.is_finite())?;
            Some((n.clone(), *value))
        };
        self.columns.iter().filter_map(last).collect()
    }

    /// Returns the column names in order.
    pub fn columns(&self) -> Vec<&str> {
        self.columns.iter().map(|(n, _)| n.as_str()).collect()
    }

    /// Returns the log as tensors for a checkpoint.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = vec![(
            "log.window".to_string(),
            Tensor::new(&[self.window.0, self.window.1], &Device::Cpu)?,
        )];
        for (name, values) in &self.columns {
            if !values.is_empty() {
                let values = Tensor::new(values.as_slice(), &Device::Cpu)?;
                tensors.push((format!("log/{name}"), values));
            }
        }
        Ok(tensors)
    }

    /// Restores the log from the values of [`Log::state`] and [`Log::columns`].
    pub fn set_state(
        &mut self,
        tensors: &HashMap<String, Tensor>,
        columns: &[String],
    ) -> Result<()> {
        let missing = || Error::unknown("no tensor log.window");
        let window = tensors.get("log.window").ok_or_else(missing)?;
        if let [sum, count] = window.to_vec1::<f64>()?[..] {
            self.window = (sum, count);
        }
        self.columns = columns
            .iter()
            .map(|name| {
                let tensor = tensors.get(&format!("log/{name}"));
                let values = tensor.map(|t| t.to_vec1()).transpose()?;
                Ok((name.clone(), values.unwrap_or_default()))
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Returns a log without rows, for a network whose log file is damaged or missing.
    pub fn empty() -> Result<DataFrame> {
        Self::new(1).frame()
    }

    pub fn frame(&self) -> Result<DataFrame> {
        let column = |(name, values): &(String, Vec<f64>)| -> Column {
            if name == "step" {
                let steps: Vec<u64> = values.iter().map(|s| *s as u64).collect();
                return Series::new(name.into(), steps).into();
            }
            let values: Vec<_> = values.iter().map(|v| (!v.is_nan()).then_some(*v)).collect();
            Series::new(name.into(), values).into()
        };
        Ok(DataFrame::new_infer_height(
            self.columns.iter().map(column).collect(),
        )?)
    }
}

/// Writes a frame as parquet, atomically: the file is either complete or absent.
pub(super) fn write_frame(path: &Path, frame: &DataFrame) -> Result<()> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame.clone())?;
    invariances_core::files::write_atomic(path, &bytes)
}

/// Reads a frame from a parquet file.
pub(super) fn read_frame(path: &Path) -> Result<DataFrame> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    ParquetReader::new(std::io::Cursor::new(bytes))
        .finish()
        .map_err(|e| {
            Error::content(
                path,
                format!("expected a training log in parquet format: {e}"),
            )
        })
}
