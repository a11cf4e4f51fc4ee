//! Widths of figures on paper.

/// The width of a figure on paper.
///
/// ```
/// use invariances_figure::Width;
/// assert_eq!(Width::Single.points(), 234.0);
/// assert_eq!(Width::Points(345.8).points(), 345.8); // the text width of Springer's LNCS, 122 mm
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Width {
    /// One column of a two-column paper: 3.25 inches, as at CVPR and ICCV.
    Single,
    /// Both columns: 6.875 inches.
    Double,
    /// A width in points (1/72 inch).
    Points(f64),
}

impl Width {
    /// Returns the width in points (1/72 inch).
    pub fn points(self) -> f64 {
        match self {
            Self::Single => 3.25 * 72.0,
            Self::Double => 6.875 * 72.0,
            Self::Points(points) => points,
        }
    }
}
