//! Servers: each tells who it is, whom it sees and what it heard.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use super::protocol::{Failure, Transport};
use super::sockets::{Greeting, failure, make};

/// Answers at a port of every address, in both families, from now on.
pub(super) fn serve(backend: &str, transport: Transport, port: u16) -> Result<(), Failure> {
    for any in [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    ] {
        let start = Instant::now();
        listen(backend.to_owned(), transport, any)
            .map_err(|error| failure("serve", start, &error))?;
    }
    Ok(())
}

fn listen(backend: String, transport: Transport, at: SocketAddr) -> io::Result<()> {
    let socket = make(transport, at.is_ipv6())?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    if transport.is_stream() {
        socket.listen(1024)?;
        let listener = TcpListener::from(socket);
        thread::spawn(move || accept(&backend, &listener));
    } else {
        let socket = UdpSocket::from(socket);
        thread::spawn(move || datagrams(&backend, &socket));
    }
    Ok(())
}

fn accept(backend: &str, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let backend = backend.to_owned();
        // A client that goes away is its own affair.
        thread::spawn(move || drop(lines(&backend, stream)));
    }
}

fn lines(backend: &str, mut stream: TcpStream) -> io::Result<()> {
    let client = stream.peer_addr()?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.starts_with("GET ") {
            return http(backend, client, &mut stream);
        }
        let greeting = Greeting {
            backend: backend.to_owned(),
            client,
            heard: line,
        };
        let mut answer = serde_json::to_vec(&greeting)?;
        answer.push(b'\n');
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// For those who come with curl.
fn http(backend: &str, client: SocketAddr, stream: &mut TcpStream) -> io::Result<()> {
    let body = format!("{backend} answers {client}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // Closing with unread request headers would reset the connection under the answer.
    stream.shutdown(Shutdown::Write)?;
    io::copy(stream, &mut io::sink()).map(drop)
}

fn datagrams(backend: &str, socket: &UdpSocket) {
    let mut space = [0; 4096];
    loop {
        // An error here is a client's refusal of an earlier answer.
        let Ok((count, client)) = socket.recv_from(&mut space) else {
            continue;
        };
        let heard = String::from_utf8_lossy(space.get(..count).unwrap_or_default());
        let greeting = Greeting {
            backend: backend.to_owned(),
            client,
            heard: heard.trim_end().to_owned(),
        };
        if let Ok(answer) = serde_json::to_vec(&greeting) {
            drop(socket.send_to(&answer, client));
        }
    }
}
