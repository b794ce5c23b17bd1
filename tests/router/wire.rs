//! A server that says what it is told, byte for byte, whatever HTTP has to say of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fake_upstream::request;

/// One thing that it does.
#[derive(Clone, Debug)]
pub enum Do {
    /// Sends bytes at once.
    Send(Vec<u8>),
    /// Sends bytes one by one, with this pause after each.
    Drip(Vec<u8>, Duration),
    /// Sends the same bytes again and again, with this pause, until the other side has closed.
    Forever(Vec<u8>, Duration),
    Pause(Duration),
    /// Resets the connection.
    Reset,
    /// Closes it.
    Close,
    /// Says nothing more, until the other side closes.
    Silence,
}

/// Sends text.
pub fn send(text: impl AsRef<str>) -> Do {
    Do::Send(text.as_ref().as_bytes().to_vec())
}

/// The head of a 200, whose body lasts until the connection closes if it is given no length.
pub fn head(kind: &str, length: Option<usize>) -> Do {
    let length = length.map_or_else(|| "connection: close\r\n".to_owned(), |l| format!("content-length: {l}\r\n"));
    send(format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n"))
}

/// The server. It goes through its script once for each request.
pub struct Wire {
    pub port: u16,
    script: Arc<Mutex<Vec<Do>>>,
    requests: Arc<AtomicUsize>,
    /// When connections were closed by the other side in the middle of a script.
    left: Arc<Mutex<Vec<Instant>>>,
}

impl Wire {
    pub async fn start(script: Vec<Do>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            script: Arc::new(Mutex::new(script)),
            requests: Arc::default(),
            left: Arc::default(),
        };
        let (script, requests, left) = (wire.script.clone(), wire.requests.clone(), wire.left.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (script, requests, left) = (script.clone(), requests.clone(), left.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    while request(&mut stream).await.is_some() {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let script = script.lock().unwrap().clone();
                        match play(&mut stream, script).await {
                            Ended::Played => {}
                            Ended::Closed => return,
                            Ended::Left => return left.lock().unwrap().push(Instant::now()),
                        }
                    }
                });
            }
        });
        wire
    }

    pub fn now(&self, script: Vec<Do>) {
        *self.script.lock().unwrap() = script;
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn left(&self) -> Vec<Instant> {
        self.left.lock().unwrap().clone()
    }
}

enum Ended {
    Played,
    Closed,
    Left,
}

async fn play(stream: &mut TcpStream, script: Vec<Do>) -> Ended {
    for each in script {
        match each {
            Do::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return Ended::Left;
                }
            }
            Do::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() || (!pause.is_zero() && gone(stream, pause).await) {
                        return Ended::Left;
                    }
                }
            }
            Do::Forever(bytes, pause) => {
                while stream.write_all(&bytes).await.is_ok() {
                    if !pause.is_zero() && gone(stream, pause).await {
                        break;
                    }
                }
                return Ended::Left;
            }
            Do::Pause(pause) => {
                if gone(stream, pause).await {
                    return Ended::Left;
                }
            }
            Do::Reset => {
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
                return Ended::Closed;
            }
            Do::Close => return Ended::Closed,
            Do::Silence => {
                return if gone(stream, Duration::from_secs(60)).await { Ended::Left } else { Ended::Closed };
            }
        }
    }
    Ended::Played
}

/// Waits, and says whether the other side closed meanwhile.
async fn gone(stream: &mut TcpStream, pause: Duration) -> bool {
    let mut buffer = [0; 1];
    tokio::time::timeout(pause, stream.read(&mut buffer)).await.is_ok()
}
