//! Renders a face: background, shoulders, head and features, from back to front.

use super::super::paint::{At, Painter, closed, open, shade, smooth};
use super::face::Face;
use super::head::Head;
use super::{features, hair};

/// Renders a face into three planes of `size`² values in [−1, 1].
pub(super) fn draw(face: &Face, size: usize, out: &mut [f32]) {
    let head = Head::new(face);
    let mut painter = Painter::new(size);
    ground(&head, &mut painter);
    hair::behind(&head, &mut painter);
    shoulders(&head, &mut painter);
    features::ears(&head, &mut painter);
    let (outline, jaw) = skull(&head);
    painter.fill(&head.rims(&outline), |at| (head.flesh(at), 1.0));
    features::complexion(&head, &mut painter);
    features::beard(&head, &mut painter, &jaw);
    features::nose(&head, &mut painter);
    features::mouth(&head, &mut painter);
    features::eyes(&head, &mut painter);
    hair::front(&head, &mut painter);
    features::glasses(&head, &mut painter);
    let exposure = head.face.brightness;
    painter.finish(|_, colour| colour.map(|c| (c * exposure).clamp(0.0, 1.0)));
    painter.planes(out);
}

/// A smooth background, brighter behind the head and on the side of the light.
fn ground(head: &Head, painter: &mut Painter) {
    let f = head.face;
    painter.ground(|at| {
        let d = [at[0] - 0.5 - 0.12 * f.light, at[1] - 0.4];
        let far = (d[0] * d[0] + d[1] * d[1]).sqrt();
        shade(f.background, 1.12 - 0.5 * smooth(0.1, 0.95, far))
    });
}

/// Draws the neck and the shirt.
fn shoulders(head: &Head, painter: &mut Painter) {
    let f = head.face;
    let neck = 0.36 + 0.09 * f.masculine;
    // The body does not roll with the head.
    let centre = [0.5 + f.shift[0], 0.485 + f.shift[1]];
    let place = |p: At| [centre[0] + p[0] * head.unit, centre[1] + p[1] * head.unit];
    let throat = [
        head.rim([-neck, 0.5]),
        head.rim([-neck, 1.0]),
        place([-neck - 0.22, 1.5]),
        place([0.0, 2.4]),
        place([neck + 0.22, 1.5]),
        head.rim([neck, 1.0]),
        head.rim([neck, 0.5]),
    ];
    painter.fill(&closed(&throat), |at| (shade(head.flesh(at), 0.86), 1.0));
    // The shadow of the chin on the neck.
    let shadow = closed(&[[-neck, 0.72], [0.0, 1.32], [neck, 0.72], [0.0, 0.7]]);
    painter.fill(&head.rims(&shadow), |_| (head.crease(), 0.4));
    let wide = 1.24 + 0.14 * f.masculine;
    let shirt = [
        [-wide - 0.55, 2.6],
        [-wide, 1.72],
        [-neck - 0.35, 1.36],
        [-neck - 0.06, 1.3],
        [-0.2, 1.56],
        [0.0, 1.62],
        [0.2, 1.56],
        [neck + 0.06, 1.3],
        [neck + 0.35, 1.36],
        [wide, 1.72],
        [wide + 0.55, 2.6],
        [0.0, 2.8],
    ];
    let outline: Vec<At> = closed(&shirt).iter().map(|p| place(*p)).collect();
    painter.fill(&outline, |at| {
        let side = (at[0] - centre[0]) * f.light;
        (shade(f.shirt, (0.88 + 0.7 * side).clamp(0.55, 1.15)), 1.0)
    });
    let collar: Vec<At> = open(&shirt[3..8]).iter().map(|p| place(*p)).collect();
    let half = 0.035 * head.unit;
    painter.pen(&collar, half, half, shade(f.shirt, 0.62), 0.9);
}

/// Returns the outline of the head, and its lower part from ear to ear.
fn skull(head: &Head) -> (Vec<At>, Vec<At>) {
    let (f, p, w) = (&head.face, &head.face.person, head.wide);
    let jaw = w * 0.8 + 0.045 * p.jaw + 0.075 * f.masculine + 0.02 * f.age;
    let chin = 0.27 + 0.04 * p.jaw + 0.1 * f.masculine;
    let low = 1.0 + 0.05 * p.chin + 0.02 * f.masculine;
    let cheek = w * 0.965 + 0.022 * p.cheeks;
    let crown = -1.0 - 0.03 * p.forehead;
    let right = [
        [cheek, 0.18],
        [jaw, 0.56 + 0.02 * f.age],
        [chin + 0.12, 0.86],
        [chin * 0.6, low - 0.02],
    ];
    let mut lower: Vec<At> = right.to_vec();
    lower.push([0.0, low]);
    lower.extend(right.iter().rev().map(|q| [-q[0], q[1]]));
    let mut all = lower.clone();
    all.extend([
        [-w, -0.16],
        [-w * 0.93, -0.56],
        [-w * 0.6, -0.9],
        [0.0, crown],
        [w * 0.6, -0.9],
        [w * 0.93, -0.56],
        [w, -0.16],
    ]);
    // The edge of the beard runs from the left ear to the right.
    let beard = open(&lower.iter().rev().copied().collect::<Vec<_>>());
    (closed(&all), beard)
}
