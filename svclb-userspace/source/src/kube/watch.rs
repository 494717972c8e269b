//! The watch on one kind of objects.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use kube::core::Status;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as WatchEvent, watcher};
use kube::{Api, Client, Resource};
use svclb_core::error_chain::error_chain;
use svclb_core::event_limit::EventLimit;
use svclb_core::log_once::LogOnce;
use svclb_core::model::{Event, Object, ObjectKey, ObjectName};
use tower::service_fn;
use tracing::{debug, info, warn};

use super::relist_guard::{Decision, RelistGuard};
use super::watched::{Kind, Watched};
use super::{EventRecorder, KubeEvent, KubeOptions};
use crate::cache::Cache;
use crate::convert::{Names, Problem};
use crate::event_sender::{Closed, EventSender};
use crate::problems::Problems;
use crate::status::Status as SourceStatus;

/// The place of problems with the Node that is not there.
const THIS_NODE: &str = "this node";

/// What the three watches share.
pub(super) struct Shared {
    event_sender: EventSender,
    status: SourceStatus,
    names: Names,
    node_name: Arc<str>,
    serves: bool,
    confirm_after: Duration,
    event_recorder: EventRecorder,
    event_limit: Mutex<EventLimit>,
    /// A bit for each kind that was not listed yet.
    unlisted: AtomicU8,
    /// A bit for each kind whose watch does not stand: it broke, or there was no response yet; and
    /// [`SAYS_NOTHING`].
    broken: AtomicU8,
    /// A bit for each kind whose failure was looked at for the log.
    reported: AtomicU8,
    /// A bit for each kind that the log says is watched.
    announced: AtomicU8,
    log_once: Mutex<LogOnce>,
    started: Instant,
}

/// In `broken` and `reported`: the API server accepts watches, and says nothing.
const SAYS_NOTHING: u8 = 1 << 7;

/// What differs between the kinds.
pub(super) struct Watch<T> {
    pub(super) name: &'static str,
    pub(super) bit: u8,
    /// A cluster always has some: those of the API server itself, `default/kubernetes`.
    pub(super) is_never_empty: bool,
    /// The key of the object of a name, also of one that cannot be converted.
    pub(super) key: fn(ObjectName) -> ObjectKey,
    pub(super) convert: fn(T, &Names, &mut Vec<Problem>) -> Option<Object>,
}

/// The state of one watch.
struct State {
    cache: Cache<Option<u64>>,
    /// While a listing runs.
    listing: Option<Listing>,
    guard: RelistGuard,
    problems: Problems,
    /// The objects that cannot be read.
    unreadable: HashSet<ObjectKey>,
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
    /// Those of them that cannot be read.
    unreadable: HashSet<ObjectKey>,
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
            unreadable: HashSet::new(),
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
pub(super) async fn watch<T: Kind>(
    client: &Client,
    config: watcher::Config,
    kind: Watch<T>,
    shared: &Arc<Shared>,
) -> Closed {
    let api = Api::<Watched<T>>::all(client_of(client, &kind, shared));
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
        unreadable: HashSet::new(),
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
fn client_of<T>(client: &Client, kind: &Watch<T>, shared: &Arc<Shared>) -> Client {
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
        status: SourceStatus,
        options: &KubeOptions,
        event_recorder: EventRecorder,
    ) -> Self {
        Self {
            event_sender,
            status,
            names: Names::default(),
            node_name: Arc::clone(&options.node_name),
            serves: options.serves,
            confirm_after: options.guard_timeouts.confirm_after,
            event_recorder,
            event_limit: Mutex::new(EventLimit::new(&options.node_name)),
            unlisted: AtomicU8::new(0b111),
            broken: AtomicU8::new(0b111),
            reported: AtomicU8::new(0),
            announced: AtomicU8::new(0),
            log_once: Mutex::new(LogOnce::default()),
            started: Instant::now(),
        }
    }

    fn handle<T: Kind>(
        &self,
        event: WatchEvent<Watched<T>>,
        kind: &Watch<T>,
        state: &mut State,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        match event {
            WatchEvent::Init => {
                state.listing = Some(Listing::begin(&state.guard));
                self.status.restarted();
            }
            WatchEvent::InitApply(object) => events.extend(self.apply(object, kind, state)),
            WatchEvent::Apply(object) => {
                events.extend(self.apply(object, kind, state));
                self.look_for_node(kind, state);
            }
            WatchEvent::Delete(object) => {
                let key = self.key(&object, kind);
                state.problems.set(&place(&object), []);
                self.set_unreadable(state, &key, false);
                events.extend(state.cache.remove(&key));
                self.look_for_node(kind, state);
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
                    .retain(|place| place == THIS_NODE || listing.with_problems.contains(place));
                let before = std::mem::replace(&mut state.unreadable, listing.unreadable);
                let now = state.unreadable.len();
                self.status.replace_unreadable(before.len(), now);
                self.look_for_node(kind, state);
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
    /// label with its Service's name belongs to no Service any more, and is removed. One that cannot
    /// be read at all stays as it was.
    fn apply<T: Kind>(
        &self,
        read: Watched<T>,
        kind: &Watch<T>,
        state: &mut State,
    ) -> Option<Event> {
        let place = place(&read);
        let key = self.key(&read, kind);
        let version = read.meta().resource_version.as_deref();
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
        self.set_unreadable(state, &key, read.object.is_err());
        let mut problems = Vec::new();
        let uid = read.meta().uid.clone();
        let converted = match read.object {
            Ok(object) => (kind.convert)(*object, &self.names, &mut problems),
            Err(reason) => {
                let line = format!("cannot be read, and stays as it was: {reason}");
                self.send_event(&key, uid, || format!("{place} {line} (on this node)"));
                state.problems.set(&place, [line]);
                if let Some(listing) = &mut state.listing {
                    listing.listed.insert(key.clone());
                    listing.unreadable.insert(key);
                    listing.with_problems.insert(place);
                }
                return None;
            }
        };
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

    fn set_unreadable(&self, state: &mut State, key: &ObjectKey, is_unreadable: bool) {
        let before = state.unreadable.len();
        if is_unreadable {
            state.unreadable.insert(key.clone());
        } else {
            state.unreadable.remove(key);
        }
        self.status
            .replace_unreadable(before, state.unreadable.len());
    }

    /// Sends an Event about an object unless there were enough.
    fn send_event(&self, object: &ObjectKey, uid: Option<String>, note: impl FnOnce() -> String) {
        let now = Instant::now();
        let limit = self.event_limit.lock();
        let mut limit = limit.unwrap_or_else(PoisonError::into_inner);
        if !limit.allows(object, now) {
            return;
        }
        let event = KubeEvent {
            regarding: object.clone(),
            uid,
            reason: "FailedToReadObject",
            action: "Read",
            note: note(),
        };
        if self.event_recorder.try_send(event).is_ok() {
            limit.sent(object.clone(), now);
        }
    }

    /// Says while there is no Node of this node's name. The watch goes on looking for it.
    fn look_for_node<T: Kind>(&self, kind: &Watch<T>, state: &mut State) {
        let key = (kind.key)(ObjectName::new("", Arc::clone(&self.node_name)));
        if key != ObjectKey::Node {
            return;
        }
        let is_missing = state.cache.get(&key).is_none() && !state.unreadable.contains(&key);
        let line = is_missing.then(|| {
            format!(
                "there is no Node {:?}, and it is looked for; until there is one, the node's zone and \
                 internal addresses are unknown, and load balancers are told to leave the node out; \
                 --node-name has to be the name of this machine's Node, as `kubectl get nodes` has it",
                self.node_name
            )
        });
        state.problems.set(THIS_NODE, line);
    }

    fn key<T: Kind>(&self, object: &Watched<T>, kind: &Watch<T>) -> ObjectKey {
        let metadata = object.meta();
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        (kind.key)(ObjectName::new(
            self.names.get(namespace),
            self.names.get(name),
        ))
    }

    fn is_listed<T>(&self, kind: &Watch<T>) -> bool {
        self.unlisted.load(Ordering::Relaxed) & kind.bit == 0
    }

    /// Whether the objects that a listing lacks are to be removed.
    fn accepts<T>(&self, kind: &Watch<T>, state: &mut State, listing: &Listing) -> bool {
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
        // A watch that is accepted is no word.
        if before & SAYS_NOTHING == 0 && self.announced.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            info!("watching {name}");
        }
        if before == bit {
            self.status.set_connected(true);
        }
    }

    /// A watch broke. Logged once, and not at each attempt.
    fn lost<T>(&self, kind: &Watch<T>, error: &watcher::Error) {
        // The server's history does not go back that far: what there is is listed again.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            debug!("{}: {error}; listing again", kind.name);
            return;
        }
        self.broken.fetch_or(kind.bit, Ordering::Relaxed);
        self.status.set_connected(false);
        let line = format!(
            "cannot watch {}, and the request is repeated; what was served goes on being served: {}",
            kind.name,
            reason(error)
        );
        if !self.is_silent() && self.is_news(kind.bit, &line) {
            warn!("{line}");
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
        if self.reported.fetch_or(SAYS_NOTHING, Ordering::Relaxed) & SAYS_NOTHING == 0 {
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

    /// Whether no failure of this watch was logged since it last stood, or since the start, and this
    /// one not within ten minutes: a watch may stand for a moment between any two failures.
    fn is_news(&self, bit: u8, line: &str) -> bool {
        let reported = self.reported.fetch_or(bit, Ordering::Relaxed) & bit != 0;
        let log_once = self.log_once.lock();
        let mut log_once = log_once.unwrap_or_else(PoisonError::into_inner);
        let is_news = !reported && log_once.first(line, self.started.elapsed());
        if is_news {
            self.announced.fetch_and(!bit, Ordering::Relaxed);
        }
        is_news
    }
}

/// Why a watch broke, in the API server's words where it has some.
fn reason(error: &watcher::Error) -> String {
    let (error, what) = match error {
        watcher::Error::InitialListFailed(error) => (error, "list"),
        watcher::Error::WatchStartFailed(error) => (error, "watch"),
        watcher::Error::WatchFailed(error) => (error, "event of a watch"),
        watcher::Error::WatchError(status) => return api_reason(status),
        watcher::Error::NoResourceVersion => return error_chain(error),
    };
    match error {
        kube::Error::Api(status) => api_reason(status),
        kube::Error::SerdeError(error) => {
            format!("the API server's response is no {what} that can be read: {error}")
        }
        error => error_chain(error),
    }
}

/// kube takes a line that it cannot read for a `Status`, which may have any fields.
fn api_reason(status: &Status) -> String {
    let Status {
        code,
        reason,
        message,
        ..
    } = status;
    if (*code, &**reason, &**message) == (0, "", "") {
        return "the API server sent a line that is no event of a watch; is there a proxy in between?"
            .to_owned();
    }
    let code = (*code != 0).then(|| code.to_string());
    let parts = [code.as_deref().unwrap_or_default(), reason, message];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    let parts = parts.collect::<Vec<_>>();
    format!("the API server says: {}", parts.join(", "))
}

fn place<T: Kind>(object: &Watched<T>) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or("(without a name)");
    match &metadata.namespace {
        Some(namespace) => format!("{} {namespace}/{name}", T::KIND),
        None => format!("{} {name}", T::KIND),
    }
}

#[cfg(test)]
mod tests {
    use super::super::relist_guard::GuardTimeouts;
    use super::*;

    fn shared() -> (Shared, SourceStatus) {
        let (sender, _events) = tokio::sync::mpsc::channel(1);
        let status = SourceStatus::default();
        let event_sender = EventSender::new(sender, status.clone());
        let options = KubeOptions {
            kubeconfig: None,
            apiserver: None,
            node_name: "node1".into(),
            serves: false,
            guard_timeouts: GuardTimeouts::default(),
            api_timeouts: crate::ApiTimeouts::default(),
        };
        let (event_recorder, _) = crate::event_recorder();
        let shared = Shared::new(event_sender, status.clone(), &options, event_recorder);
        (shared, status)
    }

    #[test]
    fn a_failure_is_reported_once_also_before_the_watch_first_stood() {
        let (shared, status) = shared();
        let reports = [1, 1, 2].map(|bit| shared.is_news(bit, "broken"));
        assert_eq!(reports, [true, false, false]);
        shared.reached("Services", 1);
        assert!(!status.connected(), "two watches do not stand");
        let reports = [1, 1, 2].map(|bit| shared.is_news(bit, "broken otherwise"));
        assert_eq!(reports, [true, false, false]);
    }

    #[test]
    fn a_watch_that_stands_for_a_moment_between_failures_is_no_news() {
        let (shared, _) = shared();
        let mut said = 0;
        for _ in 0..100 {
            shared.reached("Services", 1);
            let announced = shared.announced.load(Ordering::Relaxed);
            said += usize::from(shared.is_news(1, "broken"));
            assert_eq!(announced & 1, 1);
        }
        assert_eq!(said, 1);
        assert_eq!(shared.announced.load(Ordering::Relaxed) & 1, 1);
    }

    #[test]
    fn the_reason_is_what_the_api_server_says() {
        let status = |json| serde_json::from_value::<Status>(json).unwrap().boxed();
        let forbidden = status(serde_json::json!({"code": 403, "reason": "Forbidden",
            "message": "services is forbidden: no RBAC policy matched"}));
        let error = watcher::Error::InitialListFailed(kube::Error::Api(forbidden));
        assert_eq!(
            reason(&error),
            "the API server says: 403, Forbidden, services is forbidden: no RBAC policy matched"
        );
        // What kube makes of an event that it cannot read.
        let hidden = status(serde_json::json!({"type": "NEW", "object": {}}));
        let error = watcher::Error::WatchFailed(kube::Error::Api(hidden));
        assert!(reason(&error).contains("no event of a watch"), "{error}");
    }
}
