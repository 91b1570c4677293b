//! Who is connected to the status socket, or to the metrics address: so many at once. When all places are taken, a newcomer
//! gets the place of one that keeps us waiting, of those who hold most places first; an operation is never broken off.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout};

/// Clients at once.
pub const MOST: usize = 64;
/// Who keeps us waiting for less than this may stay, unless more than half of all places are its owner's.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon to look again when nobody can be asked to leave.
const LOOK: Duration = Duration::from_millis(50);

/// Who shares one's lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process at the other end of a unix socket.
    Process(u32, Option<i32>),
    /// An address.
    Host(IpAddr),
}

/// All clients of one listening socket.
#[derive(Default)]
pub struct Clients {
    places: RefCell<Vec<Client>>,
    next: Cell<u64>,
    left: Notify,
}

struct Client {
    id: u64,
    owner: Owner,
    waiting: Waiting,
    task: AbortHandle,
}

/// Since when a client keeps us waiting: for a request, or for it to read its answer.
type Waiting = Rc<Cell<Option<Instant>>>;

impl Clients {
    /// Waits until there is a place, and makes one if need be.
    pub async fn make_room(&self) {
        while self.places.borrow().len() >= MOST {
            if !self.send_away_one() {
                // Either will do: somebody left, or has kept us waiting for long enough.
                let _ = timeout(LOOK, self.left.notified()).await;
            }
        }
    }

    /// Serves a client in a task of its own. Its stream must be watched with what `serve` is given.
    pub fn admit<F: Future<Output = ()> + 'static>(self: &Rc<Self>, owner: Owner, serve: impl FnOnce(Waiting) -> F) {
        let id = self.next.replace(self.next.get() + 1);
        let waiting = Waiting::default();
        let (place, serving) = (Place { clients: Rc::clone(self), id }, serve(Rc::clone(&waiting)));
        let task = spawn_local(async move {
            let _place = place;
            serving.await;
        });
        self.places.borrow_mut().push(Client { id, owner, waiting, task: task.abort_handle() });
    }

    fn send_away_one(&self) -> bool {
        let mut places = self.places.borrow_mut();
        let of = |owner: Owner| places.iter().filter(|client| client.owner == owner).count();
        let tiresome = places.iter().enumerate().filter_map(|(place, client)| {
            let (waited, share) = (client.waiting.get()?.elapsed(), of(client.owner));
            (waited >= PATIENCE || share > MOST / 2).then_some((share, waited, place))
        });
        let Some((.., place)) = tiresome.max() else { return false };
        places.swap_remove(place).task.abort();
        true
    }
}

/// A client's place, until its task ends.
struct Place {
    clients: Rc<Clients>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.places.borrow_mut().retain(|client| client.id != self.id);
        self.clients.left.notify_one();
    }
}

/// A client's stream that notes when it keeps us waiting.
pub struct Watched<S> {
    stream: S,
    waiting: Waiting,
}

impl<S> Watched<S> {
    /// Watches `stream`.
    pub fn new(stream: S, waiting: Waiting) -> Self {
        Self { stream, waiting }
    }

    fn note<T>(&self, poll: Poll<T>) -> Poll<T> {
        let since = self.waiting.get();
        self.waiting.set(poll.is_pending().then(|| since.unwrap_or_else(Instant::now)));
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
