//! `smallfirst operator`: the controller manager.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use http::header::{HeaderValue, USER_AGENT};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::scaling::Autoscaler;
use crate::operator::controller::Controller;
use crate::operator::metrics_api;
use crate::operator::metrics_api::access::Access;
use crate::operator::metrics_api::registration::Registration;
use crate::operator::metrics_api::trust::Trust;
use crate::operator::plan::Settings;
use crate::operator::scaler;
use crate::operator::sync::books::Books;
use crate::operator::sync::keeper::Keeper;
use crate::operator::sync::lending::Lending;
use crate::operator::sync::server::{self, Desk};
use crate::operator::sync::tokens::Tokens;
use crate::runtime::leader::{self, Election};
use crate::runtime::{admin, shutdown, telemetry};

/// Name of the Lease.
const LEASE: &str = "smallfirst-operator";

/// Flags of `smallfirst operator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this namespace. Default: all.
    #[arg(long, env = "SMALLFIRST_NAMESPACE")]
    namespace: Option<String>,
    /// Image of the router pods: this program's.
    #[arg(long, env = "SMALLFIRST_ROUTER_IMAGE")]
    router_image: String,
    /// Namespace of the Lease that says which operator leads. Default: the one this process runs in.
    #[arg(long, env = "SMALLFIRST_LEADER_ELECTION_NAMESPACE")]
    leader_election_namespace: Option<String>,
    /// Where routers report: HOST:PORT, by which they find every operator pod. Default: they don't report, and the
    /// condition Programmed of policies is Unknown.
    #[arg(long, env = "SMALLFIRST_SYNC_ADDRESS")]
    sync_address: Option<String>,
    /// Address on which routers' reports are taken, with --sync-address.
    #[arg(long, default_value = "0.0.0.0:9443")]
    sync_listen: SocketAddr,
    /// Who scales a pool whose spec.pool.scaling does not say: HorizontalPodAutoscaler, KEDA or External.
    #[arg(long, env = "SMALLFIRST_AUTOSCALER", default_value = "HorizontalPodAutoscaler", value_parser = autoscaler)]
    autoscaler: Autoscaler,
    /// Where KEDA asks the operator how much a tier has to do: HOST:PORT. Default: nowhere, and a tier with autoscaler KEDA
    /// is not Ready.
    #[arg(long, env = "SMALLFIRST_SCALER_ADDRESS")]
    scaler_address: Option<String>,
    /// Serve the metrics API (external.metrics.k8s.io) through this Service of the operator's own namespace, which its
    /// APIService names. Default: it is not served.
    #[arg(long, env = "SMALLFIRST_METRICS_API_SERVICE", requires = "sync_address")]
    metrics_api_service: Option<String>,
    /// Address on which the metrics API is served, with --metrics-api-service.
    #[arg(long, default_value = "0.0.0.0:6443")]
    metrics_api_listen: SocketAddr,
    /// Address on which KEDA's external scaler is served, by gRPC without TLS. Default: it is not served.
    #[arg(long, env = "SMALLFIRST_SCALER_LISTEN", requires = "sync_address")]
    scaler_listen: Option<SocketAddr>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:9090")]
    admin_address: SocketAddr,
}

/// An autoscaler by the name that it has in specs.
fn autoscaler(name: &str) -> Result<Autoscaler, serde::de::value::Error> {
    Autoscaler::deserialize(name.into_deserializer())
}

/// Runs the operator until it is told to stop.
///
/// # Errors
/// When there is no cluster, the admin port is taken, or the lease is lost for good.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(operate(args))
}

async fn operate(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Config::infer().await.context("no cluster: neither a service account nor a kubeconfig")?;
    // Calls have their own timeouts and objects their own back-off: a client that tries again by itself hides both.
    config.default_retry = false;
    // For the audit log: who asked.
    let agent = HeaderValue::from_static(concat!("smallfirst-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let lease = leader::Settings {
        namespace: args.leader_election_namespace.unwrap_or_else(|| config.default_namespace.clone()),
        name: LEASE.to_owned(),
        identity: identity(),
    };
    let namespace = lease.namespace.clone();
    let client = Client::try_from(config).context("the cluster's configuration")?;
    let listener = TcpListener::bind(args.admin_address).await.with_context(|| args.admin_address.to_string())?;
    let mut election = Election::start(client.clone(), lease);
    let settings = Settings {
        router_image: args.router_image,
        autoscaler: args.autoscaler,
        scaler_address: args.scaler_address,
        ..Settings::default()
    };
    let mut sync = None;
    let mut desk = None;
    if let Some(address) = args.sync_address {
        let listener = TcpListener::bind(args.sync_listen).await.with_context(|| args.sync_listen.to_string())?;
        let (mut keeper, certificate, told) =
            Keeper::new(client.clone(), &namespace, &address, election.leader.clone());
        if let Some(service) = &args.metrics_api_service {
            keeper = keeper.named(format!("{service}.{namespace}.svc"));
        }
        sync = Some(told);
        desk = Some((listener, keeper, certificate, Tokens::reviewed_by(client.clone())));
    }
    let (stop, stopped) = watch::channel(false);
    let controller = Controller::new(client.clone(), args.namespace, settings, election.leader.clone(), sync.clone());
    let mut reception = JoinSet::new();
    if let Some((listener, keeper, certificate, tokens)) = desk {
        let (world, queue) = (Arc::clone(&controller.world), Arc::clone(&controller.queue));
        if let (Some(service), Some(authority)) = (args.metrics_api_service, sync) {
            let address = args.metrics_api_listen;
            let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
            let trust = Arc::new(Trust::new(client.clone(), Arc::clone(&certificate)));
            let access = Access::new(client.clone());
            let api = metrics_api::server::Server { world: Arc::clone(&world), access, trust: Arc::clone(&trust) };
            let (leader, service) = (election.leader.clone(), (namespace, service));
            let (told, due) = (Arc::clone(&world), Arc::clone(&queue));
            let registration = Registration::new(client.clone(), leader, told, due, service, authority);
            reception.spawn(trust.run());
            reception.spawn(registration.run());
            reception.spawn(Arc::new(api).run(listener));
        }
        if let Some(address) = args.scaler_listen {
            let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
            reception.spawn(scaler::server::serve(listener, Arc::clone(&world), stopped.clone()));
        }
        let books = Arc::new(Books::new(client, election.leader.clone(), Arc::clone(&world), Arc::clone(&queue)));
        let (leader, lending) = (election.leader.clone(), Lending::default());
        let desk = Desk { world, queue, tokens, leader, books: Arc::clone(&books), lending };
        reception.spawn(keeper.run());
        reception.spawn(books.run());
        reception.spawn(server::serve(listener, certificate, Arc::new(desk)));
    }

    let mut ended = stopped.clone();
    let admin = tokio::spawn(admin::serve(listener, routes(&controller), async move {
        let _ = ended.wait_for(|stop| *stop).await;
    }));
    let mut work = tokio::spawn(controller.run(stopped));
    let lost = tokio::select! {
        signal = shutdown::requested() => {
            signal.context("signals")?;
            false
        }
        _ = &mut election.task => true,
        _ = &mut work => true,
        // Neither ends by itself: a panic must not go unnoticed.
        Some(_) = reception.join_next() => true,
    };
    let _ = stop.send(true);
    if lost {
        anyhow::bail!("the election or a watch ended: this process cannot do its work any more");
    }
    // First the work, then the lease: the successor must not meet a write of ours.
    let _ = work.await;
    election.release().await;
    let _ = admin.await;
    Ok(ExitCode::SUCCESS)
}

fn routes(controller: &Controller) -> admin::Router {
    let mut registry = Registry::default();
    controller.metrics.register(&mut registry);
    let awaits: admin::Awaits = Arc::new(controller.awaited());
    let (world, metrics) = (Arc::clone(&controller.world), Arc::clone(&controller.metrics));
    let refresh = Arc::new(move || {
        for (kind, count) in world.malformed() {
            metrics.set_malformed(kind, count);
        }
        metrics.set_concurrency(world.all_concurrencies(Instant::now()));
    });
    admin::routes(awaits, Arc::new(registry), refresh)
}

/// Unique in the cluster and over restarts: the pod's name, and when this process began.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "smallfirst".to_owned());
    let began = jiff::Timestamp::now().as_microsecond();
    format!("{host}_{}_{began:x}", std::process::id())
}
