//! What the API server says of callers. Its answers are kept for a short time, by a hash of what it was asked.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Api;
use kube::api::PostParams;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Answers that are kept.
const MOST: usize = 4096;
/// Reviews at a time.
const AT_A_TIME: usize = 8;
/// Bound on a review.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Longest token that is reviewed, in bytes.
pub const LONGEST_TOKEN: usize = 16 << 10;

/// The API server can't say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server does not answer reviews now")]
pub struct Unavailable;

/// Answers about callers.
pub struct Reviews<T> {
    kept: Cache<[u8; 32], (T, Instant)>,
    places: Semaphore,
}

impl<T: Clone> Default for Reviews<T> {
    fn default() -> Self {
        Self { kept: Cache::new(MOST), places: Semaphore::new(AT_A_TIME) }
    }
}

impl<T: Clone> Reviews<T> {
    /// The answer about a subject: one that is kept, or else a new one, which is kept for the time that `keep` says.
    ///
    /// # Errors
    /// When the API server does not answer. That is not kept.
    pub async fn get(
        &self,
        subject: &[u8],
        keep: impl FnOnce(&T) -> Duration,
        ask: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Unavailable> {
        let hash: [u8; 32] = Sha256::digest(subject).into();
        let now = Instant::now();
        if let Some((answer, until)) = self.kept.get(&hash)
            && now < until
        {
            return Ok(answer);
        }
        let work = async {
            // Never closed.
            let _one = self.places.acquire().await;
            ask.await
        };
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(answer)) => {
                self.kept.insert(hash, (answer.clone(), now + keep(&answer)));
                Ok(answer)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a caller was not reviewed");
                Err(Unavailable)
            }
            Err(_) => Err(Unavailable),
        }
    }
}

/// The user of a token; `None` if it is not valid, for this audience if one is named and for the API server's own if not.
///
/// # Errors
/// When the API server does not say.
pub async fn user_of(api: &Api<TokenReview>, token: String, audience: Option<&str>) -> kube::Result<Option<UserInfo>> {
    let audiences = audience.map(|audience| vec![audience.to_owned()]);
    let review = TokenReview { spec: TokenReviewSpec { token: Some(token), audiences }, ..TokenReview::default() };
    let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
    let ours = audience.is_none_or(|audience| status.audiences.iter().flatten().any(|each| each == audience));
    Ok(status.user.filter(|_| ours && status.authenticated == Some(true)))
}
