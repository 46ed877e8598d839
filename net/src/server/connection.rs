//! One accepted connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::places::Place;
use crate::peer::Peer;

/// One accepted connection, which can be cut from outside.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When it is cut unless a call of it was let in; none once one was.
    until: Option<Pin<Box<Sleep>>>,
    /// Of those that may be open at the same time.
    _place: Place,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Cut at `until` unless a call of it was let in by then.
    pub(super) fn plain(stream: TcpStream, peer: Peer, until: Instant, place: Place) -> Self {
        Self::new(Stream::Plain(stream), peer, until, place)
    }

    /// The same.
    pub(super) fn tls(stream: TlsStream<TcpStream>, peer: Peer, until: Instant, place: Place) -> Self {
        Self::new(Stream::Tls(Box::new(stream)), peer, until, place)
    }

    fn new(stream: Stream, peer: Peer, until: Instant, place: Place) -> Self {
        let cut = Box::pin(peer.cut.clone().cancelled_owned());
        Self { stream, peer, cut, until: Some(Box::pin(sleep_until(until))), _place: place }
    }

    /// Refuses when it is cut or late. Asked by whoever reads and whoever writes: a client that takes nothing keeps the
    /// server from reading.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.peer.is_admitted() {
            self.until = None;
        }
        let is_late = self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready());
        if is_late || self.cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
