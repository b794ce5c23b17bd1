//! TLS on the traffic port, and a certificate that changes while requests flow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use smallfirst::routing::source::secrets::Secrets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::harness::{Harness, body, get, key, table};

/// For `router.test`, each signed by itself; the keys are for this test alone.
pub const A: &str = include_str!("../data/traffic-a.pem");
const B: &str = include_str!("../data/traffic-b.pem");

pub fn secrets(certificate: &'static str) -> Secrets {
    // What belongs to the other key is passed over in both.
    let tls = [key("traffic", "tls.crt", certificate), key("traffic", "tls.key", certificate)];
    Secrets::from_iter([key("client-keys", "finance", "k-finance")].into_iter().chain(tls))
}

async fn connect(address: std::net::SocketAddr, trusted: &str) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("router.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// The status of one request, on a connection that stays open.
async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> String {
    let head = "GET /v1/models HTTP/1.1\r\nhost: router.test\r\nauthorization: Bearer k-finance\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut seen)).await.unwrap().unwrap();
    String::from_utf8_lossy(&seen[..read]).lines().next().unwrap().to_owned()
}

pub async fn until_trusted(address: std::net::SocketAddr, trusted: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    for _ in 0..200 {
        if let Some(stream) = connect(address, trusted).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no handshake");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_and_ends_no_connection() {
    // Nobody is asked.
    let router = Harness::not_ready(table(1, 1), |config| config.tls_secret = Some("traffic".to_owned())).await;
    let waiting = get(router.admin, "/readyz").await;
    assert_eq!(waiting.status, 503);
    assert!(waiting.body.contains("tls.crt and tls.key of Secret traffic"), "{}", waiting.body);
    assert!(connect(router.address, A).await.is_none(), "no certificate, no handshake");

    router.secrets.send(secrets(A)).unwrap();
    let mut open = until_trusted(router.address, A).await;
    router.until_ready().await;
    assert_eq!(ask(&mut open).await, "HTTP/1.1 200 OK");
    let request = body("intent");
    let plain = router.ask(&request);
    assert!(tokio::time::timeout(Duration::from_secs(5), plain).await.is_ok_and(|reply| reply.status == 0));

    router.secrets.send(secrets(B)).unwrap();
    let mut new = until_trusted(router.address, B).await;
    assert!(connect(router.address, A).await.is_none(), "the one before is not shown any more");
    assert_eq!(ask(&mut new).await, "HTTP/1.1 200 OK");
    assert_eq!(ask(&mut open).await, "HTTP/1.1 200 OK", "a connection of before stays");

    // One that can't be used, and none at all, leave the one before.
    for broken in ["nonsense", ""] {
        let mut half = secrets(B);
        half = half.with(Secrets::from_iter([(("traffic".to_owned(), "tls.key".to_owned()), Bytes::from(broken))]));
        router.secrets.send(half).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(connect(router.address, B).await.is_some(), "{broken:?}");
    }
    assert_eq!(get(router.admin, "/readyz").await.status, 200);
}
