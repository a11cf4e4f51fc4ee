//! E and D: a complete code of an image.
