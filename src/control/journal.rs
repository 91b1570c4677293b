//! The journal of systemd as a target of the log: one datagram per line in its native protocol
//! (systemd.io, "Native Journal Protocol"). Lines of JSON give their fields to the journal, as `SLUICE_NAME`.

use std::io;
use std::os::unix::net::UnixDatagram;

use serde_json::Value;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal of this machine.
    pub fn connect() -> io::Result<Self> {
        Self::connect_to(SOCKET)
    }

    fn connect_to(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    /// Sends whole lines.
    pub fn write(&self, lines: &[u8]) -> io::Result<()> {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.0.send(&entry(line))?;
        }
        Ok(())
    }
}

/// One line as an entry.
fn entry(line: &[u8]) -> Vec<u8> {
    let fields = match line.first() {
        Some(b'{') => serde_json::from_slice(line).unwrap_or_default(),
        _ => serde_json::Map::new(),
    };
    let mut entry = Vec::with_capacity(line.len() * 2);
    let level = fields.get("level").and_then(Value::as_str);
    append(&mut entry, "MESSAGE", line);
    append(&mut entry, "PRIORITY", priority(level, line));
    append(&mut entry, "SYSLOG_IDENTIFIER", b"sluice");
    for (name, value) in &fields {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        append(&mut entry, &format!("SLUICE_{}", name.chars().map(allowed).collect::<String>()), text.as_bytes());
    }
    entry
}

/// Syslog's priority of a message: its level, or information for a record.
fn priority(level: Option<&str>, line: &[u8]) -> &'static [u8] {
    let in_text = |word: &[u8]| line.get(24..30).is_some_and(|start| start.trim_ascii() == word);
    match level {
        Some("ERROR") => b"3",
        Some("WARN") => b"4",
        None if in_text(b"ERROR") => b"3",
        None if in_text(b"WARN") => b"4",
        _ => b"6",
    }
}

/// A field with its length before the value, the form that takes any bytes.
fn append(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an entry back.
    fn fields(entry: &[u8]) -> Vec<(String, String)> {
        let (mut rest, mut fields) = (entry, Vec::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8_lossy(&rest[..end]).into_owned();
            let length = u64::from_le_bytes(rest[end + 1..end + 9].try_into().expect("eight bytes")) as usize;
            let value = String::from_utf8_lossy(&rest[end + 9..end + 9 + length]).into_owned();
            fields.push((name, value));
            rest = &rest[end + 10 + length..];
        }
        fields
    }

    #[test]
    fn json_lines_give_their_fields() {
        let path = std::env::temp_dir().join(format!("sluice-journal-{}", std::process::id()));
        let inbox = UnixDatagram::bind(&path).expect("bind");
        let journal = Journal::connect_to(path.to_str().expect("a plain path")).expect("connect");
        journal.write(b"{\"end\":\"done\",\"bytes_up\":7,\"sni\":null}\nplain text\n").expect("send");
        let mut buffer = [0; 4096];
        let count = inbox.recv(&mut buffer).expect("a datagram");
        let read = fields(&buffer[..count]);
        std::fs::remove_file(&path).expect("remove");
        let has = |name: &str, value: &str| read.iter().any(|field| *field == (name.to_owned(), value.to_owned()));
        assert!(has("SLUICE_END", "done") && has("SLUICE_BYTES_UP", "7") && has("PRIORITY", "6"), "{read:?}");
        assert!(!read.iter().any(|(name, _)| name == "SLUICE_SNI"), "{read:?}");
        let count = inbox.recv(&mut buffer).expect("a second datagram");
        assert!(fields(&buffer[..count]).contains(&("MESSAGE".to_owned(), "plain text".to_owned())));
    }

    #[test]
    fn priority_follows_the_level() {
        assert_eq!(priority(Some("ERROR"), b""), b"3");
        assert_eq!(priority(None, b"2026-11-23T07:02:39.773Z  WARN something"), b"4");
        assert_eq!(priority(None, b"2026-11-23T07:02:39.773Z ERROR something"), b"3");
        assert_eq!(priority(None, b"time=2026-11-23T07:02:41.014Z session=1"), b"6");
    }
}
