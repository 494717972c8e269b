//! Services whose writes failed: told once, tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use svclb_common::ServiceRecord;
use svclb_core::planner::Round;
use svclb_core::writer::Failed;
use tracing::{error, info};

/// How long until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The Service ports that are not what they should be.
#[derive(Default)]
pub(crate) struct FailedWrites {
    reasons: BTreeMap<ServiceRecord, String>,
    tried: Option<Instant>,
    full: bool,
}

impl FailedWrites {
    /// Takes a round's outcome in. A Service of the round that did not fail is well again.
    pub(crate) fn update(&mut self, round: &Round, failed: Vec<Failed>) {
        let before = self.reasons.len();
        let records = round.plans.iter().map(|plan| plan.record);
        for record in records.chain(round.removed.iter().copied()) {
            if !failed.iter().any(|failed| failed.record == record) {
                self.reasons.remove(&record);
            }
        }
        for failure in failed {
            self.full |= failure.full;
            let hint = if failure.full {
                "; give the map more room with its --max-… flag and run `svclb cleanup` before the next start"
            } else {
                ""
            };
            let known = self.reasons.insert(failure.record, failure.reason.clone());
            if known.as_ref() != Some(&failure.reason) {
                error!(
                    "Service {} stays as it was: {}{hint}",
                    failure.record, failure.reason
                );
            }
        }
        if before > 0 && self.reasons.is_empty() {
            self.full = false;
            info!("every Service is up to date again");
        }
        if !self.reasons.is_empty() {
            self.tried = Some(Instant::now());
        }
    }

    /// The Service ports to try again now.
    pub(crate) fn due(&self) -> Vec<ServiceRecord> {
        if self.tried.is_none_or(|tried| tried.elapsed() < RETRY) {
            return Vec::new();
        }
        self.reasons.keys().copied().collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.reasons.len()
    }

    /// What is wrong, for health; `None` if nothing is.
    pub(crate) fn sentence(&self) -> Option<String> {
        let (record, reason) = self.reasons.first_key_value()?;
        Some(format!(
            "{} Service ports are not up to date, the first is {record}: {reason}",
            self.reasons.len()
        ))
    }
}
