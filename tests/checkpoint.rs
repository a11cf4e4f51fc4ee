//! Checkpoints of others: the authors' formats give the authors' values, and a damaged or hostile file is an
//! error that says what is wrong, within bounded memory.

mod common;
#[path = "checkpoint/training.rs"]
mod training;

use common::{assert_close, bound_memory, fill, reference};
use invariances::candle_core::{DType, Device, Tensor};
use invariances::flow::{Cinn, CinnConfig, Condition, Conditioning, FlowActivation};
use invariances::hub::{self, Checkpoint, Format, Published, published, published_names};
use invariances::ops::{Init, Params, Rng};
use invariances::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const FILES: [&str; 6] = [
    "cinn_dense_legacy.ckpt",
    "cinn_dense_zip.ckpt",
    "nested_model_legacy.ckpt",
    "dataparallel_legacy.pth.tar",
    "truncated_legacy.ckpt",
    "code_in_pickle.ckpt",
];

/// As training frameworks write them.
const TRAINING: [&str; 8] = [
    "objects.ckpt",
    "objects_legacy.ckpt",
    "objects_protocol5.ckpt",
    "views.ckpt",
    "views_legacy.ckpt",
    "refused.ckpt",
    "refused_legacy.ckpt",
    "module.ckpt",
];

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/checkpoints")
        .join(file)
}

fn bytes(file: &str) -> Result<Vec<u8>> {
    let path = path(file);
    std::fs::read(&path).map_err(|e| Error::io(&path, e))
}

/// What is wrong with a file, in one line of lower case or more.
fn fault(bytes: Vec<u8>) -> String {
    match Checkpoint::from_bytes("file", bytes) {
        Ok(checkpoint) => panic!("no error: {checkpoint:?}"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// The sizes of the authors' network in the files.
fn dense() -> CinnConfig {
    CinnConfig {
        hidden: 32,
        flows: 4,
        ..CinnConfig::new(16, Condition::Vector(24))
    }
}

/// Every number of a tensor, bit by bit.
fn bits(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tensor.write_bytes(&mut bytes)?;
    Ok(bytes)
}

fn assert_same(a: &HashMap<String, Tensor>, b: &HashMap<String, Tensor>) -> Result<()> {
    assert_eq!(a.len(), b.len());
    for (name, tensor) in a {
        let other = &b[name];
        assert_eq!(tensor.dims(), other.dims(), "{name}");
        assert_eq!(tensor.dtype(), other.dtype(), "{name}");
        assert!(bits(tensor)? == bits(other)?, "{name} differs");
    }
    Ok(())
}

#[test]
fn the_authors_formats_give_the_authors_values() -> Result<()> {
    let stored = reference("cinn_dense")?;
    let flat = |name: &str| stored[name].flatten_from(1);
    let (x, z) = (flat("x")?, flat("cond")?);
    // What the files were written from.
    let rule = Params::new(0);
    Cinn::new(&dense(), &rule.root())?;
    fill(&rule, &stored)?;
    let mut first = None;
    for (file, format) in [
        ("cinn_dense_legacy.ckpt", Format::TorchLegacy),
        ("cinn_dense_zip.ckpt", Format::TorchZip),
        // Under `model`, beside an optimizer.
        ("nested_model_legacy.ckpt", Format::TorchLegacy),
        // Under `state_dict`, with `module.` before every name.
        ("dataparallel_legacy.pth.tar", Format::TorchLegacy),
    ] {
        let checkpoint = Checkpoint::open(path(file))?;
        assert_eq!(checkpoint.format(), format, "{file}");
        let params = Params::new(0);
        let t = Cinn::new(&dense(), &params.root())?;
        checkpoint.load_into(&params)?;
        assert!(t.is_initialized()?, "{file}");
        for (name, value) in params.tensors() {
            assert_close(
                &format!("{file} {name}"),
                &value,
                rule.var(&name)?.as_tensor(),
                1e-7,
            )?;
        }
        let (out, logdet) = t.forward(&x, &z)?;
        assert_close(&format!("{file} out"), &out, &stored["out"], 1e-5)?;
        assert_close(&format!("{file} logdet"), &logdet, &stored["logdet"], 1e-5)?;

        // All four hold the same numbers, and what is said of them is what they are.
        let tensors = checkpoint.tensors()?;
        for entry in checkpoint.entries() {
            let tensor = &tensors[&entry.name];
            assert_eq!(
                (tensor.dims(), tensor.dtype()),
                (&entry.shape[..], entry.dtype)
            );
            let alone = checkpoint.tensor(&entry.name)?;
            assert!(bits(tensor)? == bits(&alone)?);
        }
        assert_eq!(
            tensors["flow.sub_layers.0.shuffle.forward_shuffle_idx"].dtype(),
            DType::I64
        );
        assert_eq!(
            tensors["flow.sub_layers.0.norm_layer.initialized"].dtype(),
            DType::U8
        );
        assert_same(&tensors, first.get_or_insert(tensors.clone()))?;
    }
    Ok(())
}

#[test]
fn loaded_saved_and_loaded_it_is_the_same_bit_by_bit() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io(".", e))?;
    let params = Params::new(0);
    Cinn::new(&dense(), &params.root())?;
    hub::load(&params, path("cinn_dense_legacy.ckpt"))?;
    let saved = folder.path().join("saved.anything");
    params.save(&saved)?;
    let again = Params::new(1);
    Cinn::new(&dense(), &again.root())?;
    hub::load(&again, &saved)?;
    assert_same(&params.tensors(), &again.tensors())?;
    // candle reads the same from that file.
    let checkpoint = Checkpoint::open(&saved)?;
    assert_eq!(checkpoint.format(), Format::Safetensors);
    let theirs = invariances::candle_core::safetensors::load(&saved, &Device::Cpu)?;
    assert_same(&checkpoint.tensors()?, &theirs)?;
    Ok(())
}

#[test]
fn another_part_can_be_chosen() -> Result<()> {
    let checkpoint = Checkpoint::open(path("nested_model_legacy.ckpt"))?;
    let model: HashMap<_, _> = checkpoint
        .entries()
        .into_iter()
        .map(|e| (e.name, e.shape))
        .collect();
    let slot = checkpoint.part("optimizer/state/0")?;
    let names: Vec<_> = slot.entries().into_iter().map(|e| e.name).collect();
    assert!(names.contains(&"exp_avg".to_string()), "{names:?}");
    let average = slot.tensor("exp_avg")?;
    assert!(model.values().any(|shape| shape == average.dims()));
    let again = Checkpoint::open_part(path("nested_model_legacy.ckpt"), "optimizer/state/0")?;
    assert!(bits(&average)? == bits(&again.tensor("exp_avg")?)?);
    // From a part as from the whole.
    assert_eq!(slot.part("model")?.entries(), checkpoint.entries());

    let error = |part: &str| {
        checkpoint
            .part(part)
            .map_or_else(|e| e.to_string(), |c| panic!("{c:?}"))
    };
    assert_says(
        &error("ema"),
        &[
            "expected a value under \"ema\"",
            "model (a dict of 160 tensors)",
            "optimizer (a dict of 2)",
            "epoch (a value that is not a tensor)",
        ],
    );
    assert_says(
        &error("optimizer"),
        &[
            "expected a state dict under \"optimizer\"",
            "state (a dict of",
        ],
    );
    assert_says(&error("optimizer/param_groups"), &["a list of 1"]);
    assert_says(
        &error("epoch"),
        &[
            "expected a state dict",
            "found a value that is not a tensor",
        ],
    );
    let missing = checkpoint
        .tensor("flow.nothing")
        .map_or_else(|e| e.to_string(), |t| panic!("{t:?}"));
    assert_says(
        &missing,
        &["no tensor \"flow.nothing\"", "embedder.net.0.bias"],
    );
    Ok(())
}

#[test]
fn a_file_that_ends_too_soon_says_where() -> Result<()> {
    let error = fault(bytes("truncated_legacy.ckpt")?);
    assert_says(
        &error,
        &[
            "truncated",
            "storage ",
            " of 160 (key 93827",
            "ends at byte 164834",
        ],
    );
    // At every place, in every format; a few bytes behind the last tensor are not missed.
    for file in &FILES[..4] {
        let whole = bytes(file)?;
        for n in [1, 14, 100, 5_000, 20_000, 36_000, 100_000, whole.len() - 1] {
            let error = fault(whole[..n].to_vec());
            assert!(
                error.contains(&format!("byte {n}")) || n < 20,
                "{file} of {n} bytes: {error}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_function_in_a_checkpoint_is_refused_by_name() -> Result<()> {
    let error = fault(bytes("code_in_pickle.ckpt")?);
    assert_says(
        &error,
        &[
            "a reference to the function posix.system at byte 368",
            "data only",
        ],
    );
    Ok(())
}

/// A pickle in the making.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        let length = (text.len() as u32).to_le_bytes();
        self.op(b"X").op(&length).op(text.as_bytes())
    }

    fn int(self, n: i64) -> Self {
        self.op(&[0x8a, 8]).op(&n.to_le_bytes())
    }

    fn ints(self, numbers: &[i64]) -> Self {
        let open = self.op(b"(");
        numbers.iter().fold(open, |p, n| p.int(*n)).op(b"t")
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    fn storage(self, kind: &str, key: &str, count: i64) -> Self {
        let open = self.op(b"(").text("storage").global("torch", kind);
        open.text(key).text("cpu").int(count).op(b"tQ")
    }

    fn tensor(
        self,
        kind: &str,
        key: &str,
        count: i64,
        offset: i64,
        shape: &[i64],
        stride: &[i64],
    ) -> Self {
        let open = self.global("torch._utils", "_rebuild_tensor_v2").op(b"(");
        let open = open
            .storage(kind, key, count)
            .int(offset)
            .ints(shape)
            .ints(stride);
        open.op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }

    fn end(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// A dict of such tensors: name, type, key, numbers in the storage, offset, shape, stride.
type Described<'a> = (&'a str, &'a str, &'a str, i64, i64, &'a [i64], &'a [i64]);

fn dict(tensors: &[Described]) -> Vec<u8> {
    let open = Pickle::new().op(b"}(");
    let all = tensors.iter().fold(
        open,
        |p, (name, kind, key, count, offset, shape, stride)| {
            p.text(name)
                .tensor(kind, key, *count, *offset, shape, stride)
        },
    );
    all.op(b"u").end()
}

/// A file of torch before 1.6: the object, and the storages with their keys, counts and bytes.
fn legacy(object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    legacy_of(true, object, storages)
}

fn legacy_of(little: bool, object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let mut file = Pickle::new().op(magic).end();
    file.extend(Pickle::new().int(1001).end());
    let order: &[u8] = if little { b"\x88" } else { b"\x89" };
    file.extend(
        Pickle::new()
            .op(b"}")
            .text("little_endian")
            .op(order)
            .op(b"s")
            .end(),
    );
    file.extend_from_slice(object);
    let keys = Pickle::new().op(b"](");
    file.extend(
        storages
            .iter()
            .fold(keys, |p, s| p.text(s.0))
            .op(b"e")
            .end(),
    );
    for (_, count, bytes) in storages {
        file.extend_from_slice(&count.to_le_bytes());
        file.extend_from_slice(bytes);
    }
    file
}

/// A zip archive of stored entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    archive(entries, false)
}

/// As [`zip`]; a `wide` one has its sizes and places in 64 bits, as archives beyond 4 GB must.
fn archive(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let header = file.len() as u64;
        let size = bytes.len() as u64;
        let short = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
        let extra = match wide {
            true => [
                &[9, 9, 1, 0, 7, 1, 0, 24, 0][..],
                &size.to_le_bytes(),
                &size.to_le_bytes(),
                &header.to_le_bytes(),
            ]
            .concat(),
            false => Vec::new(),
        };
        // From the version needed to the name's length, which both tables have.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(short(size));
        common.extend(short(size));
        common.extend((name.len() as u16).to_le_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend([3, 0]);
        file.extend(name.as_bytes());
        file.extend([0; 3]);
        file.extend_from_slice(bytes);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(short(header));
        directory.extend(name.as_bytes());
        directory.extend(extra);
    }
    let (start, count, size) = (
        file.len() as u64,
        entries.len() as u64,
        directory.len() as u64,
    );
    file.extend(&directory);
    if wide {
        let record = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for n in [count, count, size, start] {
            file.extend(n.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(record.to_le_bytes());
        file.extend(1u32.to_le_bytes());
    }
    let narrow = |n: u64, size: usize| {
        if wide {
            vec![0xff; size]
        } else {
            n.to_le_bytes()[..size].to_vec()
        }
    };
    file.extend(b"PK\x05\x06\0\0\0\0");
    for (n, bytes) in [(count, 2), (count, 2), (size, 4), (start, 4)] {
        file.extend(narrow(n, bytes));
    }
    file.extend([0, 0]);
    file
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// 0, 1, … 11 as three rows of four.
fn twelve() -> Vec<u8> {
    floats(&(0u8..12).map(f32::from).collect::<Vec<_>>())
}

#[test]
fn strides_and_offsets_are_followed() -> Result<()> {
    let object = dict(&[
        ("whole", "FloatStorage", "0", 12, 0, &[3, 4], &[4, 1]),
        ("transposed", "FloatStorage", "0", 12, 0, &[4, 3], &[1, 4]),
        ("column", "FloatStorage", "0", 12, 2, &[3], &[4]),
        ("row", "FloatStorage", "0", 12, 4, &[1, 4], &[99, 1]),
        ("block", "FloatStorage", "0", 12, 5, &[2, 2], &[4, 1]),
        ("expanded", "FloatStorage", "0", 12, 7, &[2, 3], &[0, 0]),
        ("cube", "FloatStorage", "0", 12, 0, &[2, 3, 2], &[1, 4, 2]),
        ("scalar", "FloatStorage", "0", 12, 11, &[], &[]),
        ("empty", "FloatStorage", "0", 12, 12, &[0, 4], &[4, 1]),
    ]);
    let expected: [(&str, &[usize], &[f32]); 9] = [
        (
            "whole",
            &[3, 4],
            &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.],
        ),
        (
            "transposed",
            &[4, 3],
            &[0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.],
        ),
        ("column", &[3], &[2., 6., 10.]),
        ("row", &[1, 4], &[4., 5., 6., 7.]),
        ("block", &[2, 2], &[5., 6., 9., 10.]),
        ("expanded", &[2, 3], &[7.; 6]),
        (
            "cube",
            &[2, 3, 2],
            &[0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.],
        ),
        ("scalar", &[], &[11.]),
        ("empty", &[0, 4], &[]),
    ];
    let numbers = twelve();
    for file in [
        legacy(&object, &[("0", 12, &numbers)]),
        zip(&[
            ("a/data.pkl", &object),
            ("a/data/0", &numbers),
            ("a/byteorder", b"little"),
        ]),
        archive(&[("data.pkl", &object), ("data/0", &numbers)], true),
    ] {
        let tensors = Checkpoint::from_bytes("file", file)?.tensors()?;
        for (name, shape, values) in expected {
            let tensor = &tensors[name];
            assert_eq!(tensor.dims(), shape, "{name}");
            assert!(tensor.is_contiguous());
            assert_eq!(tensor.flatten_all()?.to_vec1::<f32>()?, values, "{name}");
        }
    }
    Ok(())
}

#[test]
fn number_types_are_kept() -> Result<()> {
    let kinds: [(&str, &[u8], DType, f64); 10] = [
        ("DoubleStorage", &(-1.5f64).to_le_bytes(), DType::F64, -1.5),
        (
            "FloatStorage",
            &0.1f32.to_le_bytes(),
            DType::F32,
            0.1f32 as f64,
        ),
        ("HalfStorage", &[0x00, 0x3e], DType::F16, 1.5),
        ("BFloat16Storage", &[0xc0, 0xbf], DType::BF16, -1.5),
        (
            "LongStorage",
            &(1i64 << 40).to_le_bytes(),
            DType::I64,
            (1i64 << 40) as f64,
        ),
        ("IntStorage", &(-7i32).to_le_bytes(), DType::I32, -7.),
        ("ShortStorage", &(-300i16).to_le_bytes(), DType::I16, -300.),
        ("CharStorage", &[0x80], DType::I16, -128.),
        ("ByteStorage", &[200], DType::U8, 200.),
        ("BoolStorage", &[1], DType::U8, 1.),
    ];
    for (kind, number, dtype, value) in kinds {
        let object = dict(&[("x", kind, "k", 1, 0, &[1], &[1])]);
        let file = legacy(&object, &[("k", 1, number)]);
        let x = Checkpoint::from_bytes("file", file)?.tensor("x")?;
        assert_eq!(x.dtype(), dtype, "{kind}");
        assert_eq!(x.to_dtype(DType::F64)?.to_vec1::<f64>()?, [value], "{kind}");
    }
    let error = fault(legacy(
        &dict(&[("x", "ComplexFloatStorage", "k", 1, 0, &[1], &[1])]),
        &[],
    ));
    assert_says(
        &error,
        &["storage of type torch.ComplexFloatStorage", "expected"],
    );
    Ok(())
}

#[test]
fn every_number_type_of_safetensors_is_read() -> Result<()> {
    let kinds: [(&str, usize, &[u8], f64); 12] = [
        ("F64", 8, &2f64.to_le_bytes(), 2.),
        ("F32", 4, &2f32.to_le_bytes(), 2.),
        ("F16", 2, &[0x00, 0x40], 2.),
        ("BF16", 2, &[0x00, 0x40], 2.),
        ("I64", 8, &(-2i64).to_le_bytes(), -2.),
        ("I32", 4, &(-2i32).to_le_bytes(), -2.),
        ("I16", 2, &(-2i16).to_le_bytes(), -2.),
        ("I8", 1, &[0xfe], -2.),
        ("U8", 1, &[254], 254.),
        ("BOOL", 1, &[1], 1.),
        ("U16", 2, &[0xff, 0xff], 65535.),
        ("U32", 4, &[0, 0, 0, 0x80], 2147483648.),
    ];
    for (kind, size, number, value) in kinds {
        let header =
            format!(r#"{{"x":{{"dtype":"{kind}","shape":[1],"data_offsets":[0,{size}]}}}}"#);
        let x = Checkpoint::from_bytes("file", safetensors(&header, number))?.tensor("x")?;
        assert_eq!(x.to_dtype(DType::F64)?.to_vec1::<f64>()?, [value], "{kind}");
    }
    Ok(())
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

#[test]
fn older_torch_and_other_pythons_are_read() -> Result<()> {
    let numbers = twelve();
    // Torch before 0.4: parts of a storage, and no hooks. Python 2: short byte strings, a dict from pairs.
    let tensor = Pickle::default()
        .global("torch._utils", "_rebuild_tensor")
        .op(b"((U\x07storage")
        .global("torch.cuda", "FloatStorage")
        .op(b"U\x01k")
        .text("cuda:0")
        .int(12)
        .op(b"(U\x01v")
        .int(4)
        .int(8)
        .op(b"ttQ")
        .int(1)
        .ints(&[2])
        .ints(&[4])
        .op(b"tR");
    let object = Pickle::new()
        .global("collections", "OrderedDict")
        .op(b"(](](U\x01w")
        .op(&tensor.0)
        .op(b"eetR}(")
        .text("_metadata")
        .op(b"}ub")
        .end();
    let file = legacy(&object, &[("k", 12, &numbers)]);
    let tensors = Checkpoint::from_bytes("file", file)?.tensors()?;
    assert_eq!(tensors["w"].to_vec1::<f32>()?, [5., 9.]);

    // Protocol 4: frames, short text, names from the stack, memory by order.
    let object = Pickle(vec![0x80, 4, 0x95, 9, 0, 0, 0, 0, 0, 0, 0])
        .op(b"}\x94(\x8c\x04name\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94(")
        .storage("FloatStorage", "0", 12)
        .op(b"K\x03K\x02\x85K\x01\x85\x89}tRu")
        .end();
    let file = zip(&[("data.pkl", &object), ("data/0", &numbers)]);
    let tensors = Checkpoint::from_bytes("file", file)?.tensors()?;
    assert_eq!(tensors["name"].to_vec1::<f32>()?, [3., 4.]);
    Ok(())
}

#[test]
fn what_stands_beside_the_weights_is_read_over() -> Result<()> {
    let open = Pickle::new().op(b"}(").text("state_dict").op(b"}(");
    let weights = open
        .text("w")
        .tensor("FloatStorage", "0", 12, 0, &[12], &[1])
        .text("note")
        .op(b"Nu");
    let object = weights
        // Named, but not called.
        .text("class")
        .global("some.package", "Network")
        .text("args")
        .global("argparse", "Namespace")
        .op(b")\x81}")
        .text("lr")
        .op(b"G\0\0\0\0\0\0\0\0sb")
        .text("best")
        .global("numpy.core.multiarray", "scalar")
        .op(b"(")
        .global("numpy", "dtype")
        .op(b"(")
        .text("f8")
        .op(b"K\x00K\x01tR(K\x03tb")
        .global("_codecs", "encode")
        .op(b"(")
        .text("a")
        .text("latin1")
        .op(b"tRtR")
        .text("seen")
        .op(b"\x8f(K\x01K\x02\x90")
        .text("size")
        .global("torch", "Size")
        .op(b"(")
        .ints(&[2, 3])
        .op(b"tR")
        .op(b"u")
        .end();
    let checkpoint = Checkpoint::from_bytes("file", legacy(&object, &[("0", 12, &twelve())]))?;
    let names: Vec<_> = checkpoint.entries().iter().map(|e| e.to_string()).collect();
    assert_eq!(names, ["w [12] F32"]);
    assert_eq!(checkpoint.tensor("w")?.to_vec1::<f32>()?[11], 11.0);
    Ok(())
}

#[test]
fn the_state_dict_is_found_where_scripts_keep_it() -> Result<()> {
    let tensor =
        |p: Pickle, name: &str| p.text(name).tensor("FloatStorage", "0", 12, 0, &[1], &[1]);
    let inner = |p: Pickle, key: &str, names: &[&str]| {
        let open = p.text(key).op(b"}(");
        names.iter().fold(open, |p, n| tensor(p, n)).op(b"u")
    };
    let names = |p: Pickle| -> Result<Vec<String>> {
        let file = legacy(&p.op(b"u").end(), &[("0", 12, &twelve())]);
        let checkpoint = Checkpoint::from_bytes("file", file)?;
        Ok(checkpoint.entries().into_iter().map(|e| e.name).collect())
    };
    let open = || Pickle::new().op(b"}(");
    // A state dict that has a tensor called model.
    assert_eq!(names(tensor(tensor(open(), "model"), "a"))?, ["a", "model"]);
    // A tensor beside the state dict: the best accuracy.
    let best = tensor(open(), "best");
    assert_eq!(
        names(inner(best.clone(), "state_dict", &["b", "a"]))?,
        ["a", "b"]
    );
    // Both usual keys: the state dict is the one that says so.
    assert_eq!(
        names(inner(inner(open(), "model", &["m"]), "state_dict", &["s"]))?,
        ["s"]
    );
    // Nothing under the usual key.
    assert_eq!(names(inner(best.clone(), "model", &[]))?, ["best"]);
    // Something that is no tensor, between tensors.
    assert_eq!(
        names(tensor(best.text("version").op(b"K\x01"), "a"))?,
        ["a", "best"]
    );
    // `module.` goes where every name has it.
    let wrapped = |names: &[&str]| inner(open(), "model", names);
    assert_eq!(names(wrapped(&["module.b", "module.a"]))?, ["a", "b"]);
    assert_eq!(names(wrapped(&["module.b", "a"]))?, ["a", "module.b"]);
    Ok(())
}

#[test]
fn attacks_are_refused_by_name() {
    let call = |p: Pickle| fault(legacy(&p.op(b"u").end(), &[]));
    let open = || Pickle::new().op(b"}(").text("x");
    let hostile = [
        (
            open()
                .global("os", "system")
                .op(b"(")
                .text("true")
                .op(b"tR"),
            "os.system",
        ),
        (
            open()
                .text("builtins")
                .text("eval")
                .op(b"\x93(")
                .text("1")
                .op(b"tR"),
            "builtins.eval",
        ),
        (
            open().op(b"(").global("os", "system").text("true").op(b"o"),
            "os.system",
        ),
        (open().op(b"(ios\nsystem\n"), "os.system"),
        (open().global("os", "environ").op(b"}b"), "os.environ"),
        (open().global("nt", "system").op(b")}\x92"), "nt.system"),
        (
            open().global("subprocess", "Popen").op(b")\x81"),
            "subprocess.Popen",
        ),
        (
            open().global("__builtin__", "exec").op(b")R"),
            "__builtin__.exec",
        ),
    ];
    for (pickle, name) in hostile {
        let says = [
            "a reference to the function",
            name,
            "data only",
            "do not load this file in Python",
        ];
        assert_says(&call(pickle), &says);
    }
    // A name of many characters or of control characters does no harm to the reader's screen.
    let error = call(open().global("os.\x1b[2J", &"x".repeat(900)).op(b")R"));
    assert_says(&error, &["\\u{1b}[2J", "…"]);
    assert!(error.len() < 500, "{error}");
}

#[test]
fn a_file_of_unknown_objects_has_no_state_dict() {
    let call = |p: Pickle| fault(legacy(&p.op(b"u").end(), &[]));
    let open = || Pickle::new().op(b"}(").text("x");
    let unknown = [
        (
            open().global("some.package", "Network").op(b")\x81"),
            "x (an object of some.package.Network)",
        ),
        // A name is one as a whole, whatever its parts look like.
        (
            open()
                .global("collections", "OrderedDict.fromkeys")
                .op(b")R"),
            "x (an object of collections.OrderedDict.fromkeys)",
        ),
        (
            open().op(b"\x82\x01)R"),
            "x (an object of copyreg extension 1)",
        ),
        // A class with its source, which torch kept before 1.6.
        (
            open()
                .op(b"(")
                .text("module")
                .global("net", "Net")
                .text("net.py")
                .text("code")
                .op(b"tQ)R"),
            "x (an object of net.Net)",
        ),
    ];
    for (pickle, says) in unknown {
        assert_says(&call(pickle), &["expected a state dict", says]);
    }
    // A storage that pickle wrote without torch.save is a tensor all the same.
    let bytes = open()
        .global("torch.storage", "_load_from_bytes")
        .op(b"(")
        .text("")
        .op(b"tR");
    assert_says(
        &call(bytes),
        &[
            "the tensor x cannot be read",
            "calling torch.storage._load_from_bytes",
        ],
    );
    let error = call(open().global("\x1b[2J", &"x".repeat(900)).op(b")R"));
    assert_says(&error, &["\\u{1b}[2J", "…"]);
    assert!(error.len() < 400, "{error}");
}

#[test]
fn hostile_files_are_errors() {
    let object = |shape: &[i64], stride: &[i64], count: i64, offset: i64| {
        dict(&[("x", "FloatStorage", "0", count, offset, shape, stride)])
    };
    let huge = 1i64 << 60;
    let numbers = twelve();
    let of = |object: Vec<u8>| legacy(&object, &[("0", 12, &numbers)]);
    let zipped = |object: Vec<u8>| zip(&[("a/data.pkl", &object), ("a/data/0", &numbers)]);
    let pickled = |p: Pickle| legacy(&p.end(), &[]);
    let nested = |n: usize| Pickle::new().op(&b"]".repeat(n)).op(&b"a".repeat(n - 1));
    let storage = |id: &str| Pickle::new().op(b"(").text(id).op(b"tQ");
    let mut cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "2^60 numbers",
            of(object(&[huge], &[1], huge, 0)),
            &["found 1152921504606846976 elements"],
        ),
        (
            "2^60 numbers in a zip",
            zipped(object(&[huge], &[1], huge, 0)),
            &["found 1152921504606846976 elements"],
        ),
        (
            "2^60 numbers of 12",
            of(object(&[huge], &[1], 12, 0)),
            &["storage has only 12 elements"],
        ),
        (
            "negative",
            of(object(&[-1], &[1], 12, 0)),
            &["non-negative integers"],
        ),
        (
            "negative stride",
            of(object(&[3], &[-1], 12, 3)),
            &["non-negative integers"],
        ),
        (
            "negative count",
            of(object(&[1], &[1], -1, 0)),
            &["found -1 elements"],
        ),
        (
            "outside",
            of(object(&[4, 3], &[3, 1], 12, 1)),
            &["storage has only 12 elements"],
        ),
        (
            "outside by its offset",
            of(object(&[1], &[1], 12, 12)),
            &["storage has only 12 elements"],
        ),
        (
            "stride beyond 2^64",
            of(object(&[3], &[i64::MAX], 12, 0)),
            &["storage has only 12 elements"],
        ),
        (
            "offset beyond 2^64",
            of(object(&[3], &[i64::MAX / 2], 12, i64::MAX)),
            &["storage has only 12 elements"],
        ),
        (
            "more than 2^64 of none",
            of(object(&[0, huge, huge], &[1, 0, 0], 12, 0)),
            &["storage has only 12 elements"],
        ),
        (
            "stride 0",
            of(object(&[1 << 30], &[0], 12, 0)),
            &["repeat the same stored values"],
        ),
        (
            "stride 0, twice",
            of(object(&[1 << 20, 1 << 20], &[0, 0], 12, 0)),
            &["repeat the same stored values"],
        ),
        (
            "dimensions",
            of(object(&[1; 17], &[1; 17], 12, 0)),
            &["at most 16"],
        ),
        (
            "shape against stride",
            of(object(&[3, 4], &[1], 12, 0)),
            &["with stride [1]"],
        ),
        (
            "100,000 lists",
            pickled(nested(100_000)),
            &["expected a state dict", "found a list"],
        ),
        (
            "a list in itself",
            pickled(Pickle::new().op(b"]q\x00h\x00a")),
            &["found a list of 1"],
        ),
        (
            "a dict in itself",
            pickled(Pickle::new().op(b"}q\x00").text("model").op(b"h\x00s")),
            &["model (a dict of 1)"],
        ),
        (
            "an unknown object",
            pickled(storage("database")),
            &["found type \"database\""],
        ),
        (
            "an object without a name",
            pickled(Pickle::new().op(b"NQ")),
            &["found an object without a type"],
        ),
        (
            "big-endian",
            legacy_of(false, &object(&[12], &[1], 12, 0), &[("0", 12, &numbers)]),
            &["expected values in byte order \"little\", found \"big\""],
        ),
        (
            "big-endian zip",
            zip(&[
                ("a/data.pkl", &object(&[12], &[1], 12, 0)),
                ("a/byteorder", b"big"),
                ("a/data/0", &numbers),
            ]),
            &["found \"big\""],
        ),
        (
            "a key that is a path",
            zip(&[
                (
                    "a/data.pkl",
                    &dict(&[("x", "FloatStorage", "../../x", 12, 0, &[12], &[1])]),
                ),
                ("a/data/0", &numbers),
                ("x", &numbers),
            ]),
            &["there is no storage ../../x"],
        ),
        (
            "two entries of a name",
            zip(&[
                ("a/data.pkl", &object(&[12], &[1], 12, 0)),
                ("a/data/0", &numbers),
                ("a/data/0", &numbers),
            ]),
            &["two entries with the name a/data/0"],
        ),
        (
            "two pickles",
            zip(&[
                ("a/data.pkl", &object(&[12], &[1], 12, 0)),
                ("b/data.pkl", &numbers),
            ]),
            &["expected one entry data.pkl"],
        ),
        (
            "another zip",
            zip(&[("word/document.xml", b"<>")]),
            &[
                "expected a zip archive written by torch",
                "word/document.xml",
            ],
        ),
        (
            "a program",
            zip(&[("a/constants.pkl", b""), ("a/data.pkl", b"")]),
            &["TorchScript"],
        ),
        (
            "too small a storage",
            zip(&[
                ("a/data.pkl", &object(&[12], &[1], 12, 0)),
                ("a/data/0", &numbers[..40]),
            ]),
            &["take 48 bytes", "has 40"],
        ),
        (
            "no storage",
            legacy(&object(&[12], &[1], 12, 0), &[]),
            &["values of x are missing"],
        ),
        (
            "a storage twice",
            legacy(
                &object(&[12], &[1], 12, 0),
                &[("0", 12, &numbers), ("0", 12, &numbers)],
            ),
            &["listed twice"],
        ),
        (
            "a storage that is not described",
            legacy(&object(&[12], &[1], 12, 0), &[("1", 12, &numbers)]),
            &["not in the pickle"],
        ),
        (
            "another count",
            legacy(&object(&[12], &[1], 12, 0), &[("0", 11, &numbers)]),
            &["has 11 elements, expected 12"],
        ),
        (
            "a storage of two types",
            of(dict(&[
                ("x", "FloatStorage", "0", 12, 0, &[1], &[1]),
                ("y", "IntStorage", "0", 12, 0, &[1], &[1]),
            ])),
            &["earlier as 12 elements of type F32"],
        ),
        (
            "two tensors of a name",
            of(dict(&[
                ("x", "FloatStorage", "0", 12, 0, &[1], &[1]),
                ("x", "FloatStorage", "0", 12, 0, &[2], &[1]),
            ])),
            &["two tensors with the name x"],
        ),
        (
            "an empty stack",
            pickled(Pickle::new().op(b"0")),
            &["expected an object on the stack"],
        ),
        (
            "below the mark",
            pickled(Pickle::new().op(b"N(\x85")),
            &["expected an object on the stack"],
        ),
        (
            "no mark",
            pickled(Pickle::new().op(b"Nt")),
            &["expected a mark on the stack"],
        ),
        (
            "an unknown memory",
            pickled(Pickle::new().op(b"h\x07")),
            &["expected an object in the memo"],
        ),
        (
            "an unknown step",
            pickled(Pickle::new().op(b"I01\n")),
            &["opcode 0x49 is not written by torch"],
        ),
        (
            "half a pair",
            pickled(Pickle::new().op(b"}(Nu")),
            &["a key without a value"],
        ),
        (
            "protocol 0",
            legacy(b"(dp0\n.", &[]),
            &["is not written by torch"],
        ),
        ("protocol 9", legacy(b"\x80\x09N.", &[]), &["protocol 9"]),
        (
            "text of 4 GB",
            pickled(Pickle::new().op(b"X\xff\xff\xff\xffabc")),
            &["truncated", "byte"],
        ),
        (
            "text of 2^63 bytes",
            pickled(Pickle::new().op(b"\x8d\0\0\0\0\0\0\0\x80abc")),
            &["truncated", "byte"],
        ),
        (
            "text of 2^64 bytes",
            pickled(Pickle::new().op(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc")),
            &["truncated", "beyond the maximum file size"],
        ),
        (
            "a pickle",
            Pickle::new().op(b"N").end(),
            &["a pickle that was not written by torch.save"],
        ),
        ("nothing", Vec::new(), &["an empty file"]),
        (
            "a web page",
            b"<!DOCTYPE html><html>login</html>".to_vec(),
            &["a web page"],
        ),
        (
            "a pointer",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            &["Git LFS"],
        ),
        (
            "gzip",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            &["gzip"],
        ),
        (
            "noise",
            b"noise, that is".to_vec(),
            &["a file that begins with the bytes [6e, 6f"],
        ),
    ];
    // Zip: the directory's count, size and place in the record of 64 bits.
    let wide = archive(
        &[
            ("a/data.pkl", &object(&[12], &[1], 12, 0)),
            ("a/data/0", &numbers),
        ],
        true,
    );
    let record = wide
        .windows(4)
        .position(|w| w == b"PK\x06\x06")
        .unwrap_or(0);
    let patched = |field: usize, n: u64| {
        let mut file = wide.clone();
        file[record + field..][..8].copy_from_slice(&n.to_le_bytes());
        file
    };
    cases.extend([
        (
            "2^60 entries",
            patched(32, 1 << 60),
            &["found 1152921504606846976 entries"][..],
        ),
        (
            "more entries than there are",
            patched(32, 3),
            &["directory cannot be read"],
        ),
        (
            "a directory of 2^60 bytes",
            patched(40, 1 << 60),
            &["directory of 1152921504606846976 bytes"],
        ),
        (
            "a directory at 2^64",
            patched(48, u64::MAX),
            &["does not end before byte"],
        ),
        (
            "an end that is not there",
            patched(76 - 12, u64::MAX),
            &["truncated", "the zip archive's end"],
        ),
    ]);
    // Safetensors: sizes, places, names.
    let entry = |shape: &str, offsets: &str| {
        let header =
            format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        safetensors(&header, &numbers)
    };
    let twice = r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    let again: Vec<String> = (0..2000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[65536],"data_offsets":[0,65536]}}"#))
        .collect();
    let again = format!("{{{}}}", again.join(","));
    let deep = format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000));
    cases.extend([
        (
            "2^60",
            entry("[1152921504606846976]", "[0,48]"),
            &["takes 4611686018427387904 bytes"][..],
        ),
        (
            "2^64",
            entry("[4294967296,4294967296]", "[0,48]"),
            &["invalid shape"],
        ),
        ("beyond", entry("[12]", "[48,96]"), &["truncated"]),
        (
            "beyond any",
            entry("[12]", "[18446744073709551567,18446744073709551615]"),
            &["beyond the maximum file size"],
        ),
        (
            "backwards",
            entry("[12]", "[48,0]"),
            &["its data offsets are 48 to 0"],
        ),
        (
            "negative",
            entry("[-1]", "[0,48]"),
            &["damaged safetensors"],
        ),
        (
            "twice",
            safetensors(twice, &[0, 0]),
            &["two entries with the name x"],
        ),
        (
            "again",
            safetensors(&again, &[0; 65536]),
            &["repeat the same stored values"],
        ),
        ("deep", safetensors(&deep, &[]), &["damaged safetensors"]),
        (
            "float8",
            safetensors(
                r#"{"x":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}}"#,
                &[0],
            ),
            &["elements of type F8_E5M2"],
        ),
    ]);
    for (what, file, says) in cases {
        let started = Instant::now();
        let error = fault(file);
        assert_says(&error, says);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{what} took {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn shared_numbers_are_read_within_bounds() -> Result<()> {
    // Tied weights are honest; a thousand of them are not.
    let names: Vec<String> = (0..1000).map(|i| format!("w{i}")).collect();
    let count = 1 << 16;
    let numbers = vec![0; count * 4];
    let file = |n: usize| {
        let shape = [count as i64];
        let tensors: Vec<Described> = names[..n]
            .iter()
            .map(|name| {
                (
                    name.as_str(),
                    "FloatStorage",
                    "0",
                    shape[0],
                    0,
                    &shape[..],
                    &[1][..],
                )
            })
            .collect();
        legacy(&dict(&tensors), &[("0", count as u64, &numbers)])
    };
    assert_eq!(Checkpoint::from_bytes("file", file(4))?.tensors()?.len(), 4);
    assert_says(
        &fault(file(1000)),
        &["repeat the same stored values", "make them contiguous"],
    );
    // Few numbers spread over a large storage are read once each, too: the storage counts.
    let spread: Vec<Described> = names
        .iter()
        .map(|name| {
            (
                name.as_str(),
                "FloatStorage",
                "0",
                count as i64,
                0,
                &[2][..],
                &[65535][..],
            )
        })
        .collect();
    assert_says(
        &fault(legacy(&dict(&spread), &[("0", count as u64, &numbers)])),
        &["repeat the same stored values"],
    );
    Ok(())
}

#[test]
fn a_dict_made_from_one_list_again_and_again_is_refused() {
    // 3 bytes a time, each of which would copy 60,000 pairs.
    let pairs = Pickle::new()
        .op(b"](")
        .op(&b"NN\x86".repeat(60_000))
        .op(b"eq\x00");
    let again = pairs
        .global("collections", "OrderedDict")
        .op(b"q\x010")
        .op(&b"h\x01h\x00\x85R".repeat(20_000));
    let started = Instant::now();
    assert_says(
        &fault(legacy(&again.end(), &[])),
        &["pickle operations, found more"],
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn compressed_entries_and_missing_files_say_what_to_do() -> Result<()> {
    let object = dict(&[("x", "FloatStorage", "0", 12, 0, &[12], &[1])]);
    let mut file = zip(&[("a/data.pkl", &object), ("a/data/0", &twelve())]);
    // The method in the directory's first entry: deflate.
    let directory = file
        .windows(4)
        .position(|w| w == b"PK\x01\x02")
        .unwrap_or(0);
    file[directory + 10] = 8;
    assert_says(
        &fault(file),
        &[
            "the zip entry a/data.pkl is compressed or encrypted",
            "torch.save",
        ],
    );
    let missing =
        Checkpoint::open(path("nothing.ckpt")).map_or_else(|e| e.to_string(), |c| panic!("{c:?}"));
    assert_says(&missing, &["nothing.ckpt"]);
    let folder = Checkpoint::open(path("")).map_or_else(|e| e.to_string(), |c| panic!("{c:?}"));
    assert_says(&folder, &["expected a regular file"]);
    Ok(())
}

#[test]
fn weights_of_another_network_are_named_with_what_they_may_be() -> Result<()> {
    let params = Params::new(0);
    let root = params.root();
    root.pp("net.conv1")
        .get((4, 3), "weight", Init::Const(0.0))?;
    root.pp("net.head").get(12, "weihgt", Init::Const(0.0))?;
    root.pp("net.norm").get(2, "scale", Init::Const(0.0))?;
    let object = dict(&[
        ("conv1.weight", "FloatStorage", "0", 12, 0, &[4, 3], &[3, 1]),
        ("net.head.weight", "FloatStorage", "0", 12, 0, &[12], &[1]),
        ("net.norm.scale", "FloatStorage", "0", 12, 0, &[3], &[1]),
        ("other\n", "FloatStorage", "0", 12, 0, &[1], &[1]),
    ]);
    let checkpoint = Checkpoint::from_bytes("file", legacy(&object, &[("0", 12, &twelve())]))?;
    let error = checkpoint
        .load_into(&params)
        .map_or_else(|e| e.to_string(), |()| panic!("loaded"));
    let lines: Vec<&str> = error.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "file: these weights are of another network:",
            "missing net.conv1.weight [4, 3]; perhaps the unexpected conv1.weight is meant",
            "missing net.head.weihgt [12]; perhaps the unexpected net.head.weight is meant",
            "net.norm.scale has shape [3], expected [2]",
            "unexpected other\\n",
        ]
    );
    // Nothing was taken.
    assert_eq!(params.var("net.head.weihgt")?.to_vec1::<f32>()?, [0.0; 12]);
    Ok(())
}

#[test]
fn published_networks_have_the_authors_sizes() -> Result<()> {
    let names = published_names()?;
    assert_eq!(names.len(), 27);
    let networks = names.iter().filter(|n| n.starts_with("cinn_")).count();
    assert_eq!(networks, 16);
    for name in &names {
        let file = published(name)?;
        assert_eq!(&file.name, name);
        assert!(file.url.starts_with("https://"));
        assert!(file.path()?.ends_with(format!("checkpoints/{name}.ckpt")));
        let hash = file
            .md5
            .as_deref()
            .unwrap_or("00000000000000000000000000000000");
        assert!(
            hash.len() == 32
                && hash
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        );
        assert_eq!(file.cinn().is_ok(), name.starts_with("cinn_"), "{name}");
    }
    let config = published("cinn_resnet_animalfaces10_ae_avgpool")?.cinn()?;
    let expected = CinnConfig {
        hidden: 1024,
        flows: 20,
        conditioning_depth: 6,
        ..CinnConfig::new(128, Condition::Vector(2048))
    };
    assert_eq!(config, expected);
    let config = published("cinn_resnet_animalfaces10_ae_layer4")?.cinn()?;
    assert_eq!(
        config.condition,
        Condition::Map {
            channels: 2048,
            size: 7,
            down: 1
        }
    );
    assert_eq!(
        (config.conditioning, config.activation, config.depth),
        (Conditioning::Shared, FlowActivation::None, 2)
    );

    let error = |r: Result<Published>| r.map_or_else(|e| e.to_string(), |p| panic!("{p:?}"));
    assert_says(
        &error(published("cinn_alexnet_ae_fc6")),
        &["did you mean \"cinn_alexnet_aae_fc6\"?"],
    );
    assert_says(&error(published("?")), &["available: bigae_animalfaces, "]);
    let no_t = published("dequant_vae")?
        .cinn()
        .map_or_else(|e| e.to_string(), |c| panic!("{c:?}"));
    assert_says(
        &no_t,
        &["dequant_vae: not a conditional invertible network"],
    );
    Ok(())
}

#[test]
fn the_authors_configuration_gives_the_references_network() -> Result<()> {
    let manifest =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/manifest_flows.json");
    let text = std::fs::read_to_string(&manifest).map_err(|e| Error::io(&manifest, e))?;
    let manifest: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::content(&manifest, e.to_string()))?;
    for name in [
        "cinn_dense",
        "cinn_lrelu",
        "cinn_spatial",
        "cinn_sequential",
    ] {
        let file = Published {
            name: name.into(),
            url: String::new(),
            md5: None,
            config: serde_json::json!({ "Transformer": manifest[name]["config"] }),
        };
        let params = Params::new(0);
        Cinn::new(&file.cinn()?, &params.root())?;
        let mut ours: Vec<_> = params
            .tensors()
            .into_iter()
            .map(|(n, t)| (n, t.dims().to_vec()))
            .collect();
        ours.sort();
        assert_eq!(
            ours,
            common::state_dict("manifest_flows.json", name)?,
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn a_published_file_is_told_by_its_md5() -> Result<()> {
    let file = |md5: &str| Published {
        name: "cinn_dense".into(),
        url: "https://example.org/cinn_dense".into(),
        md5: Some(md5.into()),
        config: serde_json::Value::Null,
    };
    let ours = path("cinn_dense_legacy.ckpt");
    file("b930554b05d6abc020401bd6bf2495bb").check(&ours)?;
    let error = file("00000000000000000000000000000000")
        .check(&ours)
        .map_or_else(|e| e.to_string(), |()| panic!("taken"));
    assert_says(
        &error,
        &[
            "expected cinn_dense with MD5 0000",
            "found b930554b05d6abc020401bd6bf2495bb",
            "https://example.org",
        ],
    );
    let error = file("")
        .check(path("nothing"))
        .map_or_else(|e| e.to_string(), |()| panic!("taken"));
    assert_says(&error, &["nothing: ", "https://example.org"]);
    Ok(())
}

/// Numbers that a length, a place or a count may have been replaced by.
const HUGE: [u64; 8] = [
    0,
    1 << 60,
    u64::MAX,
    u32::MAX as u64,
    1 << 31,
    i64::MAX as u64,
    1 << 63,
    0xffff_fff0,
];

/// The steps of a pickle that may come anywhere.
const STEPS: &[u8] = b"(.012NKMJGXTUBC]ae)tldsuhjqrcRbioQ}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96";

/// Where a change does most: in what describes, not in the numbers.
fn place(rng: &mut Rng, len: usize) -> usize {
    match rng.below(10) {
        0..7 => rng.below(len.min(90_000)),
        7..9 => len - 1 - rng.below(len.min(20_000)),
        _ => rng.below(len),
    }
}

/// A file with a few faults.
fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut file = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=[0, 0, 0, 1, 4][rng.below(5)] {
        if file.is_empty() {
            break;
        }
        let at = place(rng, file.len());
        match rng.below(12) {
            0..2 => {
                for _ in 0..=rng.below(8) {
                    let at = place(rng, file.len());
                    file[at] = rng.below(256) as u8;
                }
            }
            // Another small number where one is: a shape, a stride, a place in memory.
            8..12 => {
                let next = file[at..].iter().position(|b| b"KqhM".contains(b));
                if let Some(byte) = next.and_then(|n| file.get_mut(at + n + 1)) {
                    *byte = [rng.below(40), rng.below(256)][rng.below(2)] as u8;
                }
            }
            2 => file[at] ^= 1 << rng.below(8),
            3 => file.truncate(at),
            4 => {
                let number = HUGE[rng.below(HUGE.len())].to_le_bytes();
                let size = [1, 2, 4, 8][rng.below(4)];
                for (byte, new) in file[at..].iter_mut().zip(&number[8 - size..]) {
                    *byte = *new;
                }
            }
            5 => {
                let steps: Vec<u8> = (0..=rng.below(20))
                    .map(|_| STEPS[rng.below(STEPS.len())])
                    .collect();
                file.splice(at..at, steps);
            }
            6 => {
                let end = (at + 1 + rng.below(64)).min(file.len());
                let piece: Vec<u8> = file[at..end].to_vec();
                let to = place(rng, file.len());
                if rng.below(2) == 0 {
                    file.splice(to..to, piece);
                } else {
                    file.drain(at..end);
                }
            }
            _ => {
                let other = &seeds[rng.below(seeds.len())];
                let from = place(rng, other.len());
                file.truncate(at);
                file.extend_from_slice(&other[from..]);
            }
        }
    }
    file
}

/// A pickle of steps drawn at random, most of them sensible where they stand.
fn program(rng: &mut Rng) -> Vec<u8> {
    let mut pickle = Pickle::new().op(b"}q\x00(");
    for _ in 0..rng.below(200) {
        let small = [rng.below(12) as u8];
        pickle = match rng.below(22) {
            0 => pickle.op(b"K").op(&small),
            1 => pickle.int(HUGE[rng.below(HUGE.len())] as i64),
            2 => pickle.text(["model", "state_dict", "x", "storage", ""][rng.below(5)]),
            3 => pickle.op(b"q").op(&small),
            4 => pickle.op(b"h").op(&small),
            5 => pickle.op([&b"]"[..], b"}", b")", b"(", b"N"][rng.below(5)]),
            6 => pickle.op([&b"a"[..], b"e", b"s", b"u", b"t", b"l", b"d"][rng.below(7)]),
            7 => pickle.op([&b"\x85"[..], b"\x86", b"\x87", b"2", b"0", b"1"][rng.below(6)]),
            8 => pickle.storage("FloatStorage", "0", 12),
            9..12 => {
                let shape = [rng.below(5) as i64, rng.below(4) as i64];
                let stride = [rng.below(5) as i64, rng.below(3) as i64];
                pickle.text("w").tensor(
                    "FloatStorage",
                    "0",
                    12,
                    rng.below(4) as i64,
                    &shape,
                    &stride,
                )
            }
            12 => pickle
                .global("collections", "OrderedDict")
                .op(b"h")
                .op(&small)
                .op(b"\x85R"),
            13 => pickle
                .global("torch._utils", "_rebuild_tensor_v2")
                .op(b"h")
                .op(&small)
                .op(b"R"),
            14 => pickle.op(b"Q"),
            // Calls that leave an opaque object, in every way, and what it is given.
            15 => pickle
                .global(["a", "torch._utils"][rng.below(2)], "_rebuild_x")
                .op([&b")R"[..], b")\x81", b")}\x92", b"q\x0b"][rng.below(4)]),
            16 => pickle
                .op([&b"(ia\nb\n"[..], b"(ca\nb\no", b"\x82\x01", b"\x83\x01\x02"][rng.below(4)]),
            17 => pickle.op(b"h").op(&small).op(&[b"bRa"[rng.below(3)]]),
            18 => pickle
                .global("torch._tensor", "_rebuild_from_type_v2")
                .op(b"(")
                .global("torch._utils", "_rebuild_tensor_v2")
                .global(["torch", "a"][rng.below(2)], "Tensor")
                .op(b"h")
                .op(&small)
                .op(b"}tR"),
            19 => pickle
                .global(
                    "torch._utils",
                    ["_rebuild_tensor_v2", "_rebuild_tensor_v3"][rng.below(2)],
                )
                .op(b"(")
                .storage(["FloatStorage", "UntypedStorage"][rng.below(2)], "0", 12)
                .int(rng.below(4) as i64)
                .ints(&[rng.below(4) as i64])
                .ints(&[rng.below(4) as i64])
                .op(b"\x89}")
                .global("torch", ["int8", "float64", "uint64"][rng.below(3)])
                .op(b"}")
                .text(["neg", "conj"][rng.below(2)])
                .op(b"\x88stq")
                .op(&small)
                .op(b"R"),
            20 => pickle
                .text("w")
                .global("a", "b")
                .op(b"h")
                .op(&small)
                .op(b"\x85R"),
            _ => pickle.op(&STEPS[rng.below(STEPS.len())..][..1]),
        };
    }
    let object = pickle.op(b"uh\x00").end();
    legacy(&object, &[("0", 12, &twelve())])
}

/// Reads everything that a file promises.
fn read_all(file: Vec<u8>, network: &Params) -> Result<usize> {
    let checkpoint = Checkpoint::from_bytes("file", file)?;
    for part in [
        "model",
        "state_dict",
        "optimizer/state/0",
        "x",
        "0",
        "quantized",
        "inside",
        "fine",
    ] {
        if let Ok(part) = checkpoint.part(part) {
            part.tensors()?;
        }
    }
    if let Ok(below) = checkpoint.below("fc.") {
        below.tensors()?;
    }
    // Into another network: the comparison of names must bear any names.
    checkpoint.load_into(network).unwrap_or_default();
    let tensors = checkpoint.tensors()?;
    for entry in checkpoint.entries() {
        assert_eq!(tensors[&entry.name].dims(), entry.shape);
    }
    Ok(tensors.len())
}

/// Damaged files are errors: no panic, no abort for want of memory, no endless work.
///
/// Runs in a process of its own, whose memory is bounded, so that a length that is believed is a failure.
/// `INVARIANCES_FUZZ` is the number of files, `INVARIANCES_FUZZ_SEED` where they begin.
#[test]
fn damaged_files_are_errors_in_bounded_memory() -> Result<()> {
    const NAME: &str = "damaged_files_are_errors_in_bounded_memory";
    const INSIDE: &str = "INVARIANCES_FUZZ_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().map_err(|e| Error::io("the test", e))?;
        let output = std::process::Command::new(&program)
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|e| Error::io(&program, e))?;
        // Without the notices of removed prefixes.
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter(|line| line.contains("damaged files"));
        lines.for_each(|line| println!("{line}"));
        assert!(
            output.status.success(),
            "the process that reads damaged files: {}",
            output.status
        );
        return Ok(());
    }
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |v| {
            v.parse()
                .unwrap_or_else(|_| panic!("{name} is {v:?}, expected a number"))
        })
    };
    let (count, first) = (
        number("INVARIANCES_FUZZ", 20_000),
        number("INVARIANCES_FUZZ_SEED", 0),
    );
    let mut seeds = FILES.iter().map(|f| bytes(f)).collect::<Result<Vec<_>>>()?;
    let object = dict(&[("x", "FloatStorage", "0", 12, 1, &[3, 3], &[1, 3])]);
    seeds.push(legacy(&object, &[("0", 12, &twelve())]));
    seeds.push(zip(&[
        ("a/data.pkl", &object),
        ("a/data/0", &twelve()),
        ("a/byteorder", b"little"),
    ]));
    for file in TRAINING {
        let path = training::path(file);
        seeds.push(std::fs::read(&path).map_err(|e| Error::io(&path, e))?);
    }
    let header =
        r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}}"#;
    seeds.push(safetensors(header, &twelve()));
    let network = Params::new(0);
    for (name, shape) in [("weight", &[3, 4][..]), ("bias", &[3])] {
        network
            .root()
            .pp("net.fc")
            .get(shape, name, Init::Const(0.0))?;
    }
    bound_memory(192 << 20);

    let (mut whole, mut refused, mut slowest) = (0u64, 0u64, Duration::ZERO);
    let started = Instant::now();
    for i in first..first + count {
        let mut rng = Rng::at(20, "damaged", i);
        let file = match rng.below(4) {
            0 => program(&mut rng),
            // Small files are mostly description.
            1 => mutated(&mut rng, &seeds[6..]),
            _ => mutated(&mut rng, &seeds),
        };
        let begun = Instant::now();
        let read = std::panic::AssertUnwindSafe(|| read_all(file, &network));
        let result = std::panic::catch_unwind(read);
        slowest = slowest.max(begun.elapsed());
        match result {
            Ok(Ok(_)) => whole += 1,
            Ok(Err(error)) => {
                refused += 1;
                let text = error.to_string();
                assert!(
                    text.len() < 6000,
                    "file {i}: an error of {} bytes",
                    text.len()
                );
            }
            Err(_) => {
                panic!("file {i} panicked; INVARIANCES_FUZZ_SEED={i} INVARIANCES_FUZZ=1 repeats it")
            }
        }
    }
    println!(
        "{count} damaged files in {:.1} s: {whole} could be read, {refused} were refused, the slowest took {slowest:?}",
        started.elapsed().as_secs_f64()
    );
    assert!(slowest < Duration::from_secs(10));
    if count >= 1000 {
        // Both kinds occur, or the faults would test nothing.
        assert!(whole > count / 100 && refused > count / 3);
    }
    Ok(())
}
