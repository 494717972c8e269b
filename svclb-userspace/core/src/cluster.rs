//! The objects of the source so far, indexed by Service.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{
    EndpointSlice, Event, Node, NodeConfig, Object, ObjectKey, ObjectName, Service,
};

/// All Services and EndpointSlices, and which Services changed since the last round.
///
/// The work per event is the logarithm of what there is; only Services that an event
/// touches become dirty.
#[derive(Default)]
pub struct Cluster {
    services: BTreeMap<ObjectName, Service>,
    /// Slices by the Service that they belong to, in the order of their own names. (Nearly
    /// every Service has one: a map for it would take ten times the room.)
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// The Service of each slice, so that a deleted or relabelled slice finds it.
    owners: HashMap<ObjectName, Arc<str>>,
    node: Node,
    node_config: NodeConfig,
    /// Whether the source has this node's Node object.
    node_known: bool,
    dirty: BTreeSet<ObjectName>,
    synced: bool,
}

impl Cluster {
    /// An empty cluster, seen from the node of this name.
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self {
            node: Node {
                name: node_name.into(),
                ..Node::default()
            },
            ..Self::default()
        }
    }

    /// Takes an event in.
    pub fn observe(&mut self, event: Event) {
        match event {
            Event::Apply(Object::Service(service)) => self.apply_service(service),
            Event::Apply(Object::EndpointSlice(slice)) => self.apply_slice(slice),
            Event::Apply(Object::Node(node)) => {
                self.node_known = true;
                self.apply_node(node);
            }
            Event::Delete(ObjectKey::Service(name)) => {
                if self.services.remove(&name).is_some() {
                    self.dirty.insert(name);
                }
            }
            Event::Delete(ObjectKey::EndpointSlice(name)) => self.delete_slice(&name),
            Event::Delete(ObjectKey::Node) => {
                self.node_known = false;
                self.apply_node(Node {
                    name: Arc::clone(&self.node.name),
                    ..Node::default()
                });
            }
            Event::Synced => self.synced = true,
        }
    }

    fn apply_service(&mut self, service: Service) {
        match self.services.entry(service.name.clone()) {
            Entry::Occupied(mut known) => {
                if *known.get() == service {
                    return;
                }
                self.dirty.insert(service.name.clone());
                known.insert(service);
            }
            Entry::Vacant(unknown) => {
                self.dirty.insert(service.name.clone());
                unknown.insert(service);
            }
        }
    }

    fn apply_slice(&mut self, mut slice: EndpointSlice) {
        slice.endpoints.shrink_to_fit();
        slice.ports.shrink_to_fit();
        let owner = ObjectName {
            namespace: Arc::clone(&slice.name.namespace),
            name: Arc::clone(&slice.service),
        };
        if self
            .owners
            .get(&slice.name)
            .is_some_and(|known| *known != slice.service)
        {
            self.delete_slice(&slice.name);
        }
        let siblings = self.slices.entry(owner.clone()).or_default();
        let index = siblings.binary_search_by(|known| known.name.name.cmp(&slice.name.name));
        if index.is_ok_and(|at| siblings.get(at) == Some(&slice)) {
            return;
        }
        self.owners
            .insert(slice.name.clone(), Arc::clone(&slice.service));
        match index {
            Ok(at) => {
                if let Some(known) = siblings.get_mut(at) {
                    *known = slice;
                }
            }
            Err(at) => {
                siblings.reserve_exact(1);
                siblings.insert(at, slice);
            }
        }
        self.dirty.insert(owner);
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.owners.remove(name) else {
            return;
        };
        let owner = ObjectName {
            namespace: Arc::clone(&name.namespace),
            name: service,
        };
        if let Entry::Occupied(mut siblings) = self.slices.entry(owner.clone()) {
            siblings
                .get_mut()
                .retain(|known| known.name.name != name.name);
            if siblings.get().is_empty() {
                siblings.remove();
            }
        }
        self.dirty.insert(owner);
    }

    fn apply_node(&mut self, node: Node) {
        // What no plan depends on: that the node is about to go.
        self.node.being_deleted = node.being_deleted;
        self.node.scaled_down = node.scaled_down;
        if node != self.node {
            self.node = node;
            self.mark_all_dirty();
        }
    }

    /// Takes in the node's configuration.
    pub(crate) fn set_node_config(&mut self, node_config: NodeConfig) {
        if node_config != self.node_config {
            self.node_config = node_config;
            self.mark_all_dirty();
        }
    }

    /// The node's configuration.
    pub(crate) const fn node_config(&self) -> &NodeConfig {
        &self.node_config
    }

    /// Whether the source has listed everything that exists.
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Makes a Service dirty again, for another attempt.
    pub fn mark_dirty(&mut self, name: ObjectName) {
        self.dirty.insert(name);
    }

    /// Makes every Service dirty.
    pub fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// Whether any Service is dirty.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The dirty Services.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = &ObjectName> {
        self.dirty.iter()
    }

    /// Takes a Service out of the dirty ones.
    pub(crate) fn clean(&mut self, name: &ObjectName) {
        self.dirty.remove(name);
    }

    /// One dirty Service, no longer dirty.
    pub(crate) fn take_dirty(&mut self) -> Option<ObjectName> {
        self.dirty.pop_first()
    }

    /// The Service of this name.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices.get(service).into_iter().flatten()
    }

    /// This node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// This node, if the source has its Node object.
    pub fn known_node(&self) -> Option<&Node> {
        self.node_known.then_some(&self.node)
    }

    /// How many Services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// How many endpoints there are in all slices.
    pub fn endpoint_count(&self) -> usize {
        self.slices
            .values()
            .flatten()
            .map(|slice| slice.endpoints.len())
            .sum()
    }
}
