//! Keeps what clients send to a server, to the byte: a relay that looks at nothing while it runs.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

type Sent = Arc<Mutex<Vec<u8>>>;

/// A running relay. It lasts as long as the tests do.
pub(crate) struct Recorder {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Sent>>>,
}

impl Recorder {
    /// Relays to this server.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self { address: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = Arc::clone(&recorder.connections);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let sent = Sent::default();
                connections.lock().unwrap().push(Arc::clone(&sent));
                let server = TcpStream::connect(server).unwrap();
                let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || relay(from_client, server, Some(&sent)));
                thread::spawn(move || relay(from_server, client, None));
            }
        });
        recorder
    }

    /// The bodies of the requests so far, connection by connection. Clients say how long each is.
    pub(crate) fn bodies(&self) -> Vec<String> {
        let connections = self.connections.lock().unwrap();
        connections.iter().flat_map(|sent| bodies(&sent.lock().unwrap())).collect()
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, sent: Option<&Sent>) {
    let mut piece = [0; 16384];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if let Some(sent) = sent {
            sent.lock().unwrap().extend_from_slice(&piece[..length]);
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // Fails only where the connection is gone.
    let _ = to.shutdown(Shutdown::Write);
}

fn bodies(mut sent: &[u8]) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(end) = sent.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&sent[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |length| length.trim().parse().unwrap());
        let body = &sent[end + 4..][..length];
        if !body.is_empty() {
            bodies.push(String::from_utf8(body.to_vec()).unwrap());
        }
        sent = &sent[end + 4 + length..];
    }
    bodies
}
