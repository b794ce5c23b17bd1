//! Pinned pod templates: what was accepted once is stored, and an unchanged spec reuses it.
//!
//! A newer operator may render the same spec otherwise: another default image, another probe. Models take minutes
//! to load and hold devices, so that an upgrade of the operator must not restart them. Each accepted template is a
//! ControllerRevision, named after a hash of those parts of the spec that a template is made of. Who wants the
//! newer rendering deletes the ControllerRevision: it is then made anew. Routers are not pinned: they are the
//! operator's own program and roll with it.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Renderer, merge, pool};
use crate::api::ModelTier;
use crate::api::model_tier::{Model, Pool};
use crate::routing::table;

/// Label of a ControllerRevision: hash of the spec that it was rendered from. The same label as a StatefulSet's.
pub const SPEC_HASH: &str = "controller.kubernetes.io/hash";
/// Annotation of a ControllerRevision: version of the operator that rendered it.
pub const RENDERER: &str = "smallfirst.dev/renderer";
/// Where a ControllerRevision's data has the pod template, as in a StatefulSet's.
pub const TEMPLATE: &str = "/spec/template";
/// Templates that are kept for each tier, the one in force included.
pub const HISTORY: usize = 10;

/// A pod template that was accepted before.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTemplate {
    /// Hash of the spec that it was rendered from.
    pub hash: String,
    /// Version of the operator that rendered it.
    pub renderer: String,
    /// Its place in the order in which templates were accepted first.
    pub revision: i64,
    /// The pod template, whole.
    pub template: Value,
}

/// What is in force and what is kept.
pub(super) struct Pinned {
    /// The pod template in force.
    pub template: Value,
    /// Name of its ControllerRevision.
    pub current: String,
    /// The ControllerRevisions, the one in force first.
    pub revisions: Vec<ControllerRevision>,
}

pub(super) fn plan(
    tier: &ModelTier,
    spec: &Pool,
    entry: &table::Tier,
    stored: &[StoredTemplate],
    renderer: Renderer,
) -> Pinned {
    let hash = spec_hash(tier, spec);
    let (same, mut others): (Vec<_>, Vec<_>) = stored.iter().partition(|stored| stored.hash == hash);
    let current = same.into_iter().next().cloned().unwrap_or_else(|| StoredTemplate {
        renderer: renderer.version.to_owned(),
        revision: stored.iter().map(|stored| stored.revision).max().unwrap_or_default().saturating_add(1),
        template: rendered(tier, spec, entry, renderer),
        hash,
    });
    others.sort_by(|a, b| (b.revision, &b.hash).cmp(&(a.revision, &a.hash)));
    others.truncate(HISTORY - 1);
    let revisions: Vec<ControllerRevision> =
        std::iter::once(&current).chain(others).map(|stored| controller_revision(tier, stored)).collect();
    Pinned { current: revision_name(tier, &current.hash), template: current.template, revisions }
}

fn rendered(tier: &ModelTier, spec: &Pool, entry: &table::Tier, renderer: Renderer) -> Value {
    let template = (renderer.render)(tier, spec, entry);
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(patch) = &spec.template {
        merge::merge(&mut template, patch.0.clone());
    }
    template
}

fn revision_name(tier: &ModelTier, hash: &str) -> String {
    format!("{}-{hash}", pool::name(&pool::owner(tier)))
}

fn controller_revision(tier: &ModelTier, stored: &StoredTemplate) -> ControllerRevision {
    let mut metadata = pool::owner(tier).meta(revision_name(tier, &stored.hash));
    metadata.labels.get_or_insert_default().insert(SPEC_HASH.to_owned(), stored.hash.clone());
    metadata.annotations.get_or_insert_default().insert(RENDERER.to_owned(), stored.renderer.clone());
    ControllerRevision {
        metadata,
        data: Some(RawExtension(json!({"spec": {"template": stored.template}}))),
        revision: stored.revision,
    }
}

/// Hash of what a template is made of. Replicas and their rollout are no part of it.
///
/// A field that is not set is no part either, so that a newer operator, which knows more fields, comes to the same
/// hash for a spec that does not use them.
fn spec_hash(tier: &ModelTier, spec: &Pool) -> String {
    // No `..`: whoever adds a field decides whether it is part of the template.
    let Pool {
        engine,
        image,
        args,
        env,
        port,
        resources,
        model_from,
        replicas: _,
        scaling: _,
        rollout: _,
        disruption: _,
        sizing: _,
        per_replica,
        template,
    } = spec;
    let Model { name, revision, context_tokens, capabilities: _ } = &tier.spec.model;
    let mut parts = Map::new();
    add(&mut parts, "model", name);
    add(&mut parts, "revision", revision);
    add(&mut parts, "contextTokens", context_tokens);
    add(&mut parts, "engine", engine);
    add(&mut parts, "image", image);
    add(&mut parts, "args", args);
    add(&mut parts, "env", env);
    add(&mut parts, "port", port);
    add(&mut parts, "resources", resources);
    add(&mut parts, "modelFrom", model_from);
    add(&mut parts, "perReplica", per_replica);
    add(&mut parts, "template", template);
    table::hash(&Value::Object(parts).to_string())
}

fn add(parts: &mut Map<String, Value>, name: &str, value: &impl Serialize) {
    let value = serde_json::to_value(value).unwrap_or_default();
    let unset = match &value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if !unset {
        parts.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;

    use super::*;
    use crate::operator::plan::{self, Seen, Settings, TierPlan};

    fn tier(change: impl FnOnce(&mut Value)) -> ModelTier {
        let mut tier = json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier",
            "metadata": {"name": "compact", "namespace": "ns"},
            "spec": {
                "class": "Small", "owner": "team", "model": {"name": "m", "contextTokens": 2048},
                "pool": {
                    "engine": "LlamaCpp", "modelFrom": {"path": "/m.gguf"}, "args": ["--flag"],
                    "resources": {"requests": {"cpu": "1"}},
                },
            },
        });
        change(&mut tier["spec"]);
        serde_json::from_value(tier).expect("a tier")
    }

    fn planned(tier: &ModelTier, stored: &[StoredTemplate], settings: &Settings) -> TierPlan {
        let seen = Seen { templates: stored.to_vec(), ..Seen::default() };
        plan::tier(tier, &seen, settings).expect("valid")
    }

    /// What the API server has of a plan.
    fn stored(plan: &TierPlan) -> Vec<StoredTemplate> {
        let revisions = &plan.pool.as_ref().expect("a pool").revisions;
        let one = |revision: &ControllerRevision| StoredTemplate {
            hash: revision.metadata.labels.as_ref().expect("labels")[SPEC_HASH].clone(),
            renderer: revision.metadata.annotations.as_ref().expect("annotations")[RENDERER].clone(),
            revision: revision.revision,
            template: revision.data.as_ref().expect("data").0.pointer(TEMPLATE).expect("a template").clone(),
        };
        revisions.iter().map(one).collect()
    }

    fn template(plan: &TierPlan) -> &Value {
        &plan.pool.as_ref().expect("a pool").template
    }

    /// A renderer as a newer operator might have it.
    fn newer() -> Settings {
        fn render(tier: &ModelTier, pool: &Pool, entry: &table::Tier) -> PodTemplateSpec {
            let mut template = plan::render(tier, pool, entry);
            template.spec.as_mut().expect("a spec").termination_grace_period_seconds = Some(1);
            template
        }
        Settings { renderer: Renderer { version: "newer", render }, ..Settings::default() }
    }

    /// If this fails, every pool of every cluster restarts when its operator is upgraded.
    #[test]
    fn the_hash_of_a_spec_never_changes() {
        let tier = tier(|_| {});
        assert_eq!(spec_hash(&tier, tier.spec.pool.as_ref().expect("a pool")), "ad07408675f10e2f");
    }

    #[test]
    fn an_unchanged_spec_keeps_the_template_that_an_older_renderer_made() {
        let spec = tier(|_| {});
        let old = planned(&spec, &[], &Settings::default());
        let fresh = planned(&spec, &[], &newer());
        assert_ne!(template(&old), template(&fresh), "the renderers differ");
        assert_eq!(planned(&spec, &stored(&old), &newer()), old);
        let scaled = tier(|spec| spec["pool"]["replicas"] = json!(7));
        assert_eq!(template(&planned(&scaled, &stored(&old), &newer())), template(&old), "replicas are no part of it");

        let changed = planned(&tier(|spec| spec["pool"]["args"] = json!(["--other"])), &stored(&old), &newer());
        assert_eq!(template(&changed).pointer("/spec/terminationGracePeriodSeconds"), Some(&json!(1)));
        let numbers: Vec<_> = stored(&changed).iter().map(|s| (s.revision, s.renderer.clone())).collect();
        assert_eq!(numbers, [(2, "newer".to_owned()), (1, Renderer::default().version.to_owned())]);
        // A hash that returns is what it was.
        let back = planned(&spec, &stored(&changed), &newer());
        assert_eq!(template(&back), template(&old));
        assert_eq!(stored(&back).len(), 2);
    }

    #[test]
    fn the_newest_ten_are_kept_and_the_one_in_force() {
        let first = tier(|_| {});
        let mut history = stored(&planned(&first, &[], &Settings::default()));
        for i in 0..20 {
            let next = tier(|spec| spec["pool"]["args"] = json!([i.to_string()]));
            history = stored(&planned(&next, &history, &Settings::default()));
        }
        assert_eq!(history.len(), HISTORY);
        assert_eq!(history.iter().map(|s| s.revision).collect::<Vec<_>>(), (12..=21).rev().collect::<Vec<_>>());
        let oldest = history.last().expect("ten").hash.clone();
        let again = tier(|spec| spec["pool"]["args"] = json!(["10"]));
        let kept = stored(&planned(&again, &history, &Settings::default()));
        assert_eq!((kept[0].hash.clone(), kept.len()), (oldest, HISTORY));
    }
}
