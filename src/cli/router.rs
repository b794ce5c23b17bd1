//! `smallfirst router`: the data plane, one process a pod.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::data_plane;
use crate::router::control::{Inputs, last_good, no_services};
use crate::router::run::Config;
use crate::router::{Limits, MAX_BODY_BYTES, sync};
use crate::routing::report::TOKEN_FILE;
use crate::routing::source::{configmap, endpoints, file, secrets};
use crate::routing::table::{DRAIN_SECONDS, LAME_DUCK_SECONDS, SECRETS_DIR};
use crate::runtime::problems::{self, Pace};
use crate::runtime::shutdown;

/// Flags of `smallfirst router`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace of the RoutingPolicy.
    #[arg(long, env = "SMALLFIRST_NAMESPACE", required_unless_present = "table")]
    namespace: Option<String>,
    /// Name of the RoutingPolicy; its table is watched.
    #[arg(long, env = "SMALLFIRST_POLICY", required_unless_present = "table")]
    policy: Option<String>,
    /// Read the routing table from a file, without a cluster.
    #[arg(long, conflicts_with_all = ["namespace", "policy"])]
    table: Option<PathBuf>,
    /// Address of the traffic port.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Address of the admin port: /healthz, /readyz, /metrics, /table, /explain.
    #[arg(long, default_value = "0.0.0.0:9090")]
    admin: SocketAddr,
    /// Threads that serve traffic. Default: one for each CPU that this process may use.
    #[arg(long)]
    threads: Option<usize>,
    /// Folder with the mounted Secrets: FOLDER/SECRET/KEY.
    #[arg(long, default_value = SECRETS_DIR)]
    secrets_dir: PathBuf,
    /// Folder for the last good table, which serves after a restart while the API server is away.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// File with the token by which operators know whose router this is.
    #[arg(long, default_value = TOKEN_FILE)]
    sync_token_file: PathBuf,
    /// Name of this pod. Default: the host's name.
    #[arg(long, env = "SMALLFIRST_POD")]
    pod: Option<String>,
    /// Secret with the certificate of the traffic port (tls.crt, tls.key). Default: plain HTTP.
    #[arg(long)]
    tls_secret: Option<String>,
    /// Largest request body, in bytes.
    #[arg(long, default_value_t = MAX_BODY_BYTES)]
    max_body_bytes: usize,
    /// Most bytes of request bodies that are held at a time. Default: no bound.
    #[arg(long)]
    max_buffered_bytes: Option<usize>,
    /// Seconds between the failing readiness and the closing of the port. 0: connections that are idle are closed at once.
    #[arg(long, default_value_t = LAME_DUCK_SECONDS)]
    lame_duck_seconds: u32,
    /// Longest time to wait for requests in flight, and for kept connections, at the end, in seconds.
    #[arg(long, default_value_t = DRAIN_SECONDS)]
    drain_seconds: u32,
}

/// Runs a router until it is told to stop.
///
/// # Errors
/// When it can't start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    data_plane::process(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let secrets = secrets::follow(args.secrets_dir);
    let mut cluster = None;
    let inputs = match (args.table, args.namespace, args.policy) {
        (Some(path), ..) => {
            let table = file::follow(path.clone()).with_context(|| format!("--table {}", path.display()))?;
            Inputs { table, secrets, addresses: no_services() }
        }
        (None, Some(namespace), Some(policy)) => {
            let client = kube::Client::try_default().await.context("no way to the API server")?;
            let first: Option<Arc<str>> = args.state_dir.as_deref().and_then(last_good);
            let table = configmap::follow(client.clone(), &namespace, &format!("{policy}-table"), first);
            let addresses = endpoints::follow(client.clone(), &namespace);
            cluster = Some((client, namespace, policy));
            Inputs { table, secrets, addresses }
        }
        _ => anyhow::bail!("give --namespace and --policy, or --table"),
    };
    let config = Config::new(args.listen);
    let config = Config {
        admin: Some(args.admin),
        threads: args.threads.unwrap_or(config.threads),
        limits: Limits {
            max_body_bytes: args.max_body_bytes,
            max_buffered_bytes: args.max_buffered_bytes,
            ..config.limits
        },
        lame_duck: Duration::from_secs(args.lame_duck_seconds.into()),
        drain: Duration::from_secs(args.drain_seconds.into()),
        state: args.state_dir,
        sync: cluster.is_some().then(|| sync::Identity {
            pod: args.pod.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default(),
            token: args.sync_token_file,
        }),
        tls_secret: args.tls_secret,
        ..config
    };
    let running = data_plane::start(config, inputs).await?;
    let telling = cluster.map(|(client, namespace, policy)| {
        tokio::spawn(problems::tell(client, namespace, policy, running.standing.clone(), Pace::default()))
    });
    shutdown::requested().await?;
    // Its successors may have what it lacks.
    if let Some(telling) = telling {
        telling.abort();
    }
    running.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::operator::plan::{self, Settings};
    use crate::routing::source::manifests::{Source, parse};

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_pod_has_the_time_that_its_router_takes_to_stop() {
        let Alone { args } = Alone::parse_from(["router", "--table", "t"]);
        let text = include_str!("../../tests/golden/quickstart/in.yaml").to_owned();
        let observed = parse(&[Source { name: "quickstart".into(), text }]).expect("manifests");
        let policy = observed.policies.values().next().expect("a policy");
        let planned = plan::policy(policy, &observed, &Settings::default()).expect("a plan");
        let pod = planned.deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
        let stop = pod.containers[0].lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()?.sleep.as_ref());
        let takes = stop.expect("a delay").seconds + i64::from(args.lame_duck_seconds) + i64::from(args.drain_seconds);
        let grace = pod.termination_grace_period_seconds.expect("a grace period");
        assert!(takes < grace && grace < takes + 30, "it takes {takes} s of {grace} s");
    }
}
