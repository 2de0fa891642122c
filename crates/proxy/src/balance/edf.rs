//! Earliest deadline first: weights in, a smooth weighted order out. Who is picked comes again after 1/weight.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Draw;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Entry>,
    order: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Breaks ties: who waits longest.
    order: u64,
    index: usize,
}

impl Schedule {
    /// Starts at a random place of the cycle, so that workers and proxies do not move in step.
    pub(super) fn new(weights: impl Iterator<Item = f64>, draw: Draw<'_>) -> Schedule {
        let heap: BinaryHeap<Entry> = weights
            .enumerate()
            .map(|(index, weight)| Entry {
                deadline: (draw() >> 11) as f64 / (1u64 << 53) as f64 / weight,
                order: index as u64,
                index,
            })
            .collect();
        Schedule {
            order: heap.len() as u64,
            heap,
        }
    }

    /// The next in order; `weight` is asked for its weight as of now.
    pub(super) fn next(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let mut top = self.heap.peek_mut()?;
        let index = top.index;
        top.deadline += 1.0 / weight(index).max(f64::MIN_POSITIVE);
        top.order = self.order;
        self.order += 1;
        Some(index)
    }
}

/// The heap's greatest is the earliest.
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
