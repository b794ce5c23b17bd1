//! Who may: tokens and rights, as the API server reviews them.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, UserInfo};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::request::Asked;
use crate::operator::reviews::{LONGEST_TOKEN, Reviews, Unavailable, user_of};

/// How long an answer is kept: as long as the API servers of aggregated APIs commonly do.
const KEPT: Duration = Duration::from_secs(10);
/// The group that may do everything. The API server says so too.
const MASTERS: &str = "system:masters";

/// The API server, asked about callers.
pub struct Access {
    tokens: Api<TokenReview>,
    users: Reviews<Option<UserInfo>>,
    access: Api<SubjectAccessReview>,
    rights: Reviews<bool>,
}

impl Access {
    /// Asks with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let (tokens, access) = (Api::all(client.clone()), Api::all(client));
        Self { tokens, users: Reviews::default(), access, rights: Reviews::default() }
    }

    /// The user of a token. `None`: it is not valid.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn user(&self, token: &str) -> Result<Option<UserInfo>, Unavailable> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return Ok(None);
        }
        self.users.get(token.as_bytes(), |_| KEPT, user_of(&self.tokens, token.to_owned(), None)).await
    }

    /// Whether a user may have what a path asks for.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn may(&self, user: UserInfo, asked: Asked<'_>, path: &str) -> Result<bool, Unavailable> {
        if user.groups.iter().flatten().any(|group| group == MASTERS) {
            return Ok(true);
        }
        let (resource_attributes, non_resource_attributes) = asked.right(path);
        let UserInfo { username, uid, groups, extra } = user;
        let spec = SubjectAccessReviewSpec {
            user: username,
            uid,
            groups,
            extra,
            resource_attributes,
            non_resource_attributes,
        };
        let subject = serde_json::to_vec(&spec).map_err(|_| Unavailable)?;
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let ask = async {
            let status = self.access.create(&PostParams::default(), &review).await?.status;
            Ok(status.is_some_and(|status| status.allowed))
        };
        self.rights.get(&subject, |_| KEPT, ask).await
    }
}
