//! A server of HTTPS that no authority vouches for.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// For `localhost`, signed by itself; the key is for this test alone.
const PEM: &[u8] = include_bytes!("../data/self-signed.pem");

/// Starts it, and gives its port. It answers nobody: a router must not get so far.
pub async fn start() -> u16 {
    let certificate = CertificateDer::from_pem_slice(PEM).unwrap();
    let key = PrivateKeyDer::from_pem_slice(PEM).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut request = String::new();
                    let _ = stream.read_to_string(&mut request).await;
                    assert_eq!(request, "", "a request was sent to a stranger");
                }
            });
        }
    });
    port
}
