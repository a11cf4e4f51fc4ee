//! Images with known factors, and images from files.
