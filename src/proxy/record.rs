//! Last stop of the spine: counts and writes what became of a connection, exactly once for every accepted one.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serializer;
use serde::ser::SerializeMap;

use super::session::{Micros, Session, Via};
use super::worker::Worker;
use crate::config::LogFormat;
use crate::decide::close::CloseReason;
use crate::state::Backend;
use crate::sys::clock::coarse_ms;

/// Longest text from a PROXY header in a record, in bytes.
const MOST_SHOWN: usize = 256;

/// A connection was accepted.
pub fn begun(worker: &Worker, session: &Session) {
    let shard = session.listener.shard();
    shard.total.add(1);
    shard.active.fetch_add(1, Ordering::Relaxed);
    worker.counters().connections.fetch_add(1, Ordering::Relaxed);
}

/// A backend took the connection.
pub fn established(worker: &Worker, session: &Session) {
    let facts = session.facts.borrow();
    if let Some(pool) = &facts.pool {
        pool.shard().total.add(1);
    }
    if let Some(seat) = &facts.seat {
        seat.backend().shard().total.add(1);
    }
    drop(facts);
    if worker.records_starts() {
        write(worker, session, None);
    }
}

/// The connection is over: counts, gives its places back, and writes the record.
pub fn finish(worker: &Worker, session: &Session, reason: CloseReason) {
    count(worker, session, reason);
    if worker.records_ends()
        && (!reason.may_flood() || worker.refusals.take(&session.listener.state.name, reason, coarse_ms()))
    {
        write(worker, session, Some(reason));
    }
    session.facts.borrow_mut().seat = None;
    session.listener.shard().active.fetch_sub(1, Ordering::Relaxed);
    worker.counters().connections.fetch_sub(1, Ordering::Relaxed);
    worker.give_place_back();
    worker.sessions.leave(session);
}

fn count(worker: &Worker, session: &Session, reason: CloseReason) {
    let listener = session.listener.shard();
    if reason.is_refusal() {
        listener.rejected[reason.index()].add(1);
    }
    let facts = session.facts.borrow();
    let hello_failed = facts.hello.is_none()
        && matches!(
            reason,
            CloseReason::HelloTimeout
                | CloseReason::HelloMalformed
                | CloseReason::HelloTooLarge
                | CloseReason::NotTls
                | CloseReason::ClientGone
        );
    if hello_failed {
        listener.hello_failed[reason.index()].add(1);
    }
    if let Some(pool) = &facts.pool {
        pool.shard().closed[reason.index()].add(1);
    }
    if let (Some(seat), Some(_)) = (&facts.seat, facts.sent_time) {
        let brief = seat.backend();
        brief.backend.time(worker.id, |timings| {
            let [connect, first_byte] =
                [facts.connect_time, facts.first_byte_time].map(|time| time.map(Duration::from));
            timings.add(session.started.elapsed(), connect, first_byte);
        });
    }
    drop(facts);
    report_bytes(worker, session);
}

/// Tells the counters of backend and worker of the bytes since the last time.
pub fn report_bytes(worker: &Worker, session: &Session) {
    let fresh = session.moved.unreported();
    for (counter, bytes) in worker.counters().relayed.iter().zip(fresh) {
        counter.add(bytes);
    }
    if let Some(seat) = &session.facts.borrow().seat {
        let [copied_up, copied_down, spliced_up, spliced_down] = fresh;
        seat.backend().shard().bytes_up.add(copied_up + spliced_up);
        seat.backend().shard().bytes_down.add(copied_down + spliced_down);
    }
}

fn write(worker: &Worker, session: &Session, reason: Option<CloseReason>) {
    worker.record(|out, format| {
        match format {
            LogFormat::Text => {
                let mut text = Text { out, empty: true };
                // Writing into memory cannot fail.
                let _ = fields(session, reason, &mut text);
            }
            LogFormat::TcpLog => {
                let Some(reason) = reason else { return };
                // As above.
                let _ = tcplog(worker, session, reason, out);
            }
            LogFormat::Json => {
                let mut serializer = serde_json::Serializer::new(&mut *out);
                if let Ok(map) = serializer.serialize_map(None) {
                    let mut json = Json { map };
                    if fields(session, reason, &mut json).is_ok() {
                        let _ = json.map.end();
                    }
                }
            }
        }
        out.push(b'\n');
    });
}

/// `HAProxy`'s TCP log line without the prefix of syslog (configuration manual, "TCP log format"):
/// `client [date] frontend backend/server Tw/Tc/Tt bytes state actconn/feconn/beconn/srv_conn/retries queues`.
fn tcplog(worker: &Worker, session: &Session, reason: CloseReason, out: &mut Vec<u8>) -> std::io::Result<()> {
    let facts = session.facts.borrow();
    let total = session.started.elapsed();
    let accepted = jiff::Timestamp::now() - total;
    let listener = &session.listener.state;
    let seat = facts.seat.as_ref().map(super::pick::Seat::backend);
    let pool = facts.pool.as_ref().map_or(&*listener.name, |pool| &*pool.state.name);
    let millis = |time: Option<Micros>| time.map_or(-1, |time| Duration::from(time).as_millis() as i64);
    let active = |backend: &Backend| backend.active.count();
    let load = seat.map_or(0, |seat| active(&seat.backend));
    write!(
        out,
        "{} [{}] {} {}/{} {}/{}/{} {} {} {}/{}/{}/{}/{} 0/0",
        session.client(),
        accepted.strftime("%d/%b/%Y:%H:%M:%S%.3f"),
        listener.name,
        pool,
        seat.map_or("<NOSRV>", |seat| &*seat.backend.name),
        millis(facts.hello_time.or(facts.connect_time.map(|_| Duration::ZERO.into()))),
        millis(facts.connect_time),
        total.as_millis(),
        session.moved.down(),
        reason.code(),
        worker.shared.active.load(Ordering::Relaxed),
        listener.active(),
        load,
        load,
        facts.tries.saturating_sub(1),
    )
}

/// What a field holds.
enum Value<'a> {
    Nothing,
    Text(&'a str),
    Number(u64),
    Millis(Duration),
    Flag(bool),
}

impl<'a> Value<'a> {
    fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Nothing, Self::Text)
    }

    fn millis(time: Option<Micros>) -> Self {
        time.map_or(Self::Nothing, |time| Self::Millis(time.into()))
    }
}

/// Takes fields in the order of the contract.
trait Fields {
    type Error;
    fn field(&mut self, name: &'static str, value: Value<'_>) -> Result<(), Self::Error>;
}

/// The record's fields, in the order of the contract; those from `detail` on are ours.
fn fields<F: Fields>(session: &Session, reason: Option<CloseReason>, out: &mut F) -> Result<(), F::Error> {
    let facts = session.facts.borrow();
    let hello = facts.hello.as_deref();
    let backend = facts.seat.as_ref().map(|seat| &seat.backend().backend);
    let version = hello.map(|hello| hello.version.to_string());
    let ja4 = hello.map(|hello| hello.ja4.to_string());
    out.field("time", Value::Text(&format!("{:.3}", jiff::Timestamp::now())))?;
    out.field("session", Value::Text(&format!("{:016x}", session.id)))?;
    out.field("listener", Value::Text(&session.listener.state.name))?;
    out.field("client", Value::Text(&session.client().to_string()))?;
    out.field("destination", Value::Text(&session.destination().to_string()))?;
    out.field("sni", Value::text(hello.and_then(|hello| hello.sni.as_deref())))?;
    out.field("alpn", Value::text(hello.map(|hello| &*hello.alpn).filter(|alpn| !alpn.is_empty())))?;
    out.field("tls", Value::text(version.as_deref()))?;
    out.field("ja4", Value::text(ja4.as_deref()))?;
    out.field("ech", hello.map_or(Value::Nothing, |hello| Value::Flag(hello.ech)))?;
    out.field("route", Value::text(facts.route.as_deref()))?;
    out.field("pool", Value::text(facts.pool.as_ref().map(|pool| &*pool.state.name)))?;
    out.field("backend", Value::text(backend.map(|backend| &*backend.name)))?;
    out.field("tries", Value::Number(u64::from(facts.tries)))?;
    out.field("hello_ms", Value::millis(facts.hello_time))?;
    out.field("connect_ms", Value::millis(facts.connect_time))?;
    out.field("first_byte_ms", Value::millis(facts.first_byte_time))?;
    out.field("duration_ms", Value::Millis(session.started.elapsed()))?;
    out.field("bytes_up", Value::Number(session.moved.up()))?;
    out.field("bytes_down", Value::Number(session.moved.down()))?;
    out.field("path_up", Value::text(session.moved.path(0)))?;
    out.field("path_down", Value::text(session.moved.path(1)))?;
    out.field("end", Value::text(reason.map(CloseReason::name)))?;
    let blame = reason.and_then(CloseReason::blame);
    out.field("blame", Value::text(blame.map(crate::decide::close::Blame::name)))?;
    out.field("code", Value::text(reason.map(CloseReason::code)))?;
    out.field("detail", Value::text(facts.detail()))?;
    let number = |number: Option<u64>| number.map_or(Value::Nothing, Value::Number);
    let arrival = hello.map(|hello| hello.arrival);
    out.field("pq", hello.map_or(Value::Nothing, |hello| Value::Flag(hello.post_quantum)))?;
    out.field("hello_bytes", number(arrival.map(|arrival| arrival.bytes.into())))?;
    out.field("hello_records", number(arrival.map(|arrival| arrival.records.into())))?;
    out.field("hello_segments", number(arrival.map(|arrival| arrival.segments.into())))?;
    facts.via().map_or(Ok(()), |via| via_fields(via, out))
}

/// What came in by a PROXY header; only records of such connections have it.
fn via_fields<F: Fields>(via: &Via, out: &mut F) -> Result<(), F::Error> {
    // Up to 4 KiB of anything, from a sender that is trusted with addresses, not with our log.
    let shown =
        |bytes: Option<&[u8]>| bytes.map(|bytes| bytes[..bytes.len().min(MOST_SHOWN)].escape_ascii().to_string());
    let tlvs = &via.tlvs;
    out.field("via", Value::Text(&via.peer.to_string()))?;
    out.field("via_authority", Value::text(shown(tlvs.authority.as_deref()).as_deref()))?;
    out.field("via_alpn", Value::text(shown(tlvs.alpn.as_deref()).as_deref()))?;
    out.field("via_id", Value::text(shown(tlvs.unique_id.as_deref()).as_deref()))?;
    let endpoint = tlvs.cloud.as_ref().map(ToString::to_string);
    out.field("via_endpoint", Value::text(endpoint.as_deref().map(|text| &text[..text.len().min(MOST_SHOWN)])))
}

/// `key=value` pairs; values with other than plain characters are quoted as JSON strings.
struct Text<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl Fields for Text<'_> {
    type Error = std::io::Error;

    fn field(&mut self, name: &'static str, value: Value<'_>) -> std::io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b' ');
        }
        write!(self.out, "{name}=")?;
        match value {
            Value::Nothing => self.out.push(b'-'),
            Value::Text(text) if text.bytes().all(is_plain) && !text.is_empty() && text != "-" => {
                self.out.extend_from_slice(text.as_bytes());
            }
            Value::Text(text) => serde_json::to_writer(&mut *self.out, text)?,
            Value::Number(number) => write!(self.out, "{number}")?,
            Value::Millis(time) => write!(self.out, "{}", millis(time))?,
            Value::Flag(flag) => write!(self.out, "{flag}")?,
        }
        Ok(())
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' && byte != b'='
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

struct Json<M> {
    map: M,
}

impl<M: SerializeMap> Fields for Json<M> {
    type Error = M::Error;

    fn field(&mut self, name: &'static str, value: Value<'_>) -> Result<(), M::Error> {
        match value {
            Value::Nothing => self.map.serialize_entry(name, &()),
            Value::Text(text) => self.map.serialize_entry(name, text),
            Value::Number(number) => self.map.serialize_entry(name, &number),
            Value::Millis(time) => self.map.serialize_entry(name, &millis(time)),
            Value::Flag(flag) => self.map.serialize_entry(name, &flag),
        }
    }
}
