//! The events of a source, in batches.

use svclb_core::model::Event;
use tokio::sync::mpsc::Sender;

use crate::BATCH;
use crate::status::Status;

/// The receiver is closed: the agent stops.
#[derive(Debug)]
pub(crate) struct Closed;

/// Sends events in batches of at most [`BATCH`].
#[derive(Debug)]
pub(crate) struct EventSender {
    tx: Sender<Vec<Event>>,
    status: Status,
}

impl EventSender {
    pub(crate) fn new(tx: Sender<Vec<Event>>, status: Status) -> Self {
        Self { tx, status }
    }

    /// Sends from a thread that may block.
    pub(crate) fn send_blocking(&self, events: Vec<Event>) -> Result<(), Closed> {
        for batch in batches(events) {
            self.status.sent(batch.len());
            self.tx.blocking_send(batch).or(Err(Closed))?;
        }
        Ok(())
    }

    /// Sends from a task.
    pub(crate) async fn send(&self, events: Vec<Event>) -> Result<(), Closed> {
        for batch in batches(events) {
            self.status.sent(batch.len());
            self.tx.send(batch).await.or(Err(Closed))?;
        }
        Ok(())
    }
}

fn batches(events: Vec<Event>) -> impl Iterator<Item = Vec<Event>> {
    let mut events = events.into_iter();
    std::iter::from_fn(move || {
        let batch: Vec<Event> = events.by_ref().take(BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    })
}
