//! TLS on the traffic port: the certificate of a mounted Secret, as it is now.
//!
//! A new certificate is used by the handshakes after it; connections that are open stay. One that can't be used leaves
//! the one before in force. Without any the router is not ready and ends every handshake: it never falls back to
//! plain text.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::api::types::SecretKeyRef;
use crate::routing::source::secrets::Secrets;

/// Key of the certificate chain, as in every Secret of type kubernetes.io/tls.
const CERTIFICATE: &str = "tls.crt";
/// Key of the private key.
const KEY: &str = "tls.key";

/// The certificate in force.
#[derive(Debug)]
pub struct Certificate {
    /// Name of the Secret.
    pub secret: String,
    current: ArcSwapOption<CertifiedKey>,
}

impl Certificate {
    /// Follows a Secret until the sender is gone.
    #[must_use]
    pub fn follow(secret: String, mut secrets: watch::Receiver<Secrets>) -> Arc<Self> {
        let certificate = Arc::new(Self { secret, current: ArcSwapOption::empty() });
        let following = Arc::clone(&certificate);
        let mut known = following.load(&secrets.borrow_and_update(), None);
        tokio::spawn(async move {
            while secrets.changed().await.is_ok() {
                let new = following.load(&secrets.borrow_and_update(), known.as_ref());
                known = new.or(known);
            }
        });
        certificate
    }

    /// Whether there is a certificate.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.current.load().is_some()
    }

    /// How handshakes are answered.
    #[must_use]
    pub fn config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Takes what is mounted, and gives it back, unless it is what is known.
    fn load(&self, secrets: &Secrets, known: Option<&(Bytes, Bytes)>) -> Option<(Bytes, Bytes)> {
        let get = |key: &str| secrets.get(&SecretKeyRef { name: self.secret.clone(), key: key.to_owned() });
        let (Some(certificate), Some(key)) = (get(CERTIFICATE), get(KEY)) else {
            tracing::warn!(secret = self.secret, "the Secret has no tls.crt and tls.key, or is not mounted yet");
            return None;
        };
        let new = (certificate, key);
        if known == Some(&new) {
            return None;
        }
        match certified(&new.0, &new.1) {
            Ok(certified) => {
                self.current.store(Some(Arc::new(certified)));
                tracing::info!(secret = self.secret, "a certificate is in force");
            }
            Err(error) => {
                tracing::error!(secret = self.secret, error, "a certificate can't be used; the one before stays");
            }
        }
        Some(new)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// A chain and its key, which belong together.
fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let provider = CryptoProvider::get_default().ok_or("no crypto provider")?;
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("{CERTIFICATE}: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{CERTIFICATE}: no certificate in it"));
    }
    // What is wrong with a key is not quoted.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| format!("{KEY}: not a private key in PEM"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| format!("{KEY}: {error}"))
}
