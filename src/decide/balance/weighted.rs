//! Draws a place by weight in constant time (Walker's alias method, as built by Vose 1991).

/// An alias table.
#[derive(Clone, Debug)]
pub struct WeightedDraw {
    /// Per column: the share of its own place, in 1/2^32, and the place that gets the rest.
    columns: Vec<(u32, u32)>,
}

impl WeightedDraw {
    /// Builds the table for weights that are all above zero. `weights` must not be empty.
    pub fn new(weights: &[u32]) -> Self {
        let count = weights.len();
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut scaled: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) * count as f64 / sum).collect();
        let mut columns: Vec<(u32, u32)> = (0..count as u32).map(|place| (u32::MAX, place)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|place| scaled[*place] < 1.0);
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            columns[low] = ((scaled[low] * f64::from(u32::MAX)) as u32, high as u32);
            scaled[high] -= 1.0 - scaled[low];
            if scaled[high] < 1.0 { small.push(high) } else { large.push(high) }
        }
        Self { columns }
    }

    /// The place that `random` falls on.
    pub fn draw(&self, random: u64) -> usize {
        let column = (((random >> 32) * self.columns.len() as u64) >> 32) as usize;
        let (share, alias) = self.columns[column];
        if random as u32 <= share { column } else { alias as usize }
    }
}
