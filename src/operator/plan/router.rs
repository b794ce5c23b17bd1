//! The children of a policy: its table and the routers that execute it.
//!
//! The pod template depends on the policy's `router` and on the *names* of the Secrets, never on the content of
//! the table: a new rule is read by running routers, only a new Secret name rolls them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SecretVolumeSource, ServiceAccountTokenProjection, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Owner, POLICY, TABLE_HASH};
use super::{Invalid, PolicyPlan, Settings, autoscaler, common, gateway};
use crate::api::RoutingPolicy;
use crate::api::conditions::{PROGRAMMED, REASON_TABLE_TOO_LARGE};
use crate::api::router::RouterService;
use crate::api::routing_policy::Router as RouterSpec;
use crate::api::types::IntOrPercent;
use crate::operator::observe::Observed;
use crate::routing::packed::{self, LARGEST, TooLarge};
use crate::routing::report::{AUDIENCE, TOKEN_DIR, TOKEN_FILE};
use crate::routing::table::{self, Leases, RoutingTable, SECRETS_DIR};

/// Folder in which a router keeps the last good table over restarts of its container.
const STATE_DIR: &str = "/var/lib/smallfirst";
/// Port of the Service.
const SERVICE_PORT: i32 = 80;
/// The same with TLS.
const TLS_PORT: i32 = 443;
/// Port of requests.
const TRAFFIC_PORT: i32 = 8080;
/// Port of health, metrics and the table in force.
const ADMIN_PORT: i32 = 9090;

pub(super) fn plan(
    policy: &RoutingPolicy,
    table: &RoutingTable,
    unresolved: Option<Invalid>,
    settings: &Settings,
) -> Result<PolicyPlan, Invalid> {
    let json = table.to_json();
    let owner = Owner::new(policy, POLICY, "router");
    let name = format!("{}-router", owner.name());
    let table_name = format!("{}-table", owner.name());
    let hash = table::hash(&json);
    let router = &policy.spec.router;
    let mut service = common::service(&owner, &name, SERVICE_PORT);
    let gateway = router.gateway.as_ref();
    let mut secrets = table.secrets();
    if let Some(tls) = &router.tls {
        let ports = service.spec.iter_mut().flat_map(|spec| spec.ports.iter_mut().flatten());
        ports.for_each(|port| (port.name, port.port) = (Some("https".to_owned()), TLS_PORT));
        secrets.push(tls.secret_ref.name.clone());
        secrets.sort();
        secrets.dedup();
    }
    if let Some(RouterService { type_, annotations }) = &router.service {
        annotate(&mut service.metadata, annotations);
        service.spec.get_or_insert_default().type_ = Some(format!("{type_:?}"));
    }
    let mut service_account = common::service_account(&owner, &name);
    if let Some(account) = &router.service_account {
        annotate(&mut service_account.metadata, &account.annotations);
    }
    let mut deployment = deployment(policy, &secrets, settings, &owner, &name);
    if router.scaling.is_some() {
        autoscaler::leave_replicas(&mut deployment);
    }
    Ok(PolicyPlan {
        role: role(&owner, &name, &table_name),
        role_binding: role_binding(&owner, &name),
        service_account,
        network_policy: common::network_policy(
            &owner,
            &name,
            vec![
                common::Ingress { port: "http", pods: None, monitoring: false },
                common::Ingress { port: "admin", pods: None, monitoring: true },
            ],
        ),
        service,
        disruption_budget: common::disruption_budget(&owner, &name, &IntOrPercent::Int(1)),
        http_route: gateway.map(|gateway| gateway::route(&owner, &name, gateway, SERVICE_PORT)),
        autoscaler: router.scaling.as_ref().map(|scaling| autoscaler::by_cpu(&owner, &name, scaling)),
        deployment,
        table: config_map(&owner, table_name, table, json, &hash)?,
        table_hash: hash,
        unresolved,
    })
}

/// Router pods more than there are wanted, while they are replaced.
pub(super) const SURGE: u16 = 1;

/// How many routers limits are lent to. Which policies use an account is known once their tables are compiled, which is
/// too late for a floor: so all of the namespace count, where a table has an account at all.
pub fn leases(policy: &RoutingPolicy, table: &RoutingTable, observed: &Observed) -> Leases {
    let routers =
        |policy: &RoutingPolicy| u32::try_from(policy.spec.router.most()).unwrap_or_default() + u32::from(SURGE);
    let most = routers(policy);
    let all = observed.policies.values().map(|policy| routers(policy)).fold(0, u32::saturating_add);
    let shared = table.tiers.values().any(|tier| tier.account.is_some());
    Leases { most, most_of_accounts: if shared { all.max(most) } else { most } }
}

fn annotate(metadata: &mut ObjectMeta, annotations: &BTreeMap<String, String>) {
    metadata.annotations.get_or_insert_default().extend(annotations.clone());
}

fn config_map(
    owner: &Owner<'_>,
    name: String,
    table: &RoutingTable,
    json: String,
    hash: &str,
) -> Result<ConfigMap, Invalid> {
    let mut map = ConfigMap {
        metadata: ObjectMeta {
            annotations: Some([(TABLE_HASH.to_owned(), hash.to_owned())].into()),
            ..owner.meta(name)
        },
        ..ConfigMap::default()
    };
    packed::pack(&mut map, table, json).map_err(|TooLarge { text, packed }| Invalid {
        condition: PROGRAMMED,
        reason: REASON_TABLE_TOO_LARGE,
        message: format!(
            "spec.workloads: the routing table has {text} bytes, compressed {packed}; at most {LARGEST} fit into a \
             ConfigMap. Split the policy, or shorten inline schemas of its paths"
        ),
    })?;
    Ok(map)
}

fn role(owner: &Owner<'_>, name: &str, table: &str) -> Role {
    let rule = |group: &str, resource: &str, verbs: &[&str], names: Option<Vec<String>>| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: names,
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: owner.meta(name.to_owned()),
        rules: Some(vec![
            rule("", "configmaps", &["get", "list", "watch"], Some(vec![table.to_owned()])),
            rule("discovery.k8s.io", "endpointslices", &["list", "watch"], None),
            // To say on the policy that a Secret is missing. Only new ones: nobody's Events can be changed.
            rule("events.k8s.io", "events", &["create"], None),
        ]),
    }
}

fn role_binding(owner: &Owner<'_>, name: &str) -> RoleBinding {
    RoleBinding {
        metadata: owner.meta(name.to_owned()),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name.to_owned() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: name.to_owned(),
            namespace: Some(owner.namespace().to_owned()),
            api_group: None,
        }]),
    }
}

fn deployment(
    policy: &RoutingPolicy,
    secrets: &[String],
    settings: &Settings,
    owner: &Owner<'_>,
    name: &str,
) -> Deployment {
    Deployment {
        metadata: owner.meta(name.to_owned()),
        spec: Some(DeploymentSpec {
            replicas: Some(policy.spec.router.replicas),
            selector: selector(owner),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(SURGE.into())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(owner.labels()), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    containers: vec![container(policy, secrets, settings, owner)],
                    volumes: Some(volumes(secrets)),
                    // Soft: a small cluster still gets all its routers.
                    topology_spread_constraints: Some(
                        ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
                            .map(|key| TopologySpreadConstraint {
                                max_skew: 1,
                                topology_key: key.into(),
                                when_unsatisfiable: "ScheduleAnyway".into(),
                                label_selector: Some(selector(owner)),
                                ..TopologySpreadConstraint::default()
                            })
                            .into(),
                    ),
                    ..common::pod(name, true, common::router_grace())
                }),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn selector(owner: &Owner<'_>) -> LabelSelector {
    LabelSelector { match_labels: Some(owner.selector()), ..LabelSelector::default() }
}

fn container(policy: &RoutingPolicy, secrets: &[String], settings: &Settings, owner: &Owner<'_>) -> Container {
    let args = ["router", "--namespace", owner.namespace(), "--policy", owner.name(), "--state-dir", STATE_DIR];
    let mut args: Vec<String> = args.map(str::to_owned).into();
    if let Some(tls) = &policy.spec.router.tls {
        args.extend(["--tls-secret".to_owned(), tls.secret_ref.name.clone()]);
    }
    let RouterSpec { max_body_bytes, max_buffered_bytes, .. } = &policy.spec.router;
    for (flag, bytes) in [("--max-body-bytes", max_body_bytes), ("--max-buffered-bytes", max_buffered_bytes)] {
        args.extend(bytes.iter().flat_map(|bytes| [flag.to_owned(), bytes.to_string()]));
    }
    let port = |name: &str, port| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        ..ContainerPort::default()
    };
    let mount = |name: String, path: String, read_only| VolumeMount {
        name,
        mount_path: path,
        read_only,
        ..VolumeMount::default()
    };
    let own = [mount("state".into(), STATE_DIR.into(), None), mount("sync-token".into(), TOKEN_DIR.into(), Some(true))];
    let secrets = secrets.iter().map(|s| mount(volume_name(s), format!("{SECRETS_DIR}/{s}"), Some(true)));
    Container {
        name: "router".into(),
        image: Some(policy.spec.router.image.as_ref().unwrap_or(&settings.router_image).clone()),
        args: Some(args),
        env: Some(vec![pod_name()]),
        ports: Some(vec![port("http", TRAFFIC_PORT), port("admin", ADMIN_PORT)]),
        resources: Some(
            policy.spec.router.resources.as_ref().and_then(common::resources).unwrap_or_else(default_resources),
        ),
        readiness_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(2), ..admin_probe("/readyz") }),
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..admin_probe("/healthz") }),
        lifecycle: Some(common::sleep_before_stop(common::ROUTER_STOP_DELAY)),
        security_context: Some(common::container_security()),
        volume_mounts: Some(own.into_iter().chain(secrets).collect()),
        ..Container::default()
    }
}

/// A host's name may be a part of the pod's only.
fn pod_name() -> EnvVar {
    let field = ObjectFieldSelector { field_path: "metadata.name".into(), api_version: None };
    EnvVar {
        name: "SMALLFIRST_POD".into(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        value: None,
    }
}

fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", "100m"), quantity("memory", "64Mi")].into()),
        ..ResourceRequirements::default()
    }
}

fn admin_probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// Secrets are optional: a router starts without them and says which client or tier it cannot serve.
fn volumes(secrets: &[String]) -> Vec<Volume> {
    let state = Volume { name: "state".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let secrets = secrets.iter().map(|secret| Volume {
        name: volume_name(secret),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.clone()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    });
    [state, sync_token()].into_iter().chain(secrets).collect()
}

/// The token by which operators know whose router this is: good for nothing else, and for this pod only.
fn sync_token() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.into()),
        expiration_seconds: Some(3600),
        path: TOKEN_FILE.rsplit('/').next().unwrap_or_default().into(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: "sync-token".into(),
        projected: Some(ProjectedVolumeSource { sources: Some(vec![source]), default_mode: None }),
        ..Volume::default()
    }
}

/// A Secret's name may be longer than a volume's and hold dots, so its hash names the volume.
fn volume_name(secret: &str) -> String {
    format!("secret-{}", table::hash(secret))
}
