//! Renders the hair of a face in eight styles.

use super::super::paint::{At, Colour, Noise, Painter, closed, ellipse, open, shade};
use super::head::Head;

/// Returns the colour of hair at a position of the image: strands, gloss and light.
fn strands(head: &Head, at: At, turn: f32) -> Colour {
    let u = head.unit;
    let noise = Noise(71);
    let p = [at[0] / u, at[1] / u];
    let strand = noise.at([p[0] * 11.0 + turn * p[1] * 5.0, p[1] * 2.2]);
    let shine = noise.at([p[0] * 3.0, p[1] * 1.4 + 5.0]);
    shade(
        head.hair,
        (0.74 + 0.3 * strand + 0.22 * shine) * (0.45 + 0.6 * head.lit(at)),
    )
}

/// Draws the hair behind the head and the neck.
pub(super) fn behind(head: &Head, painter: &mut Painter) {
    let w = head.wide;
    let outline = match head.face.person.hair_style {
        2 => return curls(head, painter, [0.0, -0.32], [w + 0.3, 0.92], 24, 0.2),
        3 => closed(&[
            [0.0, -1.14],
            [w * 0.8, -0.92],
            [w + 0.14, -0.3],
            [w + 0.17, 0.5],
            [w + 0.2, 1.35],
            [w + 0.06, 1.62],
            [0.0, 1.3],
            [-w - 0.06, 1.62],
            [-w - 0.2, 1.35],
            [-w - 0.17, 0.5],
            [-w - 0.14, -0.3],
            [-w * 0.8, -0.92],
        ]),
        4 => closed(&[
            [0.0, -1.14],
            [w * 0.8, -0.92],
            [w + 0.16, -0.3],
            [w + 0.2, 0.4],
            [w + 0.12, 0.86],
            [w * 0.6, 0.9],
            [0.0, 0.8],
            [-w * 0.6, 0.9],
            [-w - 0.12, 0.86],
            [-w - 0.2, 0.4],
            [-w - 0.16, -0.3],
            [-w * 0.8, -0.92],
        ]),
        5 => ellipse([0.0, -1.22], [0.34, 0.29], 0.0),
        7 => {
            let mut points = vec![[0.0, -1.16], [w * 0.8, -0.95]];
            for i in 0..5 {
                let out = if i % 2 == 0 { 0.26 } else { 0.14 };
                points.push([w + out, -0.35 + 0.38 * i as f32]);
            }
            points.push([w * 0.7, 1.35]);
            points.push([0.0, 1.15]);
            let left: Vec<At> = points[1..points.len() - 1]
                .iter()
                .rev()
                .map(|p| [-p[0], p[1]])
                .collect();
            points.extend(left);
            closed(&points)
        }
        _ => return,
    };
    painter.fill(&head.rims(&outline), |at| {
        (shade(strands(head, at, 0.0), 0.8), 1.0)
    });
}

/// Draws curls around an ellipse: discs along its edge.
fn curls(head: &Head, painter: &mut Painter, centre: At, radii: At, count: usize, size: f32) {
    let ring = ellipse(centre, radii, 0.0);
    let dark = |at: At| shade(strands(head, at, 1.0), 0.8);
    painter.fill(&head.rims(&ring), |at| (dark(at), 1.0));
    for i in 0..count {
        let at = head.rim(ring[i * ring.len() / count]);
        let size = size * head.unit * if i % 2 == 0 { 1.0 } else { 0.8 };
        painter.fill(&ellipse(at, [size; 2], 0.0), |q| {
            let d = [(q[0] - at[0]) / size, (q[1] - at[1]) / size];
            (
                shade(dark(q), 1.16 - 0.34 * (d[0] * d[0] + d[1] * d[1]).sqrt()),
                1.0,
            )
        });
    }
}

/// Draws the hair on the head, between an outer arc just outside the skull and the hairline,
/// which rotates with the face.
pub(super) fn front(head: &Head, painter: &mut Painter) {
    let (w, p) = (head.wide, &head.face.person);
    let line = -0.66 - 0.07 * p.forehead;
    let over = |x: f32, y: f32, lift: f32| -> Vec<At> {
        // From the left temple over the top of the head to the right.
        open(&[
            [-w - x, y],
            [-w - x * 0.8, -0.45],
            [-w * 0.72, -0.88 - lift],
            [0.0, -1.04 - lift],
            [w * 0.72, -0.88 - lift],
            [w + x * 0.8, -0.45],
            [w + x, y],
        ])
    };
    let (outer, hairline): (Vec<At>, Vec<At>) = match p.hair_style {
        // Short, with a straight hairline.
        0 => (
            over(0.05, -0.05, 0.08),
            vec![
                [w * 0.97, -0.02],
                [w * 0.86, -0.36],
                [0.48, line],
                [0.0, line + 0.03],
                [-0.48, line],
                [-w * 0.86, -0.36],
                [-w * 0.97, -0.02],
            ],
        ),
        // Parted at the side and swept over.
        1 => (
            over(0.07, 0.02, 0.15),
            vec![
                [w * 0.97, 0.05],
                [w * 0.88, -0.25],
                [0.52, line + 0.14],
                [0.1, line + 0.07],
                [-0.34, line - 0.12],
                [-0.5, line + 0.08],
                [-w * 0.88, -0.3],
                [-w * 0.97, 0.05],
            ],
        ),
        // Curls.
        2 => (
            over(0.14, -0.1, 0.2),
            vec![
                [w * 0.96, -0.05],
                [w * 0.88, -0.4],
                [0.5, line + 0.02],
                [0.25, line - 0.05],
                [0.0, line + 0.03],
                [-0.25, line - 0.05],
                [-0.5, line + 0.02],
                [-w * 0.88, -0.4],
                [-w * 0.96, -0.05],
            ],
        ),
        // Long, parted in the middle, falling along the cheeks.
        3 => (
            over(0.13, 0.75, 0.11),
            vec![
                [w * 0.93, 0.72],
                [w * 0.8, -0.1],
                [0.42, -0.5],
                [0.04, line - 0.14],
                [-0.04, line - 0.14],
                [-0.42, -0.5],
                [-w * 0.8, -0.1],
                [-w * 0.93, 0.72],
            ],
        ),
        // A bob with a fringe.
        4 => (
            over(0.16, 0.62, 0.11),
            vec![
                [w * 0.94, 0.6],
                [w * 0.84, -0.1],
                [w * 0.72, -0.36],
                [0.3, -0.4],
                [0.0, -0.37],
                [-0.3, -0.4],
                [-w * 0.72, -0.36],
                [-w * 0.84, -0.1],
                [-w * 0.94, 0.6],
            ],
        ),
        // Pulled back into a bun.
        5 => (
            over(0.02, -0.12, 0.05),
            vec![
                [w * 0.95, -0.1],
                [w * 0.82, -0.42],
                [0.42, line - 0.05],
                [0.0, line - 0.1],
                [-0.42, line - 0.05],
                [-w * 0.82, -0.42],
                [-w * 0.95, -0.1],
            ],
        ),
        6 => return sides(head, painter),
        // Waves, parted at the other side.
        _ => (
            over(0.17, 0.45, 0.16),
            vec![
                [w * 0.95, 0.42],
                [w * 0.85, -0.08],
                [0.6, -0.4],
                [0.36, line - 0.12],
                [-0.05, line + 0.07],
                [-0.5, line + 0.2],
                [-w * 0.84, -0.1],
                [-w * 0.95, 0.42],
            ],
        ),
    };
    let mut outline = head.rims(&outer);
    outline.extend(head.all(&open(&hairline), 0.02));
    // The shadow of the hair on the forehead.
    let shadow: Vec<At> = hairline
        .iter()
        .map(|q| [q[0] * 0.985, q[1] + 0.05])
        .collect();
    let shadow = head.all(&open(&shadow), 0.02);
    painter.pen(
        &shadow,
        0.035 * head.unit,
        0.035 * head.unit,
        head.crease(),
        0.22,
    );
    painter.fill(&outline, |at| (strands(head, at, 0.4), 1.0));
    if p.hair_style == 2 {
        // Curls over the hairline.
        let edge = open(&hairline);
        for q in edge.iter().step_by(6) {
            let at = head.projected([q[0] * 0.98, q[1] - 0.03], 0.03);
            let size = 0.11 * head.unit;
            painter.fill(&ellipse(at, [size; 2], 0.0), |q| {
                let d = [(q[0] - at[0]) / size, (q[1] - at[1]) / size];
                (
                    shade(
                        strands(head, q, 1.0),
                        1.12 - 0.3 * (d[0] * d[0] + d[1] * d[1]).sqrt(),
                    ),
                    1.0,
                )
            });
        }
    }
}

/// Draws the remaining hair at the sides of a bald head.
fn sides(head: &Head, painter: &mut Painter) {
    let w = head.wide;
    for side in [-1.0f32, 1.0] {
        let outer = [
            [side * (w + 0.03), 0.02],
            [side * (w + 0.035), -0.25],
            [side * (w - 0.03), -0.5],
        ];
        let inner = [
            [side * w * 0.85, -0.42],
            [side * w * 0.9, -0.2],
            [side * w * 0.95, 0.02],
        ];
        let mut outline = head.rims(&open(&outer));
        outline.extend(head.all(&open(&inner), 0.0));
        painter.fill(&outline, |at| (strands(head, at, 0.0), 0.85));
    }
    // Gloss on the top of the head.
    let at = head.projected([0.22 * head.face.light, -0.78], 0.0);
    let radii = [0.3 * head.unit, 0.13 * head.unit];
    painter.fill(&ellipse(at, radii, 0.0), |q| {
        let d = [(q[0] - at[0]) / radii[0], (q[1] - at[1]) / radii[1]];
        ([1.0; 3], 0.3 * (1.0 - d[0] * d[0] - d[1] * d[1]).max(0.0))
    });
}
