//! The binary itself, as a process of this test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::harness::get;

/// A running `smallfirst`; what is not stopped is killed at the end of the test.
pub struct Process {
    child: Option<Child>,
    pub address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens on, at an address of its own: no other test, and no connection, can be given the same one
/// before it is used.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., pid] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, pid.max(1), high, low.max(1)), 0)).unwrap().local_addr().unwrap()
}

/// `smallfirst` without the environment of whoever runs the tests.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smallfirst"));
    command.arg(name).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes a file below a folder, and gives its path.
pub fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Exit code and standard error of a command that ends by itself.
pub async fn ended(mut command: Command) -> (Option<i32>, String) {
    let child = command.spawn().unwrap();
    let Output { status, stderr, .. } = finished(child).await;
    (status.code(), text(stderr))
}

async fn finished(child: Child) -> Output {
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it does not end").unwrap()
}

impl Process {
    /// Starts a command that serves, and waits until it is ready.
    pub async fn serving(mut command: Command) -> Self {
        let (address, admin) = (free(), free());
        command.args(["--listen", &address.to_string(), "--admin", &admin.to_string()]);
        let mut process = Self { child: Some(command.spawn().unwrap()), address };
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            let ended = process.child.as_mut().and_then(|child| child.try_wait().unwrap());
            if let Some(status) = ended {
                let output = process.child.take().unwrap().wait_with_output().unwrap();
                panic!("{status}: {}", text(output.stderr));
            }
            if tokio::net::TcpStream::connect(admin).await.is_ok() && get(admin, "/readyz").await.status == 200 {
                return process;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not become ready");
    }

    /// Stops it as a kubelet does: exit code, standard output, standard error.
    pub async fn stop(mut self) -> (Option<i32>, String, String) {
        let child = self.child.take().unwrap();
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let Output { status, stdout, stderr } = finished(child).await;
        (status.code(), text(stdout), text(stderr))
    }
}
