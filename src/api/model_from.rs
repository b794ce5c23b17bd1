//! `pool.modelFrom`: where a model's files are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::SecretKeyRef;

/// Where a model's files are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.path) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.huggingFace) ? 1 : 0) + (has(self.image) ? 1 : 0) == 1").message("spec.pool.modelFrom: exactly one of path, persistentVolumeClaim, huggingFace and image must be set"))]
#[serde(rename_all = "camelCase")]
pub struct ModelFrom {
    /// A path inside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^/"))]
    pub path: Option<String>,
    /// A PersistentVolumeClaim of this namespace, mounted read-only at /models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A repository of the Hugging Face Hub, which the engine downloads whenever a pod starts. A volume named `cache` in template, mounted at /cache, keeps what was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HubSource>,
    /// An OCI image or artifact with the model, mounted read-only at /models. Needs Kubernetes with ImageVolume (on by default since 1.35) and nodes whose container runtime has it (containerd 2.1, CRI-O 1.31).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
}

/// A model on a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Path of the model within the volume, relative to its root. Default: the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[^/]"))]
    pub path: Option<String>,
}

/// A model on the Hugging Face Hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubSource {
    /// The repository, such as `Qwen/Qwen3-8B`. With engine LlamaCpp a quantisation may follow: `ggml-org/gemma-3-4b-it-GGUF:Q4_K_M`. With engine Custom args find it as $(MODEL_PATH).
    #[schemars(
        length(min = 3, max = 256),
        pattern(r"^[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*(:[-._A-Za-z0-9]+)?$")
    )]
    pub repository: String,
    /// Branch, tag or commit. Name a commit where every pod must have the same files. With engine Custom args find it as $(MODEL_REVISION). Engine LlamaCpp can't ask for one. Default: the repository's main branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(r"^[A-Za-z0-9][-._/A-Za-z0-9]*$"))]
    pub revision: Option<String>,
    /// The token for a private or gated repository, passed to the engine as HF_TOKEN. A new one is used by pods that start after it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_key_ref: Option<SecretKeyRef>,
}

/// A model in an OCI image or artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image, such as `registry.example/models/qwen3-8b:1`.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// When the image is pulled. Default: IfNotPresent, but Always for the tag `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Path of the model within the image, relative to its root. Default: the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[^/]"))]
    pub path: Option<String>,
}

/// When an image is pulled, as in a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Whenever a pod starts.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}
