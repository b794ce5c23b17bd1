//! `smallfirst probe URL`: waits until an address answers 200.
//!
//! The image holds this binary and nothing else, so that `helm test` has nobody else to ask.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http::Uri;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time of one connection, and of one reading or writing.
const LONGEST: Duration = Duration::from_secs(3);
/// What is read of an answer, in bytes: a status and what is awaited.
const ANSWER: u64 = 4096;

/// What `smallfirst probe` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: smallfirst probe http://127.0.0.1:9090/readyz")]
pub struct Args {
    /// What to ask: http://HOST:PORT/PATH
    url: Uri,
    /// How long to go on asking, in seconds
    #[arg(long, default_value_t = 60)]
    timeout_seconds: u32,
}

/// Asks until the answer is 200.
///
/// # Errors
/// When the URL is not one of plain HTTP, and when the time is over: with what was said last.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (host, port) = address(&args.url)?;
    let end = Instant::now() + Duration::from_secs(args.timeout_seconds.into());
    loop {
        match ask(&host, port, args.url.path()) {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(error) if Instant::now() + PAUSE >= end => return Err(error.context(args.url.to_string())),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn address(url: &Uri) -> anyhow::Result<(String, u16)> {
    let host = url.host().filter(|_| url.scheme_str() == Some("http"));
    let Some(host) = host else { bail!("URL: {url} is not of the form http://HOST:PORT/PATH") };
    Ok((host.trim_matches(['[', ']']).to_owned(), url.port_u16().unwrap_or(80)))
}

/// Asks once.
fn ask(host: &str, port: u16, path: &str) -> anyhow::Result<()> {
    let address = (host, port).to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, LONGEST)?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.set_write_timeout(Some(LONGEST))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split_ascii_whitespace().nth(1) == Some("200"), "{status}: {}", body.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of these, then no more.
    fn server(answers: &'static [&'static str]) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/readyz", listener.local_addr().expect("an address"));
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 512];
                let read = stream.read(&mut request).expect("a request");
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"), "{request:?}");
                stream.write_all(answer.as_bytes()).expect("an answer");
            }
        });
        url.parse().expect("a URL")
    }

    #[test]
    fn it_waits_until_the_answer_is_200() {
        let url = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\nawaits pods\n", "", "HTTP/1.1 200 OK\r\n\r\nok\n"]);
        assert!(run(&Args { url, timeout_seconds: 20 }).is_ok());
    }

    #[test]
    fn what_was_said_last_is_the_error() {
        let url = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\nawaits pods\n"]);
        let error = run(&Args { url, timeout_seconds: 0 }).expect_err("a refusal");
        assert!(format!("{error:#}").ends_with("/readyz: HTTP/1.1 503 Service Unavailable: awaits pods"), "{error:#}");
    }

    #[test]
    fn only_plain_http_is_asked() {
        for url in ["https://a/readyz", "/readyz", "a:9090"] {
            let error = run(&Args { url: url.parse().expect("a URI"), timeout_seconds: 0 }).expect_err(url);
            assert!(error.to_string().starts_with("URL: "), "{error}");
        }
    }
}
