//! [`Outline`]: the architecture of a network as text, as `print(model)` shows it in PyTorch.

use crate::ops::{Activation, ConvConfig};
use candle_core::Tensor;
use std::fmt;

/// The architecture of a network: its layers with their sizes and numbers of trainable parameters.
/// `Display` and `Debug` of networks print it, so a network at the end of a notebook cell shows
/// its layers.
///
/// Parts are indented below the part that contains them. Consecutive equal parts are printed once,
/// as `3 × …`; the number beside such a line counts all of them. A question mark stands where the
/// number of parameters is not known.
///
/// ```
/// use invariances::Outline;
/// let block = Outline::new("Block")
///     .with_parts([Outline::new("Linear(in_features=2, out_features=2)").with_parameters(6)]);
/// let network = Outline::new("mine").with_parts([block.clone(), block, Outline::new("Softmax()")]);
/// assert_eq!(
///     network.to_string(),
///     "\
/// mine
///   2 × Block                                12
///     Linear(in_features=2, out_features=2)   6
///   Softmax()
/// Parameters: 12"
/// );
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Outline {
    text: String,
    /// The parameters of this part that do not belong to one of its parts; `None` if the number is
    /// not known.
    own: Option<usize>,
    parts: Vec<Outline>,
}

impl Outline {
    /// Creates the outline of a part without parameters: its name, type and sizes in one line.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            own: Some(0),
            parts: Vec::new(),
        }
    }

    /// Sets the number of trainable parameters, without those of the parts.
    pub fn with_parameters(mut self, count: usize) -> Self {
        self.own = Some(count);
        self
    }

    /// Marks the number of trainable parameters as not known.
    pub fn with_unknown_parameters(mut self) -> Self {
        self.own = None;
        self
    }

    /// Adds parts, in the order in which the network applies them.
    pub fn with_parts(mut self, parts: impl IntoIterator<Item = Self>) -> Self {
        self.parts.extend(parts);
        self
    }

    /// Puts a name before the text: `name: text`.
    pub fn named(mut self, name: &str) -> Self {
        self.text = format!("{name}: {}", self.text);
        self
    }

    /// The number of trainable parameters, those of the parts included, or `None` if it is not
    /// known.
    pub fn parameters(&self) -> Option<usize> {
        let parts = self.parts.iter().map(Self::parameters);
        parts.fold(self.own, |sum, part| Some(sum? + part?))
    }

    /// The outline of a type whose parts are hidden.
    pub(crate) fn of_type<T: ?Sized>() -> Self {
        Self::new(short_name(std::any::type_name::<T>())).with_unknown_parameters()
    }

    /// Changes the first line, and marks a place after a number of parts.
    pub(crate) fn marked(mut self, title: String, after: usize, mark: &str) -> Self {
        self.text = title;
        let after = after.min(self.parts.len());
        self.parts.insert(after, Self::new(mark));
        self
    }

    /// Adds the lines of the parts: indented text and number of parameters.
    fn lines(&self, depth: usize, lines: &mut Vec<(String, String)>) {
        let mut rest = &self.parts[..];
        while let Some(part) = rest.first() {
            let count = rest.iter().take_while(|p| *p == part).count();
            let times = match count {
                1 => String::new(),
                n => format!("{n} × "),
            };
            let number = match part.parameters() {
                Some(0) => String::new(),
                Some(n) => grouped(count * n),
                None => "?".into(),
            };
            let indent = "  ".repeat(depth);
            lines.push((format!("{indent}{times}{}", part.text), number));
            part.lines(depth + 1, lines);
            rest = &rest[count..];
        }
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        self.lines(1, &mut lines);
        let left = lines.iter().map(|(text, _)| text.chars().count()).max();
        let right = lines.iter().map(|(_, number)| number.len()).max();
        let (left, right) = (left.unwrap_or(0), right.unwrap_or(0));
        writeln!(f, "{}", self.text)?;
        for (text, number) in &lines {
            let line = format!("{text:<left$}  {number:>right$}");
            writeln!(f, "{}", line.trim_end())?;
        }
        match self.parameters() {
            Some(n) => write!(f, "Parameters: {}", grouped(n)),
            None => write!(f, "Parameters: not known"),
        }
    }
}

impl fmt::Debug for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Implements `Display` and `Debug` of networks as their outline. Debug output of tensors would be
/// as long as the network is large.
macro_rules! shows_outline {
    ($($network:ty),+) => {$(
        impl std::fmt::Display for $network {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.outline(), f)
            }
        }

        impl std::fmt::Debug for $network {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.outline(), f)
            }
        }
    )+};
}
pub(crate) use shows_outline;

/// Returns a number with commas between groups of three digits.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a type's name without its path and its type parameters; `closure` for a closure.
fn short_name(name: &str) -> String {
    if name.ends_with("{{closure}}") {
        return "closure".into();
    }
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name).into()
}

/// Returns the number of elements of all tensors.
pub(crate) fn parameters_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> usize {
    tensors.into_iter().map(Tensor::elem_count).sum()
}

/// Describes a dense layer by its weight (outputs, inputs, …), whose last dimensions are flattened.
pub(crate) fn linear(weight: &Tensor, biased: bool) -> String {
    let (outputs, inputs) = match weight.dims() {
        [outputs, inputs @ ..] => (*outputs, inputs.iter().product::<usize>()),
        [] => (1, 1),
    };
    let bias = if biased { "True" } else { "False" };
    format!("Linear(in_features={inputs}, out_features={outputs}, bias={bias})")
}

/// Describes a convolution by its weight: (outputs, inputs, h, w), or (inputs, outputs, h, w) if
/// it is transposed.
pub(crate) fn convolution(
    weight: &Tensor,
    config: &ConvConfig,
    biased: bool,
    transposed: bool,
) -> String {
    let pair = |(a, b): (usize, usize)| match a == b {
        true => a.to_string(),
        false => format!("({a}, {b})"),
    };
    let &[outer, inner, h, w] = weight.dims() else {
        return "Conv2d".into();
    };
    let (name, inputs, outputs) = match transposed {
        true => ("ConvTranspose2d", outer, inner),
        false => ("Conv2d", inner, outer),
    };
    let (kernel, stride) = (pair((h, w)), config.stride);
    let padding = match config.padding {
        (0, 0) => String::new(),
        padding => format!(", padding={}", pair(padding)),
    };
    let bias = if biased { "" } else { ", bias=False" };
    format!("{name}({inputs}, {outputs}, kernel_size={kernel}, stride={stride}{padding}{bias})")
}

/// Returns `, ReLU` or `, LeakyReLU(slope)` for an activation after a layer.
pub(crate) fn activation(activation: Activation) -> String {
    match activation {
        Activation::None => String::new(),
        Activation::Leaky(0.0) => ", ReLU".into(),
        Activation::Leaky(slope) => format!(", LeakyReLU({slope})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_short() {
        assert_eq!(
            [0, 12, 999, 1000, 1_234_567].map(grouped),
            ["0", "12", "999", "1,000", "1,234,567"]
        );
        assert_eq!(short_name("candle_nn::conv::Conv2d"), "Conv2d");
        assert_eq!(short_name("a::Coupling<a::Affine>"), "Coupling");
        assert_eq!(short_name("a::main::{{closure}}"), "closure");
    }

    #[test]
    fn equal_parts_are_counted_and_unknown_numbers_marked() {
        let layer = Outline::new("Layer").with_parameters(700);
        let block = Outline::new("Block").with_parts([layer.clone(), layer.clone()]);
        let hidden = Outline::of_type::<Vec<usize>>().named("last");
        let all = Outline::new("mine").with_parts([block.clone(), block.clone(), hidden]);
        assert_eq!(all.parameters(), None);
        let expected = "\
mine
  2 × Block    2,800
    2 × Layer  1,400
  last: Vec        ?
Parameters: not known";
        assert_eq!(all.to_string(), expected);
        assert_eq!(format!("{all:?}"), expected);
        let marked = block.marked("split".into(), 1, "-- here --");
        let expected = "\
split
  Layer       700
  -- here --
  Layer       700
Parameters: 1,400";
        assert_eq!(marked.to_string(), expected);
    }
}
