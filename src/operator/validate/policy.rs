//! A RoutingPolicy -> the routing table.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::{share_quotas, split};
use super::budgets::{budget, time_zone};
use super::path::{Tiers, resolve, resolve_tier, single, tiers_in_force};
use super::problems::{Problems, names};
use super::{Invalid, Valid, limits::limits, reserves, router, tier::child_names};
use crate::api::RoutingPolicy;
use crate::api::conditions::{
    ACCEPTED, REASON_DATA_CLASS, REASON_INVALID, REASON_REF_NOT_ACCEPTED, REASON_REF_NOT_FOUND, RESOLVED_REFS,
};
use crate::api::escalation_path::{ColdTier, Entry};
use crate::api::routing_policy::{self as api, RoutingPolicySpec};
use crate::operator::observe::Observed;
use crate::routing::table::{self, Path, RoutingTable};

/// Name of the client when anyone may ask.
const ANONYMOUS: &str = "anonymous";

/// The policy's routing table, without the steps whose tiers are missing.
///
/// # Errors
/// When a field of the spec is wrong, when a path is missing or not accepted, or when no step of a workload's
/// path may see its data. The last good table then keeps serving.
pub fn policy(policy: &RoutingPolicy, observed: &Observed) -> Result<Valid<RoutingTable>, Invalid> {
    let name = policy.metadata.name.clone().unwrap_or_default();
    let spec = &policy.spec;
    let mut problems = Problems::default();
    child_names(&mut problems, Some(&name));
    time_zone(&mut problems, &spec.time_zone);
    router::check(&mut problems, &spec.router);
    let clients = clients(&mut problems, spec);
    let published = observed.tables.get(&name).map(AsRef::as_ref);
    let mut tiers = tiers_in_force(observed, published);
    let split = split(&tiers);
    share_quotas(&mut tiers);
    let mut routes = Routes {
        observed,
        tiers,
        published,
        paths: BTreeMap::new(),
        broken: Problems::default(),
        waiting: Problems::default(),
        incomplete: BTreeSet::new(),
        lost: false,
    };
    let workloads = spec.workloads.iter().enumerate();
    let workloads: Vec<_> = workloads.map(|(i, workload)| routes.workload(&mut problems, spec, i, workload)).collect();
    let default_workload = default_workload(&mut problems, spec);
    let Routes { tiers, mut paths, mut broken, mut waiting, incomplete, lost, .. } = routes;
    if lost {
        broken.extend(std::mem::take(&mut waiting));
    }
    for (name, _) in tiers.iter().filter(|(_, tier)| tier.public) {
        paths.entry(table::tier_path(name)).or_insert_with(|| single(name));
    }
    let tiers = used(tiers, &paths);
    let cold = |name: &String| tiers.get(name).is_some_and(|tier| tier.scales_to_zero);
    for path in paths.values_mut().filter(|path| !used_by(path).into_iter().any(cold)) {
        // Said only where it matters: a router of before does not know the word.
        path.cold_tier = ColdTier::Skip;
    }
    reserves::check(&mut problems, &workloads, &paths, &incomplete, &tiers);
    let accounts: BTreeSet<&str> =
        tiers.values().filter_map(|tier| Some(tier.account.as_ref()?.name.as_str())).collect();
    for problem in accounts.into_iter().filter_map(|account| split.get(account)) {
        broken.add(REASON_REF_NOT_ACCEPTED, "spec.workloads", problem);
    }
    // A policy that is wrong in itself comes before what it waits for: a person must act on it.
    problems.into_result(ACCEPTED, ())?;
    broken.into_result(RESOLVED_REFS, ())?;
    let table = RoutingTable {
        format_version: table::FORMAT_VERSION,
        namespace: observed.namespace.clone(),
        policy: name,
        currency: spec.currency.clone(),
        clients,
        tiers,
        paths,
        workloads,
        default_workload,
        access_log: spec.access_log.format,
        time_zone: spec.time_zone.clone(),
        sync: None,
        routers: u32::try_from(spec.router.most()).unwrap_or(1),
        leases: None,
    };
    Ok(Valid { value: table, unresolved: waiting.into_invalid(RESOLVED_REFS) })
}

/// Only the tiers that a path uses, and those that clients may name.
fn used(mut tiers: Tiers, paths: &BTreeMap<String, Path>) -> Tiers {
    let used: BTreeSet<&String> = paths.values().flat_map(used_by).collect();
    tiers.retain(|name, tier| tier.public || used.contains(name));
    tiers
}

fn clients(problems: &mut Problems, spec: &RoutingPolicySpec) -> Option<Vec<table::Client>> {
    if spec.clients.is_some() == spec.anonymous.is_some() {
        problems.add(REASON_INVALID, "spec", "exactly one of clients and anonymous must be set");
    }
    let clients = spec.clients.as_ref()?;
    for (i, client) in clients.iter().enumerate() {
        if clients[..i].iter().any(|other| other.name == client.name) {
            let problem = format!("{:?} is used twice", client.name);
            problems.add(REASON_INVALID, format!("spec.clients[{i}].name"), problem);
        }
        for (j, name) in client.workloads.iter().flatten().enumerate() {
            if !spec.workloads.iter().any(|w| w.name == *name) {
                let known = names(spec.workloads.iter().map(|w| &w.name));
                let problem = format!("there is no workload {name:?}; known workloads: {known}");
                problems.add(REASON_INVALID, format!("spec.clients[{i}].workloads[{j}]"), problem);
            }
        }
    }
    let compiled = clients.iter().enumerate().map(|(i, client)| table::Client {
        name: client.name.clone(),
        api_key: client.api_key.secret_key_ref.clone(),
        workloads: client.workloads.clone(),
        limits: limits(problems, &format!("spec.clients[{i}].limits"), client.limits.as_ref()),
        budget: budget(problems, &format!("spec.clients[{i}].budget"), client.budget.as_ref()),
    });
    Some(compiled.collect())
}

fn default_workload(problems: &mut Problems, spec: &RoutingPolicySpec) -> Option<String> {
    let default = &spec.default;
    if default.workload.is_some() == default.reject.is_some() {
        problems.add(REASON_INVALID, "spec.default", "exactly one of workload and reject must be set");
    }
    let name = default.workload.as_ref()?;
    if !spec.workloads.iter().any(|w| w.name == *name) {
        let known = names(spec.workloads.iter().map(|w| &w.name));
        let problem = format!("there is no workload {name:?}; known workloads: {known}");
        problems.add(REASON_INVALID, "spec.default.workload", problem);
    }
    Some(name.clone())
}

/// Paths of the workloads, as they are resolved.
struct Routes<'a> {
    observed: &'a Observed,
    tiers: Tiers,
    paths: BTreeMap<String, Path>,
    /// References without which there is no table.
    broken: Problems,
    /// References without which a step is left out.
    waiting: Problems,
    /// Paths of which a step was left out.
    incomplete: BTreeSet<String>,
    /// The table that serves now.
    published: Option<&'a RoutingTable>,
    /// Whether a workload would lose a tier to a reference that leads nowhere.
    lost: bool,
}

impl Routes<'_> {
    fn workload(
        &mut self,
        problems: &mut Problems,
        spec: &RoutingPolicySpec,
        i: usize,
        workload: &api::Workload,
    ) -> table::Workload {
        let field = format!("spec.workloads[{i}]");
        if spec.workloads[..i].iter().any(|other| other.name == workload.name) {
            problems.add(REASON_INVALID, format!("{field}.name"), format!("{:?} is used twice", workload.name));
        }
        if workload.matches.is_none() && spec.default.workload.as_ref() != Some(&workload.name) {
            let problem = "must be set, or the workload named by spec.default.workload: no request could reach it";
            problems.add(REASON_INVALID, format!("{field}.match"), problem);
        }
        let path = match (&workload.path_ref, &workload.tier_ref) {
            (Some(reference), None) => self.path(&format!("{field}.pathRef.name"), &reference.name),
            (None, Some(reference)) => {
                let field = format!("{field}.tierRef.name");
                let path = table::tier_path(&reference.name);
                let resolved = resolve_tier(&mut self.waiting, &field, reference, self.observed, &self.tiers);
                let mut entry = single(&reference.name);
                if resolved.is_none() {
                    entry.steps.clear();
                    self.incomplete.insert(path.clone());
                }
                self.paths.insert(path.clone(), entry);
                path
            }
            _ => {
                problems.add(REASON_INVALID, &field, "exactly one of pathRef and tierRef must be set");
                String::new()
            }
        };
        self.check_data_class(problems, &field, workload, &path);
        self.check_judges(problems, &field, workload, &path);
        self.check_lost(&field, workload, &path);
        let empty = api::Match::default();
        let matches = workload.matches.as_ref().unwrap_or(&empty);
        check_clients(problems, &field, spec, matches);
        table::Workload {
            name: workload.name.clone(),
            owner: workload.owner.clone(),
            risk: workload.risk,
            data_class: workload.data_class,
            models: matches.models.clone(),
            headers: headers(problems, &field, matches),
            clients: matches.clients.clone(),
            only_by_default: workload.matches.is_none(),
            path,
            limits: limits(problems, &format!("{field}.limits"), workload.limits.as_ref()),
            budget: budget(problems, &format!("{field}.budget"), workload.budget.as_ref()),
            reserve: reserves::reserve(problems, &field, spec, workload),
        }
    }

    /// Resolves a path and gives its name.
    fn path(&mut self, field: &str, name: &str) -> String {
        let Some(found) = self.observed.paths.get(name) else {
            let known = names(self.observed.paths.keys());
            let problem = format!("EscalationPath {name:?} does not exist; known paths: {known}");
            self.broken.add(REASON_REF_NOT_FOUND, field, problem);
            return name.to_owned();
        };
        if self.paths.contains_key(name) {
            return name.to_owned();
        }
        match resolve(found, self.observed, &self.tiers) {
            Ok(valid) => {
                if let Some(invalid) = valid.unresolved {
                    self.waiting.add(invalid.reason, format!("{field}: EscalationPath {name:?}"), invalid.message);
                    self.incomplete.insert(name.to_owned());
                }
                self.paths.insert(name.to_owned(), valid.value);
            }
            Err(invalid) => {
                let problem = format!("EscalationPath {name:?} is not accepted: {invalid}");
                self.broken.add(REASON_REF_NOT_ACCEPTED, field, problem);
            }
        }
        name.to_owned()
    }

    /// Some step that requests always reach must be cleared for the workload's data. Steps that are left out
    /// for now may be: that is not yet known.
    fn check_data_class(&self, problems: &mut Problems, field: &str, workload: &api::Workload, path: &str) {
        let Some(entry) = self.paths.get(path).filter(|_| !self.incomplete.contains(path)) else { return };
        let reached = entry.steps.iter().filter(|step| step.entry == Entry::Always).flat_map(|step| &step.tiers);
        let mut seen = Vec::new();
        for (name, tier) in reached.filter_map(|name| self.tiers.get_key_value(name)) {
            if tier.data_class >= workload.data_class {
                return;
            }
            seen.push(format!("{name} ({})", tier.data_class));
        }
        seen.dedup();
        problems.add(
            REASON_DATA_CLASS,
            format!("{field}.dataClass"),
            format!(
                "no tier of workload {:?} may see {} data: {}",
                workload.name,
                workload.data_class,
                seen.join(", ")
            ),
        );
    }

    /// A judge sees the data of every step that it grades: of those that the workload's requests can take.
    fn check_judges(&self, problems: &mut Problems, field: &str, workload: &api::Workload, path: &str) {
        let cleared = |name: &String| self.tiers.get(name).is_none_or(|tier| tier.data_class >= workload.data_class);
        let Some(entry) = self.paths.get(path) else { return };
        let taken = entry.steps.iter().filter(|step| step.tiers.iter().any(cleared));
        let wrong: BTreeSet<&String> = taken.flat_map(table::Step::judges).filter(|judge| !cleared(judge)).collect();
        if !wrong.is_empty() {
            let problem = format!(
                "workload {:?} has {} data, which its judge may not see: {}; grade by a tier that may",
                workload.name,
                workload.data_class,
                names(wrong.into_iter())
            );
            problems.add(REASON_DATA_CLASS, format!("{field}.dataClass"), problem);
        }
    }

    /// A tier that is gone takes its step with it. A reference that leads nowhere must not: as long as the tiers
    /// that serve the workload now are in force, they go on until the reference is right (ADR 7).
    fn check_lost(&mut self, field: &str, workload: &api::Workload, path: &str) {
        let Some(published) = self.published.filter(|_| self.incomplete.contains(path)) else { return };
        let before = published.workloads.iter().find(|w| w.name == workload.name);
        let before = before.and_then(|w| published.paths.get(&w.path)).map(used_by).unwrap_or_default();
        let after = self.paths.get(path).map(used_by).unwrap_or_default();
        let lost = before.difference(&after).filter(|name| self.tiers.contains_key(**name)).copied();
        let lost: Vec<&String> = lost.collect();
        if !lost.is_empty() {
            let problem = format!(
                "workload {:?} would lose tier {}, so the table before keeps serving until every reference resolves",
                workload.name,
                names(lost.into_iter())
            );
            self.broken.add(REASON_REF_NOT_FOUND, field, problem);
            self.lost = true;
        }
    }
}

/// Names of the tiers that a path asks, for answers or for grades.
fn used_by(path: &Path) -> BTreeSet<&String> {
    let judges = path.steps.iter().flat_map(table::Step::judges);
    path.steps.iter().flat_map(|step| &step.tiers).chain(judges).collect()
}

fn check_clients(problems: &mut Problems, field: &str, spec: &RoutingPolicySpec, matches: &api::Match) {
    for (j, name) in matches.clients.iter().enumerate() {
        let known = match &spec.clients {
            Some(clients) => clients.iter().any(|client| client.name == *name),
            None => name == ANONYMOUS,
        };
        if !known {
            let known = names(spec.clients.iter().flatten().map(|client| &client.name));
            let problem = format!("there is no client {name:?}; known clients: {known}");
            problems.add(REASON_INVALID, format!("{field}.match.clients[{j}]"), problem);
        }
    }
}

/// Headers with their names in lower case, as HTTP/2 has them.
fn headers(problems: &mut Problems, field: &str, matches: &api::Match) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (j, header) in matches.headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        let field = format!("{field}.match.headers[{j}].name");
        if name.starts_with("x-smallfirst-") {
            problems.add(REASON_INVALID, &field, "headers that start with x-smallfirst- are the router's own");
        }
        if headers.iter().any(|(other, _)| *other == name) {
            problems.add(REASON_INVALID, &field, format!("{name:?} is used twice"));
        }
        headers.push((name, header.value.clone()));
    }
    headers
}
