//! Results in the order of their tasks, whatever order they come in.

use std::collections::VecDeque;

/// What has come before its turn, and what has its turn.
#[derive(Debug)]
pub(crate) struct Order<T> {
    /// The number whose turn it is.
    next: u64,
    /// From `next` on.
    early: VecDeque<Option<(Option<T>, usize)>>,
    weight: usize,
    turn: VecDeque<(T, usize)>,
    ordered: bool,
}

impl<T> Order<T> {
    pub(crate) fn new(ordered: bool) -> Self {
        Self { next: 0, early: VecDeque::new(), weight: 0, turn: VecDeque::new(), ordered }
    }

    /// The number that all others wait for.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// How much is held back.
    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }

    /// There is nothing of this number.
    pub(crate) fn skip(&mut self, number: u64) {
        if self.ordered {
            self.enter(number, None, 0);
        }
    }

    pub(crate) fn put(&mut self, number: u64, item: T, weight: usize) {
        if !self.ordered {
            self.turn.push_back((item, weight));
            return;
        }
        self.enter(number, Some(item), weight);
    }

    fn enter(&mut self, number: u64, item: Option<T>, weight: usize) {
        let Some(at) = number.checked_sub(self.next).and_then(|at| usize::try_from(at).ok()) else { return };
        if self.early.len() <= at {
            self.early.resize_with(at + 1, || None);
        }
        self.early[at] = Some((item, weight));
        self.weight += weight;
        while matches!(self.early.front(), Some(Some(_))) {
            if let Some((item, weight)) = self.early.pop_front().flatten() {
                self.weight -= weight;
                self.turn.extend(item.map(|item| (item, weight)));
            }
            self.next += 1;
        }
    }

    /// The next one whose turn it is, with its weight.
    pub(crate) fn take(&mut self) -> Option<(T, usize)> {
        self.turn.pop_front()
    }

    /// Nobody is waited for any more.
    pub(crate) fn give_up(&mut self) {
        self.next += self.early.len() as u64;
        self.weight = 0;
        let left = self.early.drain(..).flatten();
        self.turn.extend(left.filter_map(|(item, weight)| item.map(|item| (item, weight))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_order_they_leave_by_number(numbers in Just((0..200_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut order = Order::new(true);
            let mut left = Vec::new();
            for number in numbers {
                order.put(number, number, 3);
                left.extend(std::iter::from_fn(|| order.take().map(|(number, _)| number)));
                prop_assert_eq!(order.next(), left.len() as u64);
            }
            prop_assert_eq!(left, (0..200).collect::<Vec<_>>());
            prop_assert_eq!(order.weight(), 0);
        }
    }

    #[test]
    fn a_gap_is_jumped_when_nobody_is_waited_for() {
        let mut order = Order::new(true);
        order.put(2, "c", 1);
        order.put(1, "b", 1);
        assert!(order.take().is_none());
        order.give_up();
        assert_eq!([order.take(), order.take(), order.take()], [Some(("b", 1)), Some(("c", 1)), None]);
    }
}
