//! Which backends are endpoints of a Service, and what happens to them next.

/// What a backend is to a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No endpoint.
    Out,
    /// A ready one.
    Ready,
    /// One on its way out that still serves.
    Terminating,
}

/// The endpoints of a Service. One of them is always ready.
#[derive(Clone, Debug)]
pub(super) struct Plan(Vec<State>);

impl Plan {
    /// Some of so many backends.
    pub(super) fn new(count: usize, rng: &mut fastrand::Rng) -> Self {
        let mut plan = Self(vec![State::Out; count]);
        let first = rng.usize(..count);
        for (index, state) in plan.0.iter_mut().enumerate() {
            if index == first || rng.bool() {
                *state = State::Ready;
            }
        }
        plan
    }

    pub(super) fn states(&self) -> impl Iterator<Item = State> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn state(&self, backend: usize) -> State {
        self.0[backend]
    }

    /// What operators and controllers do: a scale-up, a scale-down to one, a rolling
    /// replacement, all replaced at once, or those that were terminating are gone.
    pub(super) fn step(&mut self, rng: &mut fastrand::Rng) {
        let terminating = self.which(State::Terminating);
        if !terminating.is_empty() && rng.u8(..5) < 2 {
            self.set(&terminating, State::Out);
            return;
        }
        let mut ready = self.which(State::Ready);
        let mut out = self.which(State::Out);
        rng.shuffle(&mut ready);
        rng.shuffle(&mut out);
        // With grace, or at once.
        let leaves = if rng.bool() {
            State::Terminating
        } else {
            State::Out
        };
        let up = rng.usize(..=out.len());
        let (new, _) = out.split_at(up.max(1).min(out.len()));
        match rng.u8(..5) {
            0 => self.set(&ready[1..], leaves),
            1 if !new.is_empty() => {
                self.set(&new[..1], State::Ready);
                self.set(&ready[..1], leaves);
            }
            2 if !new.is_empty() => {
                self.set(new, State::Ready);
                self.set(&ready, leaves);
            }
            3 if ready.len() > 1 => self.set(&ready[..1], State::Out),
            _ if !new.is_empty() => self.set(new, State::Ready),
            _ => self.set(&terminating, State::Ready),
        }
    }

    fn which(&self, state: State) -> Vec<usize> {
        let all = self.0.iter().enumerate();
        all.filter(|(_, other)| **other == state)
            .map(|(index, _)| index)
            .collect()
    }

    fn set(&mut self, backends: &[usize], state: State) {
        for index in backends {
            self.0[*index] = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_is_always_ready_and_every_state_comes() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut plan = Plan::new(6, &mut rng);
        let mut seen = [0_usize; 3];
        for _ in 0..10_000 {
            plan.step(&mut rng);
            assert!(!plan.which(State::Ready).is_empty(), "{plan:?}");
            for state in plan.states() {
                seen[state as usize] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count > 3_000), "{seen:?}");
    }
}
