//! A client's connection, and an end of patience with one that takes nothing.
//!
//! A reply that fits no buffer waits in memory until its client reads on, and hyper waits for ever. So a write that makes no
//! progress for too long ends the connection: by a reset, since what the kernel still holds would wait as well. A client that
//! reads slowly is left alone: every byte that it takes begins the time anew.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

/// What a connection runs on.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The connection below it.
    fn tcp(&self) -> &TcpStream;
}

impl Transport for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Transport for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A connection whose writes may wait only so long.
pub(super) struct Patient<S> {
    io: TokioIo<S>,
    patience: Duration,
    /// Runs while a write waits. Most never do, and then there is none.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S: Transport> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { io: TokioIo::new(stream), patience, waiting: None }
    }

    fn io(&mut self) -> Pin<&mut TokioIo<S>> {
        Pin::new(&mut self.io)
    }

    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        if waiting.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // It ends without this as well, only later.
        let _ = socket2::SockRef::from(self.io.inner().tcp()).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: Transport> Read for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<Result<()>> {
        self.io().poll_read(context, buffer)
    }
}

impl<S: Transport> Write for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = self.io().poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = self.io().poll_write_vectored(context, slices);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.io().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.io().poll_shutdown(context)
    }
}
