//! Bytes that flow both ways without end, each of them known.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Daemon, connect, eventually};

/// Bytes that flow both ways until they are told to stop.
pub struct Bulk {
    over: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    last: u64,
    flow: Option<thread::JoinHandle<usize>>,
}

impl Bulk {
    pub fn start(daemon: &Daemon) -> Self {
        let (over, moved) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let stream = connect(daemon.at(444));
        let (stop, counted) = (Arc::clone(&over), Arc::clone(&moved));
        let flow = thread::spawn(move || pump(stream, &stop, &counted));
        Self { over, moved, last: 0, flow: Some(flow) }
    }

    #[track_caller]
    pub fn goes_on(&mut self) {
        let last = self.last.max(self.moved.load(Ordering::SeqCst));
        self.last = eventually("bulk goes on", || Some(self.moved.load(Ordering::SeqCst)).filter(|now| *now > last));
    }

    /// How many bytes were wrong or did not come back.
    #[track_caller]
    pub fn end(&mut self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.flow.take().unwrap().join().unwrap()
    }
}

/// The byte at a place of the stream.
const fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn pump(stream: TcpStream, over: &AtomicBool, moved: &AtomicU64) -> usize {
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut sent = 0_u64;
            while !over.load(Ordering::SeqCst) {
                let block: Vec<u8> = (sent..sent + 65_536).map(byte_at).collect();
                writer.write_all(&block).unwrap();
                // Leaves something of the processor to the others.
                thread::sleep(Duration::from_millis(2));
                sent += 65_536;
            }
            writer.shutdown(Shutdown::Write).unwrap();
            sent
        });
        let (mut received, mut wrong, mut block) = (0_u64, 0, vec![0; 65_536]);
        loop {
            let count = reader.read(&mut block).unwrap();
            if count == 0 {
                break;
            }
            wrong += (received..).zip(&block[..count]).filter(|(place, byte)| byte_at(*place) != **byte).count();
            received += count as u64;
            moved.store(received, Ordering::SeqCst);
        }
        wrong + (sent.join().unwrap() - received) as usize
    })
}
