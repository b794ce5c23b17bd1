//! Where a pool's model comes from, and whether its engine can take it from there.

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::model_tier::Pool;
use crate::operator::plan::engines;

const ROOT: &str = "spec.pool.modelFrom";

/// Checks `modelFrom` of a pool.
pub(super) fn check(problems: &mut Problems, pool: &Pool) {
    let from = &pool.model_from;
    let given = [
        from.path.is_some(),
        from.persistent_volume_claim.is_some(),
        from.hugging_face.is_some(),
        from.image.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        let problem = "exactly one of path, persistentVolumeClaim, huggingFace and image must be set";
        problems.add(REASON_INVALID, ROOT, problem);
    }
    let paths = [
        ("persistentVolumeClaim", from.persistent_volume_claim.as_ref().and_then(|claim| claim.path.as_deref())),
        ("image", from.image.as_ref().and_then(|image| image.path.as_deref())),
    ];
    for (source, path) in paths {
        if let Some(path) = path.filter(|path| path.split('/').any(|part| part == "..")) {
            let problem = format!("{path:?} must stay within the volume, without \"..\"");
            problems.add(REASON_INVALID, format!("{ROOT}.{source}.path"), problem);
        }
    }
    let Some(hub) = &from.hugging_face else { return };
    let revisions = engines::of(pool.engine).hub_revisions;
    if hub.revision.is_some() && !revisions {
        let problem = format!("engine {:?} can't ask for a revision; use persistentVolumeClaim or image", pool.engine);
        problems.add(REASON_INVALID, format!("{ROOT}.huggingFace.revision"), problem);
    }
    if hub.repository.contains(':') && revisions {
        let problem = format!("{:?} must not name a quantisation: only engine LlamaCpp takes one", hub.repository);
        problems.add(REASON_INVALID, format!("{ROOT}.huggingFace.repository"), problem);
    }
}
