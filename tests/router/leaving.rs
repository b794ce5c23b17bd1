//! A router that stops, and clients that keep their connection: none may find it closed that was not told.

use std::io::ErrorKind::UnexpectedEof;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Harness, Reply, get, table};
use super::traffic_tls::{A, secrets, until_trusted};

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(3);
const LAME_DUCK: Duration = Duration::from_millis(300);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A client that keeps its connection, and sends without looking whether it is still there.
struct Kept {
    stream: Box<dyn Stream>,
    answered: Instant,
}

impl Kept {
    /// With one answer, which does not end it.
    async fn connect(router: &Harness, tls: bool) -> Self {
        let stream: Box<dyn Stream> = if tls {
            Box::new(until_trusted(router.address, A).await)
        } else {
            Box::new(TcpStream::connect(router.address).await.unwrap())
        };
        let mut kept = Self { stream, answered: Instant::now() };
        let reply = kept.ask().await;
        assert_eq!((reply.status, reply.header("connection")), (200, ""), "{}", reply.head);
        kept
    }

    async fn ask(&mut self) -> Reply {
        let request = "GET /v1/models HTTP/1.1\r\nhost: router.test\r\nauthorization: Bearer k-finance\r\n\r\n";
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read(&mut seen)).await.unwrap().unwrap();
        self.answered = Instant::now();
        let text = String::from_utf8_lossy(&seen[..read]).to_string();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// The one answer that tells it to go.
    async fn is_told(&mut self) {
        let reply = self.ask().await;
        assert_eq!((reply.status, reply.header("connection")), (200, "close"), "{}", reply.head);
        self.ends().await;
    }

    async fn ends(&mut self) {
        let read = tokio::time::timeout(2 * IDLE, self.stream.read(&mut [0; 1])).await.expect("it stays open");
        // One that was idle for too long ends without a word of TLS.
        assert!(read.as_ref().map_or_else(|error| error.kind() == UnexpectedEof, |read| *read == 0), "{read:?}");
    }
}

async fn start(tls: bool, lame_duck: Duration) -> Harness {
    // Nobody is asked.
    let router = Harness::not_ready(table(1, 1), |config| {
        config.lame_duck = lame_duck;
        config.limits.head_timeout = IDLE;
        config.tls_secret = tls.then(|| "traffic".to_owned());
    });
    let router = router.await;
    if tls {
        router.secrets.send(secrets(A)).unwrap();
    }
    router.until_ready().await;
    router
}

async fn leaves_without_a_cut(tls: bool) {
    let mut router = start(tls, LAME_DUCK).await;
    let mut busy = Kept::connect(&router, tls).await;
    let mut late = Kept::connect(&router, tls).await;
    let mut idle = Kept::connect(&router, tls).await;
    let stopping = tokio::spawn(router.running.take().unwrap().stop());
    while get(router.admin, "/readyz").await.status == 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    busy.is_told().await;
    while TcpStream::connect(router.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    late.is_told().await;
    assert!(!stopping.is_finished(), "there is one more");
    idle.ends().await;
    let lasted = idle.answered.elapsed();
    assert!(lasted > IDLE - Duration::from_millis(100), "an idle connection was cut after {lasted:?}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_router_that_leaves_cuts_no_kept_connection() {
    tokio::join!(leaves_without_a_cut(false), leaves_without_a_cut(true));
}

#[tokio::test]
async fn a_router_that_nobody_balances_to_waits_for_no_idle_client() {
    let mut router = start(false, Duration::ZERO).await;
    let mut idle = Kept::connect(&router, false).await;
    router.running.take().unwrap().stop().await;
    assert!(idle.answered.elapsed() < IDLE);
    idle.ends().await;
}
