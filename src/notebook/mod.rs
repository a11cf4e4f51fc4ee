//! What a notebook shows and knows.
