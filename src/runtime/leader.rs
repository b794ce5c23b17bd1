//! Leader election on a Lease: one operator writes, the others keep warm caches and wait.
//!
//! The policy. A leader renews every 2 s and may write until 7 s after its last renewal; others may take the
//! Lease over 10 s after they *saw* it change last. The 3 s between the two are the margin in which a deposed
//! leader has stopped and no other has begun, whatever the clocks of the machines say: only durations that one
//! process measured itself are compared, never the times in the Lease. Every call has its own timeout, because
//! the client has none. A leader that stops releases the Lease, so that its successor need not wait.
//!
//! [`decide`] is pure; [`run`] is the thin loop around it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a Lease holds without being renewed.
pub const LEASE_DURATION: Duration = Duration::from_secs(10);
/// How long after its last renewal a leader may write.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Time between two tries.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Bound on one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// A write that began within the renew deadline has to end this long after the last renewal.
const WRITE_DEADLINE: Duration = Duration::from_secs(9);

/// Where the Lease is and who wants it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Name of this candidate: unique in the cluster and over restarts.
    pub identity: String,
}

/// Whether this process leads.
#[derive(Clone, Debug, Default)]
pub struct Leader {
    renewed: Option<watch::Receiver<Option<Instant>>>,
}

impl Leader {
    /// The instant by which a write that begins now has to be over. `None`: do not write.
    #[must_use]
    pub fn write_deadline(&self, now: Instant) -> Option<Instant> {
        match &self.renewed {
            // Without an election this process is alone.
            None => Some(now + WRITE_DEADLINE),
            Some(renewed) => {
                let renewed = (*renewed.borrow())?;
                (now < renewed + RENEW_DEADLINE).then_some(renewed + WRITE_DEADLINE)
            }
        }
    }

    /// Whether this process may write.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.write_deadline(now).is_some()
    }

    /// Waits until the election says something new. Never returns without an election.
    pub async fn changed(&mut self) {
        if let Some(renewed) = &mut self.renewed
            && renewed.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// What a candidate remembers of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Last version of the Lease that was seen, and when it was seen first.
    pub version: Option<(String, Instant)>,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: create it.
    Create,
    /// The Lease is free, or its holder is gone: take it.
    Take,
    /// The Lease is ours: renew it.
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// Decides what to do about a Lease, and remembers when it changed last.
pub fn decide(lease: Option<&Lease>, seen: &mut Seen, identity: &str, now: Instant) -> Step {
    let Some(lease) = lease else {
        seen.version = None;
        return Step::Create;
    };
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    let since = match &seen.version {
        Some((known, since)) if *known == version => *since,
        _ => {
            seen.version = Some((version, now));
            now
        }
    };
    let spec = lease.spec.as_ref();
    match spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default() {
        "" => Step::Take,
        holder if holder == identity => Step::Renew,
        _ => {
            let seconds = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
            let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            if now.duration_since(since) >= duration { Step::Take } else { Step::Wait }
        }
    }
}

/// The Lease as this candidate writes it.
fn claim(previous: Option<Lease>, settings: &Settings, now: Timestamp, step: Step) -> Lease {
    let mut lease = previous.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(settings.name.clone()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    if step != Step::Renew {
        spec.holder_identity = Some(settings.identity.clone());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
    }
    lease
}

/// A running election.
#[derive(Debug)]
pub struct Election {
    /// Whether this process leads.
    pub leader: Leader,
    /// The task that keeps the Lease. It ends only after `stop`; if it ends before, the process must end too.
    pub task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Election {
    /// Starts to run for the Lease.
    #[must_use]
    pub fn start(client: Client, settings: Settings) -> Self {
        let (tell, renewed) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(client, settings, tell, stopped));
        Self { leader: Leader { renewed: Some(renewed) }, task, stop }
    }

    /// Releases the Lease and waits until that is done.
    pub async fn release(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn run(
    client: Client,
    settings: Settings,
    tell: watch::Sender<Option<Instant>>,
    mut stopped: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client, &settings.namespace);
    let mut seen = Seen::default();
    let mut held: Option<Lease> = None;
    loop {
        let started = Instant::now();
        match attempt(&api, &settings, &mut seen, held.take()).await {
            Ok(Some(lease)) => {
                if tell.borrow().is_none() {
                    tracing::info!(identity = settings.identity, "leading");
                }
                held = Some(lease);
                // From before the call: the server may have written it at any instant since.
                tell.send_replace(Some(started));
            }
            Ok(None) => stand_by(&tell),
            Err(error) => {
                tracing::warn!(%error, "the lease was neither read nor renewed");
                let renewed = *tell.borrow();
                if renewed.is_some_and(|renewed| Instant::now() >= renewed + RENEW_DEADLINE) {
                    stand_by(&tell);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(started + RETRY_PERIOD) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    stand_by(&tell);
    if let Some(mut lease) = held {
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match call(api.replace(&settings.name, &PostParams::default(), &lease)).await {
            Ok(_) => tracing::info!("released the lease"),
            Err(error) => tracing::warn!(%error, "the lease was not released"),
        }
    }
}

fn stand_by(tell: &watch::Sender<Option<Instant>>) {
    if tell.send_replace(None).is_some() {
        tracing::warn!("not leading any more");
    }
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(CALL_TIMEOUT, request).await.map_err(|_| Error::Timeout)??)
}

/// One try. `held` is the Lease as this process wrote it last: renewing it needs no read.
async fn attempt(
    api: &Api<Lease>,
    settings: &Settings,
    seen: &mut Seen,
    held: Option<Lease>,
) -> Result<Option<Lease>, Error> {
    let known = match held {
        Some(lease) => Some(lease),
        None => call(api.get_opt(&settings.name)).await?,
    };
    let step = decide(known.as_ref(), seen, &settings.identity, Instant::now());
    let params = PostParams::default();
    let written = match step {
        Step::Wait => return Ok(None),
        Step::Create => call(api.create(&params, &claim(None, settings, Timestamp::now(), step))).await,
        Step::Take | Step::Renew => {
            call(api.replace(&settings.name, &params, &claim(known, settings, Timestamp::now(), step))).await
        }
    };
    match written {
        Ok(lease) => Ok(Some(lease)),
        // Somebody wrote it in between: read it again next time.
        Err(Error::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(10),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_stood_still_for_its_duration() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut seen = Seen::default();
        assert_eq!(decide(None, &mut seen, "me", start), Step::Create);
        assert_eq!(decide(Some(&lease("", "1")), &mut seen, "me", start), Step::Take);
        assert_eq!(decide(Some(&lease("me", "2")), &mut seen, "me", start), Step::Renew);
        assert_eq!(decide(Some(&lease("you", "3")), &mut seen, "me", start), Step::Wait);
        assert_eq!(decide(Some(&lease("you", "3")), &mut seen, "me", after(9)), Step::Wait);
        // A renewal starts the wait anew, however old the times in it are.
        assert_eq!(decide(Some(&lease("you", "4")), &mut seen, "me", after(9)), Step::Wait);
        assert_eq!(decide(Some(&lease("you", "4")), &mut seen, "me", after(18)), Step::Wait);
        assert_eq!(decide(Some(&lease("you", "4")), &mut seen, "me", after(19)), Step::Take);
    }

    #[test]
    fn a_deposed_leader_stops_before_anybody_can_follow() {
        let start = Instant::now();
        let (tell, renewed) = watch::channel(Some(start));
        let leader = Leader { renewed: Some(renewed) };
        let at = |ms| leader.write_deadline(start + Duration::from_millis(ms));
        assert!(at(0).is_some_and(|end| end < start + LEASE_DURATION));
        assert!(at(6_999).is_some_and(|end| end < start + LEASE_DURATION));
        assert_eq!(at(7_000), None);
        tell.send_replace(None);
        assert_eq!(at(0), None);
    }

    #[test]
    fn renewing_keeps_the_time_of_acquisition_and_taking_counts_a_transition() {
        let settings = Settings { namespace: "ns".into(), name: "smallfirst".into(), identity: "me".into() };
        let then = Timestamp::from_second(1_000).expect("a time");
        let taken = claim(Some(lease("you", "1")), &settings, then, Step::Take);
        let renewed = claim(Some(taken.clone()), &settings, then + Duration::from_secs(2), Step::Renew);
        let (taken, renewed) = (taken.spec.expect("a spec"), renewed.spec.expect("a spec"));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, taken.acquire_time);
        assert_ne!(renewed.renew_time, taken.renew_time);
    }
}
