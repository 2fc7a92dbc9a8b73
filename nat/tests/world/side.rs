//! Streams under test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use smoltcp::socket::tcp::{Socket, State};

/// One side of a stream under test: what it still has to send, and what came.
pub struct Side {
    pub send: Vec<u8>,
    pub at: usize,
    pub got: Vec<u8>,
    closed: bool,
    ended: bool,
}

impl Side {
    pub fn new(len: usize, seed: u8) -> Self {
        let send = (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[2] ^ seed).collect();
        Self { send, at: 0, got: Vec::new(), closed: false, ended: false }
    }

    pub fn is_done(&self) -> bool {
        self.closed && self.ended
    }

    pub fn play_peer(&mut self, stream: &mut TcpStream) {
        while self.at < self.send.len() {
            match stream.write(&self.send[self.at..]) {
                Ok(n) => self.at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("peer: {error}"),
            }
        }
        if self.at == self.send.len() && !self.closed {
            stream.shutdown(Shutdown::Write).unwrap();
            self.closed = true;
        }
        let mut bytes = [0; 20_000];
        match stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(n) => self.got.extend(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("peer: {error}"),
        }
    }

    /// By its socket in a host that smoltcp plays.
    pub fn play_container(&mut self, socket: &mut Socket<'_>) {
        if socket.can_send() {
            self.at += socket.send_slice(&self.send[self.at..]).unwrap();
        }
        if self.at == self.send.len() && !self.closed && socket.may_send() {
            socket.close();
            self.closed = true;
        }
        while socket.can_recv() {
            let room = &mut self.got;
            socket
                .recv(|bytes| {
                    room.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        let opening = matches!(socket.state(), State::Listen | State::SynSent | State::SynReceived);
        if !socket.may_recv() && !opening {
            self.ended = true;
        }
    }
}
