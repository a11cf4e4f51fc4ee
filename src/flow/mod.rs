//! Invertible layers and the two networks: t and e.
