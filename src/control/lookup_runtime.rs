//! Sockets, timers and tasks for the resolver crate, on the runtime that is there. Its own would turn on tokio's
//! multi-threaded scheduler, with which every socket of every session is 8 bytes larger.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

/// Longest wait for a connection where the crate names none.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The runtime of whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl Spawn for Here {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        // It ends with the resolver that it works for.
        drop(tokio::spawn(future));
    }
}

#[async_trait]
impl Time for Here {
    async fn delay_for(duration: Duration) {
        sleep(duration).await;
    }

    async fn timeout<F: 'static + Future + Send>(duration: Duration, future: F) -> io::Result<F::Output> {
        Ok(timeout(duration, future).await?)
    }
}

impl RuntimeProvider for Here {
    type Handle = Self;
    type Timer = Self;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        *self
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Tcp>>>> {
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(from) = from {
                socket.bind(from)?;
            }
            socket.set_nodelay(true)?;
            Ok(Tcp(timeout(limit.unwrap_or(CONNECT_LIMIT), socket.connect(server)).await??))
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Udp>>>> {
        Box::pin(async move { UdpSocket::bind(local).await.map(Udp) })
    }
}

/// A socket for datagrams.
pub struct Udp(UdpSocket);

impl DnsUdpSocket for Udp {
    type Time = Here;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let peer = ready!(self.0.poll_recv_from(cx, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), peer)))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, bytes, target)
    }
}

/// A connection.
pub struct Tcp(TcpStream);

impl DnsTcpStream for Tcp {
    type Time = Here;
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
