//! Whose certificates are believed: the authority of the API server's front proxy, from the ConfigMap that it publishes.
//! Looked at once a minute, so that another authority is taken over.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::callers::{self, FrontProxy};
use crate::operator::sync::keeper::Certificate;

/// Namespace and name of the ConfigMap.
const CONFIG: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// The same while it can't be used.
const AWAIT: Duration = Duration::from_secs(1);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How callers are let in.
pub struct Door {
    /// The front proxy.
    pub front: FrontProxy,
    /// TLS that asks for its certificate.
    pub tls: TlsAcceptor,
}

/// The door as the ConfigMap has it now.
pub struct Trust {
    api: Api<ConfigMap>,
    certificate: Arc<Certificate>,
    door: ArcSwapOption<Door>,
}

impl Trust {
    /// Nobody is let in yet. `certificate` is what is shown to callers.
    #[must_use]
    pub fn new(client: Client, certificate: Arc<Certificate>) -> Self {
        Self { api: Api::namespaced(client, CONFIG.0), certificate, door: ArcSwapOption::empty() }
    }

    /// The door; `None` before the ConfigMap was read.
    #[must_use]
    pub fn door(&self) -> Option<Arc<Door>> {
        self.door.load_full()
    }

    /// Looks for ever.
    pub async fn run(self: Arc<Self>) {
        let mut complaint = String::new();
        let mut read = None;
        loop {
            match self.look(&mut read).await {
                Ok(()) => complaint.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::warn!(error, "ConfigMap {}/{}; it is tried again", CONFIG.0, CONFIG.1);
                        complaint = error;
                    }
                }
            }
            tokio::time::sleep(if complaint.is_empty() { LOOK } else { AWAIT }).await;
        }
    }

    /// `read`: what the ConfigMap had when the door was made.
    async fn look(&self, read: &mut Option<ConfigMap>) -> anyhow::Result<()> {
        let config = tokio::time::timeout(TIMEOUT, self.api.get(CONFIG.1)).await??;
        if read.as_ref().is_some_and(|read| read.data == config.data) {
            return Ok(());
        }
        let (front, roots) = callers::read(&config)?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
        let certificate = Arc::clone(&self.certificate);
        let mut tls = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(certificate);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.door.store(Some(Arc::new(Door { front, tls: TlsAcceptor::from(Arc::new(tls)) })));
        *read = Some(config);
        Ok(())
    }
}
