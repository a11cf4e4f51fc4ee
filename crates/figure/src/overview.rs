//! The overview figure of the method, with or without images.

use super::canvas::{Anchor, Canvas, Pixels};
use super::font::Face::{self, Bold, Italic, Regular};
use super::style::Colour;
use super::{Figure, grid};
use crate::Result;
use candle_core::Tensor;
use std::sync::Arc;

/// The method in one figure (figure 1 of arXiv 2008.01777).
///
/// The encoder turns an image x into a code `z̄ = E(x)`. The conditional invertible network t
/// disentangles the code: `z = Φ(x)` is what the layer keeps, `v = t(z̄ | z)` is what it discards.
/// With z fixed and v resampled, the decoder D shows images `D(t⁻¹(v | z))` that the layer
/// cannot distinguish from x.
///
/// ```
/// use invariances_figure::Overview;
/// let figure = Overview::new().figure()?;
/// assert_eq!(figure.size().0, 900);
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Overview {
    input: Option<Arc<Pixels>>,
    samples: Vec<Arc<Pixels>>,
}

// Light backgrounds with dark borders: encoder and decoder, the invertible network, the network
// under study.
const CODE: (Colour, Colour) = (Colour::rgb(0xdc, 0xec, 0xf7), Colour::BLUE);
const FLOW: (Colour, Colour) = (Colour::rgb(0xfb, 0xe6, 0xd8), Colour::VERMILLION);
const STUDY: (Colour, Colour) = (Colour::rgb(0xda, 0xf0, 0xe8), Colour::rgb(0x00, 0x7d, 0x5b));

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 322.0;
/// The y coordinates of the row with the code, and of the row with the network under study.
const UPPER: f64 = 134.0;
const LOWER: f64 = 254.0;

impl Overview {
    /// Creates the drawing without images: empty squares are drawn for x and its samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the drawing with an input (1, 3 or 1, height, width) and samples (n, 3 or 1,
    /// height, width), values in [-1, 1]. The samples are images that the layer cannot
    /// distinguish from the input; at most six are shown.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for another shape,
    /// [`Error::Invalid`](crate::Error::Invalid) for NaN values.
    pub fn with_images(input: &Tensor, samples: &Tensor) -> Result<Self> {
        Ok(Self {
            input: grid::pixels(input)?.into_iter().next(),
            samples: grid::pixels(samples)?.into_iter().take(6).collect(),
        })
    }

    /// Draws the overview, 900 logical pixels wide.
    ///
    /// # Errors
    /// None: an overview always fits. The `Result` is the same as for other figures.
    pub fn figure(&self) -> Result<Figure> {
        let mut c = Canvas::new(WIDTH, HEIGHT);
        let tint = Colour::rgb(0xf6, 0xf7, 0xf9);
        c.rounded([8.0, 8.0, 438.0, 306.0], 10.0, Some(tint), None);
        c.rounded([454.0, 8.0, 438.0, 306.0], 10.0, Some(tint), None);
        heading(
            &mut c,
            22.0,
            "1",
            "Disentangle the code",
            &[
                (Regular, "what does "),
                (Italic, "z̄"),
                (Regular, " contain beyond "),
                (Italic, "z"),
                (Regular, "?"),
            ],
        );
        heading(
            &mut c,
            468.0,
            "2",
            "Resample what is discarded",
            &[
                (Italic, "z"),
                (Regular, " is fixed; every "),
                (Italic, "x̃"),
                (Regular, " has the same representation"),
            ],
        );

        // 1: x → E → z̄ → t → v.
        let x = 64.0;
        self.image(&mut c, [x, UPPER], 68.0);
        symbol(&mut c, [x, 184.0], &[(Italic, "x")]);
        arrow(&mut c, &[[102.0, UPPER], [125.0, UPPER]]);
        trapezoid(
            &mut c,
            128.0,
            UPPER,
            50.0,
            68.0,
            36.0,
            CODE,
            &[(Italic, "E")],
        );
        above(&mut c, 153.0, "encoder");
        arrow(&mut c, &[[180.0, UPPER], [203.0, UPPER]]);
        code(&mut c, 213.0, UPPER, 6, CODE.1, 0);
        symbol(&mut c, [213.0, 184.0], &[(Italic, "z̄")]);
        arrow(&mut c, &[[222.0, UPPER], [245.0, UPPER]]);
        block(
            &mut c,
            248.0,
            74.0,
            &[
                (Italic, "t"),
                (Regular, "( · | "),
                (Italic, "z"),
                (Regular, " )"),
            ],
        );
        above(&mut c, 285.0, "invertible network");
        arrow(&mut c, &[[324.0, UPPER], [347.0, UPPER]]);
        code(&mut c, 357.0, UPPER, 6, FLOW.1, 3);
        symbol(&mut c, [357.0, 184.0], &[(Italic, "v")]);
        arrow(&mut c, &[[366.0, UPPER], [385.0, UPPER]]);
        bell(&mut c, 410.0, UPPER);
        symbol(
            &mut c,
            [410.0, 184.0],
            &[(Italic, "N"), (Regular, "(0, 1)")],
        );

        // 2: v → t⁻¹ → z̄ → D → x̃.
        bell(&mut c, 497.0, UPPER);
        symbol(
            &mut c,
            [497.0, 184.0],
            &[(Italic, "N"), (Regular, "(0, 1)")],
        );
        arrow(&mut c, &[[522.0, UPPER], [543.0, UPPER]]);
        code(&mut c, 553.0, UPPER, 6, FLOW.1, 7);
        symbol(&mut c, [553.0, 184.0], &[(Italic, "v")]);
        arrow(&mut c, &[[562.0, UPPER], [583.0, UPPER]]);
        block(
            &mut c,
            586.0,
            80.0,
            &[
                (Italic, "t"),
                (Regular, "⁻¹( · | "),
                (Italic, "z"),
                (Regular, " )"),
            ],
        );
        above(&mut c, 626.0, "the same, backwards");
        arrow(&mut c, &[[668.0, UPPER], [689.0, UPPER]]);
        code(&mut c, 699.0, UPPER, 6, CODE.1, 5);
        symbol(&mut c, [699.0, 184.0], &[(Italic, "z̄")]);
        arrow(&mut c, &[[708.0, UPPER], [729.0, UPPER]]);
        trapezoid(
            &mut c,
            732.0,
            UPPER,
            50.0,
            36.0,
            68.0,
            CODE,
            &[(Italic, "D")],
        );
        above(&mut c, 757.0, "decoder");
        arrow(&mut c, &[[784.0, UPPER], [805.0, UPPER]]);
        self.likes(&mut c, [844.0, UPPER]);

        // The network under study: x → Φ → z → Ψ → class. z conditions t in both directions.
        let frame = [112.0, LOWER - 38.0, 322.0, 84.0];
        c.rounded(
            frame,
            8.0,
            Some(Colour::WHITE),
            Some((Colour::rgb(0xb9, 0xd8, 0xcd), 1.0)),
        );
        arrow(&mut c, &[[x, 192.0], [x, LOWER], [125.0, LOWER]]);
        trapezoid(
            &mut c,
            128.0,
            LOWER,
            50.0,
            56.0,
            36.0,
            STUDY,
            &[(Regular, "Φ")],
        );
        arrow(&mut c, &[[180.0, LOWER], [275.0, LOWER]]);
        code(&mut c, 285.0, LOWER, 4, STUDY.1, 1);
        symbol(&mut c, [299.0, LOWER + 23.0], &[(Italic, "z")]);
        arrow(&mut c, &[[294.0, LOWER], [335.0, LOWER]]);
        trapezoid(
            &mut c,
            338.0,
            LOWER,
            36.0,
            36.0,
            24.0,
            STUDY,
            &[(Regular, "Ψ")],
        );
        arrow(&mut c, &[[376.0, LOWER], [393.0, LOWER]]);
        c.text(
            [397.0, LOWER + 4.0],
            Anchor::Start,
            Regular,
            11.0,
            Colour::GREY,
            "class",
        );
        let name = [
            (Regular, "network under study  "),
            (Italic, "f"),
            (Regular, " = Ψ ∘ Φ"),
        ];
        c.runs([128.0, LOWER + 40.0], Anchor::Start, 10.5, STUDY.1, &name);
        let joint = [285.0, 202.0];
        arrow(&mut c, &[[285.0, LOWER - 20.0], [285.0, UPPER + 30.0]]);
        arrow(&mut c, &[joint, [626.0, joint[1]], [626.0, UPPER + 30.0]]);
        c.circle(joint, 3.0, LINE);
        c.runs(
            [634.0, joint[1] + 2.0],
            Anchor::Start,
            10.5,
            Colour::GREY,
            &[(Regular, "the same "), (Italic, "z")],
        );

        let losses = [
            (
                LOWER - 6.0,
                &[
                    (Italic, "t"),
                    (Regular, " is trained so that "),
                    (Italic, "v"),
                    (Regular, " ~ "),
                    (Italic, "N"),
                    (Regular, "(0, 1) whatever "),
                    (Italic, "z"),
                    (Regular, " is:"),
                ][..],
            ),
            (
                LOWER + 14.0,
                &[
                    (Regular, "minimise  ½ ‖"),
                    (Italic, "t"),
                    (Regular, "("),
                    (Italic, "z̄"),
                    (Regular, " | "),
                    (Italic, "z"),
                    (Regular, ")‖² − log |det ∂"),
                    (Italic, "t"),
                    (Regular, "/∂"),
                    (Italic, "z̄"),
                    (Regular, "|"),
                ][..],
            ),
        ];
        for (y, runs) in losses {
            c.runs([474.0, y], Anchor::Start, 12.0, Colour::INK, runs);
        }
        Figure::new(
            c,
            "The method: what a layer keeps, z, and what it ignores, v",
        )
    }

    fn image(&self, c: &mut Canvas, [x, y]: [f64; 2], side: f64) {
        match &self.input {
            Some(pixels) => picture(c, [x, y], side, pixels),
            None => placeholder(c, [x, y], side),
        }
    }

    fn likes(&self, c: &mut Canvas, [x, y]: [f64; 2]) {
        let count = if self.samples.is_empty() {
            6
        } else {
            self.samples.len()
        };
        let columns = if count > 1 { 2 } else { 1 };
        let rows = count.div_ceil(columns);
        let pitch = 36.0;
        for i in 0..count {
            let at = [
                x + ((i % columns) as f64 - (columns as f64 - 1.0) / 2.0) * pitch,
                y + ((i / columns) as f64 - (rows as f64 - 1.0) / 2.0) * pitch,
            ];
            match self.samples.get(i) {
                Some(pixels) => picture(c, at, 32.0, pixels),
                None => placeholder(c, at, 32.0),
            }
        }
        symbol(
            c,
            [x, y + rows as f64 * pitch / 2.0 + 17.0],
            &[(Italic, "x̃")],
        );
    }
}

const LINE: Colour = Colour::rgb(0x4a, 0x50, 0x58);

fn heading(c: &mut Canvas, x: f64, number: &str, title: &str, text: &[(Face, &str)]) {
    c.circle([x + 9.0, 31.0], 9.0, Colour::INK);
    c.text(
        [x + 9.0, 35.3],
        Anchor::Middle,
        Bold,
        12.0,
        Colour::WHITE,
        number,
    );
    c.text(
        [x + 26.0, 35.5],
        Anchor::Start,
        Bold,
        14.0,
        Colour::INK,
        title,
    );
    c.runs([x + 26.0, 54.0], Anchor::Start, 11.5, Colour::GREY, text);
}

fn above(c: &mut Canvas, x: f64, label: &str) {
    c.text(
        [x, UPPER - 42.0],
        Anchor::Middle,
        Regular,
        10.5,
        Colour::GREY,
        label,
    );
}

fn symbol(c: &mut Canvas, at: [f64; 2], runs: &[(Face, &str)]) {
    c.runs(at, Anchor::Middle, 14.0, Colour::INK, runs);
}

/// Draws a line through points, with an arrowhead at its end.
fn arrow(c: &mut Canvas, points: &[[f64; 2]]) {
    let [.., p, q] = points else { return };
    let (dx, dy) = (q[0] - p[0], q[1] - p[1]);
    let length = (dx * dx + dy * dy).sqrt().max(1e-9);
    let (ux, uy) = (dx / length, dy / length);
    let back = |along: f64, aside: f64| {
        [
            q[0] - ux * along - uy * aside,
            q[1] - uy * along + ux * aside,
        ]
    };
    let mut line = points.to_vec();
    if let Some(end) = line.last_mut() {
        *end = back(5.0, 0.0);
    }
    c.stroke(line, LINE, 1.4);
    c.fill(
        vec![*q, back(8.0, 3.8), back(6.4, 0.0), back(8.0, -3.8)],
        LINE,
    );
}

/// Draws a network that narrows or widens.
#[allow(clippy::too_many_arguments)]
fn trapezoid(
    c: &mut Canvas,
    left: f64,
    middle: f64,
    width: f64,
    from: f64,
    to: f64,
    (fill, edge): (Colour, Colour),
    name: &[(Face, &str)],
) {
    let right = left + width;
    let corners = vec![
        [left, middle - from / 2.0],
        [right, middle - to / 2.0],
        [right, middle + to / 2.0],
        [left, middle + from / 2.0],
    ];
    c.fill(corners.clone(), fill);
    let mut outline = corners;
    outline.extend([outline[0], outline[1]]);
    c.stroke(outline, edge, 1.4);
    c.runs(
        [left + width / 2.0, middle + 6.0],
        Anchor::Middle,
        17.0,
        edge,
        name,
    );
}

/// Draws the invertible network.
fn block(c: &mut Canvas, left: f64, width: f64, name: &[(Face, &str)]) {
    let area = [left, UPPER - 28.0, width, 56.0];
    c.rounded(area, 8.0, Some(FLOW.0), Some((FLOW.1, 1.4)));
    let middle = [left + width / 2.0, UPPER + 5.5];
    c.runs(
        middle,
        Anchor::Middle,
        15.0,
        Colour::rgb(0xa8, 0x49, 0x00),
        name,
    );
}

/// Draws a vector as a column of cells with different opacities.
fn code(c: &mut Canvas, x: f64, middle: f64, cells: usize, colour: Colour, pattern: usize) {
    const STRENGTH: [f32; 11] = [0.75, 0.3, 0.55, 0.15, 0.9, 0.4, 0.65, 0.2, 0.85, 0.35, 0.5];
    let (side, top) = (10.0, middle - cells as f64 * 5.0);
    for i in 0..cells {
        let strength = STRENGTH[(i + pattern) % STRENGTH.len()];
        let area = [x - side / 2.0, top + i as f64 * side, side, side];
        c.rounded(area, 0.0, Some(Colour::WHITE), None);
        let edge = Some((colour, 0.8));
        c.rounded(area, 0.0, Some(colour.with_alpha(strength)), edge);
    }
}

/// Draws the standard normal density.
fn bell(c: &mut Canvas, x: f64, middle: f64) {
    let curve: Vec<[f64; 2]> = (0..=40)
        .map(|i| {
            let v = -3.0 + 6.0 * f64::from(i) / 40.0;
            [x + v * 7.0, middle + 16.0 - 34.0 * (-0.5 * v * v).exp()]
        })
        .collect();
    c.fill(curve.clone(), FLOW.1.with_alpha(0.15));
    c.stroke(curve, FLOW.1, 1.6);
    let base = middle + 16.5;
    c.stroke(vec![[x - 23.0, base], [x + 23.0, base]], LINE, 1.0);
}

fn picture(c: &mut Canvas, [x, y]: [f64; 2], side: f64, pixels: &Arc<Pixels>) {
    // Integer enlargement if the image is smaller than its place, otherwise scaled to fit.
    let longest = pixels.width.max(pixels.height) as f64;
    let factor = side / longest;
    let factor = if factor >= 1.0 {
        factor.floor()
    } else {
        factor
    };
    let (w, h) = (pixels.width as f64 * factor, pixels.height as f64 * factor);
    c.image(
        [(x - w / 2.0).round(), (y - h / 2.0).round(), w, h],
        pixels.clone(),
    );
}

fn placeholder(c: &mut Canvas, [x, y]: [f64; 2], side: f64) {
    let area = [x - side / 2.0, y - side / 2.0, side, side];
    let edge = Colour::rgb(0xb5, 0xbb, 0xc2);
    c.rounded(area, 3.0, Some(Colour::WHITE), Some((edge, 1.0)));
}
