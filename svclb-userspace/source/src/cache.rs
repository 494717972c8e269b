//! The objects that a source has sent, without the objects themselves.
//!
//! A second listing, or a file that is read again, is compared with it, so that only what
//! changed is sent.

use std::collections::HashMap;

use svclb_core::model::{Event, Object, ObjectKey};

use crate::fingerprint::fingerprint;

/// What is kept of an object that was sent.
#[derive(Clone, Debug)]
pub(crate) struct CachedObject<M> {
    fingerprint: u64,
    /// Where it came from: what a source compares besides the object.
    pub(crate) origin: M,
}

/// The objects that were sent and not deleted since.
#[derive(Debug)]
pub(crate) struct Cache<M> {
    objects: HashMap<ObjectKey, CachedObject<M>>,
}

impl<M> Default for Cache<M> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
        }
    }
}

impl<M> Cache<M> {
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&CachedObject<M>> {
        self.objects.get(key)
    }

    /// Records an object. The event to send, if the object is new or differs.
    pub(crate) fn record(&mut self, object: Object, origin: M) -> Option<Event> {
        let fingerprint = fingerprint(&object);
        let cached = CachedObject {
            fingerprint,
            origin,
        };
        let before = self.objects.insert(object.key(), cached);
        before
            .is_none_or(|before| before.fingerprint != fingerprint)
            .then_some(Event::Apply(object))
    }

    /// Forgets an object. The event to send, if there was one.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Event> {
        self.objects
            .remove_entry(key)
            .map(|(key, _)| Event::Delete(key))
    }

    /// Forgets the objects whose keys are not to be kept. The events to send.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&ObjectKey) -> bool) -> Vec<Event> {
        let gone = self.objects.extract_if(|key, _| !is_kept(key));
        gone.map(|(key, _)| Event::Delete(key)).collect()
    }
}
