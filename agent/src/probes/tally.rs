//! Thresholds: how many equal results in a row settle a probe. Pure.

/// Counts results in a row.
#[derive(Debug)]
pub(super) struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    in_a_row: u32,
}

impl Tally {
    pub(super) fn new(success_threshold: i32, failure_threshold: i32) -> Self {
        Self {
            success_threshold: success_threshold.max(1) as u32,
            failure_threshold: failure_threshold.max(1) as u32,
            last: None,
            in_a_row: 0,
        }
    }

    /// Takes a result; returns it once its threshold is reached.
    pub(super) fn observe(&mut self, good: bool) -> Option<bool> {
        if self.last == Some(good) {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            self.last = Some(good);
            self.in_a_row = 1;
        }
        let threshold = if good { self.success_threshold } else { self.failure_threshold };
        (self.in_a_row >= threshold).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_need_results_in_a_row() {
        let mut tally = Tally::new(2, 3);
        let results = [false, false, true, false, false, false, true, true];
        let settled: Vec<_> = results.into_iter().map(|good| tally.observe(good)).collect();
        let none = None;
        assert_eq!(settled, [none, none, none, none, none, Some(false), none, Some(true)]);
    }
}
