//! Iterates over images in batches, decoded ahead on a background thread, in order or shuffled.

use super::Batch;
use super::images::{Images, Source};
use super::shards::{KEPT, Key, Shards};
use crate::{Error, Result};
use invariances_ops::Rng;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The order in which batches contain the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The order of the rows.
    InOrder,
    /// A random order. The same seed gives the same order.
    ///
    /// Image files of a folder are fully shuffled. A parquet file is read in pages: the pages are
    /// shuffled, and images are drawn at random from a shuffle buffer of 64 MiB of image files,
    /// which is refilled from the next pages. A parquet file that fits in this buffer is fully
    /// shuffled as well.
    Shuffled(u64),
}

/// An iterator over batches of images, decoded ahead on a background thread; see
/// [`Images::batches`].
///
/// The iterator ends after the first error. Dropping it stops the thread.
///
/// [`Images::batches`]: super::Images::batches
#[derive(Debug)]
pub struct Batches {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    remaining: usize,
}

impl Batches {
    pub(super) fn start(images: &Images, batch: usize, size: usize, order: Order) -> Result<Self> {
        let remaining = images.len().div_ceil(batch);
        let (sender, receiver) = sync_channel(1);
        let images = images.clone();
        let work = move || {
            if let Err(Stop::Failed(error)) = send(&images, batch, size, order, &sender) {
                // The receiver may have been dropped already; then the error is not needed.
                let _ = sender.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new()
            .name("images".into())
            .spawn(work)
            .map_err(|e| {
                Error::invalid(format!("cannot start the thread that decodes images: {e}"))
            })?;
        Ok(Self {
            receiver: Some(receiver),
            thread: Some(thread),
            remaining,
        })
    }

    fn stop(&mut self) -> bool {
        self.remaining = 0;
        // Without a receiver the thread ends after the batch that it is computing.
        self.receiver = None;
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.remaining == 0 {
            self.stop();
            return None;
        }
        match self.receiver.as_ref()?.recv() {
            Ok(Ok(batch)) => {
                self.remaining -= 1;
                Some(Ok(batch))
            }
            Ok(Err(error)) => {
                self.stop();
                Some(Err(error))
            }
            Err(_) => {
                self.stop();
                let what = "the thread that decodes images ended before the last batch";
                Some(Err(Error::invalid(what)))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining.min(1), Some(self.remaining))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The reason why no more batches are sent.
enum Stop {
    /// The receiver was dropped.
    Unwanted,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Sent = std::result::Result<(), Stop>;

fn send(
    images: &Images,
    batch: usize,
    size: usize,
    order: Order,
    sender: &SyncSender<Result<Batch>>,
) -> Sent {
    let give = |batch: Result<Batch>| sender.send(Ok(batch?)).map_err(|_| Stop::Unwanted);
    let mut rng = match order {
        Order::InOrder => {
            let mut first = 0;
            while first < images.len() {
                let end = images.len().min(first.saturating_add(batch));
                let rows: Vec<usize> = (first..end).collect();
                give(images.batch(&rows, size))?;
                first = end;
            }
            return Ok(());
        }
        Order::Shuffled(seed) => Rng::named(seed, "images/order"),
    };
    match images.source() {
        Source::Folder(_) => {
            let order = rng.permutation(images.len());
            for rows in order.chunks(batch) {
                let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
                give(images.batch(&rows, size))?;
            }
            Ok(())
        }
        Source::Shards(shards) => {
            let mut store = Store::new(images, shards, rng)?;
            loop {
                let files = store.draw(images, shards, batch)?;
                if files.is_empty() {
                    return Ok(());
                }
                give(images.batch_of(&files, size))?;
            }
        }
    }
}

/// The shuffle buffer: image files from which the next ones are drawn at random.
struct Store {
    rng: Rng,
    /// Pages that are not read yet, the next one last. For each page, the rows that are needed,
    /// as (row in the view, row in the page).
    pages: Vec<(Key, Vec<(u32, u32)>)>,
    waiting: Vec<(u32, Vec<u8>)>,
    /// Total size of the files in the buffer, in bytes.
    size: usize,
}

impl Store {
    fn new(images: &Images, shards: &Shards, mut rng: Rng) -> Result<Self> {
        let mut by_page: BTreeMap<Key, Vec<(u32, u32)>> = BTreeMap::new();
        for (position, row) in images.origins().into_iter().enumerate() {
            let (key, row) = shards.place(row as usize)?;
            let rows = by_page.entry(key).or_default();
            rows.push((position as u32, row as u32));
        }
        let mut pages: Vec<Option<_>> = by_page.into_iter().map(Some).collect();
        let order = rng.permutation(pages.len());
        let pages = order.iter().filter_map(|&i| pages[i as usize].take());
        Ok(Self {
            pages: pages.collect(),
            rng,
            waiting: Vec::new(),
            size: 0,
        })
    }

    /// Draws the next `count` image files, or fewer at the end.
    fn draw(
        &mut self,
        images: &Images,
        shards: &Shards,
        count: usize,
    ) -> Result<Vec<(u32, Vec<u8>)>> {
        let mut drawn = Vec::new();
        while drawn.len() < count {
            self.fill(images, shards)?;
            if self.waiting.is_empty() {
                break;
            }
            let file = self.waiting.swap_remove(self.rng.below(self.waiting.len()));
            self.size -= file.1.len();
            drawn.push(file);
        }
        Ok(drawn)
    }

    fn fill(&mut self, images: &Images, shards: &Shards) -> Result<()> {
        while self.size < KEPT
            && let Some((key, rows)) = self.pages.last_mut()
        {
            let page = shards.page(*key)?;
            while self.size < KEPT
                && let Some((position, row)) = rows.pop()
            {
                let bytes = page.bytes(row as usize);
                let bytes = bytes.ok_or_else(|| images.missing(position))?;
                self.size += bytes.len();
                self.waiting.push((position, bytes.to_vec()));
            }
            if rows.is_empty() {
                self.pages.pop();
            }
        }
        Ok(())
    }
}
