//! A client and a model server that allocate nothing once they run: fixed buffers, replies made before.

use std::io::{Error, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use memchr::memmem::find;

/// Largest request or reply, in bytes.
const ROOM: usize = 64 << 10;

/// What the server says, on the wire.
pub struct Replies {
    plain: Vec<u8>,
    logprobs: Vec<u8>,
    /// Head, and events one by one.
    stream: Vec<Vec<u8>>,
}

fn whole(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

impl Replies {
    pub fn new(plain: &str, logprobs: &str, events: &[String]) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut stream = vec![head.as_bytes().to_vec()];
        stream.extend(events.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()));
        stream.push(b"0\r\n\r\n".to_vec());
        Self { plain: whole(plain), logprobs: whole(logprobs), stream }
    }

    fn send(&self, stream: &mut TcpStream, request: &[u8]) -> Result<()> {
        if find(request, br#""stream":true"#).is_some() {
            return self.stream.iter().try_for_each(|part| stream.write_all(part));
        }
        let logprobs = find(request, br#""logprobs":true"#).is_some();
        stream.write_all(if logprobs { &self.logprobs } else { &self.plain })
    }
}

/// Reads a message with its body, into `buffer`; `None` at the end of the connection.
fn message<'b>(stream: &mut TcpStream, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
    let mut read = 0;
    loop {
        let n = stream.read(&mut buffer[read..])?;
        if n == 0 {
            return Ok(None);
        }
        read += n;
        if is_whole(&buffer[..read]) {
            return Ok(Some(&buffer[..read]));
        }
    }
}

fn is_whole(message: &[u8]) -> bool {
    let Some(end) = find(message, b"\r\n\r\n") else { return false };
    let (head, body) = message.split_at(end + 4);
    match find(head, b"content-length: ") {
        Some(at) => {
            let digits = head[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
            body.len() >= digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
        }
        None => body.ends_with(b"0\r\n\r\n"),
    }
}

/// Serves until the process ends, a thread a connection.
pub fn serve(replies: Replies) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, replies) = (listener.local_addr()?, Arc::new(replies));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), replies) = (stream, replies.clone()) else { continue };
            std::thread::spawn(move || {
                let mut buffer = vec![0; ROOM];
                let _ = stream.set_nodelay(true);
                // A connection that breaks is the router's to tell.
                while let Ok(Some(request)) = message(&mut stream, &mut buffer) {
                    if replies.send(&mut stream, request).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Asks once, and reads the reply to its end.
///
/// # Errors
/// When the reply is not 200.
pub fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    let mut buffer = [0; ROOM];
    stream.write_all(request)?;
    match message(stream, &mut buffer)? {
        Some(reply) if reply.starts_with(b"HTTP/1.1 200") => Ok(()),
        Some(_) => Err(Error::other("the reply is not 200")),
        None => Err(Error::other("the connection was closed")),
    }
}
