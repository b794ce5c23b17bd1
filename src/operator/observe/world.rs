//! Everything that the watches have shown, and the part of it that one reconcile looks at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::core::{DynamicObject, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cache::{Cache, Id};
use super::children::{Children, controller};
use super::guard::Guard;
use super::{Availability, DeploymentState, Observed};
use crate::api::{EscalationPath, GROUP, ModelTier, RoutingPolicy};
use crate::lease::budget::book::Standing;
use crate::operator::concurrency::{Concurrency, NotYet};
use crate::operator::demand::measured::Measured;
use crate::operator::plan::inference_pool::{InferencePool, Lookup};
use crate::operator::plan::pinned::{RENDERER, SPEC_HASH, StoredTemplate, TEMPLATE};
use crate::operator::plan::scaling::{Asked, Other, Scalers, Scales};
use crate::operator::plan::{AUTOSCALED, Seen, scaled_object};
use crate::operator::pressure::Pressure;
use crate::operator::sync::routers::Routers;
use crate::routing::RoutingTable;
use crate::routing::packed::unpack;

/// The cluster, as the operator sees it.
#[derive(Debug, Default)]
pub struct World {
    /// All tiers, the malformed ones too.
    pub tiers: Cache<Guard<ModelTier>>,
    /// All paths, the malformed ones too.
    pub paths: Cache<Guard<EscalationPath>>,
    /// All policies, the malformed ones too.
    pub policies: Cache<Guard<RoutingPolicy>>,
    /// All Services, as far as their ports: a tier may name one of them.
    pub services: Cache<Service>,
    /// Endpoints of the routers' Services: which of their pods are ready.
    pub slices: Cache<EndpointSlice>,
    /// All HorizontalPodAutoscalers, as far as what they scale and whose they are.
    pub autoscalers: Cache<HorizontalPodAutoscaler>,
    /// All InferencePools, as far as their selectors and ports. Not ready where the cluster has none.
    pub inference_pools: Cache<DynamicObject>,
    /// Whether the cluster has InferencePools.
    pub has_inference_pools: AtomicBool,
    /// What the operator made.
    pub children: Children,
    /// What routers reported.
    pub routers: Routers,
    /// How many requests tiers have, as routers reported it.
    pub concurrency: Concurrency,
    /// What this operator has measured, of the policies whose books it keeps.
    pub measured: Measured,
    /// What is done while accounts are short, of the namespaces that this operator leads.
    pub pressure: Pressure,
    /// Whether autoscalers can read the metrics API.
    metrics_api: Mutex<Availability>,
    /// How budgets stand, of the policies whose books this operator keeps.
    pub budgets: Mutex<HashMap<Id, BTreeMap<String, Standing>>>,
}

/// The table in a ConfigMap.
#[must_use]
pub fn table_of(object: &DynamicObject) -> Option<RoutingTable> {
    let data = object.data.get("data").and_then(|data| Deserialize::deserialize(data).ok());
    let binary = object.data.get("binaryData").and_then(|data| Deserialize::deserialize(data).ok());
    let text = unpack(data.as_ref(), binary.as_ref())?.ok()?;
    serde_json::from_str(&text).ok()
}

/// A readable object that is not being deleted.
fn live<K: Resource>(guard: &Guard<K>) -> Option<&K> {
    guard.0.as_ref().ok().filter(|object| object.meta().deletion_timestamp.is_none())
}

/// One object, if it can be read and is not being deleted.
pub fn current<K: Resource + Clone>(cache: &Cache<Guard<K>>, id: &Id) -> Option<K> {
    cache.get(id).and_then(|guard| live(&guard).cloned())
}

fn by_name<K: Resource + Clone>(cache: &Cache<Guard<K>>, namespace: &str) -> BTreeMap<String, Arc<K>> {
    let objects = cache.namespace(namespace);
    objects.iter().filter_map(|guard| live(guard)).map(|object| (object.name_any(), Arc::new(object.clone()))).collect()
}

impl World {
    /// What is not listed yet; empty when reconciling may begin.
    #[must_use]
    pub fn awaited(&self) -> Vec<String> {
        let mut awaited = self.children.awaited();
        awaited.extend((!self.tiers.is_ready()).then(|| "modeltiers".to_owned()));
        awaited.extend((!self.paths.is_ready()).then(|| "escalationpaths".to_owned()));
        awaited.extend((!self.policies.is_ready()).then(|| "routingpolicies".to_owned()));
        let pools = self.has_inference_pools.load(Ordering::Relaxed) && !self.inference_pools.is_ready();
        awaited.extend(pools.then(|| "inferencepools".to_owned()));
        awaited.extend((!self.services.is_ready()).then(|| "ports of services".to_owned()));
        awaited.extend((!self.slices.is_ready()).then(|| "endpointslices".to_owned()));
        awaited.extend((!self.autoscalers.is_ready()).then(|| "horizontalpodautoscalers of others".to_owned()));
        awaited
    }

    /// Malformed objects by kind.
    #[must_use]
    pub fn malformed(&self) -> [(&'static str, usize); 3] {
        [
            ("ModelTier", self.tiers.count(|guard| guard.0.is_err())),
            ("EscalationPath", self.paths.count(|guard| guard.0.is_err())),
            ("RoutingPolicy", self.policies.count(|guard| guard.0.is_err())),
        ]
    }

    /// What a path or policy of a namespace looks at.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Observed {
        Observed {
            namespace: namespace.to_owned(),
            tiers: by_name(&self.tiers, namespace),
            paths: by_name(&self.paths, namespace),
            policies: by_name(&self.policies, namespace),
            port_names: self.services.namespace(namespace).iter().flat_map(|service| port_names(service)).collect(),
            ..Observed::default()
        }
    }

    /// Adds the Deployment of an owner, if it has one of this name.
    pub fn add_deployment(&self, observed: &mut Observed, owner: &str, id: &Id) {
        if let Some((state, _)) = self.deployment(owner, id) {
            observed.deployments.insert(id.1.clone(), state);
        }
    }

    /// The Deployment of an owner, if it has one of this name, and the version in which it was seen.
    #[must_use]
    pub fn deployment(&self, owner: &str, id: &Id) -> Option<(DeploymentState, Option<String>)> {
        let object = self.child::<Deployment>(owner, id)?;
        Some((deployment_state(&object), object.resource_version()))
    }

    /// Whether a tier has a pool, and that asks for no replica.
    #[must_use]
    pub fn is_asleep(&self, tier: &Id) -> bool {
        let uid = current(&self.tiers, tier).and_then(|tier| tier.metadata.uid).unwrap_or_default();
        let pool = (tier.0.clone(), format!("{}-pool", tier.1));
        self.deployment(&uid, &pool).is_some_and(|(state, _)| state.desired == 0)
    }

    /// Adds the table that a policy published last.
    pub fn add_table(&self, observed: &mut Observed, owner: &str, policy: &str) {
        let published = self.published(owner, &(observed.namespace.clone(), policy.to_owned()));
        if let Some(table) = published.and_then(|object| table_of(&object)) {
            observed.tables.insert(policy.to_owned(), Arc::new(table));
        }
    }

    /// The ConfigMap with the table that a policy published last.
    #[must_use]
    pub fn published(&self, owner: &str, policy: &Id) -> Option<Arc<DynamicObject>> {
        self.child::<ConfigMap>(owner, &(policy.0.clone(), format!("{}-table", policy.1)))
    }

    /// An InferencePool.
    #[must_use]
    pub fn inference_pool(&self, namespace: &str, name: &str) -> Lookup {
        if !self.has_inference_pools.load(Ordering::Relaxed) {
            return Lookup::NoKind;
        }
        let found = self.inference_pools.get(&(namespace.to_owned(), name.to_owned()));
        found.map_or(Lookup::NotFound, |object| Lookup::Found(inference_pool(&object)))
    }

    /// What there is of the children of a tier, whose pool's have this name.
    #[must_use]
    pub fn seen(&self, tier: &Id, owner: &str, pool: &Id) -> Seen {
        let templates = self.children.of_kind::<ControllerRevision>(owner);
        let deployment = self.deployment(owner, pool).map(|(state, _)| state);
        let autoscalers = self.autoscalers.namespace(&pool.0);
        let kind = self.children.kind(&scaled_object());
        let owned = |object: Arc<DynamicObject>| controller(&object).is_some_and(|r| r.uid == owner);
        Seen {
            templates: templates.iter().filter_map(|object| stored_template(object)).collect(),
            scalers: Scalers {
                autoscaled: deployment.filter(|state| state.autoscaled).map(|state| state.desired),
                others: autoscalers.iter().filter_map(|object| other(object, tier, owner, pool)).collect(),
                scaled_object: kind.and_then(|kind| self.children.get(&(kind, pool.clone()))).is_some_and(owned),
                has_scaled_objects: kind.is_some_and(|kind| self.children.is_present(kind)),
                sizing: None,
            },
        }
    }

    /// Whether a tier's pool may be scaled to zero.
    #[must_use]
    pub fn scales_to_zero(&self, tier: &Id) -> bool {
        let pool = |tier: &ModelTier| Some(tier.spec.pool.as_ref()?.scaling.as_ref()?.min == 0);
        self.tiers.get(tier).is_some_and(|guard| live(&guard).and_then(pool).unwrap_or_default())
    }

    /// What is known of who asked for a tier. While a router that may have it in its table is not heard, nobody knows what
    /// that was asked.
    #[must_use]
    pub fn asked(&self, tier: &Id, now: Instant) -> Asked {
        let heard = self.concurrency(tier, now).is_ok();
        let idle_since = self.concurrency.idle_since(tier).filter(|_| heard);
        Asked { last: self.concurrency.last_wanted(tier), idle_since }
    }

    /// Adds what the routers of a policy say, if anybody listens to them, and which of their pods are ready.
    pub fn add_reports(&self, observed: &mut Observed, id: &Id, now: Instant) {
        observed.reports = self.routers.of(id, now);
        if let Some(reports) = &mut observed.reports {
            let service = format!("{}-router", id.1);
            let slices = self.slices.namespace(&id.0);
            let ours = slices.iter().filter(|slice| service_of(slice) == Some(&service));
            reports.ready = ours.flat_map(|slice| ready_pods(slice)).collect();
        }
    }

    /// Whether autoscalers can read the metrics API.
    #[must_use]
    pub fn metrics_api(&self) -> Availability {
        self.metrics_api.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells that. Says whether it is news.
    pub fn set_metrics_api(&self, availability: Availability) -> bool {
        let mut known = self.metrics_api.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *known != availability;
        *known = availability;
        news
    }

    /// How many requests a tier has at a time, over the routers of all policies of its namespace.
    ///
    /// # Errors
    /// Before that can be said: see [`NotYet`].
    pub fn concurrency(&self, tier: &Id, now: Instant) -> Result<f64, NotYet> {
        self.concurrencies(&tier.0, std::iter::once(tier.1.as_str()), now).pop().unwrap_or(Err(NotYet::Starting))
    }

    /// The same of all tiers of which it can be said.
    pub fn all_concurrencies(&self, now: Instant) -> Vec<(Id, f64)> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (namespace, tier) in self.tiers.ids() {
            names.entry(namespace).or_default().push(tier);
        }
        let of = |(namespace, tiers): (String, Vec<String>)| {
            let found = self.concurrencies(&namespace, tiers.iter().map(String::as_str), now);
            let known = tiers.into_iter().zip(found).filter_map(|(tier, found)| Some((tier, found.ok()?)));
            known.map(move |(tier, requests)| ((namespace.clone(), tier), requests)).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(of).collect()
    }

    /// The same of several tiers of a namespace, in their order.
    fn concurrencies<'n>(
        &self,
        namespace: &str,
        tiers: impl Iterator<Item = &'n str>,
        now: Instant,
    ) -> Vec<Result<f64, NotYet>> {
        if !self.awaited().is_empty() {
            return tiers.map(|_| Err(NotYet::Starting)).collect();
        }
        let mut pods: HashMap<String, BTreeSet<String>> = HashMap::new();
        for slice in self.slices.namespace(namespace) {
            if let Some(service) = service_of(&slice) {
                pods.entry(service.clone()).or_default().append(&mut ready_pods(&slice));
            }
        }
        let policies = self.policies.ids().into_iter().filter(|(of, _)| of == namespace);
        let ready: Vec<_> = policies
            .map(|(_, policy)| {
                let pods = pods.remove(&format!("{policy}-router")).unwrap_or_default();
                (policy, pods)
            })
            .collect();
        tiers.map(|tier| self.concurrency.of(&(namespace.to_owned(), tier.to_owned()), &ready, now)).collect()
    }

    /// Adds how the budgets of a policy stand, and what its requests came to.
    pub fn add_books(&self, observed: &mut Observed, id: &Id) {
        observed.figures = self.measured.figures(id);
        observed.budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
    }

    fn child<K: Resource<DynamicType = ()>>(&self, owner: &str, id: &Id) -> Option<Arc<DynamicObject>> {
        let object = self.children.get_typed::<K>(id)?;
        controller(&object).is_some_and(|r| r.uid == owner).then_some(object)
    }
}

/// The Service that a slice is of.
pub fn service_of(slice: &EndpointSlice) -> Option<&String> {
    slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")
}

/// Pods of a slice that are ready. Unknown readiness counts as ready, as the API says.
pub fn ready_pods(slice: &EndpointSlice) -> BTreeSet<String> {
    let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    let pods = ready.filter_map(|endpoint| endpoint.target_ref.as_ref()).filter(|of| of.kind.as_deref() == Some("Pod"));
    pods.filter_map(|pod| pod.name.clone()).collect()
}

/// Names of a Service's TCP ports that have one, by Service and number.
pub fn port_names(service: &Service) -> Vec<((String, u16), String)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| Some(((service.name_any(), u16::try_from(port.port).ok()?), port.name.clone()?))).collect()
}

/// What is to be known of a HorizontalPodAutoscaler of a tier or its pool that is not the operator's. `None`: it is that, or
/// of something else.
fn other(object: &HorizontalPodAutoscaler, tier: &Id, owner: &str, pool: &Id) -> Option<Other> {
    let scales = scaled(object).and_then(|(scales, name)| match scales {
        Scales::Deployment => (name == pool.1).then_some(scales),
        Scales::Tier => (name == tier.1).then_some(scales),
    })?;
    let owners = || object.metadata.owner_references.iter().flatten().filter(|r| r.controller == Some(true));
    if owners().any(|r| r.uid == owner) {
        return None;
    }
    let of = owners().find(|r| r.kind == scaled_object().kind).map(|r| r.name.clone());
    Some(Other { name: object.name_any(), of, scales })
}

/// What a HorizontalPodAutoscaler scales, by name, if that can be a pool.
#[must_use]
pub fn scaled(object: &HorizontalPodAutoscaler) -> Option<(Scales, &str)> {
    let target = &object.spec.as_ref()?.scale_target_ref;
    let group = target.api_version.as_deref().and_then(|version| version.split_once('/')).map(|(group, _)| group);
    match (group, target.kind.as_str()) {
        (Some("apps"), "Deployment") => Some((Scales::Deployment, &target.name)),
        (Some(GROUP), "ModelTier") => Some((Scales::Tier, &target.name)),
        _ => None,
    }
}

fn inference_pool(object: &DynamicObject) -> InferencePool {
    let spec = &object.data["spec"];
    let port = spec.pointer("/targetPorts/0/number").and_then(serde_json::Value::as_i64);
    InferencePool {
        selector: BTreeMap::deserialize(&spec["selector"]["matchLabels"]).unwrap_or_default(),
        port: port.and_then(|port| i32::try_from(port).ok()),
    }
}

/// `None`: it has no template, or is on its way out.
fn stored_template(object: &DynamicObject) -> Option<StoredTemplate> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(StoredTemplate {
        hash: object.labels().get(SPEC_HASH)?.clone(),
        renderer: object.annotations().get(RENDERER).cloned().unwrap_or_default(),
        revision: object.data.get("revision").and_then(serde_json::Value::as_i64)?,
        template: object.data.get("data")?.pointer(TEMPLATE).filter(|template| template.is_object())?.clone(),
    })
}

fn deployment_state(object: &DynamicObject) -> DeploymentState {
    fn part<T: DeserializeOwned + Default>(object: &DynamicObject, pointer: &str) -> T {
        object.data.pointer(pointer).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
    }
    let condition = |type_: &str, holds: &dyn Fn(&serde_json::Value) -> bool| {
        let conditions = object.data.pointer("/status/conditions")?.as_array()?;
        let found = conditions.iter().find(|c| c["type"] == type_ && holds(c))?;
        Some(found["message"].as_str().unwrap_or_default().to_owned())
    };
    DeploymentState {
        generation: object.metadata.generation.unwrap_or_default(),
        observed_generation: part(object, "/status/observedGeneration"),
        desired: part(object, "/spec/replicas"),
        autoscaled: object.annotations().contains_key(AUTOSCALED),
        replicas: part(object, "/status/replicas"),
        updated: part(object, "/status/updatedReplicas"),
        ready: part(object, "/status/readyReplicas"),
        available: part(object, "/status/availableReplicas"),
        deadline_exceeded: condition("Progressing", &|c| c["reason"] == "ProgressDeadlineExceeded"),
        replica_failure: condition("ReplicaFailure", &|c| c["status"] == "True"),
    }
}
