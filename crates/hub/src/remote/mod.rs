//! Downloads files from the Hugging Face hub into the local cache, and any other URL to a file.

mod api;
mod cache;
mod client;
mod explain;
mod hash;
mod http;
mod listing;
mod lock;
mod progress;
mod repo;
mod transfer;

pub use client::Hub;
pub use listing::split as parquet_split;
pub use repo::{Repo, RepoFile};
