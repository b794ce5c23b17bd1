//! Condition types and their reasons: part of the API, spelled once.
//!
//! Polarity is positive, but for the two that kstatus defines: `Stalled` and `Reconciling` are absent when all is
//! well. `Ready` means that the spec is rolled out (or scaled to zero on purpose);
//! whether a tier answers right now is `Available`, so that an outage does not fail a GitOps wait.

/// The spec was validated and is in force.
pub const ACCEPTED: &str = "Accepted";
/// Every reference resolves to an accepted object.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// The tier can answer now: at least one replica is ready, or a provider or Service is configured; and routers get answers.
pub const AVAILABLE: &str = "Available";
/// Every ready router serves the table that was published last.
pub const PROGRAMMED: &str = "Programmed";
/// The replicas of a pool are enough for what it is sized for. Only where that is said.
pub const SIZED: &str = "Sized";
/// Demand fits the quota of a provider's account. Only once something was asked of it.
pub const WITHIN_QUOTA: &str = "WithinQuota";
/// The operator's HorizontalPodAutoscaler of a pool can read what it scales by. Only where there is one.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// The spec is rolled out.
pub const READY: &str = "Ready";
/// The object is not in force or not rolled out, and a person must act. Absent otherwise.
pub const STALLED: &str = "Stalled";
/// The spec is being rolled out, waits for others, or is tried again. Absent otherwise.
pub const RECONCILING: &str = "Reconciling";

/// `Accepted=True`, `ResolvedRefs=True`.
pub const REASON_ACCEPTED: &str = "Accepted";
/// `ResolvedRefs=True`.
pub const REASON_RESOLVED: &str = "Resolved";
/// A field of the spec is wrong; the message names it. A person must act.
pub const REASON_INVALID: &str = "Invalid";
/// A referenced object does not exist (yet).
pub const REASON_REF_NOT_FOUND: &str = "RefNotFound";
/// A referenced object exists and is itself not accepted.
pub const REASON_REF_NOT_ACCEPTED: &str = "RefNotAccepted";
/// A gate needs evidence that its tier cannot give.
pub const REASON_GATE_UNSATISFIABLE: &str = "GateUnsatisfiable";
/// A step goes to a lower class without `entry: FailoverOnly`.
pub const REASON_CLASS_ORDER: &str = "ClassOrder";
/// No step of a workload's path is cleared for its data class.
pub const REASON_DATA_CLASS: &str = "DataClassNotAllowed";
/// The rolled-out state equals the spec.
pub const REASON_ROLLED_OUT: &str = "RolledOut";
/// Scaled to zero on purpose: by the spec, or while nobody asks for the tier.
pub const REASON_SCALED_TO_ZERO: &str = "ScaledToZero";
/// Children are still rolling out.
pub const REASON_PROGRESSING: &str = "Progressing";
/// A Deployment exceeded its progress deadline.
pub const REASON_PROGRESS_DEADLINE: &str = "ProgressDeadlineExceeded";
/// Another field manager owns a field that this object must set, or another autoscaler scales its pool; the message names it.
pub const REASON_CONFLICT: &str = "Conflict";
/// A child could not be applied; retried with back-off.
pub const REASON_APPLY_FAILED: &str = "ApplyFailed";
/// The cluster or the operator lacks something that the spec needs; the message names it. Tried again.
pub const REASON_UNSUPPORTED: &str = "Unsupported";
/// The replicas that are allowed are enough for what the pool is sized for.
pub const REASON_ENOUGH_REPLICAS: &str = "EnoughReplicas";
/// Demand needs more replicas than are allowed or paid for; the message says what can't be promised. A person must act.
pub const REASON_SIZING_LIMITED: &str = "SizingLimited";
/// Too few requests were measured to say how many replicas are needed.
pub const REASON_NOT_MEASURED: &str = "NotMeasured";
/// What is asked of the account fits its quota.
pub const REASON_QUOTA_FITS: &str = "QuotaFits";
/// More is asked of the account than its quota allows; the message says who gives way.
pub const REASON_QUOTA_SHORT: &str = "QuotaShort";
/// HorizontalPodAutoscalers can read the metrics API.
pub const REASON_METRICS_API_AVAILABLE: &str = "MetricsAPIAvailable";
/// The metrics API is not served by this operator, or the API server does not reach it: a HorizontalPodAutoscaler leaves the
/// replicas as they are. The message says why. A person must act.
pub const REASON_METRICS_API_UNAVAILABLE: &str = "MetricsAPIUnavailable";
/// Every ready router reported the table that was published last.
pub const REASON_PROGRAMMED: &str = "Programmed";
/// Ready routers have not all reported the table yet.
pub const REASON_PROPAGATING: &str = "Propagating";
/// A router lacks a key that the table needs; the message names object, field, Secret and key.
pub const REASON_WAITING_FOR_MOUNTS: &str = "WaitingForMounts";
/// A router refuses the table; the message is the router's. A person must act.
pub const REASON_TABLE_REFUSED: &str = "TableRefused";
/// A router is of a version that can't read the table, or that does not report.
pub const REASON_ROUTER_VERSION: &str = "RouterVersion";
/// The table does not fit into a ConfigMap. A person must act.
pub const REASON_TABLE_TOO_LARGE: &str = "TableTooLarge";
/// No router pod is ready.
pub const REASON_NO_ROUTERS: &str = "NoRouters";
/// Routers don't report to this operator: it was started without `--sync-address`.
pub const REASON_UNOBSERVED: &str = "Unobserved";
/// Nothing has been seen yet (the schema's default).
pub const REASON_PENDING: &str = "Pending";
/// At least one replica is ready.
pub const REASON_REPLICAS_READY: &str = "ReplicasReady";
/// No replica is ready.
pub const REASON_NO_READY_REPLICAS: &str = "NoReadyReplicas";
/// A router leaves the tier alone, or did a short while ago, because it does not answer.
pub const REASON_DEGRADED: &str = "Degraded";
/// A provider or Service is configured, and no router says that it does not answer.
pub const REASON_CONFIGURED: &str = "Configured";
/// What an unaccepted object would need to become ready.
pub const REASON_NOT_ACCEPTED: &str = "NotAccepted";
