//! The geometry and colours of a head: where its features appear in the image after rotation, and
//! how they are lit.

use super::super::paint::{At, Colour, Frame, Painter, ball, mix, shade, sin_cos};
use super::face::Face;

/// A head in space: the positions of its features in the image, and its colours.
///
/// Its own coordinates are in half head heights, right and down: the chin is at (0, 1), the top
/// of the head at (0, −1).
pub(super) struct Head {
    pub face: Face,
    frame: Frame,
    /// Length of half a head in image sides.
    pub unit: f32,
    /// Half the width of the head at the temples.
    pub wide: f32,
    yaw: (f32, f32),
    pitch: (f32, f32),
    light: [f32; 3],
    pub skin: Colour,
    pub hair: Colour,
}

/// Interpolates along a list of colours; `share` is from 0 (first) to 1 (last).
fn along(path: &[Colour], share: f32) -> Colour {
    let last = path.len() - 1;
    let place = share * last as f32;
    let step = (place as usize).min(last.saturating_sub(1));
    mix(path[step], path[step + 1], place - step as f32)
}

const SKIN: [Colour; 5] = [
    [0.99, 0.87, 0.79],
    [0.94, 0.77, 0.65],
    [0.83, 0.62, 0.48],
    [0.62, 0.42, 0.30],
    [0.41, 0.27, 0.20],
];
const HAIR: [Colour; 6] = [
    [0.08, 0.07, 0.08],
    [0.22, 0.13, 0.09],
    [0.40, 0.23, 0.13],
    [0.66, 0.30, 0.12],
    [0.85, 0.66, 0.36],
    [0.94, 0.90, 0.79],
];
const EYES: [Colour; 5] = [
    [0.30, 0.17, 0.09],
    [0.48, 0.34, 0.14],
    [0.30, 0.50, 0.28],
    [0.22, 0.45, 0.70],
    [0.48, 0.54, 0.60],
];

impl Head {
    pub fn new(face: &Face) -> Self {
        let face = face.sane();
        let p = &face.person;
        let unit = 0.305 * face.scale;
        let raw = [face.light * 1.1, -0.42, 0.62f32];
        let length = (raw[0] * raw[0] + raw[1] * raw[1] + raw[2] * raw[2]).sqrt();
        let warm = [0.012, 0.0, -0.02].map(|w| w * p.undertone);
        let skin = along(&SKIN, p.skin);
        Self {
            face,
            frame: Frame::new(
                [0.5 + face.shift[0], 0.485 + face.shift[1]],
                [unit, unit],
                0.033 * face.roll,
            ),
            unit,
            wide: 0.74 + 0.055 * p.width + 0.015 * face.masculine,
            yaw: sin_cos(0.068 * face.yaw),
            pitch: sin_cos(0.045 * face.pitch),
            light: raw.map(|v| v / length),
            skin: [0, 1, 2].map(|k| (skin[k] + warm[k]).clamp(0.0, 1.0)),
            hair: along(&HAIR, face.hair_colour),
        }
    }

    pub fn iris(&self) -> Colour {
        along(&EYES, self.face.person.eye_colour)
    }

    /// Returns the position, in the head's coordinates, at which a point on the front of the head
    /// appears after rotation. `lift` is its height above the surface.
    pub fn turned(&self, p: At, lift: f32) -> At {
        let inside = 1.0 - (p[0] / (self.wide * 1.02)).powi(2) - (p[1] / 1.2).powi(2);
        let depth = 0.85 * inside.max(0.0).sqrt() + lift;
        let x = p[0] * self.yaw.1 + depth * self.yaw.0;
        let back = depth * self.yaw.1 - p[0] * self.yaw.0;
        [x, p[1] * self.pitch.1 + (back - 0.35) * self.pitch.0]
    }

    /// Returns the position of such a point in the image.
    pub fn projected(&self, p: At, lift: f32) -> At {
        self.frame.out(self.turned(p, lift))
    }

    /// Returns the position in the image of a point on the head's outline, which rotation changes
    /// only slightly. Its lower part follows the chin.
    pub fn rim(&self, p: At) -> At {
        // The body below the chin does not move.
        let stays = ((p[1] - 1.0) / 0.45).clamp(0.0, 1.0);
        let low = (0.5 + 0.5 * p[1]).clamp(0.0, 1.0) * (1.0 - stays);
        self.frame.out([
            p[0] + self.yaw.0 * (0.34 * low * low - 0.12 * (1.0 - stays)),
            p[1] + self.pitch.0 * 0.22 * low,
        ])
    }

    /// Maps points of the outline to the image.
    pub fn rims(&self, points: &[At]) -> Vec<At> {
        points.iter().map(|p| self.rim(*p)).collect()
    }

    pub fn all(&self, points: &[At], lift: f32) -> Vec<At> {
        points.iter().map(|p| self.projected(*p, lift)).collect()
    }

    /// Returns the brightness of a position in the image as part of the round head.
    pub fn lit(&self, at: At) -> f32 {
        let q = self.frame.back(at);
        0.5 + 0.62 * ball(q, [0.0, 0.05], [self.wide * 1.12, 1.22], self.light)
    }

    /// Returns the colour of skin at a position in the image: warm in the light, reddish in
    /// shadow.
    pub fn flesh(&self, at: At) -> Colour {
        let lit = self.lit(at);
        let shade_of = [
            self.skin[0] * 0.78,
            self.skin[1] * 0.62,
            self.skin[2] * 0.58,
        ];
        let colour = mix(shade_of, self.skin, ((lit - 0.5) * 1.9).clamp(0.0, 1.0));
        shade(colour, 1.0 + 0.35 * (lit - 1.0).max(0.0))
    }

    /// Returns the colour of lines in the skin, which is darker.
    pub fn crease(&self) -> Colour {
        [
            self.skin[0] * 0.58,
            self.skin[1] * 0.42,
            self.skin[2] * 0.38,
        ]
    }

    /// Draws a line on the front of the head; its half width is in half heads.
    pub fn draw(
        &self,
        painter: &mut Painter,
        line: &[At],
        half: (f32, f32),
        colour: Colour,
        opacity: f32,
    ) {
        let line = self.all(line, 0.0);
        painter.pen(
            &line,
            half.0 * self.unit,
            half.1 * self.unit,
            colour,
            opacity,
        );
    }
}
