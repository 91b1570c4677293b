//! The load generator: many flows on one thread and one epoll, each asking, receiving and checking in a closed loop.

mod stages;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Outcome;
use crate::flow::{Flow, Work};
use crate::pace::Pace;
use crate::transfer::{SCRATCH_LENGTH, Transfer};
use crate::usage::Counts;
use crate::wire::{Mode, Pattern, SERVER_NAMES, client_hello};

/// Without any event for this long, a load has failed.
const SILENCE: Duration = Duration::from_secs(5);
/// Bulk requests under way at the same time on a flow, so that the stream never pauses between two.
const BULK_DEPTH: u64 = 2;
/// Steps that one flow takes before the next one has its turn.
const STEPS_PER_TURN: usize = 2;
/// What epoll reports for the pace; flows have small numbers.
const PACE_TOKEN: u64 = u64::MAX;

/// The flows and what they share.
pub struct Engine<'a> {
    pattern: &'a Pattern,
    /// For each server name, the addresses that lead to it.
    targets: &'a [Vec<SocketAddr>; 2],
    hellos: [Vec<u8>; 2],
    epoll: Epoll,
    flows: Vec<Flow>,
    scratch: Vec<u8>,
    counts: Counts,
    latency: Histogram<u64>,
    connections: usize,
    unopened: usize,
    open: usize,
    stopping: bool,
    /// Nothing more is asked for at the moment.
    resting: bool,
    last_event: Instant,
    pace: Option<Pace>,
}

impl<'a> Engine<'a> {
    /// Makes the flows, none of them connected yet.
    pub fn new(pattern: &'a Pattern, targets: &'a [Vec<SocketAddr>; 2], works: &[(Work, usize)]) -> Outcome<Self> {
        let works = works.iter().flat_map(|(work, count)| std::iter::repeat_n(*work, *count));
        let flows: Vec<Flow> =
            works.enumerate().map(|(index, work)| Flow::new(work, index % SERVER_NAMES.len())).collect();
        Ok(Self {
            pattern,
            targets,
            hellos: SERVER_NAMES.map(client_hello),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            unopened: flows.len(),
            flows,
            scratch: vec![0; SCRATCH_LENGTH],
            counts: Counts::default(),
            latency: Histogram::new_with_bounds(100, 60_000_000_000, 3)?,
            connections: 0,
            open: 0,
            stopping: false,
            resting: false,
            last_event: Instant::now(),
            pace: None,
        })
    }

    /// Waits for events and serves them.
    fn turn(&mut self, limit: Duration) -> Outcome<()> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::try_from(limit)?) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        if count > 0 {
            self.last_event = Instant::now();
        } else if self.last_event.elapsed() > SILENCE {
            return Err(format!("nothing moved for {SILENCE:?}, with {} flows open", self.open).into());
        }
        let events = events.get_mut(..count).unwrap_or_default();
        // Small messages first, so that what they wait for is the proxy and not us.
        let is_bulk =
            |event: &EpollEvent| self.flows.get(event.data() as usize).is_some_and(|flow| flow.work.is_bulk());
        events.sort_by_key(is_bulk);
        for event in events {
            if event.data() == PACE_TOKEN {
                self.keep_pace()?;
                continue;
            }
            let index = usize::try_from(event.data())?;
            self.serve(index, event.events()).map_err(|error| self.flows[index].describe(index, error.as_ref()))?;
        }
        Ok(())
    }

    /// Asks where it is time to; a flow that still waits for an answer asks as soon as it has it, and counts from when it was due.
    fn keep_pace(&mut self) -> Outcome<()> {
        let Some(mut pace) = self.pace.take() else { return Ok(()) };
        pace.acknowledge()?;
        while let Some((due, number)) = pace.next_due() {
            let index = number % self.flows.len();
            let flow = &mut self.flows[index];
            if flow.answered < flow.issued {
                flow.overdue.push_back(due);
            } else {
                self.issue(index);
                self.flows[index].started = due;
                self.pump(index)?;
            }
        }
        self.pace = Some(pace);
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: EpollFlags) -> Outcome<()> {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.pump(index)?;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLRDHUP)
        {
            self.take_answers(index)?;
        }
        Ok(())
    }

    /// Begins the connection of a flow: hello and first request go out in one piece as soon as it stands.
    fn connect(&mut self, index: usize) -> Outcome<()> {
        let flow = &mut self.flows[index];
        let addresses = &self.targets[flow.name];
        let address = addresses[self.connections % addresses.len()];
        self.connections += 1;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        flow.started = Instant::now();
        match socket.connect(&SockAddr::from(address)) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                return Err(format!("connecting: {error}").into());
            }
            _ => {}
        }
        if flow.work != Work::Connect {
            socket.set_tcp_nodelay(true)?;
        }
        flow.socket = Some(socket.into());
        flow.outbox.extend_from_slice(&self.hellos[flow.name]);
        flow.watched_for_room = false;
        self.open += 1;
        self.issue(index);
        // A connection that is still being made is watched for room anyway.
        self.send(index)?;
        let flow = &mut self.flows[index];
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, flow.waits_for_room);
        flow.watched_for_room = flow.waits_for_room;
        if let Some(socket) = &flow.socket {
            self.epoll.add(socket, EpollEvent::new(flags, index as u64))?;
        }
        Ok(())
    }

    /// Puts the next request into the outbox.
    fn issue(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        let request = flow.request(index, flow.issued);
        if flow.work != Work::Connect {
            flow.started = Instant::now();
        }
        flow.issued += 1;
        request.write_to(self.pattern, &mut flow.outbox);
        if request.mode == Mode::Receive {
            flow.payload = Some(Transfer::new(request.seed, request.size));
        }
    }

    /// Whether the flow should ask for more by itself.
    fn wants_more(&self, flow: &Flow) -> bool {
        let under_way = flow.issued - flow.answered;
        !self.stopping
            && !self.resting
            && match flow.work {
                Work::Download(_) => under_way < BULK_DEPTH,
                Work::Upload(_) => under_way < BULK_DEPTH && flow.payload.is_none(),
                Work::Exchange(_) => under_way == 0,
                Work::Connect | Work::Paced(_) | Work::Idle => false,
            }
    }

    /// Sends what there is to send, asks for more where that is due, and watches for room if the socket took not all.
    fn pump(&mut self, index: usize) -> Outcome<()> {
        self.send(index)?;
        let flow = &mut self.flows[index];
        let Some(socket) = flow.socket.as_ref().filter(|_| flow.waits_for_room != flow.watched_for_room) else {
            return Ok(());
        };
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, flow.waits_for_room);
        self.epoll.modify(socket, &mut EpollEvent::new(flags, index as u64))?;
        flow.watched_for_room = flow.waits_for_room;
        Ok(())
    }

    fn send(&mut self, index: usize) -> Outcome<()> {
        for _ in 0..STEPS_PER_TURN {
            if self.wants_more(&self.flows[index]) {
                self.issue(index);
            }
            match self.flows[index].send_step(self.pattern) {
                Ok(bulk_bytes) => self.counts.bulk_bytes += bulk_bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("sending: {error}").into()),
            }
            if !self.flows[index].has_to_send() && !self.wants_more(&self.flows[index]) {
                break;
            }
        }
        let wants_more = self.wants_more(&self.flows[index]);
        let flow = &mut self.flows[index];
        flow.waits_for_room = flow.has_to_send() || wants_more;
        Ok(())
    }

    /// Takes answers, or parts of them, and does what follows.
    fn take_answers(&mut self, index: usize) -> Outcome<()> {
        for _ in 0..STEPS_PER_TURN {
            let flow = &mut self.flows[index];
            if flow.answered == flow.issued {
                return flow.expect_nothing();
            }
            let received = match flow.receive_step(index, self.pattern, &mut self.scratch) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("receiving: {error}").into()),
            };
            if matches!(flow.work, Work::Download(_)) {
                self.counts.bulk_bytes += received;
            }
            if !flow.opened {
                flow.opened = true;
                self.unopened -= 1;
            }
            if flow.answer.is_none() {
                let is_bulk = flow.work.is_bulk();
                if !is_bulk {
                    self.counts.exchanges += 1;
                    self.latency.record(u64::try_from(flow.started.elapsed().as_nanos())?.max(100))?;
                }
                self.go_on(index)?;
                if !is_bulk {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// After an answer: ask again, connect again, or end.
    fn go_on(&mut self, index: usize) -> Outcome<()> {
        if self.flows[index].work == Work::Connect {
            let flow = &mut self.flows[index];
            flow.expect_nothing()?;
            flow.socket = None;
            self.open -= 1;
            return if self.stopping || self.resting { Ok(()) } else { self.connect(index) };
        }
        if self.wants_more(&self.flows[index]) {
            self.pump(index)?;
        } else if let Some(due) = self.flows[index].overdue.pop_front() {
            self.issue(index);
            self.flows[index].started = due;
            self.pump(index)?;
        }
        self.close_if_done(index)
    }

    /// Closes the flow if it is time and everything was answered; then there must be nothing left to read.
    fn close_if_done(&mut self, index: usize) -> Outcome<()> {
        let flow = &mut self.flows[index];
        if !self.stopping || flow.answered < flow.issued {
            return Ok(());
        }
        if flow.socket.is_some() {
            flow.expect_nothing()?;
            flow.socket = None;
            self.open -= 1;
        }
        Ok(())
    }
}
