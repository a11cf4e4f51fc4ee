//! Networks to ask, each a chain of named layers.
