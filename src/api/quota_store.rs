//! A store that clusters share, so that all of them together keep to one quota.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::SecretKeyRef;

/// A store outside of the routers that counts what an account takes, for all clusters that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStore {
    /// A Redis or Valkey server that runs already (tested with Redis 7.0), not a Redis Cluster.
    pub redis: RedisStore,
}

/// Where the server is, and how routers show who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!self.url.contains('@')").message("spec.provider.quota.store.redis.url: must not hold credentials; use credential"))]
#[x_kube(validation = Rule::new("!has(self.credential) || self.url.startsWith('rediss://') || self.url.matches('^redis://[-a-z0-9.]+[.]svc([.]cluster[.]local)?(:[0-9]+)?(/.*)?$')").message("spec.provider.quota.store.redis.url: must be rediss where there is a credential, or redis only to a Service of the cluster (*.svc or *.svc.cluster.local)"))]
#[x_kube(validation = Rule::new("!has(self.ca) || self.url.startsWith('rediss://')").message("spec.provider.quota.store.redis.ca: only a rediss URL has a certificate"))]
#[serde(rename_all = "camelCase")]
pub struct RedisStore {
    /// `rediss://HOST[:PORT][/DATABASE]` (TLS) or `redis://...`, without credentials. Default port: 6379.
    #[schemars(length(min = 1, max = 512), pattern(r"^rediss?://[^\s/?#]+(/[0-9]{1,4})?$"))]
    pub url: String,
    /// As whom routers log in. Default: as nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<StoreCredential>,
    /// The authority that signed the server's certificate, as PEM. Default: those that the image knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<StoreCa>,
    /// What the names of keys begin with: KEYPREFIX:{ACCOUNT}:... Clusters that share a quota have the same. Default: smallfirst.
    #[serde(default = "default_key_prefix")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[A-Za-z0-9][-_.:A-Za-z0-9]*$"))]
    pub key_prefix: String,
}

fn default_key_prefix() -> String {
    "smallfirst".to_owned()
}

/// A login. Its user needs the keys that begin with the prefix, and the commands evalsha, script, hgetall, hget, hset, hsetnx, hdel, hincrby, zadd, zrem, zcard, zremrangebyscore, pexpire and time (select too, for a database).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCredential {
    /// User of the server's ACL. Default: its default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^\S+$"))]
    pub username: Option<String>,
    /// The password.
    pub secret_key_ref: SecretKeyRef,
}

/// Certificates of authorities, as PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCa {
    /// The Secret that holds them, such as `ca.crt` of one of type kubernetes.io/tls.
    pub secret_key_ref: SecretKeyRef,
}
