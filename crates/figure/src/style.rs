//! Colours, text sizes and margins that all figures share.

/// A colour: red, green and blue, and the opacity from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    /// Red, 0 to 255.
    pub red: u8,
    /// Green, 0 to 255.
    pub green: u8,
    /// Blue, 0 to 255.
    pub blue: u8,
    /// Opacity, 0 to 1.
    pub alpha: f32,
}

impl Colour {
    /// Creates an opaque colour.
    pub const fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self {
            red,
            green,
            blue,
            alpha: 1.0,
        }
    }

    /// Returns the colour with another opacity.
    pub const fn with_alpha(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// Returns a colour of the palette, in the order in which a chart uses them: six colours of
    /// Okabe and Ito's palette, which people with colour-blindness can also distinguish, then a
    /// dark grey. The colours repeat after seven.
    pub fn palette(index: usize) -> Self {
        const COLOURS: [Colour; 7] = [
            Colour::BLUE,
            Colour::VERMILLION,
            Colour::GREEN,
            Colour::PURPLE,
            Colour::ORANGE,
            Colour::SKY,
            Colour::rgb(0x55, 0x5b, 0x63),
        ];
        COLOURS[index % COLOURS.len()]
    }

    /// Blue, the first colour of the palette.
    pub const BLUE: Self = Self::rgb(0x00, 0x72, 0xb2);
    /// Red-orange.
    pub const VERMILLION: Self = Self::rgb(0xd5, 0x5e, 0x00);
    /// Bluish green.
    pub const GREEN: Self = Self::rgb(0x00, 0x9e, 0x73);
    /// Reddish purple.
    pub const PURPLE: Self = Self::rgb(0xcc, 0x79, 0xa7);
    /// Orange.
    pub const ORANGE: Self = Self::rgb(0xe6, 0x9f, 0x00);
    /// Light blue.
    pub const SKY: Self = Self::rgb(0x56, 0xb4, 0xe9);
    /// The colour of text.
    pub const INK: Self = Self::rgb(0x1f, 0x23, 0x28);
    /// The colour of secondary text: labels, captions.
    pub const GREY: Self = Self::rgb(0x59, 0x60, 0x68);
    /// The colour of a chart's grid lines.
    pub const GRID: Self = Self::rgb(0xe4, 0xe7, 0xea);
    /// White.
    pub const WHITE: Self = Self::rgb(0xff, 0xff, 0xff);
}

/// The space around a figure's content.
pub(crate) const MARGIN: f64 = 12.0;
/// The size of a figure's title.
pub(crate) const TITLE: f64 = 14.0;
/// The size of labels.
pub(crate) const LABEL: f64 = 11.5;
/// The size of captions and of the numbers at an axis.
pub(crate) const SMALL: f64 = 10.5;
/// Distance from one line of text to the next, as a multiple of the text size.
pub(crate) const LEADING: f64 = 1.35;
