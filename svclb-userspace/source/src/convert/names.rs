use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// One string for each distinct name of a node, a namespace or a port: a hundred
/// thousand endpoints on a hundred nodes keep a hundred of them.
#[derive(Default, Debug)]
pub struct Names(Mutex<Kept>);

#[derive(Default, Debug)]
struct Kept {
    names: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    /// The shared string that equals `name`.
    pub fn get(&self, name: &str) -> Arc<str> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = kept.names.get(name) {
            return Arc::clone(name);
        }
        if kept.names.len() >= kept.sweep_at {
            kept.names.retain(|name| Arc::strong_count(name) > 1);
            kept.sweep_at = kept.names.len() * 2 + 64;
        }
        let name: Arc<str> = name.into();
        kept.names.insert(Arc::clone(&name));
        name
    }
}
