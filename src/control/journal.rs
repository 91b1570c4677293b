//! The journal of systemd as a target of the log: one datagram per line in its native protocol
//! (systemd.io, "Native Journal Protocol"). Lines of JSON give their fields to the journal, as `SLUICE_NAME`.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde_json::Value;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A way to the journal. Each entry is sent to its path, so that a journal that began anew gets what follows.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Finds the journal of this machine.
    pub fn connect() -> io::Result<Self> {
        Self::connect_to(SOCKET.as_ref())
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }

    /// Sends whole lines. An error comes with how many bytes of them were sent before.
    pub fn write(&self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut sent = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = line.trim_ascii_end();
            if !text.is_empty() {
                self.send(&entry(text)).map_err(|error| (sent, error))?;
            }
            sent += line.len();
        }
        Ok(())
    }

    /// Sends an entry, in a file without a name if it is too large for a datagram.
    fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, &self.path) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {}
            result => return result.map(drop),
        }
        let mut file = File::from(memfd_create(c"sluice-log", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.write_all(entry)?;
        // The journal takes only what cannot change any more.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        let file = OwnedFd::from(file);
        let rights = [file.as_raw_fd()];
        let address = UnixAddr::new(&self.path)?;
        let (socket, nothing) = (self.socket.as_raw_fd(), [IoSlice::new(&[])]);
        sendmsg(socket, &nothing, &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), Some(&address))?;
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
        let journal = Journal::connect_to(&path).expect("connect");
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
