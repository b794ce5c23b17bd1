//! What routers serve from: a table, compiled. Made off the request path and swapped as a whole.
//!
//! Everything that does not depend on the request is done here: gates compiled, keys hashed, upstream addresses parsed,
//! the state of tiers carried over from the snapshot before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Uri};
use sha2::{Digest, Sha256};

use super::breaker::Circuit;
use super::endpoints::{Endpoint, Endpoints};
use super::gates::{CompiledGate, compile_all};
use super::problem::Problem;
use crate::api::types::SecretKeyRef;
use crate::routing::source::secrets::Secrets;
use crate::routing::table::{Backend, FORMAT_VERSION, Path, RoutingTable, Tier, hash, tier_path};

/// A table that a router refuses; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not a table.
    #[error("the table can't be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer operator.
    #[error("the table has format version {0}, this router reads up to {FORMAT_VERSION}")]
    Version(u32),
    /// A part does not compile.
    #[error("{0}")]
    Part(String),
}

/// A table in force.
pub struct Snapshot {
    /// The table.
    pub table: RoutingTable,
    /// Its hash.
    pub hash: String,
    /// Gates by path and step.
    gates: BTreeMap<String, Vec<Vec<CompiledGate>>>,
    /// Client by SHA-256 of its key.
    keys: Vec<([u8; 32], usize)>,
    /// Tiers by name.
    tiers: BTreeMap<String, Arc<Upstream>>,
    /// What is not mounted or cannot be used.
    pub problems: Vec<Problem>,
}

/// A tier, ready to be asked.
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// As the table has it.
    pub tier: Tier,
    /// Where it is, for `Backend::Url`.
    pub url: Option<Uri>,
    /// `authorization`, where the tier needs one.
    pub authorization: Result<Option<HeaderValue>, Problem>,
    /// Whether it answers.
    pub circuit: Arc<Mutex<Circuit>>,
    /// Its endpoint, for `Backend::Url`.
    fixed: Option<Arc<Endpoint>>,
}

impl Upstream {
    /// Endpoints that can be asked now.
    #[must_use]
    pub fn endpoints(&self, world: &Endpoints, namespace: &str) -> Vec<Arc<Endpoint>> {
        match (&self.tier.backend, &self.fixed) {
            (_, Some(endpoint)) => vec![endpoint.clone()],
            (Backend::Service { name, port_name, port: _ }, None) => {
                world.of(namespace, name, port_name.as_deref().unwrap_or_default())
            }
            (Backend::Url { .. }, None) => Vec::new(),
        }
    }
}

impl Snapshot {
    /// Compiles a table.
    ///
    /// # Errors
    /// When the text is no table, or one that this router can't execute as a whole.
    pub fn compile(json: &str, secrets: &Secrets, before: Option<&Self>) -> Result<Self, Refused> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } = serde_json::from_str(json)?;
        if format_version > FORMAT_VERSION {
            return Err(Refused::Version(format_version));
        }
        let table: RoutingTable = serde_json::from_str(json)?;
        let mut gates = BTreeMap::new();
        for (name, path) in &table.paths {
            let steps: Result<Vec<_>, _> = path.steps.iter().map(|step| compile_all(&step.accept)).collect();
            gates.insert(name.clone(), steps.map_err(|e| Refused::Part(format!("path {name}: {e}")))?);
            for tier in path.steps.iter().flat_map(|step| &step.tiers) {
                if !table.tiers.contains_key(tier) {
                    return Err(Refused::Part(format!("path {name}: tier {tier} is not in the table")));
                }
            }
        }
        let workloads = table.workloads.iter().map(|w| (format!("workload {}", w.name), w.path.clone()));
        let public = table.tiers.iter().filter(|(_, tier)| tier.public);
        let public = public.map(|(name, _)| (format!("Public tier {name}"), tier_path(name)));
        for (what, path) in workloads.chain(public) {
            if !table.paths.contains_key(&path) {
                return Err(Refused::Part(format!("{what}: path {path} is not in the table")));
            }
        }
        let mut problems = Vec::new();
        let tiers = compile_tiers(&table, secrets, before, &mut problems)?;
        let keys = compile_keys(&table, secrets, &mut problems);
        Ok(Self { hash: hash(json), gates, keys, tiers, problems, table })
    }

    /// The client of a key, compared in constant time; `None` if nobody has it.
    #[must_use]
    pub fn client(&self, key: &str) -> Option<usize> {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = None;
        for (known, client) in &self.keys {
            if bool::from(subtle::ConstantTimeEq::ct_eq(&known[..], &digest[..])) {
                found = Some(*client);
            }
        }
        found
    }

    /// A tier by name.
    #[must_use]
    pub fn tier(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.tiers.get(name)
    }

    /// All tiers.
    pub fn tiers(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.tiers.values()
    }

    /// A path with its gates.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<(&Path, &[Vec<CompiledGate>])> {
        Some((self.table.paths.get(name)?, self.gates.get(name)?))
    }
}

fn compile_tiers(
    table: &RoutingTable,
    secrets: &Secrets,
    before: Option<&Snapshot>,
    problems: &mut Vec<Problem>,
) -> Result<BTreeMap<String, Arc<Upstream>>, Refused> {
    let mut tiers = BTreeMap::new();
    for (name, tier) in &table.tiers {
        let old = before.and_then(|b| b.tiers.get(name)).filter(|old| old.tier.backend == tier.backend);
        let (mut url, mut fixed, mut authorization) = (None, None, Ok(None));
        if let Backend::Url { base_url, credential } = &tier.backend {
            let parsed: Uri = base_url
                .trim_end_matches('/')
                .parse()
                .map_err(|e| Refused::Part(format!("tier {name}: baseURL {base_url}: {e}")))?;
            let endpoint = Endpoint::of_url(&parsed)
                .ok_or_else(|| Refused::Part(format!("tier {name}: baseURL {base_url} has no host")))?;
            fixed = Some(old.and_then(|o| o.fixed.clone()).unwrap_or_else(|| Arc::new(endpoint)));
            url = Some(parsed);
            if let Some(secret) = credential {
                let field = format!("ModelTier {name}: spec.provider.credential.secretKeyRef");
                authorization = bearer(secrets.get(secret), &field, secret).map(Some);
                if let Err(problem) = &authorization {
                    problems.push(problem.clone());
                }
            }
        }
        let circuit = old.map_or_else(Arc::default, |o| o.circuit.clone());
        let upstream = Upstream { name: name.clone(), tier: tier.clone(), url, authorization, circuit, fixed };
        tiers.insert(name.clone(), Arc::new(upstream));
    }
    Ok(tiers)
}

fn bearer(key: Option<Bytes>, field: &str, secret: &SecretKeyRef) -> Result<HeaderValue, Problem> {
    let key = key.ok_or_else(|| Problem::absent(field, secret))?;
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", key.as_ref()].concat())
        .map_err(|_| Problem::not_a_header(field, secret))?;
    value.set_sensitive(true);
    Ok(value)
}

fn compile_keys(table: &RoutingTable, secrets: &Secrets, problems: &mut Vec<Problem>) -> Vec<([u8; 32], usize)> {
    let mut keys = Vec::new();
    let mut owners: HashMap<[u8; 32], &str> = HashMap::new();
    for (index, client) in table.clients.iter().flatten().enumerate() {
        let field = format!("RoutingPolicy {}: spec.clients[{}].apiKey.secretKeyRef", table.policy, client.name);
        let Some(key) = secrets.get(&client.api_key).filter(|key| !key.is_empty()) else {
            problems.push(Problem::absent(&field, &client.api_key));
            continue;
        };
        let digest: [u8; 32] = Sha256::digest(&key).into();
        // Two clients with one key could not be told apart: the first keeps it.
        if let Some(first) = owners.insert(digest, &client.name) {
            problems.push(Problem::shared(&field, &client.api_key, first));
            continue;
        }
        keys.push((digest, index));
    }
    keys
}
