//! A session's task: its stages one after the other, each turn contained, and its end counted once.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::{Accepted, Session, establish, establish_resumed};
use crate::decide::close::CloseReason;
use crate::proxy::forward::Flow;
use crate::proxy::queue::carry::Ticket;
use crate::proxy::view::ListenerView;
use crate::proxy::worker::Worker;
use crate::proxy::{faults, record};
use crate::state::Turn;

/// Takes one connection all the way; a task of the worker.
pub struct Serve {
    worker: Rc<Worker>,
    session: Rc<Session>,
    stage: Stage,
}

enum Stage {
    /// Everything before bytes flow. Boxed and dropped: an established session does not carry the state of its set-up.
    SetUp(Pin<Box<dyn Future<Output = Result<Flow, CloseReason>>>>),
    /// Bytes flow.
    Flowing(Flow),
    /// Both sockets are closed.
    Over,
}

/// Begins a session for a connection.
pub fn serve(worker: &Rc<Worker>, listener: Rc<ListenerView>, accepted: Accepted) -> Serve {
    let (session, client) = Session::begin(worker, &listener, accepted);
    let set_up = establish(Rc::clone(worker), listener, Rc::clone(&session), client);
    Serve { worker: Rc::clone(worker), session, stage: Stage::SetUp(Box::pin(set_up)) }
}

/// Goes on with a session whose bytes flow.
pub fn go_on(worker: &Rc<Worker>, session: Rc<Session>, flow: Flow) -> Serve {
    worker.held.flows_more();
    Serve { worker: Rc::clone(worker), session, stage: Stage::Flowing(flow) }
}

/// Goes on with a session that waited for a place in another process.
pub fn resume(worker: &Rc<Worker>, session: Rc<Session>, ticket: Ticket, turn: Turn) -> Serve {
    let set_up = establish_resumed(Rc::clone(worker), Rc::clone(&session), ticket, turn);
    Serve { worker: Rc::clone(worker), session, stage: Stage::SetUp(Box::pin(set_up)) }
}

impl Future for Serve {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let ended = match faults::contained(|| this.advance(cx)) {
            Some(poll) => ready!(poll),
            None => Some(this.fail()),
        };
        // Closed before the place is given back: a backend never sees more connections than it may have.
        this.stage = Stage::Over;
        if let Some(reason) = ended {
            record::finish(&this.worker, &this.session, reason);
        }
        Poll::Ready(())
    }
}

impl Serve {
    /// Goes as far as it can. Ready with why it ended, or with nothing when it goes on elsewhere.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<CloseReason>> {
        let Self { worker, session, stage } = self;
        loop {
            match stage {
                Stage::SetUp(_) if session.is_elsewhere() => {
                    // Its socket is closed here without a word on the wire: the other process has it.
                    *stage = Stage::Over;
                    record::left_to_another(worker, session);
                }
                Stage::SetUp(set_up) => match ready!(set_up.as_mut().poll(cx)) {
                    Ok(flow) => {
                        worker.held.flows_more();
                        *stage = Stage::Flowing(flow);
                    }
                    Err(reason) => return Poll::Ready(Some(reason)),
                },
                Stage::Flowing(_) if worker.held.holds() => {
                    if let Stage::Flowing(flow) = std::mem::replace(stage, Stage::Over) {
                        worker.held.keep(Rc::clone(session), flow);
                    }
                }
                Stage::Flowing(flow) => {
                    faults::provoke("flowing", || session.server_name());
                    let reason = ready!(flow.poll(cx, worker, session));
                    worker.held.flows_less();
                    return Poll::Ready(Some(reason));
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    /// A fault of ours ends this session and no other: both sides are reset, for what arrived may not be all.
    fn fail(&mut self) -> CloseReason {
        if let Stage::Flowing(flow) = &mut self.stage {
            flow.abandon(&self.worker);
            self.worker.held.flows_less();
        }
        self.worker.counters().faults.add(1);
        self.session.facts.borrow_mut().rare().detail = Some("a fault of sluice, see the log".into());
        CloseReason::LocalError
    }
}
