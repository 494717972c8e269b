//! What stands between a client and the API server: a relay, a proxy, an address that is silent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it begins a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hello {
    /// It passes everything on.
    None,
    /// HTTP's CONNECT.
    Connect,
    /// SOCKS version 5, without a user.
    Socks,
}

/// Passes bytes on, to an address that it was given at its start whatever its clients ask for.
pub(crate) struct Relay {
    pub(crate) port: u16,
    /// How many connections there were.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// What clients said first: the request's head, or the name that was to be connected to.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    frozen: watch::Sender<Frozen>,
}

#[derive(Clone, Copy, Default)]
struct Frozen {
    /// Connections before this one are silent.
    before: usize,
    /// Those that come, too.
    all: bool,
}

impl Relay {
    pub(crate) async fn start(hello: Hello, to_port: u16) -> Self {
        Self::start_at(0, hello, to_port).await
    }

    pub(crate) async fn start_at(port: u16, hello: Hello, to_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, is_frozen) = watch::channel(Frozen::default());
        let accepted = Arc::<AtomicUsize>::default();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let relay = Self {
            port,
            accepted: Arc::clone(&accepted),
            asked: Arc::clone(&asked),
            frozen,
        };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = accepted.fetch_add(1, Ordering::Relaxed);
                let mut is_frozen = is_frozen.clone();
                let asked = Arc::clone(&asked);
                tokio::spawn(async move {
                    let mut client = client;
                    let stops = |frozen: &Frozen| frozen.all || number < frozen.before;
                    let relayed = async {
                        greet(hello, &mut client, &asked).await?;
                        let mut server = TcpStream::connect(("127.0.0.1", to_port)).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    };
                    let is_over = tokio::select! {
                        _ended = relayed => true,
                        frozen = is_frozen.wait_for(stops) => frozen.is_err(),
                    };
                    if !is_over {
                        // The connection stays open.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        relay
    }

    /// Passes nothing on any more of the connections that there are.
    pub(crate) fn freeze(&self) {
        let before = self.accepted.load(Ordering::Relaxed);
        self.frozen.send_replace(Frozen { before, all: false });
    }

    /// Passes nothing on any more, of any connection, until [`freeze`](Self::freeze).
    pub(crate) fn freeze_all(&self) {
        self.frozen.send_modify(|frozen| frozen.all = true);
    }
}

async fn greet(
    hello: Hello,
    client: &mut TcpStream,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    match hello {
        Hello::None => {}
        Hello::Connect => {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await?);
            }
            asked.lock().unwrap().push(String::from_utf8(head).unwrap());
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        }
        Hello::Socks => {
            let mut methods = [0; 2];
            client.read_exact(&mut methods).await?;
            let mut offered = vec![0; methods[1].into()];
            client.read_exact(&mut offered).await?;
            client.write_all(&[5, 0]).await?;
            let mut request = [0; 5];
            client.read_exact(&mut request).await?;
            assert_eq!(request[3], 3, "a name was to be asked for");
            let mut name = vec![0; usize::from(request[4]) + 2];
            client.read_exact(&mut name).await?;
            name.truncate(request[4].into());
            asked.lock().unwrap().push(String::from_utf8(name).unwrap());
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        }
    }
    Ok(())
}
