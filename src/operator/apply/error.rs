//! Why a write did not happen, in words that do not change from one try to the next.

use crate::api::conditions::{REASON_APPLY_FAILED, REASON_CONFLICT, REASON_UNSUPPORTED};

/// Why a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Other managers own fields that must be set.
    #[error("{object}: {details}. Take the field from that manager, or delete the object: it is then made anew")]
    Conflict {
        /// Kind and name.
        object: String,
        /// What the API server says: managers and fields.
        details: String,
    },
    /// An object of this name exists and belongs to somebody else.
    #[error("{object} exists already and belongs to {owner}. Delete it, or rename this object")]
    Foreign {
        /// Kind and name.
        object: String,
        /// Who it belongs to.
        owner: String,
    },
    /// The API server refused.
    #[error("{object}: the API server answered {code} {message}")]
    Refused {
        /// Kind and name.
        object: String,
        /// HTTP status.
        code: u16,
        /// What it said; without numbers that change.
        message: String,
    },
    /// The API server does not know a part of the object that belongs to a feature.
    #[error("{object}: this cluster has no {feature}")]
    Unsupported {
        /// Kind and name.
        object: String,
        /// The feature and since when there is one, for people.
        feature: &'static str,
    },
    /// The API server could not be reached, or did not answer in time.
    #[error("{object}: no answer from the API server")]
    Unreachable {
        /// Kind and name.
        object: String,
    },
    /// The namespace is being deleted: the object is gone soon, and whoever owns it.
    #[error("{object}: its namespace is being deleted")]
    Terminating {
        /// Kind and name.
        object: String,
    },
    /// Another operator leads.
    #[error("not leading")]
    NotLeading,
}

impl Error {
    /// What the API server's answer means.
    #[must_use]
    pub fn of(object: &str, error: &kube::Error) -> Self {
        let object = object.to_owned();
        let kube::Error::Api(status) = error else { return Self::Unreachable { object } };
        let causes = || status.details.iter().flat_map(|d| &d.causes);
        if causes().any(|cause| cause.reason == "NamespaceTerminating") {
            return Self::Terminating { object };
        }
        let conflicts: Vec<String> = causes()
            .filter(|cause| cause.reason == "FieldManagerConflict")
            .map(|cause| format!("{} ({})", cause.message, cause.field))
            .collect();
        if status.code == 409 && !conflicts.is_empty() {
            return Self::Conflict { object, details: conflicts.join(", ") };
        }
        // The text of an overloaded or failing server varies, the text of a refusal is the point.
        let message = match status.code {
            429 | 500.. => status.reason.clone(),
            _ => status.message.clone(),
        };
        Self::Refused { object, code: status.code, message }
    }

    /// The same error of an object that has an image volume: a server without them forgets the volume's source and
    /// then misses it, and one that never heard of them does not know the field.
    #[must_use]
    pub fn with_image_volume(self) -> Self {
        const SIGNS: [&str; 2] = ["must specify a volume type", ".image: field not declared in schema"];
        match self {
            Self::Refused { object, message, .. } if SIGNS.iter().any(|sign| message.contains(sign)) => {
                Self::Unsupported {
                    object,
                    feature: "OCI image volumes (ImageVolume, on by default since Kubernetes 1.35)",
                }
            }
            other => other,
        }
    }

    /// Reason of the condition that shows it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } | Self::Foreign { .. } => REASON_CONFLICT,
            Self::Unsupported { .. } => REASON_UNSUPPORTED,
            _ => REASON_APPLY_FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::StatusCause;

    use super::*;

    fn api(code: u16, message: &str, reason: &str) -> Status {
        Status::failure(message, reason).with_code(code)
    }

    #[test]
    fn a_conflict_names_the_other_manager_and_the_field() {
        let cause = StatusCause {
            reason: "FieldManagerConflict".into(),
            message: "conflict with \"kubectl\" using apps/v1".into(),
            field: ".spec.replicas".into(),
        };
        let details = serde_json::from_value(serde_json::json!({"causes": [cause]})).expect("details");
        let status = api(409, "Apply failed with 1 conflict", "Conflict").with_details(details);
        let error = Error::of("Deployment small-pool", &kube::Error::Api(Box::new(status)));
        assert_eq!(error.reason(), "Conflict");
        let text = error.to_string();
        assert!(text.contains("\"kubectl\"") && text.contains(".spec.replicas"), "{text}");
    }

    #[test]
    fn a_server_without_image_volumes_is_named() {
        let refused = |code: u16, text: &str| {
            Error::of("Deployment a", &kube::Error::Api(Box::new(api(code, text, "Invalid")))).with_image_volume()
        };
        // What servers of 1.34 and 1.30 answer.
        let forgotten = "Deployment.apps \"a\" is invalid: spec.template.spec.volumes[2]: Required value: must specify a volume type";
        let unknown = "failed to create typed patch object (ns/a; apps/v1, Kind=Deployment): .spec.template.spec.volumes[name=\"models\"].image: field not declared in schema";
        for error in [refused(422, forgotten), refused(400, unknown)] {
            assert_eq!(error.reason(), "Unsupported");
            assert!(error.to_string().contains("no OCI image volumes"), "{error}");
        }
        assert_eq!(refused(422, "spec.replicas: Invalid value").reason(), "ApplyFailed");
    }

    #[test]
    fn a_failing_server_gives_the_same_words_each_time() {
        let at = |text: &str| Error::of("Service a", &kube::Error::Api(Box::new(api(500, text, "InternalError"))));
        assert_eq!(at("etcd at 12:01"), at("etcd at 12:02"));
    }
}
