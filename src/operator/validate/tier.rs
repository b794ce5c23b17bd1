//! A ModelTier -> its entry in the routing table.

use std::net::IpAddr;

use super::problems::Problems;
use super::{Invalid, Valid, accounts, devices, health, model_from, rollout, scaling, sizing, template};
use crate::api::ModelTier;
use crate::api::conditions::{ACCEPTED, REASON_INVALID};
use crate::api::model_tier::{EngineName, Exposure, ModelTierSpec, Pool, Price, Provider, ServiceBackend};
use crate::api::types::Decimal;
use crate::operator::observe::Observed;
use crate::operator::plan::{engines, inference_pool};
use crate::routing::table::{self, Backend};

/// Longest name of an object whose children are Services: `<name>-router` must be a DNS label of 63 characters.
const LONGEST_NAME: usize = 56;
/// A port's number where only its name counts.
const POOL_PORT: u16 = 80;

/// The tier's entry in the routing table.
///
/// # Errors
/// When a field of the spec is wrong, with all the problems.
pub fn tier(tier: &ModelTier) -> Result<Valid<table::Tier>, Invalid> {
    let mut problems = Problems::default();
    let spec = &tier.spec;
    let inference_pool = spec.service.as_ref().and_then(|service| service.inference_pool_ref.as_ref());
    if spec.pool.is_some() || inference_pool.is_some() {
        child_names(&mut problems, tier.metadata.name.as_deref());
    }
    let price = prices(&mut problems, spec);
    sizing::wanted(&mut problems, spec);
    let scaling = spec.pool.as_ref().and_then(|pool| scaling::parsed(&mut problems, pool));
    let mut capabilities = spec.model.capabilities.clone();
    capabilities.sort_unstable();
    capabilities.dedup();
    let entry = table::Tier {
        class: spec.class,
        data_class: spec.effective_data_class(),
        public: spec.exposure == Exposure::Public,
        model: spec.model.name.clone(),
        context_tokens: positive(&mut problems, "spec.model.contextTokens", spec.model.context_tokens),
        capabilities,
        input_price: price.input,
        cached_input_price: price.cached_input,
        output_price: price.output,
        concurrency: concurrency(&mut problems, spec.pool.as_ref()),
        account: spec.provider.as_ref().map(|provider| accounts::account(&mut problems, provider)),
        scales_to_zero: scaling.is_some_and(|scaling| scaling.min == 0),
        health: health::health(&mut problems, &spec.health),
        backend: backend(&mut problems, tier),
    };
    problems.into_result(ACCEPTED, Valid { value: entry, unresolved: None })
}

/// Children are named after their owner, and some of them are Services.
pub(super) fn child_names(problems: &mut Problems, name: Option<&str>) {
    let name = name.unwrap_or_default();
    let label = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !label {
        problems.add(
            REASON_INVALID,
            "metadata.name",
            format!(
                "{name:?} must be a letter followed by letters, digits and '-', in lower case, at most \
                 {LONGEST_NAME} characters, because Services are named after it"
            ),
        );
    }
}

fn positive(problems: &mut Problems, field: &str, value: i64) -> u64 {
    u64::try_from(value).ok().filter(|v| *v > 0).unwrap_or_else(|| {
        problems.add(REASON_INVALID, field, format!("{value} must be at least 1"));
        0
    })
}

/// Prices of a million tokens in 1e-9 of the currency.
#[derive(Default)]
struct Prices {
    input: u64,
    cached_input: u64,
    output: u64,
}

fn prices(problems: &mut Problems, spec: &ModelTierSpec) -> Prices {
    if spec.prices.len() > 1 {
        problems.add(REASON_INVALID, "spec.prices", "at most one price can be given");
    }
    let Some(Price { input_per_million, output_per_million, cached_input_per_million }) = spec.prices.first() else {
        if spec.provider.is_some() {
            problems.add(REASON_INVALID, "spec.prices", "a tier with a provider needs a price");
        }
        return Prices::default();
    };
    let mut nanos = |field: &str, value: &Decimal| {
        // Nine digits before the point fit: 1e9 * 1e9 < 2^64.
        let nanos = problems.parsed(format!("spec.prices[0].{field}"), value.nanos());
        u64::try_from(nanos).unwrap_or_default()
    };
    let input = nanos("inputPerMillion", input_per_million);
    Prices {
        input,
        output: nanos("outputPerMillion", output_per_million),
        cached_input: cached_input_per_million.as_ref().map_or(input, |v| nanos("cachedInputPerMillion", v)),
    }
}

fn concurrency(problems: &mut Problems, pool: Option<&Pool>) -> Option<u32> {
    let concurrency = pool?.per_replica.as_ref()?.concurrency;
    let valid = u32::try_from(concurrency).ok().filter(|c| *c > 0);
    if valid.is_none() {
        let problem = format!("{concurrency} must be at least 1");
        problems.add(REASON_INVALID, "spec.pool.perReplica.concurrency", problem);
    }
    valid
}

fn backend(problems: &mut Problems, tier: &ModelTier) -> Backend {
    let ModelTierSpec { pool, provider, service, .. } = &tier.spec;
    match (pool, provider, service) {
        (Some(pool), None, None) => Backend::Service {
            name: format!("{}-pool", tier.metadata.name.as_deref().unwrap_or_default()),
            port: pool_port(problems, pool),
            port_name: Some("http".to_owned()),
            health: engines::of(pool.engine).health.map(str::to_owned),
            continuation: engines::of(pool.engine).continuation,
            revision: tier.spec.model.revision.clone(),
        },
        (None, Some(provider), None) => Backend::Url {
            base_url: base_url(problems, provider),
            credential: Some(provider.credential.secret_key_ref.clone()),
        },
        (None, None, Some(service)) => service_backend(problems, tier, service),
        _ => {
            problems.add(REASON_INVALID, "spec", "exactly one of pool, provider and service must be set");
            Backend::Url { base_url: String::new(), credential: None }
        }
    }
}

fn service_backend(problems: &mut Problems, tier: &ModelTier, service: &ServiceBackend) -> Backend {
    let ServiceBackend { service_ref, inference_pool_ref } = service;
    if service_ref.is_some() == inference_pool_ref.is_some() {
        let problem = "exactly one of serviceRef and inferencePoolRef must be set";
        problems.add(REASON_INVALID, "spec.service", problem);
    }
    let (name, port, port_name) = match service_ref {
        Some(service) => {
            (service.name.clone(), self::port(problems, "spec.service.serviceRef.port", service.port), None)
        }
        // The headless Service that is made of the InferencePool: its port is known by name, whatever its number.
        None => {
            let name = inference_pool::service_name(tier.metadata.name.as_deref().unwrap_or_default());
            (name, POOL_PORT, Some("http".to_owned()))
        }
    };
    Backend::Service { name, port, port_name, health: None, continuation: None, revision: None }
}

/// The tier with the name of the port that it names by number: endpoints of a Service are known by it.
pub(super) fn with_port_name(mut tier: table::Tier, observed: &Observed) -> table::Tier {
    if let Backend::Service { name, port, port_name: port_name @ None, .. } = &mut tier.backend {
        *port_name = observed.port_names.get(&(name.clone(), *port)).cloned();
    }
    tier
}

fn port(problems: &mut Problems, field: &str, port: i32) -> u16 {
    u16::try_from(port).ok().filter(|p| *p > 0).unwrap_or_else(|| {
        problems.add(REASON_INVALID, field, format!("{port} must be a port, 1 to 65535"));
        0
    })
}

/// Checks the pool and gives its port.
fn pool_port(problems: &mut Problems, pool: &Pool) -> u16 {
    if pool.engine == EngineName::Custom && (pool.image.is_none() || pool.port.is_none()) {
        problems.add(REASON_INVALID, "spec.pool", "engine Custom needs image and port");
    }
    if !(0..=1000).contains(&pool.replicas) {
        problems.add(REASON_INVALID, "spec.pool.replicas", format!("{} must be 0 to 1000", pool.replicas));
    }
    model_from::check(problems, pool);
    let server = match pool.port {
        Some(number) => port(problems, "spec.pool.port", number),
        None => engines::of(pool.engine).port,
    };
    devices::check(problems, pool);
    rollout::check(problems, pool);
    template::check(problems, pool);
    server
}

/// Checks a provider's base URL and gives it without a slash at the end.
fn base_url(problems: &mut Problems, provider: &Provider) -> String {
    let field = "spec.provider.baseURL";
    let text = provider.base_url.trim_end_matches('/');
    let uri: http::Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => {
            problems.add(REASON_INVALID, field, format!("not a URL: {error}"));
            return String::new();
        }
    };
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        // The URL is not quoted: it holds a secret.
        problems.add(REASON_INVALID, field, "must not hold credentials; use spec.provider.credential");
        return String::new();
    }
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let in_cluster = host.ends_with(".svc") || host.ends_with(".svc.cluster.local");
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if in_cluster => {}
        _ => {
            let problem = "must be https, or http only to a Service of the cluster (*.svc or *.svc.cluster.local)";
            problems.add(REASON_INVALID, field, problem);
        }
    }
    if uri.query().is_some() || text.contains('#') {
        problems.add(REASON_INVALID, field, "must not have a query or fragment");
    }
    if host.is_empty() || forbidden_host(&host) {
        problems.add(REASON_INVALID, field, format!("{host:?} is a link-local or metadata address or no host"));
    }
    text.to_owned()
}

/// Addresses that hand out a node's credentials to whoever asks.
pub(super) fn forbidden_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            let mapped = ip.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local());
            mapped || ip.is_unicast_link_local() || ip.is_unspecified() || bare == "fd00:ec2::254"
        }
        Err(_) => matches!(bare, "metadata.google.internal" | "metadata"),
    }
}
