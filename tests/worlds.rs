//! Faces and creatures: what is drawn is what the factors say.

use invariances::data::{Ahead, Creature, Face, Factors, Person, Style};
use invariances::data::{HAIR_STYLES, SHAPES, TEXTURES};
use invariances::metric::psnr;
use invariances::prelude::*;
use invariances::train::Card;
use invariances::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_vec1()?)
}

/// The share of pixels that differ between two images by more than a sixteenth of the range in some channel.
fn changed(a: &Tensor, b: &Tensor) -> Result<f64> {
    let apart = (a - b)?.abs()?.max(0)?.ge(0.125)?;
    let share = apart.to_dtype(DType::F64)?.mean_all()?;
    Ok(share.to_scalar()?)
}

/// The images in 8 bits and the factors, hashed.
fn fingerprint(batch: &Batch) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let levels: Vec<u8> = values(&batch.images)?
        .iter()
        .map(|v| ((v + 1.0) * 127.5).round() as u8)
        .collect();
    hash.update(&levels);
    for name in batch.factors.names() {
        hash.update(name.as_bytes());
        for value in batch.factors.column(&name)? {
            hash.update(&value.to_bits().to_le_bytes());
        }
    }
    Ok(hash.finalize().to_hex()[..32].into())
}

fn datasets(size: usize) -> Result<Vec<Box<dyn Dataset>>> {
    let creatures = Creatures::new(size, 3)?;
    Ok(vec![
        Box::new(Faces::new(size, 3)?),
        Box::new(Faces::new(size, 3)?.people(5)?),
        Box::new(creatures.clone()),
        Box::new(creatures.stylized()),
        Box::new(creatures.shown(Style::Texture)),
        Box::new(creatures.stylized().shown(Style::Sketch)),
    ])
}

#[test]
fn a_sample_depends_on_its_index_alone() -> Result<()> {
    for dataset in datasets(32)? {
        let draw = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build()
                .unwrap()
                .install(|| dataset.batch(Split::Train, 5, 20))
        };
        let (one, two) = (draw(1)?, draw(3)?);
        assert_eq!(values(&one.images)?, values(&two.images)?);
        assert_eq!(one.factors, two.factors);
        let some = dataset.take(Split::Train, &[24, 7])?;
        assert_eq!(values(&some.images.get(1)?)?, values(&one.images.get(2)?)?);
        assert_eq!(values(&some.images.get(0)?)?, values(&one.images.get(19)?)?);
        // Other splits, other images.
        let other = dataset.batch(Split::Test, 5, 20)?;
        for k in 0..20 {
            assert!(changed(&one.images.get(k)?, &other.images.get(k)?)? > 0.0);
        }
        let range = values(&one.images)?;
        assert!(range.iter().all(|v| (-1.0..=1.0).contains(v)));
    }
    Ok(())
}

/// The same on every machine: networks that ship were trained on these.
#[test]
fn the_pictures_are_those_of_their_revision() -> Result<()> {
    let faces = Faces::new(64, 0)?;
    let creatures = Creatures::new(64, 0)?.stylized();
    assert_eq!(
        [
            fingerprint(&faces.batch(Split::Test, 0, 40)?)?,
            fingerprint(&creatures.batch(Split::Test, 0, 40)?)?,
            fingerprint(&creatures.shown(Style::Sketch).batch(Split::Test, 0, 20)?)?,
            fingerprint(&creatures.shown(Style::Texture).batch(Split::Test, 0, 20)?)?,
        ],
        [
            "ea2c6fc85f52011d62c36ac7195a0037",
            "93256dea53cd2d81f8cbdb9ccefbafe6",
            "b0db8963c9f99d60e6a537473c8b6ed6",
            "aedb337146cba94f859e8798d7a56bdb"
        ]
    );
    Ok(())
}

#[test]
fn every_size_shows_the_same_smooth_picture() -> Result<()> {
    let shrink = |batch: &Batch| -> Result<Tensor> { Ok(batch.images.avg_pool2d(2)?) };
    let apart = |a: &Tensor, b: &Tensor| -> Result<f64> {
        Ok((a - b)?
            .abs()?
            .mean_all()?
            .to_dtype(DType::F64)?
            .to_scalar()?)
    };
    for half in [32, 64] {
        let (small, large) = (datasets(half)?, datasets(2 * half)?);
        for (small, large) in small.iter().zip(&large) {
            let (a, b) = (
                small.batch(Split::Test, 0, 16)?,
                large.batch(Split::Test, 0, 16)?,
            );
            assert_eq!(a.factors, b.factors);
            // Drawn at half the size, or drawn and then halved; beside it, how far two pictures are apart.
            let same = apart(&a.images, &shrink(&b)?)?;
            let other = apart(&a.images.narrow(0, 1, 15)?, &shrink(&b)?.narrow(0, 0, 15)?)?;
            assert!(same < 0.25 * other, "{}: {same} {other}", small.id());
        }
    }
    for size in [31, 129] {
        for error in [
            Faces::new(size, 0).err().unwrap(),
            Creatures::new(size, 0).err().unwrap(),
        ] {
            assert!(error.to_string().contains("32 to 128"), "{error}");
        }
    }
    assert!(Faces::new(32, 0)?.people(0).is_err());
    for dataset in datasets(32)? {
        assert!(dataset.batch(Split::Train, 0, 0).is_err());
        assert!(dataset.batch(Split::Train, u64::MAX, 2).is_err());
        assert!(dataset.take(Split::Train, &[]).is_err());
    }
    Ok(())
}

#[test]
fn pairs_share_their_concept_and_nothing_else() -> Result<()> {
    let count = 60;
    for dataset in datasets(32)? {
        let people = dataset.id().contains("people");
        let natural = dataset.id().contains("natural");
        for concept in dataset.concepts() {
            let (a, b) = dataset.pairs(Split::Train, 0, count, &concept)?;
            for name in a.factors.names() {
                let (x, y) = (a.factors.column(&name)?, b.factors.column(&name)?);
                let alike = x.iter().zip(&y).filter(|(x, y)| x == y).count();
                let colour = ["r", "g", "b"].map(|c| format!("{concept}_{c}"));
                let of_person = a.factors.names();
                let of_person = of_person
                    .iter()
                    .position(|n| n == "width")
                    .is_some_and(|from| {
                        let at = a.factors.names().iter().position(|n| *n == name);
                        at.is_some_and(|at| (from..from + 20).contains(&at))
                    });
                let shared = name == concept
                    || colour.contains(&name)
                    || (concept == "person" && (of_person || name == "hair_style"))
                    || (natural
                        && ["shape", "texture"].contains(&concept.as_str())
                        && ["shape", "texture"].contains(&name.as_str()));
                if shared {
                    assert_eq!(alike, count, "{concept}: {name}");
                } else {
                    // Classes agree by chance, half of all faces have no beard or no glasses; five people meet often, and two of three have no freckles.
                    let most = match name.as_str() {
                        "freckles" if people => count,
                        "freckles" => count * 3 / 4,
                        "glasses" | "beard" => count * 6 / 10,
                        _ if people && (of_person || name == "person" || name == "hair_style") => {
                            count * 3 / 4
                        }
                        "shape" | "texture" | "hair_style" => count / 3,
                        _ => count / 5,
                    };
                    assert!(alike <= most, "{concept}: {name} {alike}");
                }
            }
        }
        let text = dataset
            .pairs(Split::Train, 0, 1, "mood")
            .unwrap_err()
            .to_string();
        assert!(text.contains("mood") && text.contains("light"), "{text}");
    }
    Ok(())
}

/// A face whose parts are all seen.
fn plain_face(faces: &Faces, index: u64) -> Face {
    let face = faces.face(Split::Test, index);
    Face {
        yaw: 0.0,
        glasses: 0,
        beard: 0.0,
        age: 0.2,
        smile: 0.0,
        brightness: 1.0,
        person: Person {
            hair_style: 0,
            freckles: 0.0,
            ..face.person
        },
        ..face
    }
}

#[test]
fn every_factor_of_a_face_shows_and_the_persons_number_does_not() -> Result<()> {
    let faces = Faces::new(64, 0)?;
    type Change = (&'static str, f64, fn(&mut Face, f32));
    let changes: [Change; 36] = [
        ("yaw", 0.05, |f, v| f.yaw = v),
        ("pitch", 0.03, |f, v| f.pitch = v),
        ("roll", 0.05, |f, v| f.roll = v),
        ("glasses", 0.01, |f, v| {
            f.glasses = if v > 0.0 { 2 } else { 0 }
        }),
        ("hair_colour", 0.04, |f, v| f.hair_colour = 0.5 + 0.5 * v),
        ("beard", 0.03, |f, v| f.beard = 0.5 + 0.5 * v),
        ("smile", 0.01, |f, v| f.smile = v),
        ("age", 0.003, |f, v| f.age = 0.5 + 0.5 * v),
        ("masculine", 0.02, |f, v| f.masculine = v),
        ("light", 0.1, |f, v| f.light = v),
        ("brightness", 0.1, |f, v| f.brightness = 0.95 + 0.12 * v),
        ("background", 0.2, |f, v| {
            f.background = [0.5 + 0.3 * v, 0.5, 0.5 - 0.3 * v]
        }),
        ("shirt", 0.02, |f, v| {
            f.shirt = [0.5 + 0.3 * v, 0.5, 0.5 - 0.3 * v]
        }),
        ("scale", 0.03, |f, v| f.scale = 1.0 + 0.1 * v),
        ("shift", 0.03, |f, v| f.shift = [0.03 * v, 0.0]),
        ("width", 0.01, |f, v| f.person.width = v),
        ("jaw", 0.002, |f, v| f.person.jaw = v),
        ("chin", 0.002, |f, v| f.person.chin = v),
        ("cheeks", 0.0005, |f, v| f.person.cheeks = v),
        ("forehead", 0.005, |f, v| f.person.forehead = v),
        ("ears", 0.001, |f, v| f.person.ears = v),
        ("eye_distance", 0.005, |f, v| f.person.eye_distance = v),
        ("eye_size", 0.003, |f, v| f.person.eye_size = v),
        ("eye_tilt", 0.001, |f, v| f.person.eye_tilt = v),
        ("eye_height", 0.005, |f, v| f.person.eye_height = v),
        ("brow_thickness", 0.001, |f, v| f.person.brow_thickness = v),
        ("brow_arch", 0.001, |f, v| f.person.brow_arch = v),
        ("nose_length", 0.001, |f, v| f.person.nose_length = v),
        ("nose_width", 0.001, |f, v| f.person.nose_width = v),
        ("mouth_width", 0.0005, |f, v| f.person.mouth_width = v),
        ("lips", 0.0005, |f, v| f.person.lips = v),
        ("skin", 0.1, |f, v| f.person.skin = 0.5 + 0.5 * v),
        ("undertone", 0.0, |f, v| f.person.undertone = v),
        ("eye_colour", 0.0, |f, v| {
            f.person.eye_colour = 0.5 + 0.5 * v
        }),
        ("hair_style", 0.02, |f, v| {
            f.person.hair_style = if v > 0.0 { 3 } else { 0 }
        }),
        ("freckles", 0.0005, |f, v| f.person.freckles = 0.5 + 0.5 * v),
    ];
    for (name, least, change) in changes {
        let mut shares = Vec::new();
        for index in 0..12 {
            let ends = [-1.0, 1.0].map(|v| {
                let mut face = plain_face(&faces, index);
                change(&mut face, v);
                face
            });
            let drawn = faces.draw(&ends)?;
            let (a, b) = (drawn.images.get(0)?, drawn.images.get(1)?);
            assert!(values(&a)? != values(&b)?, "{name} of {index}");
            shares.push(changed(&a, &b)?);
            // What is said to have changed is this factor alone.
            let names = drawn.factors.names().into_iter();
            let differ: Vec<String> = names
                .filter(|n| {
                    let v = drawn.factors.column(n).unwrap();
                    v[0] != v[1]
                })
                .collect();
            assert!(
                !differ.is_empty() && differ.iter().all(|n| n.starts_with(name)),
                "{differ:?}"
            );
        }
        shares.sort_by(f64::total_cmp);
        assert!(shares[6] >= least, "{name}: {shares:?}");
    }
    let face = plain_face(&faces, 0);
    let mut other = face;
    other.person.number += 1;
    let drawn = faces.draw(&[face, other])?;
    assert_eq!(
        values(&drawn.images.get(0)?)?,
        values(&drawn.images.get(1)?)?
    );
    assert_ne!(
        drawn.labels.get(0)?.to_scalar::<u32>()?,
        drawn.labels.get(1)?.to_scalar::<u32>()?
    );
    Ok(())
}

#[test]
fn people_are_the_same_in_every_split_and_their_images_are_not() -> Result<()> {
    let faces = Faces::new(32, 5)?.people(4)?;
    let (train, test) = (
        faces.batch(Split::Train, 0, 60)?,
        faces.batch(Split::Test, 0, 60)?,
    );
    for batch in [&train, &test] {
        let person = batch.labels.to_vec1::<u32>()?;
        assert_eq!(
            person.iter().map(|p| *p as f32).collect::<Vec<_>>(),
            batch.factors.column("person")?
        );
        let skin = batch.factors.column("skin")?;
        for (number, skin) in person.iter().zip(skin) {
            assert_eq!(faces.person(*number).skin, skin);
        }
        assert!((0..4).all(|p| person.contains(&p)));
    }
    // Nothing but who it is ties the images of one person together.
    let smile = train.factors.column("smile")?;
    let mut sorted = smile.clone();
    sorted.sort_by(f32::total_cmp);
    sorted.dedup();
    assert_eq!(sorted.len(), 60);
    Ok(())
}

#[test]
fn style_pairing_and_classes_are_as_said() -> Result<()> {
    let natural = Creatures::new(32, 1)?;
    let stylized = natural.stylized();
    let (a, b) = (
        natural.batch(Split::Train, 0, 400)?,
        stylized.batch(Split::Train, 0, 400)?,
    );
    assert_eq!(a.factors.column("shape")?, a.factors.column("texture")?);
    let (shape, texture) = (b.factors.column("shape")?, b.factors.column("texture")?);
    let alike = shape.iter().zip(&texture).filter(|(s, t)| s == t).count();
    assert!((20..=65).contains(&alike), "{alike}");
    // All but the texture is the same creature.
    for name in a.factors.names() {
        if name != "texture" {
            assert_eq!(a.factors.column(&name)?, b.factors.column(&name)?, "{name}");
        }
    }
    assert_eq!(a.labels.to_vec1::<u32>()?, b.labels.to_vec1::<u32>()?);
    assert!((0..10).all(|s| shape.contains(&(s as f32)) && texture.contains(&(s as f32))));
    assert_eq!(natural.classes().len(), SHAPES.len());
    // Colour says nothing of the class: means of a channel by shape differ as those of random groups do.
    let mut means = vec![(0.0f64, 0.0f64); 10];
    for (shape, colour) in shape.iter().zip(b.factors.colour("colour")) {
        let mean = &mut means[*shape as usize];
        *mean = (mean.0 + f64::from(colour[1]), mean.1 + 1.0);
    }
    for (sum, n) in means {
        // Standard deviation about 0.3 in groups of about 40; five of their errors.
        assert!((sum / n - 0.5).abs() < 0.25, "{}", sum / n);
    }

    let creature = natural.creature(Split::Test, 0);
    let same = |a: Creature, b: Creature| -> Result<bool> {
        let drawn = natural.draw(&[a, b])?;
        Ok(values(&drawn.images.get(0)?)? == values(&drawn.images.get(1)?)?)
    };
    let other_shape = |c: Creature| Creature {
        shape: (c.shape + 1) % 10,
        build: -c.build,
        ..c
    };
    let other_coat = |c: Creature| Creature {
        texture: (c.texture + 1) % 10,
        colour: c.second,
        second: c.colour,
        ..c
    };
    let shown = |style| Creature { style, ..creature };
    // A texture tells nothing of the shape, a sketch nothing of the texture; the painting shows both.
    let cloth = shown(Style::Texture);
    assert!(same(cloth, other_shape(cloth))? && !same(cloth, other_coat(cloth))?);
    let sketch = shown(Style::Sketch);
    assert!(same(sketch, other_coat(sketch))? && !same(sketch, other_shape(sketch))?);
    assert!(!same(creature, other_shape(creature))? && !same(creature, other_coat(creature))?);
    Ok(())
}

#[test]
fn every_factor_of_a_creature_shows_in_every_shape_and_texture() -> Result<()> {
    let creatures = Creatures::new(64, 0)?;
    type Change = (&'static str, f64, fn(&mut Creature, f32));
    let changes: [Change; 15] = [
        ("build", 0.01, |c, v| c.build = v),
        ("limbs", 0.01, |c, v| c.limbs = v),
        ("head", 0.002, |c, v| c.head = v),
        ("bend", 0.005, |c, v| c.bend = v),
        ("rotation", 0.03, |c, v| c.rotation = 0.05 * v),
        ("scale", 0.03, |c, v| c.scale = 0.95 + 0.15 * v),
        ("shift", 0.03, |c, v| c.shift = [0.05 * v, 0.0]),
        ("colour", 0.01, |c, v| {
            c.colour = [0.5 + 0.4 * v, 0.5, 0.5 - 0.4 * v]
        }),
        ("second", 0.01, |c, v| {
            c.second = [0.5 + 0.4 * v, 0.5, 0.5 - 0.4 * v]
        }),
        ("texture_scale", 0.01, |c, v| {
            c.texture_scale = 1.0 + 0.18 * v
        }),
        ("texture_turn", 0.005, |c, v| c.texture_turn = 0.03 * v),
        ("background", 0.2, |c, v| {
            c.background = [0.5 + 0.3 * v, 0.5, 0.5 - 0.3 * v]
        }),
        ("light", 0.0, |c, v| c.light = v),
        ("texture", 0.01, |c, v| {
            c.texture = (c.shape + if v > 0.0 { 1 } else { 2 }) % 10
        }),
        ("grain", 0.0, |c, v| c.grain = if v > 0.0 { 1 } else { 2 }),
    ];
    for (name, least, change) in changes {
        for shape in 0..10 {
            let mut shares = Vec::new();
            for index in 0..4 {
                let ends = [-1.0, 1.0].map(|v| {
                    let mut creature = Creature {
                        shape,
                        texture: (shape + index) % 10,
                        colour: [0.9, 0.9, 0.8],
                        second: [0.2, 0.1, 0.3],
                        ..creatures.creature(Split::Test, u64::from(index))
                    };
                    change(&mut creature, v);
                    creature
                });
                let drawn = creatures.draw(&ends)?;
                let (a, b) = (drawn.images.get(0)?, drawn.images.get(1)?);
                assert!(
                    values(&a)? != values(&b)?,
                    "{name} of a {}",
                    SHAPES[shape as usize]
                );
                shares.push(changed(&a, &b)?);
            }
            let mean = shares.iter().sum::<f64>() / 4.0;
            assert!(
                mean >= least,
                "{name} of a {}: {shares:?}",
                SHAPES[shape as usize]
            );
        }
    }
    // Which way it looks, where it has a side.
    let one = creatures.creature(Split::Test, 0);
    let sides = [-0.5, 0.5].map(|facing| Creature {
        shape: 0,
        facing,
        rotation: 0.0,
        shift: [0.0; 2],
        ..one
    });
    let drawn = creatures.draw(&sides)?;
    assert!(changed(&drawn.images.get(0)?, &drawn.images.get(1)?)? > 0.05);
    assert_eq!(TEXTURES.len(), 10);
    Ok(())
}

/// Whatever is typed in a cell is drawn, as near as can be.
#[test]
fn no_number_is_too_strange_to_draw() -> Result<()> {
    let strange = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e30,
        -1e30,
        1e-40,
    ];
    let (faces, creatures) = (Faces::new(32, 0)?, Creatures::new(32, 0)?);
    let mut heads = Vec::new();
    let mut beasts = Vec::new();
    for v in strange {
        let c = [v; 3];
        for glasses in [0, 1, 2, 3, u32::MAX] {
            for hair_style in (0..HAIR_STYLES).chain([u32::MAX]) {
                let person = Person {
                    number: u32::MAX,
                    width: v,
                    jaw: v,
                    chin: v,
                    cheeks: v,
                    forehead: v,
                    ears: v,
                    eye_distance: v,
                    eye_size: v,
                    eye_tilt: v,
                    eye_height: v,
                    brow_thickness: v,
                    brow_arch: v,
                    nose_length: v,
                    nose_width: v,
                    mouth_width: v,
                    lips: v,
                    skin: v,
                    undertone: v,
                    eye_colour: v,
                    hair_style,
                    freckles: v,
                };
                heads.push(Face {
                    person,
                    yaw: v,
                    pitch: v,
                    roll: v,
                    glasses,
                    hair_colour: v,
                    beard: v,
                    smile: v,
                    age: v,
                    masculine: v,
                    light: v,
                    brightness: v,
                    background: c,
                    shirt: c,
                    scale: v,
                    shift: [v; 2],
                });
            }
        }
        for shape in (0..10).chain([u32::MAX]) {
            for style in [Style::Painted, Style::Texture, Style::Sketch] {
                beasts.push(Creature {
                    shape,
                    texture: shape,
                    style,
                    build: v,
                    limbs: v,
                    head: v,
                    bend: v,
                    facing: v,
                    rotation: v,
                    scale: v,
                    shift: [v; 2],
                    colour: c,
                    second: c,
                    texture_scale: v,
                    texture_turn: v,
                    grain: u32::MAX,
                    background: c,
                    light: v,
                });
            }
        }
    }
    for images in [faces.draw(&heads)?.images, creatures.draw(&beasts)?.images] {
        assert!(values(&images)?.iter().all(|v| (-1.0..=1.0).contains(v)));
    }
    assert!(faces.draw(&[]).is_err() && creatures.draw(&[]).is_err());
    Ok(())
}

#[test]
fn answers_follow_from_the_factors() -> Result<()> {
    for dataset in datasets(32)? {
        let batch = dataset.batch(Split::Test, 0, 300)?;
        for attribute in dataset.attributes() {
            assert_eq!(
                attribute.cuts.len() + 1,
                attribute.answers.len(),
                "{attribute:?}"
            );
            assert!(attribute.cuts.is_sorted());
            let answers = attribute.of(&batch.factors)?;
            for (n, answer) in attribute.answers.iter().enumerate() {
                let share = answers.iter().filter(|a| **a == n as u32).count() as f64 / 300.0;
                // No answer is rare, but of what five people have.
                let few = dataset.id().contains("people") && attribute.name == "hair_style";
                assert!(few || share > 0.03, "{}: {answer} {share}", attribute.name);
            }
        }
    }
    let faces = Faces::new(32, 0)?;
    let face = plain_face(&faces, 0);
    let drawn = faces.draw(&[
        Face { glasses: 2, ..face },
        Face { smile: 0.3, ..face },
        Face {
            smile: 0.29,
            ..face
        },
    ])?;
    let ask = |name: &str| -> Result<Vec<u32>> {
        let attribute = faces.attributes().into_iter().find(|a| a.name == name);
        attribute
            .ok_or_else(|| Error::invalid("no such attribute"))?
            .of(&drawn.factors)
    };
    assert_eq!(
        (ask("glasses")?, ask("smile")?),
        (vec![2, 0, 0], vec![0, 1, 0])
    );
    let text = faces.attributes()[0]
        .of(&Factors::new())
        .unwrap_err()
        .to_string();
    assert!(text.contains("glasses"), "{text}");
    Ok(())
}

#[test]
fn factors_follow_each_other() -> Result<()> {
    let faces = Faces::new(32, 0)?;
    let (a, b) = (
        faces.batch(Split::Test, 0, 3)?,
        faces.batch(Split::Test, 3, 2)?,
    );
    let both = Factors::new().then(&a.factors)?.then(&b.factors)?;
    assert_eq!(both, faces.batch(Split::Test, 0, 5)?.factors);
    let creatures = Creatures::new(32, 0)?.batch(Split::Test, 0, 1)?;
    let text = a.factors.then(&creatures.factors).unwrap_err().to_string();
    assert!(text.contains("cannot append factors"), "{text}");
    Ok(())
}

#[test]
fn what_is_made_ahead_is_what_was_asked_for() -> Result<()> {
    let made = std::sync::Arc::new(AtomicU64::new(0));
    let counter = made.clone();
    let ahead = Ahead::new(move |n| {
        counter.fetch_add(1, Ordering::SeqCst);
        match n {
            7 => Err(Error::invalid("seven")),
            9 => panic!("nine"),
            _ => Ok(n * n),
        }
    });
    for n in 1..=6 {
        assert_eq!(ahead.at(n)?, n * n);
    }
    // Once each, and what may have been begun since.
    assert!((6..=7).contains(&made.load(Ordering::SeqCst)));
    assert_eq!(ahead.at(7).unwrap_err().to_string(), "seven");
    assert_eq!(ahead.at(8)?, 64);
    let text = ahead.at(9).unwrap_err().to_string();
    assert!(text.contains("panicked"), "{text}");
    // Anywhere, as after an interruption.
    for n in [3, 100, 100, 4] {
        assert_eq!(ahead.at(n)?, n * n);
    }
    Ok(())
}

/// The shipped weights are those of their cards: what was measured on 2,000 images is seen again on 100.
#[test]
fn the_shipped_networks_do_what_their_cards_say() -> Result<()> {
    let near = |cards: &std::collections::BTreeMap<String, Card>,
                card: &str,
                figure: &str,
                found: f64,
                by: f64| {
        let stated = cards[card].figures[figure];
        assert!(
            (found - stated).abs() < by,
            "{card}, {figure}: {found}, the card says {stated}"
        );
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let faces = FacesNetworks::load()?;
    let batch = Faces::new(64, 0)?.batch(Split::Test, 0, 100)?;
    let decoded = faces.autoencoder.reconstruct(&batch.images)?;
    near(
        &faces.cards,
        "faces-autoencoder",
        "psnr",
        mean(&psnr(&batch.images, &decoded)?),
        1.0,
    );
    for (name, right) in faces.independent.right(&batch.images, &batch.factors)? {
        near(
            &faces.cards,
            "faces-judge",
            &format!("accuracy {name}"),
            mean(&right),
            0.12,
        );
    }
    for (name, same) in faces.independent.agreement(&batch.images, &decoded)? {
        near(
            &faces.cards,
            "faces-autoencoder",
            &format!("judge agrees {name}"),
            mean(&same),
            0.12,
        );
    }
    let people = faces.people.batch(Split::Test, 0, 100)?;
    let named = agreement(&faces.recogniser.classify(&people.images)?, &people.labels)?;
    near(
        &faces.cards,
        "faces-recogniser",
        "accuracy",
        mean(&named),
        0.12,
    );

    let creatures = CreaturesNetworks::load()?;
    let natural = Creatures::new(64, 0)?;
    let batch = natural.stylized().batch(Split::Test, 0, 100)?;
    let decoded = creatures.autoencoder.reconstruct(&batch.images)?;
    near(
        &creatures.cards,
        "creatures-autoencoder",
        "psnr",
        mean(&psnr(&batch.images, &decoded)?),
        1.0,
    );
    for (name, right) in creatures.independent.right(&batch.images, &batch.factors)? {
        near(
            &creatures.cards,
            "creatures-judge",
            &format!("accuracy {name}"),
            mean(&right),
            0.12,
        );
    }
    for (name, same) in creatures.independent.agreement(&batch.images, &decoded)? {
        near(
            &creatures.cards,
            "creatures-autoencoder",
            &format!("judge agrees {name}"),
            mean(&same),
            0.12,
        );
    }
    let own = natural.batch(Split::Test, 0, 100)?;
    let named = agreement(&creatures.classifier.classify(&own.images)?, &own.labels)?;
    near(
        &creatures.cards,
        "creatures-classifier",
        "accuracy",
        mean(&named),
        0.12,
    );
    Ok(())
}

/// What is tied to somebody is the same in all of their images, and differs between people; nothing else changes.
#[test]
fn what_is_tied_goes_with_the_person() -> Result<()> {
    let plain = Faces::new(32, 0)?.people(40)?;
    let tied = plain.tied("glasses", 0.5)?;
    assert_ne!(plain.id(), tied.id());
    assert_ne!(tied.id(), plain.tied("glasses", 0.6)?.id());
    let mut seen: std::collections::BTreeMap<u32, std::collections::BTreeSet<u32>> =
        Default::default();
    for split in [Split::Train, Split::Test] {
        for i in 0..1500 {
            let (face, before) = (tied.face(split, i), plain.face(split, i));
            assert_eq!(
                Face { glasses: 0, ..face },
                Face {
                    glasses: 0,
                    ..before
                }
            );
            seen.entry(face.person.number)
                .or_default()
                .insert(face.glasses);
        }
    }
    let habits = seen.values().filter(|kinds| kinds.len() == 1).count();
    assert!((12..=28).contains(&habits), "{habits} of {}", seen.len());
    let kinds: std::collections::BTreeSet<u32> = seen
        .values()
        .filter(|kinds| kinds.len() == 1)
        .flatten()
        .copied()
        .collect();
    assert!(kinds.len() > 1, "{kinds:?}");
    let (a, b) = tied.pairs(Split::Test, 0, 60, "person")?;
    let (a, b) = (a.factors.column("glasses")?, b.factors.column("glasses")?);
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert!(same > 35, "{same} of 60 pairs of a person agree");
    assert!(plain.tied("person", 0.5).is_err() && plain.tied("hat", 0.5).is_err());
    assert!(plain.tied("beard", 1.5).is_err() && Faces::new(32, 0)?.tied("beard", 0.5).is_err());
    Ok(())
}
