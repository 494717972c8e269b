//! Allocating ids.

/// Hands out numbers from 1 up, going round before it uses a number again.
///
/// Ids stay below 2^31, since a slot index uses the highest bit for itself
/// ([`svclb_common::SlotIndex::MEMBER_BIT`]). Zero is never an id. The caller knows whether a
/// number is taken: an id is taken while its row is in the map, and the row stays through a
/// quarantine after the last use.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    last: u32,
}

impl Ids {
    const MAX: u32 = (1 << 31) - 1;

    /// Continues after the highest id in use, so that after a restart ids that were freed
    /// shortly before are not the first to come again.
    pub(crate) fn after(highest: u32) -> Self {
        Self {
            last: highest.min(Self::MAX),
        }
    }

    /// The next free id, or `None` when all 2^31 are taken.
    pub(crate) fn next(&mut self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let first = self.last;
        loop {
            self.last = if self.last == Self::MAX {
                1
            } else {
                self.last + 1
            };
            if !taken(self.last) {
                return Some(self.last);
            }
            if self.last == first {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_up_and_skip_what_is_taken() {
        let mut ids = Ids::after(4);
        assert_eq!(ids.next(|id| id == 5), Some(6));
        assert_eq!(ids.next(|_| false), Some(7));
    }

    #[test]
    fn ids_go_round_and_never_are_zero() {
        let mut ids = Ids::after(u32::MAX);
        assert_eq!(ids.next(|_| false), Some(1));
    }
}
