//! Files that the Hugging Face hub has, and how they come here.

mod cache;
mod client;
mod http;
mod listing;
mod repo;
mod transfer;

pub use client::Hub;
pub use listing::split as parquet_split;
pub use repo::{Repo, RepoFile};
