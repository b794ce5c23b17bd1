//! `smallfirst local`: the same manifests without a cluster. Compiles them as the operator would and serves in this
//! process; files are looked at every second, and a change that does not compile leaves the last good table.
//!
//! A pool or Service needs a cluster, so each such tier is pointed to a URL with `--endpoint TIER=URL`. Several URLs for
//! one tier are its replicas: the router sees them as it sees pods. Keys come from Secrets among the manifests or from
//! `--secret NAME/KEY=VALUE`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use k8s_openapi::api::core::v1::Secret;
use tokio::sync::watch;

use super::data_plane;
use super::manifests::policy;
use crate::router::control::Inputs;
use crate::router::endpoints::Addresses;
use crate::router::run::Config;
use crate::routing::source::manifests;
use crate::routing::source::secrets::Secrets;
use crate::routing::table::Backend;
use crate::runtime::shutdown;
use crate::yaml;

/// Flags of `smallfirst local`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests: files, or folders of .yaml, .yml and .json files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Name of the RoutingPolicy. Default: the only one.
    #[arg(long)]
    policy: Option<String>,
    /// Address of the traffic port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the admin port: /healthz, /readyz, /metrics, /table, /explain. Default: none.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Where a tier is: TIER=URL, such as compact=http://127.0.0.1:8000/v1. May be repeated; several of one tier are its
    /// replicas, each http://IP:PORT/v1.
    #[arg(long = "endpoint", value_name = "TIER=URL", value_parser = endpoint)]
    endpoints: Vec<(String, String)>,
    /// A key of a Secret: NAME/KEY=VALUE. May be repeated; wins over Secrets among the manifests.
    #[arg(long = "secret", value_name = "NAME/KEY=VALUE", value_parser = secret)]
    secrets: Vec<((String, String), Bytes)>,
}

fn endpoint(text: &str) -> Result<(String, String), String> {
    let (tier, url) = text.split_once('=').ok_or("must be TIER=URL")?;
    let parsed: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    if parsed.host().is_none() || !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(format!("{url}: must be a URL such as http://127.0.0.1:8000/v1"));
    }
    Ok((tier.to_owned(), url.to_owned()))
}

fn secret(text: &str) -> Result<((String, String), Bytes), String> {
    let (at, value) = text.split_once('=').ok_or("must be NAME/KEY=VALUE")?;
    let (name, key) = at.split_once('/').ok_or("must be NAME/KEY=VALUE")?;
    Ok(((name.to_owned(), key.to_owned()), Bytes::from(value.to_owned())))
}

/// Serves until it is told to stop.
///
/// # Errors
/// When the manifests are wrong at the start, or an address can't be bound.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    data_plane::process(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let (listen, admin) = (args.listen, args.admin);
    let Loaded { table, secrets, addresses } = load(&args)?;
    let (tables, table) = watch::channel(Some(Arc::<str>::from(table)));
    let (keys, secrets) = watch::channel(secrets);
    let (replicas, addresses) = watch::channel(addresses);
    tokio::spawn(follow(args, tables, keys, replicas));
    let config = Config { admin, ..Config::new(listen) };
    let running = data_plane::start(config, Inputs { table, secrets, addresses }).await?;
    shutdown::requested().await?;
    running.stop().await;
    Ok(())
}

async fn follow(
    args: Args,
    tables: watch::Sender<Option<Arc<str>>>,
    keys: watch::Sender<Secrets>,
    replicas: watch::Sender<Addresses>,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut complaint = String::new();
    while !tables.is_closed() {
        tick.tick().await;
        match load(&args) {
            Ok(Loaded { table, secrets, addresses }) => {
                complaint.clear();
                changed(&replicas, addresses);
                changed(&keys, secrets);
                changed(&tables, Some(Arc::from(table)));
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != complaint {
                    tracing::error!("the manifests are refused; the last good table stays: {text}");
                    complaint = text;
                }
            }
        }
    }
}

fn changed<T: PartialEq>(sender: &watch::Sender<T>, new: T) {
    sender.send_if_modified(|known| {
        let changed = *known != new;
        *known = new;
        changed
    });
}

/// What the manifests and flags give.
struct Loaded {
    table: String,
    secrets: Secrets,
    /// Replicas of tiers that have several.
    addresses: Addresses,
}

fn load(args: &Args) -> anyhow::Result<Loaded> {
    let observed = manifests::read(&args.paths)?;
    let mut table = policy(&observed, args.policy.as_deref())?;
    let mut addresses = Addresses::new();
    let mut urls: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, url) in &args.endpoints {
        urls.entry(name).or_default().push(url);
    }
    for (name, urls) in urls {
        let Some(tier) = table.tiers.get_mut(name) else {
            let known: Vec<&str> = table.tiers.keys().map(String::as_str).collect();
            anyhow::bail!("--endpoint {name}: no such tier; the policy uses {}", known.join(", "));
        };
        match (&mut tier.backend, &urls[..]) {
            (Backend::Url { base_url, .. }, [url]) => (*url).clone_into(base_url),
            (backend, [url]) => *backend = Backend::Url { base_url: (*url).to_owned(), credential: None },
            (Backend::Service { name: service, port_name, .. }, _) => {
                let replicas = urls.iter().map(|url| replica(url)).collect::<Result<Vec<_>, _>>();
                let replicas = replicas.map_err(|problem| anyhow::anyhow!("--endpoint {name}={problem}"))?;
                let port = (table.namespace.clone(), service.clone(), port_name.clone().unwrap_or_default());
                addresses.insert(port, replicas);
            }
            (Backend::Url { .. }, _) => anyhow::bail!("--endpoint {name}: a provider has one URL"),
        }
    }
    let missing: Vec<String> = table
        .tiers
        .iter()
        .filter(|(name, tier)| {
            matches!(tier.backend, Backend::Service { .. })
                && !args.endpoints.iter().any(|(pointed, _)| pointed == *name)
        })
        .map(|(name, _)| format!("tier {name} is served in a cluster: say where it is with --endpoint {name}=URL"))
        .collect();
    anyhow::ensure!(missing.is_empty(), "{}", missing.join("\n"));
    let mut keys = secrets_of(&args.paths)?;
    keys.extend(args.secrets.iter().cloned());
    Ok(Loaded { table: table.to_json(), secrets: keys.into_iter().collect(), addresses })
}

/// The address of one of several replicas. As a pod's, it is an address and its paths start at `/v1`.
fn replica(url: &str) -> Result<SocketAddr, String> {
    let address =
        url.strip_prefix("http://").and_then(|rest| rest.trim_end_matches('/').strip_suffix("/v1")?.parse().ok());
    address.ok_or_else(|| format!("{url}: one of several replicas must be http://IP:PORT/v1"))
}

/// Keys of the Secrets among the manifests.
fn secrets_of(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<(String, String), Bytes>> {
    let mut keys = BTreeMap::new();
    for source in manifests::sources(paths)? {
        for document in yaml::documents(&source.text).with_context(|| source.name.clone())? {
            if document["kind"] != "Secret" || document["apiVersion"] != "v1" {
                continue;
            }
            let secret: Secret =
                serde_json::from_value(document).with_context(|| format!("{}: Secret", source.name))?;
            let name = secret.metadata.name.unwrap_or_default();
            let data = secret.data.into_iter().flatten().map(|(key, value)| (key, Bytes::from(value.0)));
            let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, Bytes::from(value)));
            keys.extend(data.chain(text).map(|(key, value)| ((name.clone(), key), value)));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const MANIFESTS: &str = r#"
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: compact, namespace: ai}
spec:
  class: Small
  owner: team
  model: {name: m, contextTokens: 100}
  pool: {engine: LlamaCpp, modelFrom: {path: /m.gguf}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: assistants, namespace: ai}
spec:
  clients: [{name: finance, apiKey: {secretKeyRef: {name: client-keys, key: finance}}}]
  workloads: [{name: intent, owner: team, match: {models: [intent]}, tierRef: {name: compact}}]
  default: {reject: {}}
---
apiVersion: v1
kind: Secret
metadata: {name: client-keys, namespace: ai}
stringData: {finance: from-manifest}
"#;

    fn loaded(flags: &[&str]) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), MANIFESTS).unwrap();
        let path = folder.path().to_str().unwrap();
        let args = Cli::parse_from(["local", path].into_iter().chain(flags.iter().copied())).args;
        load(&args).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_pool_needs_an_endpoint_and_flags_win_over_manifests() {
        let missing = loaded(&[]).err().unwrap();
        assert!(missing.contains("--endpoint compact=URL"), "{missing}");
        let unknown = loaded(&["--endpoint", "compcat=http://127.0.0.1:1/v1"]).err().unwrap();
        assert!(unknown.contains("no such tier") && unknown.contains("compact"), "{unknown}");
        let at = crate::api::types::SecretKeyRef { name: "client-keys".into(), key: "finance".into() };
        let flags = ["--endpoint", "compact=http://127.0.0.1:1/v1"];
        let Loaded { table, secrets, addresses } = loaded(&flags).unwrap();
        assert!(table.contains("http://127.0.0.1:1/v1") && addresses.is_empty());
        assert_eq!(secrets.get(&at).unwrap(), "from-manifest");
        let Loaded { secrets, .. } = loaded(&[&flags[..], &["--secret", "client-keys/finance=flag"]].concat()).unwrap();
        assert_eq!(secrets.get(&at).unwrap(), "flag");
    }

    #[test]
    fn several_endpoints_of_a_tier_are_its_replicas() {
        let two = |second| loaded(&["--endpoint", "compact=http://127.0.0.1:1/v1", "--endpoint", second]);
        let Loaded { table, addresses, .. } = two("compact=http://[::1]:2/v1/").unwrap();
        // As in a cluster: with the path that the engine answers while it lives.
        assert!(table.contains(r#""health":"/health""#), "{table}");
        let port = ("ai".to_owned(), "compact-pool".to_owned(), "http".to_owned());
        assert_eq!(addresses[&port], ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        for wrong in ["compact=http://model:2/v1", "compact=https://127.0.0.1:2/v1", "compact=http://127.0.0.1:2"] {
            let error = two(wrong).err().unwrap();
            assert!(error.contains("http://IP:PORT/v1") && error.contains(wrong), "{error}");
        }
    }
}
