//! A wire to a server that can be cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Carries every connection to a server until it is cut.
pub struct Wire {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Wire {
    /// A wire to this address.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (server, carried) = (server.to_owned(), Arc::clone(&state));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                carry(stream.unwrap(), &server, &carried);
            }
        });
        Self { address, state }
    }

    /// Its other end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends all connections, and lets none through until it is mended.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            // The other side may have ended it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

fn carry(stream: TcpStream, server: &str, state: &Mutex<State>) {
    let mut state = state.lock().unwrap();
    if state.is_cut {
        return;
    }
    let Ok(other) = TcpStream::connect(server) else { return };
    let ends = [(&stream, &other), (&other, &stream)]
        .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
    state.streams.extend([stream, other]);
    for (mut from, mut to) in ends {
        std::thread::spawn(move || {
            // However it ends, so does the other direction.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
