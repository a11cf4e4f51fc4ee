//! Functions that several benchmarks use.
#![allow(dead_code, reason = "each bench takes its own part")]

/// Returns the largest resident memory of this process so far, in MiB; NaN on systems other than
/// Linux.
pub fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Returns the arguments of the benchmark, without those that cargo adds.
pub fn arguments() -> Vec<String> {
    let given = std::env::args().skip(1);
    given.filter(|a| a != "--bench").collect()
}
