//! Whose router it is: by its token, which the API server reviews. The answer is kept for a minute, by a hash of the
//! token; what is no token of ours for a shorter time, so that a stranger does not keep the API server busy.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, UserInfo};
use kube::{Api, Client};

use crate::operator::reviews::{LONGEST_TOKEN, Reviews, user_of};
use crate::routing::report::AUDIENCE;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(60);
/// The same for tokens that are not valid.
const KEPT_BAD: Duration = Duration::from_secs(10);
/// Extra of a user: the pod that a token was made for.
const POD: &str = "authentication.kubernetes.io/pod-name";

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace and name of its policy.
    pub policy: (String, String),
    /// Its pod, where the token names one.
    pub pod: Option<String>,
}

/// Why a caller is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not a router that the API server knows.
    #[error("{0}")]
    Unknown(&'static str),
    /// The API server can't say.
    #[error("the API server does not review tokens now")]
    Unavailable,
}

/// Asks the API server who a token is.
pub type Review = Box<dyn Fn(String) -> BoxFuture<'static, kube::Result<Option<UserInfo>>> + Send + Sync>;

/// Tokens that were shown.
pub struct Tokens {
    review: Review,
    reviews: Reviews<Result<Arc<Caller>, Denied>>,
}

impl Tokens {
    /// Tokens that the API server reviews.
    #[must_use]
    pub fn reviewed_by(client: Client) -> Self {
        let api: Api<TokenReview> = Api::all(client);
        Self::new(Box::new(move |token| {
            let api = api.clone();
            Box::pin(async move { user_of(&api, token, Some(AUDIENCE)).await })
        }))
    }

    /// Tokens that are reviewed so.
    #[must_use]
    pub fn new(review: Review) -> Self {
        Self { review, reviews: Reviews::default() }
    }

    /// Whose router shows this token.
    ///
    /// # Errors
    /// When it is nobody's, or the API server can't say.
    pub async fn check(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return Err(Denied::Unknown("no token of a router"));
        }
        let ask = async {
            let user = (self.review)(token.to_owned()).await?;
            Ok(match user.as_ref().map(caller) {
                None => Err(Denied::Unknown("the token is not valid for smallfirst-sync")),
                Some(None) => Err(Denied::Unknown("the token is not of a policy's routers")),
                Some(Some(caller)) => Ok(Arc::new(caller)),
            })
        };
        let keep = |answer: &Result<_, _>| if answer.is_ok() { KEPT } else { KEPT_BAD };
        self.reviews.get(token.as_bytes(), keep, ask).await.unwrap_or(Err(Denied::Unavailable))
    }
}

/// Which policy's router a user is: its ServiceAccount is `<policy>-router`.
fn caller(user: &UserInfo) -> Option<Caller> {
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    let policy = name.strip_suffix("-router").filter(|policy| !policy.is_empty())?;
    let pod = user.extra.as_ref().and_then(|extra| extra.get(POD)?.first().cloned());
    Some(Caller { policy: (namespace.to_owned(), policy.to_owned()), pod })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn user(name: &str) -> UserInfo {
        let extra = [(POD.to_owned(), vec!["front-router-1".to_owned()])].into();
        UserInfo { username: Some(name.to_owned()), extra: Some(extra), ..UserInfo::default() }
    }

    /// Tokens are names of users; `?` is a server that fails. Counts reviews.
    fn tokens() -> (Tokens, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let tokens = Tokens::new(Box::new(move |token| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                match token.as_str() {
                    "?" => Err(kube::Error::Service("away".into())),
                    "forged" => Ok(None),
                    name => Ok(Some(user(name))),
                }
            })
        }));
        (tokens, count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_is_known_by_the_account_of_its_routers_and_asked_for_once_a_minute() {
        let (tokens, count) = tokens();
        let name = "system:serviceaccount:ml:front-router";
        for _ in 0..3 {
            let caller = tokens.check(name).await.expect("a router");
            assert_eq!(caller.policy, ("ml".to_owned(), "front".to_owned()));
            assert_eq!(caller.pod.as_deref(), Some("front-router-1"));
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::advance(KEPT).await;
        assert!(tokens.check(name).await.is_ok());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn strangers_are_turned_away_and_asked_for_once() {
        let (tokens, count) = tokens();
        let others = ["system:serviceaccount:ml:default", "system:serviceaccount:ml:-router", "admin", "forged"];
        for _ in 0..2 {
            for other in others {
                assert!(matches!(tokens.check(other).await, Err(Denied::Unknown(_))), "{other}");
            }
            assert!(matches!(tokens.check("").await, Err(Denied::Unknown(_))));
            assert!(matches!(tokens.check(&"x".repeat(LONGEST_TOKEN + 1)).await, Err(Denied::Unknown(_))));
        }
        assert_eq!(count.load(Ordering::Relaxed), others.len());
        // A server that is away is asked again: a token may be good.
        assert_eq!(tokens.check("?").await, Err(Denied::Unavailable));
        assert_eq!(tokens.check("?").await, Err(Denied::Unavailable));
        assert_eq!(count.load(Ordering::Relaxed), others.len() + 2);
    }
}
