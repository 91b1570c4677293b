//! PROXY headers: read from sources that must send one, before anything else; and made for backends that want one.

use super::client::Client;
use super::refuse::{self, Stop};
use super::session::{Session, Via};
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::decide::hello::ClientHello;
use crate::decide::hello::proxy::{Outgoing, Version, parse, write_v1, write_v2};

/// Time for a whole header, from accept. Chosen: a proxy sends it in its first segment; this allows a lost one.
const LIMIT_MS: u64 = 1000;

/// Reads the header that this source must send. From here on its addresses are the client's and the destination's.
pub async fn read(worker: &Worker, session: &Session, client: &mut Client) -> Result<(), Stop> {
    let deadline = session.started_ms + LIMIT_MS;
    loop {
        match parse(client.bytes()) {
            Ok(Some(header)) => {
                client.consume(header.length);
                session.listener.shard().proxy_headers[header.version as usize].add(1);
                session.came_via(Via { peer: session.peer(), tlvs: header.tlvs }, header.addresses);
                return Ok(());
            }
            Ok(None) => {}
            Err(error) => return Err(refuse::bad_proxy_header(error.to_string())),
        }
        client.more(worker, session, deadline).await.map_err(|stop| match stop.reason {
            CloseReason::HelloTimeout => {
                let bytes = client.bytes().len();
                refuse::bad_proxy_header(format!("{bytes} bytes of a PROXY header after {LIMIT_MS} ms"))
            }
            _ => stop,
        })?;
    }
}

/// The header for a backend of a pool that wants one. What a header said that came in is passed on where the hello
/// does not say it better.
pub fn outgoing(session: &Session, version: Option<Version>, hello: Option<&ClientHello<'_>>) -> Vec<u8> {
    let (source, destination) = (session.client(), session.destination());
    match version {
        None => Vec::new(),
        Some(Version::V1) => write_v1(source, destination),
        Some(Version::V2) => {
            let facts = session.facts.borrow();
            let via = facts.via().map(|via| &via.tlvs);
            let (authority, alpn) = match hello {
                Some(hello) => (hello.server_name_wire, only_offer(hello)),
                None => (via.and_then(|tlvs| tlvs.authority.as_deref()), via.and_then(|tlvs| tlvs.alpn.as_deref())),
            };
            let cloud = via.and_then(|tlvs| tlvs.cloud.as_ref());
            let unique_id = format!("{:016x}", session.id);
            write_v2(&Outgoing { source, destination, unique_id: unique_id.as_bytes(), authority, alpn, cloud })
        }
    }
}

/// The application protocol, if the client leaves no choice: what was negotiated is not known.
fn only_offer<'a>(hello: &ClientHello<'a>) -> Option<&'a [u8]> {
    let mut offers = hello.alpn.iter();
    offers.next().filter(|_| offers.next().is_none())
}
