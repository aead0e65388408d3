//! Order statistics of a few measured values.

/// The value below which `share` (0 to 1) of `values` lie; `NaN` of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// One line: count, median, 95th percentile, worst.
pub(crate) fn line(what: &str, unit: &str, values: &[f64]) -> String {
    format!(
        "{what}: n={} median={:.3} p95={:.3} worst={:.3} {unit}",
        values.len(),
        quantile(values, 0.5),
        quantile(values, 0.95),
        quantile(values, 1.0)
    )
}
