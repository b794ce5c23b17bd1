//! A tier -> the pod template of its pool: model servers that satisfy Pod Security `restricted`.
//!
//! What is rendered here restarts pods when it changes. So a template is rendered once for a spec, and stored:
//! [`super::pinned`].

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, ImageVolumeSource,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe, SecretKeySelector, TCPSocketAction, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::common;
use super::engines::{self, Arg, Engine, Value};
use super::pool::owner;
use crate::api::ModelTier;
use crate::api::model_from::ModelFrom;
use crate::api::model_tier::Pool;
use crate::routing::table;

/// Folder at which a volume with the model is mounted.
const MODELS: &str = "/models";
/// Annotation of the pod template: a new revision of the model is a new template.
const REVISION: &str = "smallfirst.dev/model-revision";
/// Name of the container that serves the model; `template` merges into it by this name.
const CONTAINER: &str = "engine";
/// Environment variable with the token of the Hugging Face Hub.
const TOKEN: &str = "HF_TOKEN";
/// Time between two looks of the startup probe, in seconds: how late a loaded model is noticed.
const STARTUP_PERIOD: i32 = 2;

/// The pod template that this version of the operator makes of a tier, before the spec's own `template`.
#[must_use]
pub fn render(tier: &ModelTier, pool: &Pool, entry: &table::Tier) -> PodTemplateSpec {
    let owner = owner(tier);
    let engine = engines::of(pool.engine);
    let revision = tier.spec.model.revision.clone().map(|revision| [(REVISION.to_owned(), revision)].into());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(owner.labels()), annotations: revision, ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container(pool, engine, entry)],
            volumes: Some(volumes(pool, engine)),
            ..common::pod(&super::pool::name(&owner), false, common::engine_grace())
        }),
    }
}

fn container(pool: &Pool, engine: &Engine, entry: &table::Tier) -> Container {
    let port = super::pool::port(engine, entry);
    let value = |value: Value| resolve(value, pool, entry, port);
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

fn resolve(value: Value, pool: &Pool, entry: &table::Tier, port: i32) -> Option<String> {
    let hub = pool.model_from.hugging_face.as_ref();
    match value {
        Value::Model => model_path(pool).or_else(|| Some(hub?.repository.clone())),
        Value::ModelPath => model_path(pool),
        Value::Repository => Some(hub?.repository.clone()),
        Value::Revision => hub?.revision.clone(),
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

/// `None`: the model is downloaded.
fn model_path(pool: &Pool) -> Option<String> {
    let from = &pool.model_from;
    let claim = from.persistent_volume_claim.as_ref().map(|claim| claim.path.as_deref());
    match claim.or(from.image.as_ref().map(|image| image.path.as_deref())) {
        Some(Some(path)) => Some(format!("{MODELS}/{path}")),
        Some(None) => Some(MODELS.to_owned()),
        None => from.path.clone(),
    }
}

/// The engine's environment, over it the spec's. Later entries win, and each name is given once.
fn env(pool: &Pool, engine: &Engine, value: impl Fn(Value) -> Option<String>) -> Vec<EnvVar> {
    let hub = pool.model_from.hugging_face.as_ref();
    let offline = engine.offline_env.iter().filter(|_| hub.is_none());
    let fixed = engine.env.iter().chain(offline).map(|(name, value)| plain(name, value));
    let passed = engine.value_env.iter().filter_map(|(name, v)| Some(plain(name, &value(*v)?)));
    let token = hub.and_then(|hub| hub.token_secret_key_ref.as_ref()).map(|key| EnvVar {
        name: TOKEN.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: key.name.clone(), key: key.key.clone(), optional: None }),
            ..EnvVarSource::default()
        }),
    });
    let mut env: Vec<EnvVar> = fixed.chain(passed).chain(token).collect();
    for var in &pool.env {
        let var = plain(&var.name, &var.value);
        match env.iter_mut().find(|known| known.name == var.name) {
            Some(known) => *known = var,
            None => env.push(var),
        }
    }
    env
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
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
    volumes.extend(model_volume(&pool.model_from));
    volumes
}

/// The volume with the model, if it is on one.
fn model_volume(from: &ModelFrom) -> Option<Volume> {
    let claim = from
        .persistent_volume_claim
        .as_ref()
        .map(|claim| PersistentVolumeClaimVolumeSource { claim_name: claim.claim_name.clone(), read_only: None });
    let image = from.image.as_ref().map(|image| ImageVolumeSource {
        reference: Some(image.reference.clone()),
        pull_policy: image.pull_policy.map(|policy| format!("{policy:?}")),
    });
    let name = "models".to_owned();
    (claim.is_some() || image.is_some()).then(|| Volume {
        name,
        persistent_volume_claim: claim,
        image,
        ..Volume::default()
    })
}

fn mounts(pool: &Pool, engine: &Engine) -> Vec<VolumeMount> {
    let mount =
        |name: &str, path: &str| VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() };
    let mut mounts = vec![mount("cache", "/cache"), mount("tmp", "/tmp")];
    if engine.shared_memory {
        mounts.push(mount("shm", "/dev/shm"));
    }
    if model_volume(&pool.model_from).is_some() {
        mounts.push(VolumeMount { read_only: Some(true), ..mount("models", MODELS) });
    }
    mounts
}
