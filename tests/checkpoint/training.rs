//! Checkpoints of training frameworks: values beside the weights, prefixes of wrappers, views that
//! torch marks as negated, and tensors that must be refused. `tests/reference/training/make.py`
//! wrote the files with torch; `views.json` has the values that torch shows.

use super::{Pickle, assert_says, dict, fault, floats, legacy, safetensors, twelve, zip};
use invariances::candle_core::DType;
use invariances::hub::{self, Checkpoint};
use invariances::ops::{Init, Params};
use invariances::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

pub fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/training")
        .join(file)
}

fn error<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.map_or_else(|e| e.to_string(), |v| panic!("no error: {v:?}"))
}

fn names(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.entries().into_iter().map(|e| e.name).collect()
}

/// Parameters of these names and shapes, all zero.
fn network(shapes: &[(&str, &[usize])]) -> Result<Params> {
    let params = Params::new(0);
    for (name, shape) in shapes {
        let (place, last) = name.rsplit_once('.').unwrap_or(("", name));
        let root = params.root();
        let scope = if place.is_empty() {
            root
        } else {
            root.pp(place)
        };
        scope.get(*shape, last, Init::Const(0.0))?;
    }
    Ok(params)
}

/// A safetensors file of these tensors, every one of which has the elements 0, 1, …
fn file_of(shapes: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in shapes {
        let (start, size) = (data.len(), shape.iter().product::<usize>() * 4);
        data.extend_from_slice(&twelve()[..size]);
        entries.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            start + size
        ));
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &data)
}

#[test]
fn weights_load_beside_values_that_need_a_call() -> Result<()> {
    for file in [
        "objects.ckpt",
        "objects_legacy.ckpt",
        "objects_protocol5.ckpt",
    ] {
        let checkpoint = Checkpoint::open(path(file))?;
        assert_eq!(names(&checkpoint), ["fc.bias", "fc.weight", "tied.weight"]);
        let rule: Vec<f32> = (0u8..12).map(|i| f32::from(i) - 5.0).collect();
        for name in ["fc.weight", "tied.weight"] {
            let weight = checkpoint.tensor(name)?;
            assert_eq!(weight.dims(), [3, 4]);
            assert_eq!(weight.flatten_all()?.to_vec1::<f32>()?, rule, "{file}");
        }
        assert_eq!(checkpoint.tensor("fc.bias")?.to_vec1::<f32>()?, rule[..3]);
        // Into a network, and the other tensors of the file by their part.
        let params = network(&[
            ("fc.weight", &[3, 4]),
            ("fc.bias", &[3]),
            ("tied.weight", &[3, 4]),
        ])?;
        hub::load(&params, path(file))?;
        let part = "callbacks/ModelCheckpoint{'monitor': 'loss'}";
        let score = checkpoint.part(part)?.tensor("best_model_score")?;
        assert_eq!(score.to_scalar::<f32>()?, 0.5);
        // What is opaque has the name of its class, and nothing in it is opened.
        assert_says(
            &error(checkpoint.part("date")),
            &["found an object of datetime.datetime under \"date\""],
        );
        assert_says(
            &error(checkpoint.part("holder")),
            &[
                "found an object of project.Holder under \"holder\"",
                "state_dict()",
            ],
        );
        assert_says(
            &error(checkpoint.part("holder/weights")),
            &["expected a value under"],
        );
    }
    Ok(())
}

#[test]
fn views_have_the_values_that_torch_shows() -> Result<()> {
    let text =
        std::fs::read_to_string(path("views.json")).map_err(|e| Error::io("views.json", e))?;
    let views: HashMap<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|e| Error::content("views.json", e.to_string()))?;
    for file in ["views.ckpt", "views_legacy.ckpt"] {
        let tensors = Checkpoint::open(path(file))?.tensors()?;
        assert_eq!(tensors.len(), views.len());
        for (name, view) in &views {
            let tensor = &tensors[name];
            let shape: Vec<u64> = tensor.dims().iter().map(|d| *d as u64).collect();
            assert_eq!(serde_json::json!(shape), view["shape"], "{file} {name}");
            let values = tensor
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1::<f64>()?;
            let expected: Vec<f64> = view["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_f64)
                .collect();
            assert_eq!(values, expected, "{file} {name}");
        }
        let kind = |name: &str| tensors[name].dtype();
        assert_eq!(kind("negative_bfloat16"), DType::BF16);
        assert_eq!(kind("uint16"), DType::U32);
    }
    Ok(())
}

#[test]
fn tensors_that_need_a_call_are_refused_by_name() -> Result<()> {
    let cases: [(&str, &[&str]); 13] = [
        ("sparse", &["a sparse tensor", "`x.to_dense()`"]),
        ("csr", &["a sparse tensor", "`x.to_dense()`"]),
        (
            "quantized",
            &["torch._utils._rebuild_qtensor", "`x.dequantize()`"],
        ),
        ("channels", &["a quantized tensor", "`x.dequantize()`"]),
        ("complex", &["it is complex", "torch.view_as_real"]),
        ("conjugate", &["it is complex", "torch.view_as_real"]),
        ("meta", &["the meta device, which has no values"]),
        ("float8", &["of type torch.float8_e4m3fn", "`x.float()`"]),
        ("uint64", &["of type torch.uint64"]),
        ("nested", &["a nested tensor"]),
        (
            "subclass",
            &["the class project.Scaled", "as_subclass(torch.Tensor)"],
        ),
        (
            "inside",
            &["an object with tensors inside", "project.Holder"],
        ),
        (
            "module",
            &["found an object of project.Net under \"module\""],
        ),
    ];
    for file in ["refused.ckpt", "refused_legacy.ckpt"] {
        let whole = Checkpoint::open_part(path(file), "fine")?;
        assert_eq!(whole.tensor("plain")?.to_vec1::<f32>()?, [-5., -4., -3.]);
        for (part, says) in cases {
            let text = error(whole.part(part));
            assert_says(&text, says);
            if part != "module" {
                assert_says(&text, &["the tensor w cannot be read", "in Python"]);
            }
        }
        // An array of numpy is no tensor; whoever asks for it is told.
        let array = whole.part("array")?;
        assert_eq!(names(&array), ["plain"]);
        let missing = ["\"w\" in", "an object of numpy.ndarray"];
        assert_says(&error(array.tensor("w")), &missing);
        let params = network(&[("plain", &[3]), ("w", &[3])])?;
        assert_says(
            &error(array.load_into(&params)),
            &[
                "missing w [3]",
                "w is stored in the file as an object of numpy.ndarray",
            ],
        );
    }
    let text = error(Checkpoint::open(path("module.ckpt")));
    assert_says(&text, &["found an object of project.Net", "x.state_dict()"]);
    Ok(())
}

#[test]
fn prefixes_that_all_names_share_are_removed() -> Result<()> {
    let shapes: [&[usize]; 2] = [&[3, 4], &[3]];
    let prefixes = [
        ("", ""),
        ("module.", "module."),
        ("_orig_mod.", "_orig_mod."),
        ("model.", "model."),
        ("module._orig_mod.", "module._orig_mod."),
        ("_orig_mod.module.", "_orig_mod.module."),
        (
            "model.module._orig_mod.model.",
            "model.module._orig_mod.model.",
        ),
        // No wrapper's: it is removed only where the network's names are known.
        ("net.", ""),
        ("module.encoder_q.", "module."),
    ];
    for (prefix, removed) in prefixes {
        let [weight, bias, batches] = ["fc.weight", "fc.bias", "bn.num_batches_tracked"]
            .map(|name| format!("{prefix}{name}"));
        let described = [
            (
                weight.as_str(),
                "FloatStorage",
                "0",
                12,
                0,
                &[3, 4][..],
                &[4, 1][..],
            ),
            (bias.as_str(), "FloatStorage", "0", 12, 0, &[3], &[1]),
            (batches.as_str(), "FloatStorage", "0", 12, 0, &[], &[]),
        ];
        let object = dict(&described);
        let named = [
            (weight.as_str(), shapes[0]),
            (&bias, shapes[1]),
            (&batches, &[]),
        ];
        for file in [
            legacy(&object, &[("0", 12, &twelve())]),
            zip(&[("a/data.pkl", &object), ("a/data/0", &twelve())]),
            file_of(&named),
        ] {
            let checkpoint = Checkpoint::from_bytes("file", file)?;
            assert_eq!(checkpoint.prefix(), removed);
            let rest = &prefix[removed.len()..];
            assert!(names(&checkpoint).contains(&format!("{rest}fc.weight")));
            // By the name that is shown and by that of the file.
            let short = checkpoint.tensor(&format!("{rest}fc.bias"))?;
            let long = checkpoint.tensor(&bias)?;
            assert_eq!(short.to_vec1::<f32>()?, long.to_vec1::<f32>()?);
            // Into the bare network, and into one whose names have the whole prefix.
            for place in ["", prefix] {
                let params = network(&[
                    (&format!("{place}fc.weight"), shapes[0]),
                    (&format!("{place}fc.bias"), shapes[1]),
                ])?;
                checkpoint.load_into(&params)?;
                let loaded = params.var(&format!("{place}fc.weight"))?;
                assert_eq!(loaded.flatten_all()?.to_vec1::<f32>()?[11], 11.0);
            }
        }
    }
    Ok(())
}

#[test]
fn a_prefix_is_not_removed_where_names_or_shapes_then_differ() -> Result<()> {
    let file = |names: &[(&str, &[usize])]| Checkpoint::from_bytes("file", file_of(names));
    // Another shape below the prefix, one name too many, one too few.
    let params = network(&[("fc.weight", &[3, 4]), ("fc.bias", &[3])])?;
    for names in [
        &[("model.fc.weight", &[4, 3][..]), ("model.fc.bias", &[3])][..],
        &[
            ("model.fc.weight", &[3, 4]),
            ("model.fc.bias", &[3]),
            ("model.fc.scale", &[3]),
        ],
        &[("model.fc.weight", &[3, 4])],
    ] {
        let text = error(file(names)?.load_into(&params));
        assert_says(&text, &["these weights are of another network"]);
    }
    assert_eq!(params.var("fc.bias")?.to_vec1::<f32>()?, [0.0; 3]);
    Ok(())
}

#[test]
fn a_prefix_of_some_names_is_offered() -> Result<()> {
    let file = |names: &[(&str, &[usize])]| Checkpoint::from_bytes("file", file_of(names));
    let params = network(&[("fc.weight", &[3, 4]), ("fc.bias", &[3])])?;
    // Lightning: the loss has weights of its own.
    let lightning = file(&[
        ("model.fc.weight", &[3, 4]),
        ("model.fc.bias", &[3]),
        ("loss.lin0.weight", &[1, 2]),
    ])?;
    assert_eq!(lightning.prefix(), "");
    let text = error(lightning.load_into(&params));
    assert_says(
        &text,
        &[
            "missing fc.weight [3, 4]; perhaps the unexpected model.fc.weight is meant",
            "all of the network's names (2 of 2) are in the file under the prefix \"model.\"",
            "`checkpoint.below(\"model.\")?.load_into(&params)?`",
        ],
    );
    lightning.below("model.")?.load_into(&params)?;
    assert_eq!(params.var("fc.bias")?.to_vec1::<f32>()?, [0., 1., 2.]);
    assert_says(
        &error(lightning.below("mode.")),
        &["no tensor name starts with \"mode.\"", "loss.lin0.weight"],
    );
    // Two networks of these names: both are named, neither is chosen.
    let distilled = file(&[
        ("student.fc.weight", &[3, 4]),
        ("student.fc.bias", &[3]),
        ("teacher.fc.weight", &[3, 4]),
        ("teacher.fc.bias", &[3]),
    ])?;
    assert_says(
        &error(distilled.load_into(&params)),
        &["under each of the prefixes \"student.\" and \"teacher.\""],
    );
    // torch's AveragedModel: a counter beside the names below `module.`.
    let averaged = file(&[
        ("module.fc.weight", &[3, 4]),
        ("module.fc.bias", &[3]),
        ("n_averaged", &[]),
    ])?;
    assert_says(
        &error(averaged.load_into(&params)),
        &["checkpoint.below(\"module.\")"],
    );
    // Most of the names, and a shape that differs.
    let other = file(&[
        ("net.fc.weight", &[3, 4]),
        ("net.fc.bias", &[4]),
        ("head.weight", &[2]),
    ])?;
    assert_says(
        &error(other.load_into(&params)),
        &["most of the network's names (1 of 2) are in the file under the prefix \"net.\""],
    );
    // The network's names have a prefix that the file lacks.
    let inner = network(&[("encoder.fc.weight", &[3, 4]), ("encoder.fc.bias", &[3])])?;
    let bare = file(&[("fc.weight", &[3, 4]), ("fc.bias", &[3])])?;
    assert_says(
        &error(bare.load_into(&inner)),
        &["`params.root().pp(\"encoder\").set_all(&checkpoint.tensors()?)?`"],
    );
    inner.root().pp("encoder").set_all(&bare.tensors()?)?;
    assert_eq!(
        inner.var("encoder.fc.bias")?.to_vec1::<f32>()?,
        [0., 1., 2.]
    );
    Ok(())
}

#[test]
fn counters_of_batches_are_ignored() -> Result<()> {
    let bytes = file_of(&[("bn.weight", &[3]), ("bn.num_batches_tracked", &[])]);
    let folder = tempfile::tempdir().map_err(|e| Error::io(".", e))?;
    let file = folder.path().join("t.safetensors");
    std::fs::write(&file, bytes).map_err(|e| Error::io(&file, e))?;
    let expected = [0.0, 1.0, 2.0];
    let params = network(&[("bn.weight", &[3])])?;
    hub::load(&params, &file)?;
    assert_eq!(params.var("bn.weight")?.to_vec1::<f32>()?, expected);
    let params = network(&[("bn.weight", &[3])])?;
    params.load(&file)?;
    assert_eq!(params.var("bn.weight")?.to_vec1::<f32>()?, expected);
    // It is not named among the faults of another network, and a network that has it gets it.
    let other = network(&[("bn.scale", &[3])])?;
    let text = error(hub::load(&other, &file));
    assert_says(&text, &["missing bn.scale", "bn.weight"]);
    assert!(!text.contains("num_batches_tracked"), "{text}");
    let counting = network(&[("bn.weight", &[3]), ("bn.num_batches_tracked", &[])])?;
    hub::load(&counting, &file)
}

#[test]
fn the_only_state_dict_is_read_whatever_its_key() -> Result<()> {
    let inner = |p: Pickle, key: &str, name: &str| {
        let open = p.text(key).op(b"}(").text(name);
        open.tensor("FloatStorage", "0", 12, 0, &[1], &[1])
            .text("b")
            .tensor("FloatStorage", "0", 12, 0, &[1], &[1])
            .op(b"u")
    };
    let open = || Pickle::new().op(b"}(");
    let read = |p: Pickle| {
        let file = legacy(&p.op(b"u").end(), &[("0", 12, &twelve())]);
        Checkpoint::from_bytes("file", file)
    };
    let best = |p: Pickle| {
        p.text("best")
            .tensor("FloatStorage", "0", 12, 0, &[1], &[1])
    };
    assert_eq!(names(&read(inner(open(), "net", "a"))?), ["a", "b"]);
    assert_eq!(names(&read(best(inner(open(), "ema", "a")))?), ["a", "b"]);
    let named = read(inner(inner(open(), "ema", "a"), "model_state_dict", "m"))?;
    assert_eq!(names(&named), ["b", "m"]);
    let several = error(read(best(inner(
        inner(open(), "student", "a"),
        "teacher",
        "a",
    ))));
    assert_says(
        &several,
        &[
            "student (a dict of 2 tensors)",
            "teacher (a dict of 2 tensors)",
            "open_part",
        ],
    );
    Ok(())
}

/// A value made by calls in every way that pickle has, none of which is made.
#[test]
fn every_way_to_call_leaves_an_opaque_value() -> Result<()> {
    let class = |p: Pickle| p.global("some.package", "Class");
    let ways: Vec<(&str, Pickle)> = vec![
        ("REDUCE", class(Pickle::default()).op(b")R")),
        ("NEWOBJ", class(Pickle::default()).op(b")\x81")),
        ("NEWOBJ_EX", class(Pickle::default()).op(b")}\x92")),
        ("OBJ", class(Pickle::default().op(b"(")).op(b"K\x01o")),
        (
            "INST",
            Pickle::default().op(b"(K\x01isome.package\nClass\n"),
        ),
        ("EXT1", Pickle::default().op(b"\x82\x01)R")),
        ("EXT2", Pickle::default().op(b"\x83\x01\x02)R")),
        ("EXT4", Pickle::default().op(b"\x84\x01\x02\x03\x04)R")),
        ("BUILD", class(Pickle::default()).op(b")\x81}b")),
        ("BUILD of a class", class(Pickle::default()).op(b"}b")),
        (
            "APPENDS",
            class(Pickle::default()).op(b")R(K\x01K\x02eK\x03a"),
        ),
        (
            "SETITEMS",
            class(Pickle::default()).op(b")R(K\x01K\x02uK\x03K\x04s"),
        ),
        ("ADDITEMS", class(Pickle::default()).op(b")R(K\x01\x90")),
        (
            "a call of what a call gave",
            class(Pickle::default()).op(b")R)R)\x81"),
        ),
        (
            "an object in itself, remembered",
            class(Pickle::default())
                .op(b")\x81q\x07}")
                .text("self")
                .op(b"h\x07sbh\x07\x86"),
        ),
        (
            "a dict of pairs from a call",
            Pickle::default()
                .global("collections", "OrderedDict")
                .op(b"(")
                .op(&class(Pickle::default()).op(b")R").0)
                .op(b"tR"),
        ),
        (
            "no parameter",
            Pickle::default()
                .global("torch._utils", "_rebuild_parameter")
                .op(b"(Nt\x81"),
        ),
    ];
    for (way, value) in ways {
        let weight = |p: Pickle| p.text("w").tensor("FloatStorage", "0", 12, 4, &[2], &[1]);
        // The pair of the object in itself is preceded by another object.
        let value = if way.starts_with("an object in itself") {
            Pickle::default().op(b"N").op(&value.0).op(b"0")
        } else {
            value
        };
        let object = weight(Pickle::new().op(b"}(").text("model").op(b"}("))
            .op(b"u")
            .text("x")
            .op(&value.0)
            .op(b"u")
            .end();
        for file in [
            legacy(&object, &[("0", 12, &twelve())]),
            zip(&[("a/data.pkl", &object), ("a/data/0", &twelve())]),
        ] {
            let checkpoint = Checkpoint::from_bytes("file", file)
                .map_err(|e| Error::invalid(format!("{way}: {e}")))?;
            assert_eq!(checkpoint.tensor("w")?.to_vec1::<f32>()?, [4., 5.], "{way}");
        }
    }
    Ok(())
}

/// `_rebuild_tensor_v2` or `_v3` of all twelve numbers, with what follows the stride.
fn rebuilt(version: u8, storage: (&str, i64), more: &[u8]) -> Pickle {
    let open = Pickle::default()
        .global("torch._utils", &format!("_rebuild_tensor_v{version}"))
        .op(b"(");
    let open = open
        .storage(storage.0, "0", storage.1)
        .int(1)
        .ints(&[2])
        .ints(&[2]);
    open.op(more).op(b"tR")
}

#[test]
fn marks_of_a_view_are_followed_or_refused() -> Result<()> {
    let file = |value: &Pickle| {
        let object = Pickle::new().op(b"}").text("w").op(&value.0).op(b"s").end();
        legacy(&object, &[("0", 12, &twelve())])
    };
    let values = |value: Pickle| -> Result<Vec<f32>> {
        let w = Checkpoint::from_bytes("file", file(&value))?.tensor("w")?;
        Ok(w.to_vec1()?)
    };
    let mark = |key: &str, value: &[u8]| Pickle::default().op(b"}").text(key).op(value).op(b"s").0;
    let v2 = |more: &[u8]| rebuilt(2, ("FloatStorage", 12), &[b"\x89}", more].concat());
    assert_eq!(values(v2(b""))?, [1., 3.]);
    assert_eq!(values(v2(b"}"))?, [1., 3.]);
    assert_eq!(values(v2(b"N"))?, [1., 3.]);
    assert_eq!(values(v2(&mark("neg", b"\x88")))?, [-1., -3.]);
    for refused in [
        // torch sets the bit whatever the value is; no version of it writes another than true.
        mark("neg", b"\x89"),
        mark("neg", b"K\x01"),
        mark("conj", b"\x88"),
        mark("backend", b"\x88"),
        b"K\x01".to_vec(),
    ] {
        let text = fault(file(&v2(&refused)));
        assert_says(
            &text,
            &["the tensor w cannot be read", "changes the stored values"],
        );
    }
    assert_says(&fault(file(&v2(b"}}"))), &["8 arguments"]);

    // Bytes of a type that the tensor names, from version 3 on.
    let v3 = |dtype: &str, more: &[u8]| {
        let dtype = Pickle::default()
            .op(b"\x89}")
            .global("torch", dtype)
            .op(more);
        let open = Pickle::default()
            .global("torch._utils", "_rebuild_tensor_v3")
            .op(b"((");
        let open = open
            .text("storage")
            .global("torch.storage", "UntypedStorage");
        open.text("0")
            .text("cpu")
            .int(48)
            .op(b"tQ")
            .int(1)
            .ints(&[2])
            .ints(&[2])
            .op(&dtype.0)
            .op(b"tR")
    };
    let bytes = |value: Pickle| {
        let object = Pickle::new().op(b"}").text("w").op(&value.0).op(b"s").end();
        Checkpoint::from_bytes("file", legacy(&object, &[("0", 48, &twelve())]))
    };
    let read = |value: Pickle| bytes(value)?.tensor("w");
    assert_eq!(read(v3("float32", b""))?.to_vec1::<f32>()?, [1., 3.]);
    assert_eq!(
        read(v3("float32", &mark("neg", b"\x88")))?.to_vec1::<f32>()?,
        [-1., -3.]
    );
    // 1.0 is 0x3f800000 and 3.0 is 0x40400000.
    let whole = read(v3("int32", b""))?.to_vec1::<i32>()?;
    assert_eq!(whole, [0x3f80_0000, 0x4040_0000]);
    assert_says(
        &error(bytes(v3("float8_e5m2", b""))),
        &["of type torch.float8_e5m2"],
    );
    assert_says(
        &error(bytes(v3("bool", &mark("neg", b"\x88")))),
        &["changes the stored values"],
    );
    // The last element that fits, and the first that does not.
    let at = |offset: i64| {
        let open = Pickle::default()
            .global("torch._utils", "_rebuild_tensor_v3")
            .op(b"((");
        let open = open
            .text("storage")
            .global("torch.storage", "UntypedStorage");
        let open = open
            .text("0")
            .text("cpu")
            .int(48)
            .op(b"tQ")
            .int(offset)
            .ints(&[1])
            .ints(&[1]);
        open.op(b"\x89}").global("torch", "float32").op(b"tR")
    };
    assert_eq!(read(at(11))?.to_vec1::<f32>()?, [11.]);
    assert_says(&error(bytes(at(12))), &["its storage has only 12 elements"]);
    Ok(())
}

#[test]
fn tensor_classes_are_plain_or_refused() -> Result<()> {
    let of = |function: &[u8], module: &str, class: &str| {
        let value = Pickle::default()
            .global("torch._tensor", "_rebuild_from_type_v2")
            .op(b"(")
            .op(function)
            .global(module, class)
            .op(&Pickle::default()
                .op(b"(")
                .storage("FloatStorage", "0", 12)
                .0)
            .int(1)
            .ints(&[2])
            .ints(&[2])
            .op(b"\x89}t}tR");
        let object = Pickle::new().op(b"}").text("w").op(&value.0).op(b"s").end();
        Checkpoint::from_bytes(
            "file",
            legacy(
                &object,
                &[(
                    "0",
                    12,
                    &floats(&[0., 1., 2., 3., 0., 0., 0., 0., 0., 0., 0., 0.]),
                )],
            ),
        )
    };
    let rebuild = Pickle::default()
        .global("torch._utils", "_rebuild_tensor_v2")
        .0;
    for (module, class) in [("torch", "Tensor"), ("torch.nn.parameter", "Parameter")] {
        let w = of(&rebuild, module, class)?.tensor("w")?;
        assert_eq!(w.to_vec1::<f32>()?, [1., 3.], "{class}");
    }
    assert_says(
        &error(of(&rebuild, "a.b", "LogTensor")),
        &["the class a.b.LogTensor"],
    );
    assert_says(
        &error(of(&rebuild, "torch.distributed.tensor", "DTensor")),
        &["torch.distributed.tensor.DTensor", "`x.full_tensor()`"],
    );
    let nested = Pickle::default()
        .global("torch._tensor", "_rebuild_from_type_v2")
        .0;
    assert_says(
        &error(of(&nested, "torch", "Tensor")),
        &["the tensor w cannot be read"],
    );
    let wrapper = Pickle::default()
        .global("torch._utils", "_rebuild_wrapper_subclass")
        .0;
    assert_says(
        &error(of(&wrapper, "torch", "Tensor")),
        &["_rebuild_wrapper_subclass"],
    );
    let attack = Pickle::default().global("os", "system").0;
    assert_says(
        &error(of(&attack, "torch", "Tensor")),
        &["a reference to the function os.system"],
    );
    Ok(())
}

#[test]
fn extra_state_is_no_tensor() -> Result<()> {
    let object = Pickle::new()
        .op(b"}(")
        .text("fc._extra_state")
        .global("some.package", "State")
        .op(b"(")
        .tensor("FloatStorage", "0", 12, 0, &[1], &[1])
        .op(b"tR")
        .text("w")
        .tensor("FloatStorage", "0", 12, 0, &[1], &[1])
        .op(b"u")
        .end();
    let checkpoint = Checkpoint::from_bytes("file", legacy(&object, &[("0", 12, &twelve())]))?;
    assert_eq!(names(&checkpoint), ["w"]);
    Ok(())
}

/// Sharing and depth cost no more than the file: a search for tensors looks into every object once.
#[test]
fn opaque_objects_are_searched_in_bounded_time() {
    // Each object holds the one before it twice, and a state dict of 20,000 of them holds the last.
    let mut deep = Pickle::new()
        .op(b"}q\x01(")
        .global("some.package", "Class")
        .op(b"q\x02");
    deep = deep.op(b")\x81q\x03");
    for _ in 0..100_000 {
        deep = deep.op(b"0h\x02h\x03h\x03\x86\x81q\x03");
    }
    deep = deep
        .op(b"0")
        .text("w")
        .tensor("FloatStorage", "0", 12, 0, &[1], &[1]);
    for i in 0..20_000 {
        deep = deep.text(&format!("x{i}")).op(b"h\x03");
    }
    let file = legacy(&deep.op(b"u").end(), &[("0", 12, &twelve())]);
    let started = std::time::Instant::now();
    match Checkpoint::from_bytes("file", file) {
        Ok(checkpoint) => assert_eq!(names(&checkpoint), ["w"]),
        Err(error) => panic!("{error}"),
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

/// The notice of a removed prefix, in a process of its own whose output is read.
#[test]
fn a_removed_prefix_is_said() -> Result<()> {
    const NAME: &str = "training::a_removed_prefix_is_said";
    const INSIDE: &str = "INVARIANCES_PREFIX_INSIDE";
    let names: [(&str, &[usize]); 2] = [
        ("_orig_mod.fc.weight", &[3, 4]),
        ("_orig_mod.fc.bias", &[3]),
    ];
    if std::env::var_os(INSIDE).is_some() {
        let checkpoint = Checkpoint::from_bytes("folder/compiled.ckpt", file_of(&names))?;
        return checkpoint.load_into(&network(&names)?);
    }
    let program = std::env::current_exe().map_err(|e| Error::io("the test", e))?;
    let output = std::process::Command::new(&program)
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .map_err(|e| Error::io(&program, e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = [
        "compiled.ckpt: removed the prefix \"_orig_mod.\" from all 2 names\n",
        "compiled.ckpt: kept the prefix \"_orig_mod.\", which the network's names have\n",
    ];
    assert_says(&text, &said);
    Ok(())
}
