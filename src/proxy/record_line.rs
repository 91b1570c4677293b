//! How one session stands in the log: `key=value` pairs, a JSON object, or `HAProxy`'s TCP log line. Values in, bytes out;
//! when a record is written and what is counted is decided in `record.rs`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serializer;
use serde::ser::SerializeMap;

use super::session::Via;
use crate::decide::close::{Blame, CloseReason};
use crate::decide::hello::HelloFacts;

/// Longest text from a PROXY header in a record, in bytes.
const MOST_SHOWN: usize = 256;

/// What a record says of one session.
#[derive(Clone, Copy, Debug)]
pub struct RecordLine<'a> {
    /// When it is written.
    pub time: Timestamp,
    /// Id, unique over restarts.
    pub session: u64,
    /// Name of the listener.
    pub listener: &'a str,
    /// The client: who connected, or whom a PROXY header named.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// The hello, once it was whole and valid.
    pub hello: Option<&'a HelloFacts>,
    /// The rule as `file:line`, or `default` for the listener's own pool.
    pub route: Option<&'a str>,
    /// Name of the pool.
    pub pool: Option<&'a str>,
    /// Name of the backend.
    pub backend: Option<&'a str>,
    /// Backends tried.
    pub tries: u8,
    /// From accept to a whole hello.
    pub hello_time: Option<Duration>,
    /// From the first SYN to an established connection, of the attempt that succeeded.
    pub connect_time: Option<Duration>,
    /// From the backend having the client's first bytes to its own first one.
    pub first_byte_time: Option<Duration>,
    /// Since accept.
    pub duration: Duration,
    /// Bytes delivered, up and down.
    pub bytes: [u64; 2],
    /// Names of the paths that they took; `None` without bytes.
    pub paths: [Option<&'static str>; 2],
    /// Why it ended; `None` in the record of a beginning.
    pub end: Option<CloseReason>,
    /// Why exactly, in words, when something went wrong.
    pub detail: Option<&'a str>,
    /// The proxy that it came through.
    pub via: Option<&'a Via>,
}

/// Connections that are open when a record is written; only [`RecordLine::tcplog`] shows them.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Of the process.
    pub process: u32,
    /// Of the listener.
    pub listener: i64,
    /// Of the backend.
    pub backend: u32,
}

impl RecordLine<'_> {
    /// Appends `key=value` pairs and a line feed.
    pub fn text(&self, out: &mut Vec<u8>) {
        // Writing into memory cannot fail.
        let _ = self.fields(&mut Text { out, empty: true });
        out.push(b'\n');
    }

    /// Appends a JSON object and a line feed.
    pub fn json(&self, out: &mut Vec<u8>) {
        // As above.
        let _ = self.json_object(out);
        out.push(b'\n');
    }

    fn json_object(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(out);
        let mut json = Json { map: serializer.serialize_map(None)? };
        self.fields(&mut json)?;
        json.map.end()
    }

    /// Appends `HAProxy`'s TCP log line without the prefix of syslog (configuration manual, "TCP log format"), and a line
    /// feed; nothing for a beginning, which that format does not have.
    /// `client [date] frontend backend/server Tw/Tc/Tt bytes state actconn/feconn/beconn/srv_conn/retries queues`.
    pub fn tcplog(&self, load: Load, out: &mut Vec<u8>) {
        let Some(end) = self.end else { return };
        let millis = |time: Option<Duration>| time.map_or(-1, |time| time.as_millis() as i64);
        // As above.
        let _ = writeln!(
            out,
            "{} [{}] {} {}/{} {}/{}/{} {} {} {}/{}/{}/{}/{} 0/0",
            self.client,
            (self.time - self.duration).strftime("%d/%b/%Y:%H:%M:%S%.3f"),
            self.listener,
            self.pool.unwrap_or(self.listener),
            self.backend.unwrap_or("<NOSRV>"),
            millis(self.hello_time.or(self.connect_time.map(|_| Duration::ZERO))),
            millis(self.connect_time),
            self.duration.as_millis(),
            self.bytes[1],
            end.code(),
            load.process,
            load.listener,
            load.backend,
            load.backend,
            self.tries.saturating_sub(1),
        );
    }

    /// The record's fields, in the order of the contract; those from `detail` on are ours.
    fn fields<F: Fields>(&self, out: &mut F) -> Result<(), F::Error> {
        let hello = self.hello;
        let version = hello.map(|hello| hello.version.to_string());
        let ja4 = hello.map(|hello| hello.ja4.to_string());
        out.field("time", Value::Text(&format!("{:.3}", self.time)))?;
        out.field("session", Value::Text(&format!("{:016x}", self.session)))?;
        out.field("listener", Value::Text(self.listener))?;
        out.field("client", Value::Text(&self.client.to_string()))?;
        out.field("destination", Value::Text(&self.destination.to_string()))?;
        out.field("sni", Value::text(hello.and_then(|hello| hello.sni.as_deref())))?;
        out.field("alpn", Value::text(hello.map(|hello| &*hello.alpn).filter(|alpn| !alpn.is_empty())))?;
        out.field("tls", Value::text(version.as_deref()))?;
        out.field("ja4", Value::text(ja4.as_deref()))?;
        out.field("ech", hello.map_or(Value::Nothing, |hello| Value::Flag(hello.ech)))?;
        out.field("route", Value::text(self.route))?;
        out.field("pool", Value::text(self.pool))?;
        out.field("backend", Value::text(self.backend))?;
        out.field("tries", Value::Number(self.tries.into()))?;
        out.field("hello_ms", Value::millis(self.hello_time))?;
        out.field("connect_ms", Value::millis(self.connect_time))?;
        out.field("first_byte_ms", Value::millis(self.first_byte_time))?;
        out.field("duration_ms", Value::Millis(self.duration))?;
        out.field("bytes_up", Value::Number(self.bytes[0]))?;
        out.field("bytes_down", Value::Number(self.bytes[1]))?;
        out.field("path_up", Value::text(self.paths[0]))?;
        out.field("path_down", Value::text(self.paths[1]))?;
        out.field("end", Value::text(self.end.map(CloseReason::name)))?;
        out.field("blame", Value::text(self.end.and_then(CloseReason::blame).map(Blame::name)))?;
        out.field("code", Value::text(self.end.map(CloseReason::code)))?;
        out.field("detail", Value::text(self.detail))?;
        let arrival = hello.map(|hello| hello.arrival);
        out.field("pq", hello.map_or(Value::Nothing, |hello| Value::Flag(hello.post_quantum)))?;
        out.field("hello_bytes", Value::number(arrival.map(|arrival| arrival.bytes)))?;
        out.field("hello_records", Value::number(arrival.map(|arrival| arrival.records.into())))?;
        out.field("hello_segments", Value::number(arrival.map(|arrival| arrival.segments.into())))?;
        self.via.map_or(Ok(()), |via| via_fields(via, out))
    }
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

    fn number(number: Option<u32>) -> Self {
        number.map_or(Self::Nothing, |number| Self::Number(number.into()))
    }

    fn millis(time: Option<Duration>) -> Self {
        time.map_or(Self::Nothing, Self::Millis)
    }
}

/// Takes fields in the order of the contract.
trait Fields {
    type Error;
    fn field(&mut self, name: &'static str, value: Value<'_>) -> Result<(), Self::Error>;
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
    type Error = io::Error;

    fn field(&mut self, name: &'static str, value: Value<'_>) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'=');
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(end: Option<CloseReason>) -> RecordLine<'static> {
        RecordLine {
            time: Timestamp::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
            session: 0x2a,
            listener: "https",
            client: ([198, 51, 100, 23], 40312).into(),
            destination: ([192, 0, 2, 10], 443).into(),
            hello: None,
            route: None,
            pool: None,
            backend: None,
            tries: 0,
            hello_time: None,
            connect_time: None,
            first_byte_time: None,
            duration: Duration::from_micros(1500),
            bytes: [0, 0],
            paths: [None, None],
            end,
            detail: Some("not \"TLS\""),
            via: None,
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn one_session_in_three_formats() {
        let line = refused(Some(CloseReason::NotTls));
        let text = written(|out| line.text(out));
        assert!(text.starts_with("time=2026-01-01T00:00:00.123Z session=000000000000002a listener=https "), "{text}");
        assert!(text.contains(" sni=- ") && text.contains(" duration_ms=1.5 bytes_up=0 "), "{text}");
        assert!(text.contains(r#" detail="not \"TLS\"" "#) && text.ends_with("hello_segments=-\n"), "{text}");
        let json = written(|out| line.json(out));
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["detail"], "not \"TLS\"");
        assert_eq!((&value["sni"], &value["bytes_up"]), (&serde_json::Value::Null, &0.into()));
        // The same fields in the same order.
        let places: Vec<_> = text
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, _)| json.find(&format!("\"{key}\":")))
            .collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{json}");
        let load = Load { process: 3, listener: 2, backend: 0 };
        let tcplog = written(|out| line.tcplog(load, out));
        let code = CloseReason::NotTls.code();
        let wanted = format!(
            "198.51.100.23:40312 [01/Jan/2026:00:00:00.121] https https/<NOSRV> -1/-1/1 0 {code} 3/2/0/0/0 0/0\n"
        );
        assert_eq!(tcplog, wanted);
    }

    #[test]
    fn beginnings_have_no_end_and_no_line_of_haproxy() {
        let line = refused(None);
        assert!(written(|out| line.text(out)).contains(" end=- blame=- code=- "));
        let load = Load { process: 1, listener: 1, backend: 0 };
        assert_eq!(written(|out| line.tcplog(load, out)), "");
    }
}
