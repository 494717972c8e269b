//! The Kubernetes API: watches on Services, EndpointSlices and this Node.
//!
//! kube's watcher lists, watches with bookmarks, and lists again after 410 Gone or a broken
//! connection, with a growing delay. What it lists again is compared here with what was
//! said, so that an API server that comes back after an hour changes only what changed. A list
//! that has nothing, where there was something, or objects older than those that were said, is
//! asked for again until the API server has stood by it for a while: see [`RelistGuard`].

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event as Watched};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use svclb_core::error_chain::error_chain;
use svclb_core::model::{Event, Object, ObjectKey};
use tokio::sync::mpsc::{Receiver, Sender};
use tracing::{debug, info, warn};

use crate::convert::{self, Names, Problem, SELECTOR};
use crate::error::SourceError;
use crate::event_sender::{Closed, EventSender};
use crate::fingerprint::fingerprint;
use crate::kube_events::{KubeEvent, publish};
use crate::problems::Problems;
use crate::relist_guard::{GuardTimeouts, RelistGuard, Verdict};
use crate::status::Status;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// A kubeconfig; without one, as a pod in the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's real address, instead of the one that the configuration names.
    pub apiserver: Option<String>,
    /// `metadata.name` of this node's Node.
    pub node_name: Arc<str>,
    /// Whether something is served already: then a first list that is empty is doubted too.
    pub serves: bool,
    /// For how long the API server has to stand by a doubtful list.
    pub guard_timeouts: GuardTimeouts,
}

/// Says what the cluster says, until nobody listens; and tells the cluster the event_recorder.
///
/// # Errors
/// [`SourceError`] for a configuration that cannot be used. An API server that is away is
/// no error: it is asked again until it answers.
pub async fn kubernetes(
    options: KubeOptions,
    tx: Sender<Vec<Event>>,
    status: Status,
    event_recorder: Receiver<KubeEvent>,
) -> Result<(), SourceError> {
    let config = config(&options).await?;
    let client = Client::try_from(config).map_err(|error| SourceError::Config {
        reason: error.to_string(),
    })?;
    let closed = tx.clone();
    let shared = Arc::new(Shared {
        event_sender: EventSender::new(tx, status.clone()),
        status,
        names: Names::default(),
        serves: options.serves,
        confirm_after: options.guard_timeouts.confirm_after,
        unlisted: AtomicU8::new(0b111),
        away: AtomicU8::new(0b111),
    });
    let labelled = watch::Config::default().labels(SELECTOR);
    let own = watch::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let services = follow(
        Api::<Service>::all(client.clone()),
        labelled.clone(),
        Kind {
            name: "Services",
            bit: 1,
            always_some: true,
            convert: |from, names, problems| {
                convert::service(from, names, problems).map(Object::Service)
            },
        },
        &shared,
    );
    let slices = follow(
        Api::<EndpointSlice>::all(client.clone()),
        labelled,
        Kind {
            name: "EndpointSlices",
            bit: 2,
            always_some: true,
            convert: |from, names, problems| {
                convert::endpoint_slice(from, names, problems).map(Object::EndpointSlice)
            },
        },
        &shared,
    );
    let node = follow(
        Api::<Node>::all(client.clone()),
        own,
        Kind {
            name: "this Node",
            bit: 4,
            always_some: false,
            convert: |from, names, problems| convert::node(from, names, problems).map(Object::Node),
        },
        &shared,
    );
    let published = publish(client, &options.node_name, event_recorder);
    tokio::select! {
        () = closed.closed() => {}
        (Closed, Closed, Closed, ()) = async { tokio::join!(services, slices, node, published) } => {}
    }
    Ok(())
}

async fn config(options: &KubeOptions) -> Result<Config, SourceError> {
    let unusable = |error: &dyn ToString| SourceError::Config {
        reason: error.to_string(),
    };
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|error| unusable(&error))?
        }
        None => Config::incluster().map_err(|error| unusable(&error))?,
    };
    if let Some(url) = &options.apiserver {
        config.cluster_url =
            url.parse()
                .map_err(|error: http::uri::InvalidUri| SourceError::Apiserver {
                    url: url.clone(),
                    reason: error.to_string(),
                })?;
    }
    Ok(config)
}

/// What the three watches share.
struct Shared {
    event_sender: EventSender,
    status: Status,
    names: Names,
    serves: bool,
    confirm_after: Duration,
    /// A bit for each kind that was not listed yet.
    unlisted: AtomicU8,
    /// A bit for each kind whose watch is broken.
    away: AtomicU8,
}

/// What differs between the kinds.
struct Kind<K> {
    name: &'static str,
    bit: u8,
    /// A cluster has always some: those of the API server itself, `default/kubernetes`.
    always_some: bool,
    convert: fn(K, &Names, &mut Vec<Problem>) -> Option<Object>,
}

/// What was said of one kind.
struct Said {
    objects: HashMap<ObjectKey, Known>,
    /// While a listing runs.
    listing: Option<Listing>,
    guard: RelistGuard,
    problems: Problems,
}

/// What was said of an object.
struct Known {
    fingerprint: u64,
    /// `metadata.resourceVersion`: it only grows (KEP-5504; of etcd it is the revision).
    version: Option<u64>,
}

#[derive(Default)]
struct Listing {
    /// What it has named so far.
    named: HashSet<ObjectKey>,
    /// Whether it has an object that is older than what was said of it.
    goes_back: bool,
    /// Whether it is believed whatever it has.
    is_proven: bool,
}

async fn follow<K>(api: Api<K>, config: watch::Config, kind: Kind<K>, shared: &Shared) -> Closed
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = || Box::pin(watcher::watcher(api.clone(), config.clone()).default_backoff());
    let mut stream = watch();
    let mut said = Said {
        objects: HashMap::new(),
        listing: None,
        guard: RelistGuard::new(shared.confirm_after),
        problems: Problems::new(shared.status.clone()),
    };
    loop {
        let again = said.guard.ask_again_in();
        let ask_again = async {
            match again {
                Some(pause) if said.listing.is_none() => tokio::time::sleep(pause).await,
                _ => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            next = stream.try_next() => next,
            () = ask_again => {
                stream = watch();
                continue;
            }
        };
        let events = match next {
            Ok(Some(event)) => {
                shared.reached(&kind);
                shared.take(event, &kind, &mut said)
            }
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

impl Shared {
    fn take<K: Resource<DynamicType = ()>>(
        &self,
        event: Watched<K>,
        kind: &Kind<K>,
        said: &mut Said,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        match event {
            Watched::Init => {
                said.listing = Some(Listing {
                    is_proven: said.guard.is_over(),
                    ..Listing::default()
                });
                self.status.restarted();
            }
            Watched::Apply(object) | Watched::InitApply(object) => {
                self.apply(object, kind, said, &mut events);
            }
            Watched::Delete(object) => {
                let place = place::<K>(&object);
                said.problems.set(&place, []);
                if let Some(object) = (kind.convert)(object, &self.names, &mut Vec::new())
                    && said.objects.remove(&object.key()).is_some()
                {
                    events.push(Event::Delete(object.key()));
                }
            }
            Watched::InitDone => {
                let listing = said.listing.take().unwrap_or_default();
                if !self.believes(kind, said, &listing) {
                    return events;
                }
                said.objects.retain(|key, _| {
                    let stays = listing.named.contains(key);
                    if !stays {
                        events.push(Event::Delete(key.clone()));
                    }
                    stays
                });
                let before = self.unlisted.fetch_and(!kind.bit, Ordering::Relaxed);
                if before == kind.bit {
                    self.status.set_synced();
                    events.push(Event::Synced);
                }
            }
        }
        events
    }

    fn apply<K: Resource<DynamicType = ()>>(
        &self,
        object: K,
        kind: &Kind<K>,
        said: &mut Said,
        events: &mut Vec<Event>,
    ) {
        let place = place::<K>(&object);
        let version = object.meta().resource_version.as_deref();
        let version = version.and_then(|version| version.parse().ok());
        let mut problems = Vec::new();
        let converted = (kind.convert)(object, &self.names, &mut problems);
        said.problems
            .set(&place, problems.iter().map(ToString::to_string));
        let Some(object) = converted else { return };
        let key = object.key();
        let known = said.objects.get(&key);
        if let Some(listing) = &mut said.listing {
            listing.named.insert(key.clone());
            let is_older = known.is_some_and(|known| version < known.version);
            if is_older && !listing.is_proven {
                listing.goes_back = true;
                return;
            }
        }
        let fingerprint = fingerprint(&object);
        if known.is_none_or(|known| known.fingerprint != fingerprint) {
            events.push(Event::Apply(object));
        }
        let known = Known {
            fingerprint,
            version,
        };
        said.objects.insert(key, known);
    }

    /// Whether what a listing lacks is to be taken for gone.
    fn believes<K>(&self, kind: &Kind<K>, said: &mut Said, listing: &Listing) -> bool {
        let had_some = !said.objects.is_empty()
            || self.serves && self.unlisted.load(Ordering::Relaxed) & kind.bit != 0;
        let is_empty = kind.always_some && listing.named.is_empty() && had_some;
        let verdict = said.guard.check(is_empty || listing.goes_back);
        let name = kind.name;
        match verdict {
            Verdict::DoubtedNow if is_empty => warn!(
                "the API server lists no {name} any more; what was served goes on being served, \
                 and the API server is believed if it says so for {} seconds",
                self.confirm_after.as_secs()
            ),
            Verdict::DoubtedNow => warn!(
                "the API server lists {name} as they were before; what was served goes on being \
                 served, and the API server is believed if it says so for {} seconds",
                self.confirm_after.as_secs()
            ),
            Verdict::Proven => warn!("the API server stands by its list of {name}; it is believed"),
            Verdict::Believed | Verdict::DoubtedStill => {}
        }
        verdict.is_believed()
    }

    /// A watch gave an event: it stands.
    fn reached<K>(&self, kind: &Kind<K>) {
        let before = self.away.fetch_and(!kind.bit, Ordering::Relaxed);
        if before & kind.bit != 0 {
            info!("watching {}", kind.name);
            if before == kind.bit {
                self.status.set_connected(true);
            }
        }
    }

    /// A watch broke. LogOnce once, and not at each attempt.
    fn lost<K>(&self, kind: &Kind<K>, error: &watcher::Error) {
        // The server's history does not go back that far: what there is is listed again.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            debug!("{}: {error}; listing again", kind.name);
            return;
        }
        let before = self.away.fetch_or(kind.bit, Ordering::Relaxed);
        let first = self.unlisted.load(Ordering::Relaxed) & kind.bit != 0;
        if before & kind.bit == 0 || first && self.status.set_connected(false) {
            warn!(
                "cannot watch {}, and the API server is asked again; what was served goes on being served: {}",
                kind.name,
                error_chain(error)
            );
        }
        self.status.set_connected(false);
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
