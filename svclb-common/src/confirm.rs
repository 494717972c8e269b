//! Reading a value that may be replaced while it is read.

/// What became of reading a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading<T> {
    /// There is none.
    Absent,
    /// Two readings in a row gave the same.
    Confirmed(T),
    /// It was another one at each reading: none of them may be used.
    Unsettled,
}

/// Reads until two readings in a row give the same, at most `TRIES` times after the first.
#[inline(always)]
pub fn read_confirmed<T: Copy + PartialEq, const TRIES: u32>(
    read: impl Fn() -> Option<T>,
) -> Reading<T> {
    let Some(mut known) = read() else {
        return Reading::Absent;
    };
    for _ in 0..TRIES {
        let Some(again) = read() else {
            return Reading::Absent;
        };
        if again == known {
            return Reading::Confirmed(known);
        }
        known = again;
    }
    Reading::Unsettled
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Reads these values one after the other, and then no more.
    fn reading<const N: usize>(values: [Option<u32>; N]) -> Reading<u32> {
        let next = Cell::new(0);
        read_confirmed::<_, 4>(|| {
            let at = next.replace(next.get() + 1);
            values.get(at).copied().flatten()
        })
    }

    #[test]
    fn a_value_counts_once_it_was_read_twice_in_a_row() {
        assert_eq!(reading([Some(1), Some(1)]), Reading::Confirmed(1));
        assert_eq!(reading([Some(1), Some(2), Some(2)]), Reading::Confirmed(2));
        assert_eq!(
            reading([Some(1), Some(2), Some(1), Some(2), Some(2)]),
            Reading::Confirmed(2)
        );
    }

    #[test]
    fn a_value_that_is_another_one_at_each_reading_is_not_used() {
        assert_eq!(reading([1, 2, 3, 4, 5].map(Some)), Reading::Unsettled);
        assert_eq!(reading([1, 2, 1, 2, 1].map(Some)), Reading::Unsettled);
    }

    #[test]
    fn a_value_that_goes_is_absent() {
        assert_eq!(reading([None]), Reading::Absent);
        assert_eq!(reading([Some(1), None, Some(1)]), Reading::Absent);
    }
}
