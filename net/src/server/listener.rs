//! Accepts connections, and sees each through its handshake beside the others.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::places::{Place, Places};
use super::{Connection, ServerTls};
use crate::peer::{CertificateName, Peer};

/// A connection that has said nothing, or not ended its handshake, for this long is cut.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection of which no call was let in for this long is cut.
const FIRST_CALL: Duration = Duration::from_secs(30);
/// Connections at the same time; whoever comes later waits until one ends.
const CONNECTIONS: usize = 16_384;
/// Those of one address. A fleet behind one has room, and nobody can take all.
const OF_AN_ADDRESS: usize = 2048;
/// A pause after an accept that failed, as when there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that are ready for use, in the order in which they became so.
#[derive(Debug)]
pub struct Listener {
    ready: mpsc::Receiver<Connection>,
    address: SocketAddr,
    /// End with it.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Listener {
    /// Begins to accept. With `tls`, every connection is one of TLS, and its certificate follows its files.
    pub fn start(tcp: TcpListener, tls: Option<Arc<ServerTls>>) -> io::Result<Self> {
        Self::start_with(tcp, tls, Places::new(CONNECTIONS, OF_AN_ADDRESS), FIRST_CALL)
    }

    fn start_with(
        tcp: TcpListener,
        tls: Option<Arc<ServerTls>>,
        places: Places,
        first_call: Duration,
    ) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let watch = tls.clone().map(|tls| tls.watch(CancellationToken::new()));
        let mut tasks =
            vec![AbortOnDropHandle::new(tokio::spawn(accept(tcp, tls, sender, places, first_call)))];
        tasks.extend(watch.map(|watch| AbortOnDropHandle::new(tokio::spawn(watch))));
        Ok(Self { ready, address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Safe to be cancelled.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        self.ready.recv().await.ok_or_else(|| io::Error::other("the listener has ended"))
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

async fn accept(
    tcp: TcpListener,
    tls: Option<Arc<ServerTls>>,
    ready: mpsc::Sender<Connection>,
    places: Places,
    first_call: Duration,
) {
    loop {
        // Never closed.
        let Some(free) = places.free().await else { return };
        let (stream, address) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.give(free, address.ip()) else {
            tracing::debug!(%address, "too many connections of this address");
            continue;
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        let until = Instant::now() + first_call;
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, handshake(stream, address, tls, until, place)).await {
                Ok(Ok(connection)) => {
                    // Nobody accepts any more: it is closed.
                    let _ = ready.send(connection).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "handshake"),
                Err(_) => tracing::debug!(%address, "handshake took too long"),
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    until: Instant,
    place: Place,
) -> io::Result<Connection> {
    // An answer is several small writes, and each but the first would wait for the client to acknowledge the one
    // before, which it delays by 40 ms.
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        // The client speaks first.
        stream.peek(&mut [0]).await?;
        return Ok(Connection::plain(stream, Peer::new(address, None), until, place));
    };
    let mut stream = TlsAcceptor::from(tls.current()).accept(stream).await?;
    stream.fill_buf().await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.and_then(|certificate| CertificateName::read(certificate));
    Ok(Connection::tls(stream, Peer::new(address, certificate), until, place))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn answers_wait_for_no_acknowledgement_and_a_cut_ends_the_connection() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Listener::start(tcp, None).unwrap();
        let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        let mut hello = [0; 5];
        accepted.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        accepted.peer().cut.cancel();
        assert_eq!(accepted.read(&mut hello).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_cut_ends_a_connection_that_waits_for_a_client_to_read() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Listener::start(tcp, None).unwrap();
        let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        let cut = accepted.peer().cut.clone();
        let (written, mut writes) = tokio::sync::watch::channel(());
        let answering = tokio::spawn(async move {
            loop {
                if let Err(error) = accepted.write_all(&[0; 1 << 16]).await {
                    return error;
                }
                written.send_replace(());
            }
        });
        // Until the buffers on the way are full.
        while tokio::time::timeout(Duration::from_millis(200), writes.changed()).await.is_ok() {}
        cut.cancel();
        assert_eq!(answering.await.unwrap().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn only_who_is_let_in_stays_and_an_address_has_its_part() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wait = Duration::from_millis(300);
        let mut listener = Listener::start_with(tcp, None, Places::new(8, 2), wait).unwrap();
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..2 {
            let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
            client.write_all(b"a").await.unwrap();
            clients.push(client);
            accepted.push(listener.accept().await.unwrap());
        }
        let mut third = TcpStream::connect(listener.local_addr()).await.unwrap();
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)));
        let (mut stays, mut goes) = (accepted.remove(0), accepted.remove(0));
        stays.peer().admit();
        let mut byte = [0];
        // Its byte is heard, or its time is over already.
        let cut = async {
            loop {
                if let Err(error) = goes.read(&mut byte).await {
                    break error;
                }
            }
        };
        assert_eq!(cut.await.kind(), io::ErrorKind::ConnectionAborted);
        drop(goes);
        assert_eq!(stays.read(&mut byte).await.unwrap(), 1);
        clients[0].write_all(b"b").await.unwrap();
        assert_eq!((stays.read(&mut byte).await.unwrap(), byte), (1, *b"b"));
        // There is room again.
        let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
        client.write_all(b"c").await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_nobody_else_waiting() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Listener::start(tcp, None).unwrap();
        let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        assert_eq!(listener.accept().await.unwrap().peer().address, client.local_addr().unwrap());
    }
}
