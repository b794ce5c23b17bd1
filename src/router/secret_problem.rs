//! What a router lacks, in words for the people who can mend it: the log and an Event say the same.

use std::fmt;

use crate::api::types::SecretKeyRef;

/// Reason of an Event: a Secret or a key in it is not mounted.
pub const REASON_SECRET_NOT_FOUND: &str = "SecretNotFound";
/// Reason of an Event: a key is there and cannot be used.
pub const REASON_SECRET_UNUSABLE: &str = "SecretUnusable";

/// A client or a tier that is not served, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretProblem {
    /// Reason of the Event.
    pub reason: &'static str,
    /// Object, field, Secret, key, and the fix; never a key's value.
    pub message: String,
}

impl fmt::Display for SecretProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl SecretProblem {
    /// A key is not mounted. `field` begins with the object that it is of.
    #[must_use]
    pub fn absent(field: &str, secret: &SecretKeyRef) -> Self {
        let SecretKeyRef { name, key } = secret;
        Self {
            reason: REASON_SECRET_NOT_FOUND,
            message: format!(
                "{field}: Secret {name} has no key {key}, or is not mounted yet. Create the Secret in this namespace \
                 with this key, not empty; a running router sees it within 90 seconds"
            ),
        }
    }

    /// A key cannot be sent in a header.
    #[must_use]
    pub fn not_a_header(field: &str, secret: &SecretKeyRef) -> Self {
        let SecretKeyRef { name, key } = secret;
        Self {
            reason: REASON_SECRET_UNUSABLE,
            message: format!(
                "{field}: key {key} of Secret {name} is no header value. Store the provider's key without line feeds \
                 and control characters"
            ),
        }
    }

    /// A password is no text.
    #[must_use]
    pub fn not_text(field: &str, secret: &SecretKeyRef) -> Self {
        let SecretKeyRef { name, key } = secret;
        Self {
            reason: REASON_SECRET_UNUSABLE,
            message: format!("{field}: key {key} of Secret {name} is no text in UTF-8. Store the password as it is"),
        }
    }

    /// Two clients have one key and could not be told apart; the first keeps it.
    #[must_use]
    pub fn shared(field: &str, secret: &SecretKeyRef, first: &str) -> Self {
        let SecretKeyRef { name, key } = secret;
        Self {
            reason: REASON_SECRET_UNUSABLE,
            message: format!(
                "{field}: key {key} of Secret {name} is also the key of client {first}. Give each client its own"
            ),
        }
    }
}
