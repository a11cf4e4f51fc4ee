//! Reference values that the authors' networks gave, the rule by which their weights were filled, and what else several tests need.

// Each test that has this file needs another part of it.
#![allow(dead_code)]

use invariances::candle_core::{DType, Device, Tensor, safetensors};
use invariances::ops::Params;
use invariances::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The numbers that a name stands for: FNV-1a of the name, splitmix64 of the index, uniform in [−1, 1).
fn numbers(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in name.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    (0..count as u64).map(move |i| {
        let mut x = h.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
        (x >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0
    })
}

/// The weight of this name and shape by the rule.
pub fn weight(name: &str, dims: &[usize]) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let last = name.rsplit('.').next().unwrap_or(name);
    let fan_in = if dims.len() > 1 {
        dims[1..].iter().product()
    } else {
        count
    };
    let (offset, factor) = match last {
        "running_var" => (1.0, 0.5),
        "running_mean" | "bias" | "loc" | "beta" => (0.0, 0.1),
        "scale" | "gamma" => (1.0, 0.1),
        "weight" if dims.len() == 1 => (1.0, 0.1),
        _ => (0.0, (3.0 / fan_in as f64).sqrt()),
    };
    let values: Vec<f32> = numbers(name, count)
        .map(|u| (offset + u * factor) as f32)
        .collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// An input of this name, filled by the same rule, times an amplitude.
pub fn input(name: &str, dims: &[usize], amplitude: f64) -> Result<Tensor> {
    let count = dims.iter().product();
    let values: Vec<f32> = numbers(name, count)
        .map(|u| (u * amplitude) as f32)
        .collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// Sets every parameter by the rule; buffers that `stored` has are taken from it, `initialized` is 1.
pub fn fill(params: &Params, stored: &HashMap<String, Tensor>) -> Result<()> {
    let mut values = HashMap::new();
    for (name, tensor) in params.tensors() {
        let value = match stored.get(&name) {
            Some(value) => value.clone(),
            None if name.ends_with("initialized") => tensor.ones_like()?,
            None => weight(&name, tensor.dims())?,
        };
        values.insert(name, value);
    }
    params.set_all(&values)
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(file)
}

/// The tensors of a reference file.
pub fn reference(name: &str) -> Result<HashMap<String, Tensor>> {
    let path = path(&format!("{name}.safetensors"));
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    Ok(safetensors::load_buffer(&bytes, &Device::Cpu)?)
}

/// The names and shapes of a reference network's state dict, sorted.
pub fn state_dict(manifest: &str, name: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let path = path(manifest);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::content(&path, e.to_string()))?;
    let shapes = json[name]["state_dict"].clone();
    let shapes: HashMap<String, Vec<usize>> =
        serde_json::from_value(shapes).map_err(|e| Error::content(&path, e.to_string()))?;
    let mut shapes: Vec<_> = shapes.into_iter().collect();
    shapes.sort();
    Ok(shapes)
}

/// Asserts |actual − expected| ≤ tolerance·(1 + |expected|) for every number.
pub fn assert_close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
    let flat =
        |t: &Tensor| -> Result<Vec<f64>> { Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?) };
    let (a, e) = (flat(actual)?, flat(expected)?);
    assert_eq!(a.len(), e.len(), "{what}: {actual:?} against {expected:?}");
    for (i, (a, e)) in a.iter().zip(&e).enumerate() {
        assert!(
            (a - e).abs() <= tolerance * (1.0 + e.abs()),
            "{what}: element {i} is {a}, expected {e}"
        );
    }
    Ok(())
}

/// A probe: the first 32 numbers, then mean, population deviation, minimum and maximum.
pub fn probe(x: &Tensor) -> Result<Vec<f64>> {
    let all: Vec<f64> = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probe = all[..all.len().min(32)].to_vec();
    probe.extend([mean, variance.sqrt(), least, most]);
    Ok(probe)
}

/// Within a thousandth of the layer's deviation, as the references' README has it.
pub fn check_probe(what: &str, actual: &Tensor, expected: &Tensor) -> Result<()> {
    let (actual, expected) = (
        probe(actual)?,
        expected.to_dtype(DType::F64)?.to_vec1::<f64>()?,
    );
    assert_eq!(actual.len(), expected.len(), "{what}");
    let tolerance = 1e-3 * expected[expected.len() - 3];
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!(
            (a - e).abs() <= tolerance,
            "{what}: number {i} of the probe is {a}, expected {e} ± {tolerance}"
        );
    }
    Ok(())
}

/// A file of the shared data; where it is not there, the reason to skip is printed.
pub fn shared(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("INVARIANCES_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = folder.join(file);
    if !path.exists() {
        println!("skipped: no {}; set INVARIANCES_SHARED", path.display());
        return None;
    }
    Some(path)
}

/// From here on the process has so many bytes more than it has now; what asks for more aborts.
#[cfg(target_os = "linux")]
pub fn bound_memory(more: u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    assert!(pages > 0, "the size of this process cannot be read");
    // SAFETY: no pointer but that of a local structure, which is whole.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE) as u64;
        let size = pages * page + more;
        let limit = libc::rlimit {
            rlim_cur: size,
            rlim_max: size,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
    }
    // The bound holds: more than it cannot be had.
    assert!(Vec::<u8>::new().try_reserve_exact(more as usize).is_err());
}

#[cfg(not(target_os = "linux"))]
pub fn bound_memory(_: u64) {}

/// The error of `outcome`, whose text has all of `parts`.
#[track_caller]
pub fn says<T: std::fmt::Debug>(outcome: Result<T>, parts: &[&str]) -> Error {
    let error = outcome.expect_err("expected an error");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
    error
}

/// Runs a test of the calling file again in a process of its own. Returns whether this is that process.
pub fn alone(name: &str) -> bool {
    const INSIDE: &str = "INVARIANCES_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    // Without the line about each parquet file that was opened.
    for line in printed
        .lines()
        .filter(|l| !l.contains(": images in column "))
    {
        println!("{line}");
    }
    let status = output.status;
    assert!(status.success(), "{name} in a process of its own: {status}");
    false
}
