//! The paper's questions as functions.
