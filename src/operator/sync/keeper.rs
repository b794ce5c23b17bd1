//! The authority's Secret: the leader makes it, every operator reads it by its name and issues its own certificate from
//! it. Looked at once a minute, so that another authority is taken over by all.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Zoned;
use jiff::civil::Date;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::authority::Authority;
use super::{SECRET, SERVER_NAME};
use crate::operator::apply::guarded;
use crate::routing::table::SyncAddress;
use crate::runtime::leader::Leader;

/// How often the Secret is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// The same while there is none.
const AWAIT: Duration = Duration::from_millis(250);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The certificate in force, for a TLS server.
#[derive(Debug, Default)]
pub struct Certificate(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Keeps the authority and the certificate.
pub struct Keeper {
    api: Api<Secret>,
    namespace: String,
    address: String,
    /// Names in the certificate.
    names: Vec<String>,
    leader: Leader,
    certificate: Arc<Certificate>,
    told: watch::Sender<Option<SyncAddress>>,
    /// What the certificate is issued from, and when.
    issued: Option<(String, Date)>,
}

impl Keeper {
    /// A keeper of the Secret in `namespace`; `address` is where routers find the operators. The receiver is told what
    /// tables say of it, once there is an authority.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        address: &str,
        leader: Leader,
    ) -> (Self, Arc<Certificate>, watch::Receiver<Option<SyncAddress>>) {
        let certificate = Arc::<Certificate>::default();
        let (told, sync) = watch::channel(None);
        let keeper = Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            address: address.to_owned(),
            names: vec![SERVER_NAME.to_owned()],
            leader,
            certificate: Arc::clone(&certificate),
            told,
            issued: None,
        };
        (keeper, certificate, sync)
    }

    /// The same, with a certificate that has this name too.
    #[must_use]
    pub fn named(mut self, name: String) -> Self {
        self.names.push(name);
        self
    }

    /// Keeps for ever.
    pub async fn run(mut self) {
        let mut complaint = String::new();
        loop {
            match self.look(Zoned::now().date()).await {
                Ok(()) => complaint.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::warn!(error, "no authority for routers to trust; it is tried again");
                        complaint = error;
                    }
                }
            }
            tokio::time::sleep(if self.issued.is_some() { LOOK } else { AWAIT }).await;
        }
    }

    async fn look(&mut self, today: Date) -> anyhow::Result<()> {
        let found = tokio::time::timeout(TIMEOUT, self.api.get_opt(SECRET)).await??;
        let known = found.as_ref().map(Authority::read).transpose();
        let leads = self.leader.leads(tokio::time::Instant::now());
        let authority = match known {
            Ok(Some(authority)) if today < authority.renew_after || !leads => authority,
            Ok(None) if !leads => return Ok(()),
            Err(error) if !leads => return Err(error.into()),
            _ => self.make(found, today).await?,
        };
        let wanted = (authority.certificate.clone(), today);
        if self.issued.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.certificate.0.store(Some(authority.issue(&self.names, today)?));
        self.issued = Some(wanted);
        let sync = SyncAddress {
            address: self.address.clone(),
            server_name: SERVER_NAME.to_owned(),
            ca: authority.certificate,
        };
        self.told.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&sync);
            *told = Some(sync);
            changed
        });
        Ok(())
    }

    /// A new authority in the Secret. If another was faster this fails, and the next look finds that one.
    async fn make(&self, found: Option<Secret>, today: Date) -> anyhow::Result<Authority> {
        let authority = Authority::generate(today)?;
        let params = PostParams::default();
        let object = format!("Secret {SECRET}");
        match found {
            Some(mut secret) => {
                authority.write(&mut secret);
                guarded(&self.leader, &object, self.api.replace(SECRET, &params, &secret)).await?;
            }
            None => {
                let mut secret = Secret {
                    metadata: ObjectMeta {
                        name: Some(SECRET.to_owned()),
                        namespace: Some(self.namespace.clone()),
                        labels: Some([("app.kubernetes.io/part-of".to_owned(), "smallfirst".to_owned())].into()),
                        ..ObjectMeta::default()
                    },
                    ..Secret::default()
                };
                authority.write(&mut secret);
                guarded(&self.leader, &object, self.api.create(&params, &secret)).await?;
            }
        }
        tracing::info!("made the authority that routers trust: Secret {SECRET}");
        Ok(authority)
    }
}
