//! The watch on one kind of objects.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as WatchEvent, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use svclb_core::error_chain::error_chain;
use svclb_core::model::{Event, Object, ObjectKey, ObjectName};
use tower::service_fn;
use tracing::{debug, info, warn};

use super::relist_guard::{Decision, RelistGuard};
use crate::cache::Cache;
use crate::convert::{Names, Problem};
use crate::event_sender::{Closed, EventSender};
use crate::problems::Problems;
use crate::status::Status;

/// What the three watches share.
pub(super) struct Shared {
    event_sender: EventSender,
    status: Status,
    names: Names,
    serves: bool,
    confirm_after: Duration,
    /// A bit for each kind that was not listed yet.
    unlisted: AtomicU8,
    /// A bit for each kind whose watch does not stand: it broke, or there was no response yet; and
    /// [`SAYS_NOTHING`].
    broken: AtomicU8,
    /// A bit for each kind whose failure is logged.
    reported: AtomicU8,
}

/// In `broken` and `reported`: the API server accepts watches, and says nothing.
const SAYS_NOTHING: u8 = 1 << 7;

/// What differs between the kinds.
pub(super) struct Kind<K> {
    pub(super) name: &'static str,
    pub(super) bit: u8,
    /// A cluster always has some: those of the API server itself, `default/kubernetes`.
    pub(super) is_never_empty: bool,
    /// The key of the object of a name, also of one that cannot be converted.
    pub(super) key: fn(ObjectName) -> ObjectKey,
    pub(super) convert: fn(K, &Names, &mut Vec<Problem>) -> Option<Object>,
}

/// The state of one watch.
struct State {
    cache: Cache<Option<u64>>,
    /// While a listing runs.
    listing: Option<Listing>,
    guard: RelistGuard,
    problems: Problems,
}

struct Listing {
    began: Instant,
    /// Whether it is accepted whatever it has.
    is_confirmed: bool,
    /// Whether it has no object, not even one that cannot be converted.
    is_empty: bool,
    /// Whether it has an object that is older than the cached one.
    goes_back: bool,
    /// The objects that it has named so far.
    listed: HashSet<ObjectKey>,
    /// Those with problems, as places of [`Problems`].
    with_problems: HashSet<String>,
}

impl Listing {
    fn begin(guard: &RelistGuard) -> Self {
        let began = Instant::now();
        Self {
            began,
            is_confirmed: guard.confirms(began),
            is_empty: true,
            goes_back: false,
            listed: HashSet::new(),
            with_problems: HashSet::new(),
        }
    }
}

/// Lists and watches objects of one kind, and sends their changes, until the receiver is closed.
///
/// A list from the API server's cache costs it much less than a quorum read of etcd does, but may be
/// older than one that was read before, and lack what was added since. So only the first list of a
/// node that serves nothing yet is a cached one: it can take nothing away, and the watch from its
/// version on brings what it lacks.
pub(super) async fn watch<K>(
    client: &Client,
    config: watcher::Config,
    kind: Kind<K>,
    shared: &Arc<Shared>,
) -> Closed
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api = Api::<K>::all(client_of(client, &kind, shared));
    let cached = watcher::Config {
        // The cache does not do pages, and with a page size kube asks for a quorum read.
        page_size: None,
        ..config.clone().any_semantic()
    };
    let start =
        |config: &watcher::Config| Box::pin(watcher(api.clone(), config.clone()).default_backoff());
    let mut lists_cached = !shared.serves;
    let mut stream = start(if lists_cached { &cached } else { &config });
    let mut state = State {
        cache: Cache::default(),
        listing: None,
        guard: RelistGuard::new(shared.confirm_after),
        problems: Problems::new(shared.status.clone()),
    };
    loop {
        let relist_at = state.guard.relist_at();
        let relist = async {
            match relist_at {
                Some(at) if state.listing.is_none() => tokio::time::sleep_until(at.into()).await,
                _ => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            next = stream.try_next() => next,
            () = relist => {
                state.guard.relist_began(Instant::now());
                lists_cached = false;
                stream = start(&config);
                continue;
            }
        };
        let events = match next {
            // It comes before the list is requested.
            Ok(Some(WatchEvent::Init)) if lists_cached && shared.is_listed(&kind) => {
                lists_cached = false;
                stream = start(&config);
                continue;
            }
            Ok(Some(event)) => shared.handle(event, &kind, &mut state),
            Ok(None) => return Closed,
            Err(error) => {
                shared.lost(&kind, &error);
                continue;
            }
        };
        if !events.is_empty() && shared.event_sender.send(events).await.is_err() {
            return Closed;
        }
    }
}

/// A client with the connections of another one, for the watch on a kind: it notes the responses.
fn client_of<K>(client: &Client, kind: &Kind<K>, shared: &Arc<Shared>) -> Client {
    let (name, bit) = (kind.name, kind.bit);
    let (connections, shared) = (client.clone(), Arc::clone(shared));
    let service = service_fn(move |request| {
        let (connections, shared) = (connections.clone(), Arc::clone(&shared));
        async move {
            let response = connections.send(request).await?;
            if response.status().is_success() {
                shared.reached(name, bit);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, client.default_namespace())
}

impl Shared {
    pub(super) fn new(
        event_sender: EventSender,
        status: Status,
        serves: bool,
        confirm_after: Duration,
    ) -> Self {
        Self {
            event_sender,
            status,
            names: Names::default(),
            serves,
            confirm_after,
            unlisted: AtomicU8::new(0b111),
            broken: AtomicU8::new(0b111),
            reported: AtomicU8::new(0),
        }
    }

    fn handle<K: Resource<DynamicType = ()>>(
        &self,
        event: WatchEvent<K>,
        kind: &Kind<K>,
        state: &mut State,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        match event {
            WatchEvent::Init => {
                state.listing = Some(Listing::begin(&state.guard));
                self.status.restarted();
            }
            WatchEvent::Apply(object) | WatchEvent::InitApply(object) => {
                events.extend(self.apply(object, kind, state));
            }
            WatchEvent::Delete(object) => {
                state.problems.set(&place(&object), []);
                events.extend(state.cache.remove(&self.key(&object, kind)));
            }
            WatchEvent::InitDone => {
                let Some(listing) = state.listing.take() else {
                    return events;
                };
                if !self.accepts(kind, state, &listing) {
                    return events;
                }
                events = state.cache.retain(|key| listing.listed.contains(key));
                state
                    .problems
                    .retain(|place| listing.with_problems.contains(place));
                let before = self.unlisted.fetch_and(!kind.bit, Ordering::Relaxed);
                if before == kind.bit {
                    self.status.set_synced();
                    events.push(Event::Synced);
                }
            }
        }
        events
    }

    /// An object that cannot be converted is none that can be served: a slice that has lost the
    /// label with its Service's name belongs to no Service any more, and is removed.
    fn apply<K: Resource<DynamicType = ()>>(
        &self,
        object: K,
        kind: &Kind<K>,
        state: &mut State,
    ) -> Option<Event> {
        let place = place(&object);
        let key = self.key(&object, kind);
        let version = object.meta().resource_version.as_deref();
        let version = version.and_then(|version| version.parse().ok());
        if let Some(listing) = &mut state.listing {
            listing.is_empty = false;
            let cached = state.cache.get(&key);
            let is_older = cached.is_some_and(|cached| version < cached.origin);
            if is_older && !listing.is_confirmed {
                listing.goes_back = true;
                return None;
            }
        }
        let mut problems = Vec::new();
        let converted = (kind.convert)(object, &self.names, &mut problems);
        state
            .problems
            .set(&place, problems.iter().map(ToString::to_string));
        if let Some(listing) = &mut state.listing {
            if converted.is_some() {
                listing.listed.insert(key.clone());
            }
            if !problems.is_empty() {
                listing.with_problems.insert(place);
            }
        }
        match converted {
            Some(object) => state.cache.record(object, version),
            // What a list lacks is removed when it is complete and accepted.
            None if state.listing.is_some() => None,
            None => state.cache.remove(&key),
        }
    }

    fn key<K: Resource>(&self, object: &K, kind: &Kind<K>) -> ObjectKey {
        let metadata = object.meta();
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        (kind.key)(ObjectName::new(
            self.names.get(namespace),
            self.names.get(name),
        ))
    }

    fn is_listed<K>(&self, kind: &Kind<K>) -> bool {
        self.unlisted.load(Ordering::Relaxed) & kind.bit == 0
    }

    /// Whether the objects that a listing lacks are to be removed.
    fn accepts<K>(&self, kind: &Kind<K>, state: &mut State, listing: &Listing) -> bool {
        let had_some = !state.cache.is_empty() || self.serves && !self.is_listed(kind);
        let is_empty = kind.is_never_empty && listing.is_empty && had_some;
        let is_suspicious = is_empty || listing.goes_back;
        let guard = &mut state.guard;
        let decision = guard.check(is_suspicious, listing.began, Instant::now());
        let name = kind.name;
        match decision {
            Decision::FirstHeld if is_empty => warn!(
                "the API server lists no {name} any more; what was served goes on being served, \
                 and the list takes effect if it is the same for {} seconds",
                self.confirm_after.as_secs()
            ),
            Decision::FirstHeld => warn!(
                "the API server lists {name} as they were before; what was served goes on being \
                 served, and the list takes effect if it is the same for {} seconds",
                self.confirm_after.as_secs()
            ),
            Decision::Confirmed => {
                warn!("the API server confirmed its list of {name}; it takes effect");
            }
            Decision::Accepted | Decision::Held => {}
        }
        decision.is_accepted()
    }

    /// A request for a list or a watch succeeded: the watch stands. (No event says so: kube gives
    /// none for a watch that goes on where it broke.)
    fn reached(&self, name: &str, bit: u8) {
        let before = self.broken.fetch_and(!bit, Ordering::Relaxed);
        self.reported.fetch_and(!bit, Ordering::Relaxed);
        if before & bit != 0 {
            // A watch that is accepted is no word.
            if before & SAYS_NOTHING == 0 {
                info!("watching {name}");
            }
            if before == bit {
                self.status.set_connected(true);
            }
        }
    }

    /// A watch broke. Logged once, and not at each attempt.
    fn lost<K>(&self, kind: &Kind<K>, error: &watcher::Error) {
        // The server's history does not go back that far: what there is is listed again.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            debug!("{}: {error}; listing again", kind.name);
            return;
        }
        self.broken.fetch_or(kind.bit, Ordering::Relaxed);
        self.status.set_connected(false);
        if !self.is_silent() && self.is_news(kind.bit) {
            warn!(
                "cannot watch {}, and the request is repeated; what was served goes on being served: {}",
                kind.name,
                error_chain(error)
            );
        }
    }

    /// Whether a watch on every kind stands.
    pub(super) fn stand(&self) -> bool {
        self.broken.load(Ordering::Relaxed) & !SAYS_NOTHING == 0
    }

    /// Whether the API server has said nothing when it was last asked for a word.
    pub(super) fn is_silent(&self) -> bool {
        self.broken.load(Ordering::Relaxed) & SAYS_NOTHING != 0
    }

    /// The API server was asked for a word, and said none. Returns whether it did before.
    pub(super) fn fell_silent(&self, after: Duration) -> bool {
        let before = self.broken.fetch_or(SAYS_NOTHING, Ordering::Relaxed);
        self.status.set_connected(false);
        if self.is_news(SAYS_NOTHING) {
            warn!(
                "the API server has said nothing for {} seconds; what was served goes on being served",
                after.as_secs()
            );
        }
        before & SAYS_NOTHING == 0
    }

    /// The API server said something.
    pub(super) fn spoke(&self) {
        let before = self.broken.fetch_and(!SAYS_NOTHING, Ordering::Relaxed);
        self.reported.fetch_and(!SAYS_NOTHING, Ordering::Relaxed);
        if before & SAYS_NOTHING != 0 {
            info!("the API server answers again");
            if before == SAYS_NOTHING {
                self.status.set_connected(true);
            }
        }
    }

    /// Whether no failure of this watch was logged since it last stood, or since the start.
    fn is_news(&self, bit: u8) -> bool {
        self.reported.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

fn place<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let metadata = object.meta();
    format!(
        "{} {}/{}",
        K::kind(&()),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported_once_also_before_the_watch_first_stood() {
        let (sender, _events) = tokio::sync::mpsc::channel(1);
        let status = Status::default();
        let event_sender = EventSender::new(sender, status.clone());
        let shared = Shared::new(event_sender, status.clone(), false, Duration::ZERO);
        let reports = [1, 1, 2].map(|bit| shared.is_news(bit));
        assert_eq!(reports, [true, false, true]);
        shared.reached("Services", 1);
        assert!(!status.connected(), "two watches do not stand");
        let reports = [1, 1, 2].map(|bit| shared.is_news(bit));
        assert_eq!(reports, [true, false, false]);
    }
}
