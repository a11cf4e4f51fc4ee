//! Numbers as claims and their tables show them.

/// Formats a value briefly: three decimals below 10, one decimal below 1000, none above. Values
/// outside of 10⁻³ to 10⁶ are in scientific notation.
pub(super) fn short(v: f64) -> String {
    let text = match v.abs() {
        a if !a.is_finite() => return v.to_string(),
        0.0 => "0".into(),
        a if !(1e-3..1e6).contains(&a) => format!("{v:.2e}"),
        a if a < 10.0 => trimmed(format!("{v:.3}")),
        a if a < 1000.0 => trimmed(format!("{v:.1}")),
        _ => format!("{v:.0}"),
    };
    text.replacen('-', "−", usize::from(text.starts_with('-')))
}

/// Formats a value with its interval: `0.93 [0.91, 0.95]`.
pub(super) fn with_interval(value: f64, interval: Option<(f64, f64)>) -> String {
    match interval {
        Some((low, high)) => format!("{} [{}, {}]", short(value), short(low), short(high)),
        None => short(value),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').into()
}
