//! Medians and percentiles.

/// The median; of an even number the upper one. 0 of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The value that a share (0 to 1) of all values does not exceed, by the
/// nearest rank. `sorted` is in ascending order; 0 of none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_whatever_the_order() {
        assert_eq!(median([9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median([1000.0, 1.0, 2.0, 3.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 4.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<_> = (1..=1000).map(f64::from).collect();
        let at = |share| percentile(&values, share);
        assert_eq!((at(0.5), at(0.99), at(0.999), at(1.0)), (500.0, 990.0, 999.0, 1000.0));
        assert_eq!(at(0.0), 1.0);
        assert_eq!((percentile(&[7.0], 0.999), percentile(&[], 0.5)), (7.0, 0.0));
    }
}
