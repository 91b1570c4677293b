//! Ten thousand sessions at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use socket2::SockRef;

use crate::support::counting::Counting;
use crate::support::{connect, eventually, own_loopback};
use crate::{active, alone, config, end, hello, start, wait_until_empty, wait_until_there};

/// Whether a backend has greeted the client.
fn is_seated(stream: &TcpStream) -> bool {
    let mut first = [0];
    let socket = SockRef::from(stream);
    socket.set_nonblocking(true).unwrap();
    let greeted = stream.peek(&mut first);
    socket.set_nonblocking(false).unwrap();
    match greeted {
        Ok(1) => first[0].is_ascii_lowercase(),
        Ok(_) => panic!("closed without a word"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// Ten thousand sessions are open from the first moment to the last: nine thousand have a place, the others wait for one.
/// Both processes hold 19 000 descriptors.
#[test]
fn ten_thousand_sessions_at_once_never_have_one_place_more_than_there_are() {
    const LIMITS: [u32; 3] = [4000, 3000, 2000];
    let _alone = alone();
    let address = own_loopback();
    let addresses: [SocketAddr; 3] = [1001, 1002, 1003].map(|port| (address, port).into());
    for (keys, pool) in [
        ("balance = \"least-connections\"", 9000),
        // The pool's own limit is the narrower one.
        ("balance = \"consistent-hash\"\nhash.bounded-load = 1.25\nmax-connections = 8500", 8500),
    ] {
        let backends = Counting::start(&addresses);
        let body = config(&format!("{keys}\nqueue-timeout = \"5m\""), &LIMITS.map(Some));
        let daemon = start(address, &body.replace("pool = \"p\"\n", "pool = \"p\"\nhello-timeout = \"5m\"\n"));
        let at = daemon.at(443);
        let mut clients: Vec<TcpStream> = thread::scope(|scope| {
            let some = || {
                let client = |_| {
                    let mut stream = connect(at);
                    stream.write_all(&hello()).unwrap();
                    stream
                };
                (0..1250).map(client).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(some)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        wait_until_there(&daemon, 10_000);
        let seated = |clients: &[TcpStream]| clients.iter().filter(|client| is_seated(client)).count();
        let settled = |places: usize| {
            eventually("every place is taken", || (seated(&clients) == places).then_some(()));
            assert_eq!(active(&daemon), pool);
        };
        settled(pool as usize);
        assert_eq!(backends.all().open(), pool as u32);
        assert_eq!(daemon.metric("sluice_pool_waiting{pool=\"p\"}"), (10_000 - pool) as f64);
        // Who leaves makes room for one who waits, from everywhere at once.
        let (mut left, mut served) = (0, pool as usize);
        while left < 10_000 {
            let leaving: Vec<TcpStream> = clients.extract_if(.., |client| is_seated(client)).take(1500).collect();
            assert!(!leaving.is_empty());
            left += leaving.len();
            let leave = |mut client: TcpStream| {
                client.read_exact(&mut [0]).unwrap();
                end(client);
            };
            let parts = spread_over(8, leaving);
            thread::scope(|scope| {
                for part in parts {
                    scope.spawn(move || part.into_iter().for_each(leave));
                }
            });
            let open = (10_000 - left).min(pool as usize);
            eventually("who waits moves up", || (seated(&clients) == open).then_some(()));
            served = served.max(left + open);
        }
        assert_eq!(served, 10_000, "nobody was refused");
        wait_until_empty(&daemon);
        let most: Vec<u32> = (0..3).map(|backend| backends.of(backend).take_most()).collect();
        assert_eq!(backends.all().take_most(), pool as u32, "{most:?}");
        assert!(most.iter().zip(LIMITS).all(|(most, limit)| *most <= limit), "{most:?}");
        assert!(pool < 9000 || most == LIMITS, "{most:?}");
    }
}

fn spread_over<T>(parts: usize, all: Vec<T>) -> Vec<Vec<T>> {
    let mut spread: Vec<Vec<T>> = (0..parts).map(|_| Vec::new()).collect();
    all.into_iter().enumerate().for_each(|(number, one)| spread[number % parts].push(one));
    spread
}
