//! Renders a creature: background, shadow, lit and textured parts, or a sketch.

use super::super::paint::{At, Colour, Frame, Noise, Painter, ball, ellipse, mix, shade, smooth};
use super::creature::{Creature, Style};
use super::shapes::{Mark, figure};
use super::textures::texture;

/// Renders a creature into three planes of `size`² values in [−1, 1].
pub(super) fn draw(creature: &Creature, size: usize, out: &mut [f32]) {
    let c = creature.sane();
    let mut painter = Painter::new(size);
    let mirror = if c.facing < 0.0 { -1.0 } else { 1.0 };
    let unit = 0.41 * c.scale;
    let frame = Frame::new(
        [0.5 + c.shift[0], 0.5 + c.shift[1]],
        [mirror * unit, unit],
        c.rotation,
    );
    // Maps the figure's coordinates to those of the texture.
    let cloth = Frame::new([0.0, 0.0], [2.0 / c.texture_scale; 2], c.texture_turn);
    let soft = painter.pixel() / unit * 2.0 / c.texture_scale * 0.5;
    let coat = |at: At| -> Colour {
        let p = cloth.out(frame.back(at));
        mix(c.colour, c.second, texture(c.texture, p, soft))
    };
    let across = c.light * 0.55;
    let light = {
        let raw = [across, -0.6, 0.62f32];
        let length = (raw[0] * raw[0] + raw[1] * raw[1] + raw[2] * raw[2]).sqrt();
        raw.map(|v| v / length)
    };
    match c.style {
        Style::Texture => painter.ground(coat),
        Style::Painted => {
            ground(&mut painter, &c);
            paint(&mut painter, &c, &frame, light, &coat);
        }
        Style::Sketch => sketch(&mut painter, &c, &frame),
    }
    painter.planes(out);
}

/// A smooth background: a gradient, and a few large shapes in similar colours.
fn ground(painter: &mut Painter, c: &Creature) {
    let noise = Noise(c.grain ^ 0x00C0_FFEE);
    painter.ground(|at| {
        let fall = 1.08 - 0.22 * at[1];
        let hills = noise.rough([at[0] * 2.2, at[1] * 2.2]);
        let form = smooth(0.45, 0.6, hills);
        let low = smooth(
            0.62,
            0.78,
            at[1] + 0.1 * (noise.at([at[0] * 2.0, 9.0]) - 0.5),
        );
        let colour = shade(c.background, fall * (0.96 + 0.07 * form));
        mix(colour, shade(c.background, 0.8), 0.55 * low)
    });
}

fn paint(
    painter: &mut Painter,
    c: &Creature,
    frame: &Frame,
    light: [f32; 3],
    coat: &impl Fn(At) -> Colour,
) {
    let figure = figure(c);
    // The creature's shadow on the ground.
    let lowest = figure
        .parts
        .iter()
        .flat_map(|p| &p.outline)
        .fold(0.0f32, |y, p| y.max(p[1]));
    let shadow = ellipse([0.05 * -c.light, lowest + 0.02], [0.78, 0.12], 0.0);
    let centre = frame.out([0.05 * -c.light, lowest + 0.02]);
    let reach = 0.78 * 0.41 * c.scale;
    painter.fill(&frame.all(&shadow), |at| {
        let d = [
            (at[0] - centre[0]) / reach,
            (at[1] - centre[1]) / (reach * 0.154),
        ];
        let far = (d[0] * d[0] + d[1] * d[1]).sqrt();
        (shade(c.background, 0.35), 0.4 * (1.0 - far).clamp(0.0, 1.0))
    });
    for part in &figure.parts {
        let outline = frame.all(&part.outline);
        // Each part is lit like a smooth ball that fills its bounding box.
        let (mut low, mut high) = ([f32::MAX; 2], [f32::MIN; 2]);
        for p in &outline {
            for k in 0..2 {
                low[k] = low[k].min(p[k]);
                high[k] = high[k].max(p[k]);
            }
        }
        let middle = [0, 1].map(|k| 0.5 * (low[k] + high[k]));
        let radii = [0, 1].map(|k| (0.62 * (high[k] - low[k])).max(0.01));
        let dark = shade(mix(c.colour, c.second, 0.5), 0.28);
        // A thin dark rim separates overlapping parts.
        let rim = 0.011 * c.scale;
        let line: Vec<At> = outline.iter().chain(outline.first()).copied().collect();
        painter.fill(&outline, |at| {
            let lit = ball(at, middle, radii, light);
            let bright = part.bright * (0.52 + 0.62 * lit);
            (shade(coat(at), bright), 1.0)
        });
        painter.pen(&line, rim, rim, dark, 0.5);
    }
    let ink = shade(mix(c.colour, c.second, 0.5), 0.16);
    let unit = 0.41 * c.scale;
    for mark in &figure.marks {
        match mark {
            Mark::Line(line, half) => {
                painter.pen(&frame.all(line), half * unit, half * unit, ink, 0.85);
            }
            Mark::Eye(at, radius) => {
                painter.fill(&frame.all(&ellipse(*at, [*radius; 2], 0.0)), |_| {
                    ([0.98, 0.98, 0.95], 1.0)
                });
                let pupil = [at[0] + 0.18 * radius, at[1] + 0.05 * radius];
                painter.fill(&frame.all(&ellipse(pupil, [0.66 * radius; 2], 0.0)), |_| {
                    ([0.06, 0.05, 0.08], 1.0)
                });
                let glint = [pupil[0] + 0.2 * radius, pupil[1] - 0.25 * radius];
                painter.fill(&frame.all(&ellipse(glint, [0.24 * radius; 2], 0.0)), |_| {
                    ([1.0; 3], 0.9)
                });
            }
            Mark::Plain(outline, pale) => {
                let colour = if *pale { [0.96, 0.86, 0.62] } else { ink };
                let outline = frame.all(outline);
                painter.fill(&outline, |_| (colour, 1.0));
                if *pale {
                    let line: Vec<At> = outline.iter().chain(outline.first()).copied().collect();
                    painter.pen(&line, 0.008, 0.008, ink, 0.5);
                }
            }
        }
    }
}

/// Renders a pencil drawing in which parts at the front hide those behind.
fn sketch(painter: &mut Painter, c: &Creature, frame: &Frame) {
    const PAPER: Colour = [0.97, 0.965, 0.95];
    const PENCIL: Colour = [0.13, 0.13, 0.15];
    painter.ground(|_| PAPER);
    let figure = figure(c);
    let half = 0.011;
    for part in &figure.parts {
        let outline = frame.all(&part.outline);
        let line: Vec<At> = outline.iter().chain(outline.first()).copied().collect();
        painter.pen(&line, half, half, PENCIL, 0.9);
        painter.fill(&outline, |_| (PAPER, 1.0));
        painter.pen(&line, 0.5 * half, 0.5 * half, PENCIL, 0.9);
    }
    let unit = 0.41 * c.scale;
    for mark in &figure.marks {
        match mark {
            Mark::Line(line, half) => {
                painter.pen(&frame.all(line), half * unit, half * unit, PENCIL, 0.9)
            }
            Mark::Eye(at, radius) => {
                let outline = frame.all(&ellipse(*at, [*radius; 2], 0.0));
                painter.fill(&outline, |_| (PENCIL, 1.0));
            }
            Mark::Plain(outline, pale) => {
                let outline = frame.all(outline);
                painter.fill(&outline, |_| (if *pale { PAPER } else { PENCIL }, 1.0));
                let line: Vec<At> = outline.iter().chain(outline.first()).copied().collect();
                painter.pen(&line, 0.5 * half, 0.5 * half, PENCIL, 0.9);
            }
        }
    }
}
