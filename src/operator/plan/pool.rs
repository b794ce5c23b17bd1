//! The children of a pool: model servers that satisfy Pod Security `restricted`, and what they stand on.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction, PersistentVolumeClaimVolumeSource, PodSpec,
    PodTemplateSpec, Probe, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::engines::{self, Arg, Engine, Value};
use super::labels::{COMPONENT, Owner, TIER};
use super::{PoolPlan, common};
use crate::api::ModelTier;
use crate::api::model_tier::Pool;
use crate::routing::table;

/// Folder at which a PersistentVolumeClaim is mounted.
const MODELS: &str = "/models";
/// Annotation of the pod template: a new revision of the model is a new template.
const REVISION: &str = "smallfirst.dev/model-revision";
/// Name of the container that serves the model; `template` merges into it by this name.
const CONTAINER: &str = "engine";
/// Time between two looks of the startup probe, in seconds: how late a loaded model is noticed.
const STARTUP_PERIOD: i32 = 2;

pub(super) fn plan(tier: &ModelTier, pool: &Pool, entry: &table::Tier) -> PoolPlan {
    let owner = Owner::new(tier, TIER, "pool");
    let name = format!("{}-pool", owner.name());
    let engine = engines::of(pool.engine);
    let port = match &entry.backend {
        table::Backend::Service { port, .. } => i32::from(*port),
        table::Backend::Url { .. } => i32::from(engine.port),
    };
    PoolPlan {
        service_account: common::service_account(&owner, &name),
        network_policy: common::network_policy(&owner, &name, vec![routers_and_monitoring()]),
        service: common::service(&owner, &name, port),
        disruption_budget: common::disruption_budget(&owner, &name),
        deployment: deployment(tier, pool, engine, entry, port, &owner, &name),
        template: pool.template.clone().map(|template| template.0),
    }
}

/// Routers of the namespace use the pool; monitoring reads its metrics, which are on the same port.
fn routers_and_monitoring() -> common::Ingress {
    let routers = LabelSelector {
        match_labels: Some([(COMPONENT.to_owned(), "router".to_owned())].into()),
        ..LabelSelector::default()
    };
    common::Ingress { port: "http", pods: Some(routers), monitoring: true }
}

fn deployment(
    tier: &ModelTier,
    pool: &Pool,
    engine: &Engine,
    entry: &table::Tier,
    port: i32,
    owner: &Owner<'_>,
    name: &str,
) -> Deployment {
    let revision = tier.spec.model.revision.clone().map(|revision| [(REVISION.to_owned(), revision)].into());
    Deployment {
        metadata: owner.meta(name.to_owned()),
        spec: Some(DeploymentSpec {
            replicas: Some(pool.replicas),
            selector: LabelSelector { match_labels: Some(owner.selector()), ..LabelSelector::default() },
            strategy: Some(strategy(holds_device(pool))),
            // More than it takes to load a model, so that a slow start is no failure.
            progress_deadline_seconds: Some(engine.startup_seconds + 300),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(owner.labels()),
                    annotations: revision,
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![container(pool, engine, entry, port)],
                    volumes: Some(volumes(pool, engine)),
                    ..common::pod(name, false, common::engine_grace())
                }),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A new pod beside the old ones, unless it needs a device that the old ones hold.
fn strategy(holds_device: bool) -> DeploymentStrategy {
    let (surge, unavailable) = if holds_device { (0, 1) } else { (1, 0) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
}

/// Whether a replica holds a GPU or another extended resource, which are named with a domain.
fn holds_device(pool: &Pool) -> bool {
    let own = pool.resources.iter().flat_map(|r| r.requests.keys().chain(r.limits.keys()));
    let template = pool.template.as_ref().and_then(|t| t.0.get("spec")?.get("containers")?.as_array());
    let templated = template.into_iter().flatten().filter_map(|container| container.get("resources")).flat_map(|r| {
        let lists = ["requests", "limits"].into_iter().filter_map(|list| r.get(list)?.as_object());
        lists.flat_map(|list| list.keys()).collect::<Vec<_>>()
    });
    own.chain(templated).any(|resource| resource.contains('/'))
}

fn container(pool: &Pool, engine: &Engine, entry: &table::Tier, port: i32) -> Container {
    let value = |value: Value| render(value, pool, entry, port);
    let mut args: Vec<String> = Vec::new();
    for arg in engine.args {
        match *arg {
            Arg::Literal(text) => args.push(text.to_owned()),
            Arg::Positional(v) => args.extend(value(v)),
            Arg::Flag(flag, v) => {
                if let Some(v) = value(v) {
                    args.extend([flag.to_owned(), v]);
                }
            }
        }
    }
    args.extend(pool.args.iter().cloned());
    let command: Vec<String> = engine.command.iter().map(|&part| part.to_owned()).collect();
    Container {
        name: CONTAINER.into(),
        image: pool.image.clone().or_else(|| engine.image.map(str::to_owned)),
        command: (!command.is_empty()).then_some(command),
        args: (!args.is_empty()).then_some(args),
        env: Some(env(pool, engine, value)),
        ports: Some(vec![ContainerPort { name: Some("http".into()), container_port: port, ..Default::default() }]),
        resources: pool.resources.as_ref().and_then(common::resources),
        startup_probe: Some(Probe {
            period_seconds: Some(STARTUP_PERIOD),
            failure_threshold: Some(engine.startup_seconds / STARTUP_PERIOD),
            ..probe(engine)
        }),
        readiness_probe: Some(Probe { period_seconds: Some(5), failure_threshold: Some(3), ..probe(engine) }),
        // A busy engine answers late; only one that is silent for a minute is restarted.
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..probe(engine) }),
        lifecycle: Some(common::sleep_before_stop(common::ENGINE_STOP_DELAY)),
        security_context: Some(common::container_security()),
        volume_mounts: Some(mounts(pool, engine)),
        ..Container::default()
    }
}

fn render(value: Value, pool: &Pool, entry: &table::Tier, port: i32) -> Option<String> {
    match value {
        Value::ModelPath => Some(model_path(pool)),
        Value::ModelName => Some(entry.model.clone()),
        Value::Port => Some(port.to_string()),
        Value::ContextTokens => Some(entry.context_tokens.to_string()),
        Value::TotalContextTokens => {
            let slots = u64::from(entry.concurrency.unwrap_or(1));
            Some(entry.context_tokens.saturating_mul(slots).to_string())
        }
        Value::Concurrency => entry.concurrency.map(|c| c.to_string()),
    }
}

fn model_path(pool: &Pool) -> String {
    let claim = pool.model_from.persistent_volume_claim.as_ref();
    match (claim, claim.and_then(|c| c.path.as_deref())) {
        (Some(_), Some(path)) => format!("{MODELS}/{path}"),
        (Some(_), None) => MODELS.to_owned(),
        (None, _) => pool.model_from.path.clone().unwrap_or_default(),
    }
}

/// The engine's environment, over it the spec's. Later entries win, and each name is given once.
fn env(pool: &Pool, engine: &Engine, value: impl Fn(Value) -> Option<String>) -> Vec<EnvVar> {
    let fixed = engine.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let passed = engine.value_env.iter().filter_map(|(name, v)| Some(((*name).to_owned(), value(*v)?)));
    let mut env: Vec<(String, String)> = fixed.chain(passed).collect();
    for var in &pool.env {
        match env.iter_mut().find(|(name, _)| *name == var.name) {
            Some((_, value)) => value.clone_from(&var.value),
            None => env.push((var.name.clone(), var.value.clone())),
        }
    }
    env.into_iter().map(|(name, value)| EnvVar { name, value: Some(value), value_from: None }).collect()
}

fn probe(engine: &Engine) -> Probe {
    let port = IntOrString::String("http".into());
    let (http_get, tcp_socket) = match engine.health {
        Some(path) => (Some(HTTPGetAction { path: Some(path.into()), port, ..Default::default() }), None),
        None => (None, Some(TCPSocketAction { port, host: None })),
    };
    Probe { http_get, tcp_socket, timeout_seconds: Some(5), ..Probe::default() }
}

/// Folders that are written to, since the root is read-only; and the model.
fn volumes(pool: &Pool, engine: &Engine) -> Vec<Volume> {
    let empty = |name: &str, medium: Option<&str>| Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { medium: medium.map(str::to_owned), ..Default::default() }),
        ..Volume::default()
    };
    let mut volumes = vec![empty("cache", None), empty("tmp", None)];
    if engine.shared_memory {
        volumes.push(empty("shm", Some("Memory")));
    }
    if let Some(claim) = &pool.model_from.persistent_volume_claim {
        volumes.push(Volume {
            name: "models".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn mounts(pool: &Pool, engine: &Engine) -> Vec<VolumeMount> {
    let mount =
        |name: &str, path: &str| VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() };
    let mut mounts = vec![mount("cache", "/cache"), mount("tmp", "/tmp")];
    if engine.shared_memory {
        mounts.push(mount("shm", "/dev/shm"));
    }
    if pool.model_from.persistent_volume_claim.is_some() {
        mounts.push(VolumeMount { read_only: Some(true), ..mount("models", MODELS) });
    }
    mounts
}
