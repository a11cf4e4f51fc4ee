//! A reader of parquet files that does not trust the numbers in the file. It reads plain columns
//! page by page, so that memory is bounded by a page and not by the file.
//!
//! polars reads whole row groups, and its reader allocates memory according to numbers in the
//! file: one wrong bit can make it request 2⁶¹ bytes, which aborts the process and cannot be
//! caught. Here a number is first compared with the bytes that are present. Pages are unpacked by
//! functions of polars. Its readers of footers and pages (polars-parquet 0.55) are not used: the
//! former reserves memory for as many list elements as the file states, the latter allocates the
//! stated unpacked size of a page, both before any check. The format is described at
//! <https://parquet.apache.org/docs/file-format/>. Supported encodings: plain, dictionary and
//! run-length. Supported page versions: 1 and 2.

mod columns;
mod footer;
mod page;
mod thrift;

use crate::{Error, Result};
pub(super) use columns::Stored;
use footer::{Chunk, Footer, Logical};
use page::{Header, Kind};
pub(super) use page::{Page, Values};
use polars::prelude::{
    BooleanChunkedBuilder, ChunkedBuilder, IntoSeries, NamedFrom, Series, StringChunkedBuilder,
};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use thrift::Fault;

/// Maximum size of the footer in bytes.
const LONGEST_FOOTER: u64 = 64 << 20;
/// Maximum size of a page header in bytes; it may contain the minimum and maximum value.
const LONGEST_HEADER: usize = 16 << 20;

/// An open parquet file; only its footer is in memory.
#[derive(Debug)]
pub(super) struct Parquet {
    path: PathBuf,
    length: u64,
    /// Start of the footer. All pages lie before it.
    end: u64,
    footer: Footer,
    /// The first row of each row group, then the number of rows.
    starts: Vec<usize>,
    /// Per row group: the positions of the pages of the one column that is read page by page.
    index: Vec<OnceLock<Arc<Index>>>,
}

/// The positions of the pages of a column chunk.
#[derive(Debug)]
pub(super) struct Index {
    dictionary: Option<(u64, Header)>,
    pages: Vec<(u64, Header)>,
    /// The first row of each page, relative to the row group.
    firsts: Vec<usize>,
}

/// The position of a row: row group, page, and row within that page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub group: usize,
    pub page: usize,
    pub row: usize,
}

/// Limits the memory that the values of a file may take (`memory`) and the bytes that may be
/// unpacked for them (`unpacked`), relative to the length of the file.
#[derive(Debug)]
pub(super) struct Budget {
    memory: u64,
    unpacked: u64,
}

impl Budget {
    /// Creates the budget for a file of this length.
    fn new(length: u64) -> Self {
        Self {
            memory: length.saturating_mul(4).max(256 << 20),
            unpacked: length.saturating_mul(64).max(1 << 30),
        }
    }

    /// Charges for reading a page. Without this limit, many short pages that state large sizes,
    /// or columns that share one long page, could make reading arbitrarily slow.
    fn unpack(&mut self, header: &Header) -> std::result::Result<(), String> {
        self.unpacked = self
            .unpacked
            .checked_sub(header.unpacked.max(header.packed) as u64)
            .ok_or("the uncompressed size of its labels and attributes is far above the size of the file")?;
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> std::result::Result<(), String> {
        self.memory = self.memory.checked_sub(bytes as u64).ok_or(
            "its labels and attributes need far more memory than the size of the file: write them with fewer repeated values",
        )?;
        Ok(())
    }
}

impl Parquet {
    /// Opens a file and reads its footer.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let hint = "expected a parquet file with an image column";
        let io = |e| Error::io(path, e).with_hint(hint);
        let mut file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() {
            let what = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(io(what));
        }
        let length = about.len();
        let wrong = |what: String| Error::content(path, what);
        let cut = || {
            wrong(format!(
                "not a parquet file, or a truncated one ({length} bytes)"
            ))
        };
        let mut ends = [0u8; 12];
        if length >= 12 {
            file.read_exact(&mut ends[..4]).map_err(io)?;
            file.seek(SeekFrom::End(-8)).map_err(io)?;
            file.read_exact(&mut ends[4..]).map_err(io)?;
        }
        if ends[8..] == *b"PARE" {
            return Err(wrong("encrypted parquet files are not supported".into()));
        }
        if ends[..4] != *b"PAR1" || ends[8..] != *b"PAR1" {
            return Err(cut());
        }
        let size = u64::from(u32::from_le_bytes([ends[4], ends[5], ends[6], ends[7]]));
        if size > LONGEST_FOOTER {
            return Err(wrong(format!(
                "damaged parquet file: expected a footer of at most {LONGEST_FOOTER} bytes, found {size}"
            )));
        }
        let end = (length - 8).checked_sub(size).filter(|&e| e >= 4);
        let end = end.ok_or_else(cut)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        let mut bytes = vec![0; size as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        let damaged = |what: String| wrong(format!("damaged parquet file: {what}"));
        let footer = Footer::read(&bytes).map_err(damaged)?;
        // Memory is allocated according to the number of rows, so it is limited to one row per
        // byte of the file (or 2²⁰ rows, if that is more). A row with an image usually takes many
        // bytes, but equal images may be stored once.
        let max_rows = length.max(1 << 20).min(u64::from(u32::MAX));
        let (mut starts, mut rows) = (vec![0], 0u64);
        for group in &footer.groups {
            rows = rows
                .checked_add(group.rows)
                .filter(|&r| r <= max_rows)
                .ok_or_else(|| {
                    damaged(format!(
                        "found more rows than a file of {length} bytes can store"
                    ))
                })?;
            starts.push(rows as usize);
        }
        // Columns that share their bytes could make reading arbitrarily slow.
        for leaf in 0..footer.leaves.len() {
            let mut chunks = footer.groups.iter().map(|g| g.chunks[leaf].length);
            let sum = chunks.try_fold(0u64, u64::checked_add);
            if sum.is_none_or(|s| s > length) {
                return Err(damaged("a column that is longer than the file".into()));
            }
        }
        let index = footer.groups.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            path: path.into(),
            length,
            end,
            footer,
            starts,
            index,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Returns the value of the metadata key in which the Hugging Face Hub describes its
    /// datasets.
    pub(super) fn hub(&self) -> Option<&str> {
        self.footer.hub.as_deref()
    }

    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.length)
    }

    /// Reads a complete column.
    pub(super) fn column(&self, leaf: usize, name: &str, budget: &mut Budget) -> Result<Series> {
        let wrong = |what: String| self.damaged(what);
        let about = &self.footer.leaves[leaf];
        // Memory per cell: its value and validity flag, and a second copy while the column is
        // built.
        let rows = self.len();
        budget.charge(rows * 16).map_err(wrong)?;
        let mut file = self.file()?;
        let mut column = match (about.physical, about.logical) {
            (0, _) => Cells::Bool(BooleanChunkedBuilder::new(name.into(), rows)),
            (1 | 2, logical) => Cells::Whole(Vec::with_capacity(rows), about.physical, logical),
            (4, _) => Cells::F32(Vec::with_capacity(rows)),
            (5, _) => Cells::F64(Vec::with_capacity(rows)),
            _ => Cells::Text(StringChunkedBuilder::new(name.into(), rows)),
        };
        for group in 0..self.footer.groups.len() {
            let index = self.walk(&mut file, group, leaf)?;
            let headers = index.dictionary.iter().chain(&index.pages);
            for (_, header) in headers {
                budget.unpack(header).map_err(wrong)?;
            }
            let dictionary = self.dictionary(&mut file, group, leaf, &index)?;
            for page in 0..index.pages.len() {
                let data = self.data(&mut file, group, leaf, &index, page, dictionary.as_ref())?;
                for row in 0..index.pages[page].1.values {
                    column.push(&data, row, budget).map_err(wrong)?;
                }
            }
        }
        Ok(column.finish(name))
    }

    /// Returns the position of a row in a column that is read page by page.
    pub(super) fn place(&self, leaf: usize, row: usize) -> Result<Place> {
        if row >= self.len() {
            return Err(Error::invalid(format!(
                "no row {row}: the table has {} rows, counted from 0",
                self.len()
            )));
        }
        // The last group that starts at or before `row`. An empty group starts at the same row as
        // the next one.
        let group = self.starts.partition_point(|&s| s <= row) - 1;
        let index = self.index(group, leaf)?;
        let row = row - self.starts[group];
        let page = index.firsts.partition_point(|&f| f <= row) - 1;
        let row = row - index.firsts[page];
        Ok(Place { group, page, row })
    }

    fn index(&self, group: usize, leaf: usize) -> Result<Arc<Index>> {
        if let Some(index) = self.index[group].get() {
            return Ok(index.clone());
        }
        let index = Arc::new(self.walk(&mut self.file()?, group, leaf)?);
        Ok(self.index[group].get_or_init(|| index).clone())
    }

    /// Whether a page needs the dictionary of its row group.
    pub(super) fn needs_dictionary(&self, leaf: usize, place: Place) -> Result<bool> {
        let index = self.index(place.group, leaf)?;
        Ok(index.pages[place.page].1.needs_dictionary())
    }

    /// Reads the dictionary of a row group.
    pub(super) fn dictionary_values(&self, group: usize, leaf: usize) -> Result<Option<Values>> {
        let index = self.index(group, leaf)?;
        self.dictionary(&mut self.file()?, group, leaf, &index)
    }

    /// Reads a page of a column that is read page by page.
    pub(super) fn page(
        &self,
        leaf: usize,
        place: Place,
        dictionary_values: Option<&Values>,
    ) -> Result<Page> {
        let index = self.index(place.group, leaf)?;
        let mut file = self.file()?;
        self.data(
            &mut file,
            place.group,
            leaf,
            &index,
            place.page,
            dictionary_values,
        )
    }

    fn file(&self) -> Result<File> {
        let io = |e| Error::io(&self.path, e);
        let file = File::open(&self.path).map_err(io)?;
        if file.metadata().map_err(io)?.len() != self.length {
            return Err(
                self.wrong("the file has changed since it was opened; open it again".into())
            );
        }
        Ok(file)
    }

    /// Reads the page headers of a column chunk.
    fn walk(&self, file: &mut File, group: usize, leaf: usize) -> Result<Index> {
        let damaged = |what: &str| self.damaged(format!("row group {group}: {what}"));
        let Chunk { start, length, .. } = self.footer.groups[group].chunks[leaf];
        let end = start.checked_add(length).filter(|&e| e <= self.end);
        let end = end
            .filter(|_| start >= 4)
            .ok_or_else(|| damaged("a column outside of the file"))?;
        let rows = self.footer.groups[group].rows as usize;
        let mut index = Index {
            dictionary: None,
            pages: Vec::new(),
            firsts: Vec::new(),
        };
        let (mut at, mut first) = (start, 0usize);
        // Writers may leave unused space after the last page.
        while first < rows {
            let (header, size) = self.header(file, group, at, end)?;
            let body = at + size as u64;
            at = body
                .checked_add(header.packed as u64)
                .filter(|&e| e <= end)
                .ok_or_else(|| damaged("a page that is longer than its column"))?;
            match header.kind {
                Kind::Dictionary => index.dictionary = Some((body, header)),
                Kind::Other => {}
                _ if header.values == 0 => {}
                _ => {
                    index.firsts.push(first);
                    first = first
                        .checked_add(header.values)
                        .filter(|&f| f <= rows)
                        .ok_or_else(|| damaged("a column with more values than rows"))?;
                    index.pages.push((body, header));
                }
            }
        }
        Ok(index)
    }

    fn header(&self, file: &mut File, group: usize, at: u64, end: u64) -> Result<(Header, usize)> {
        let damaged = |what: &str| self.damaged(format!("row group {group}: {what}"));
        let mut size = 256;
        loop {
            let all = end.saturating_sub(at);
            let length = all.min(size as u64) as usize;
            let bytes = self.read(file, at, length)?;
            match Header::read(&bytes) {
                Ok(found) => return Ok(found),
                Err(Fault::Wrong(what)) => return Err(damaged(what)),
                Err(Fault::Cut) if length as u64 == all || size >= LONGEST_HEADER => {
                    return Err(damaged("a page with a truncated header"));
                }
                Err(Fault::Cut) => size *= 16,
            }
        }
    }

    fn dictionary(
        &self,
        file: &mut File,
        group: usize,
        leaf: usize,
        index: &Index,
    ) -> Result<Option<Values>> {
        let Some((at, header)) = &index.dictionary else {
            return Ok(None);
        };
        let data = self.unpacked(file, group, leaf, *at, header)?;
        let values = page::dictionary(&self.footer.leaves[leaf], header, data);
        values.map(Some).map_err(|what| self.damaged(what))
    }

    fn data(
        &self,
        file: &mut File,
        group: usize,
        leaf: usize,
        index: &Index,
        page: usize,
        dictionary: Option<&Values>,
    ) -> Result<Page> {
        let (at, header) = &index.pages[page];
        let data = self.unpacked(file, group, leaf, *at, header)?;
        page::data(&self.footer.leaves[leaf], header, data, dictionary)
            .map_err(|what| self.damaged(what))
    }

    fn unpacked(
        &self,
        file: &mut File,
        group: usize,
        leaf: usize,
        at: u64,
        header: &Header,
    ) -> Result<Vec<u8>> {
        if header.packed > page::MAX_PAGE {
            let (found, limit) = (header.packed, page::MAX_PAGE);
            return Err(self.wrong(format!(
                "expected pages of at most {limit} bytes, found {found}: write the file with smaller pages or row groups"
            )));
        }
        let body = self.read(file, at, header.packed)?;
        let codec = self.footer.groups[group].chunks[leaf].codec;
        header
            .unpack(body, codec)
            .map_err(|what| self.damaged(what))
    }

    fn read(&self, file: &mut File, at: u64, length: usize) -> Result<Vec<u8>> {
        let io = |e| Error::io(&self.path, e);
        let mut bytes = page::zeros(length).map_err(|what| self.wrong(what))?;
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    fn damaged(&self, what: String) -> Error {
        self.wrong(format!("damaged or unsupported parquet file: {what}"))
    }

    pub(super) fn wrong(&self, what: String) -> Error {
        Error::content(&self.path, what)
    }
}

/// A column that is being built.
enum Cells {
    Bool(BooleanChunkedBuilder),
    Whole(Vec<Option<i64>>, i64, Logical),
    F32(Vec<Option<f32>>),
    F64(Vec<Option<f64>>),
    Text(StringChunkedBuilder),
}

impl Cells {
    fn push(
        &mut self,
        page: &Page,
        row: usize,
        budget: &mut Budget,
    ) -> std::result::Result<(), String> {
        let place = page.place(row);
        match (self, &page.values) {
            (Self::Bool(b), Values::Bool(v)) => b.append_option(place.map(|p| v[p])),
            (Self::Whole(b, _, Logical::Unsigned), Values::I32(v)) => {
                b.push(place.map(|p| i64::from(v[p] as u32)));
            }
            (Self::Whole(b, ..), Values::I32(v)) => b.push(place.map(|p| i64::from(v[p]))),
            (Self::Whole(b, ..), Values::I64(v)) => b.push(place.map(|p| v[p])),
            (Self::F32(b), Values::F32(v)) => b.push(place.map(|p| v[p])),
            (Self::F64(b), Values::F64(v)) => b.push(place.map(|p| v[p])),
            (Self::Text(b), Values::Bytes { .. }) => {
                let text = page.bytes(row).map(String::from_utf8_lossy);
                budget.charge(text.as_ref().map_or(0, |t| t.len()))?;
                b.append_option(text.as_deref());
            }
            _ => return Err("a column that changes its type".into()),
        }
        Ok(())
    }

    fn finish(self, name: &str) -> Series {
        match self {
            Self::Bool(b) => b.finish().into_series(),
            Self::Text(b) => b.finish().into_series(),
            Self::F32(v) => Series::new(name.into(), v),
            Self::F64(v) => Series::new(name.into(), v),
            Self::Whole(v, 1, Logical::Unsigned) => {
                let v: Vec<Option<u32>> = v.into_iter().map(|v| v.map(|v| v as u32)).collect();
                Series::new(name.into(), v)
            }
            Self::Whole(v, 1, _) => {
                let v: Vec<Option<i32>> = v.into_iter().map(|v| v.map(|v| v as i32)).collect();
                Series::new(name.into(), v)
            }
            Self::Whole(v, _, Logical::Unsigned) => {
                let v: Vec<Option<u64>> = v.into_iter().map(|v| v.map(|v| v as u64)).collect();
                Series::new(name.into(), v)
            }
            Self::Whole(v, ..) => Series::new(name.into(), v),
        }
    }
}
