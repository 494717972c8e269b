//! A small API server: it lists Services, EndpointSlices and Nodes, and ends every watch
//! with "410 Gone" when something changed, so that its clients list again.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::lab::Node;

/// A server on a node's host; stopped when it is dropped.
pub struct ApiServer {
    at: SocketAddr,
    node: Node,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: Vec<Value>,
    version: u64,
    /// Counts up with every stop: connections of an earlier run end.
    run: u64,
    connections: Vec<TcpStream>,
}

impl ApiServer {
    /// Starts one with these objects, on a free port of the host's loopback.
    ///
    /// # Errors
    /// If nothing can listen there.
    pub fn start(node: &Node, objects: Vec<Value>) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = listen(node, any)?;
        let mut server = Self {
            at: listener.local_addr()?,
            node: node.clone(),
            state: Arc::default(),
        };
        server.put(objects);
        server.serve(listener);
        Ok(server)
    }

    /// Replaces all objects.
    pub fn put(&mut self, objects: Vec<Value>) {
        let mut state = lock(&self.state);
        state.objects = objects;
        state.version += 1;
    }

    /// Ends it: connections break, and new ones are refused.
    pub fn stop(&mut self) {
        let mut state = lock(&self.state);
        state.run += 1;
        for connection in state.connections.drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(state);
        // Wakes the thread that accepts, which then closes the listener.
        let at = self.at;
        drop(self.node.run(|| Ok(TcpStream::connect(at).map(drop)?)));
    }

    /// Starts it again, at the same address.
    ///
    /// # Errors
    /// If nothing can listen there.
    pub fn resume(&mut self) -> Result<()> {
        let listener = listen(&self.node, self.at)?;
        self.serve(listener);
        Ok(())
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let file = dir.join("kubeconfig");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}", self.at)}}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}]});
        fs::write(&file, config.to_string())
            .with_context(|| format!("{} can't be written", file.display()))?;
        Ok(file)
    }

    fn serve(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let run = lock(&state).run;
        thread::spawn(move || {
            for connection in listener.incoming().map_while(io::Result::ok) {
                let mut known = lock(&state);
                if known.run != run {
                    return;
                }
                known.connections.extend(connection.try_clone());
                drop(known);
                let state = Arc::clone(&state);
                // It ends when the client goes, or with the server.
                thread::spawn(move || {
                    drop(answer_all(&connection, &state, run));
                    // The state holds it as well: closing is not enough.
                    drop(connection.shutdown(Shutdown::Both));
                });
            }
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(node: &Node, at: SocketAddr) -> Result<TcpListener> {
    node.run(|| TcpListener::bind(at).with_context(|| format!("nothing can listen at {at}")))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request after the other.
fn answer_all(mut connection: &TcpStream, state: &Mutex<State>, run: u64) -> io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    while let Some(request) = lines.next().transpose()? {
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let version = lock(state).version;
        if path.contains("watch=") {
            let from = path
                .split(['&', '?'])
                .find_map(|field| field.strip_prefix("resourceVersion=")?.parse().ok());
            return watch(connection, state, run, from.unwrap_or(version));
        }
        let list = list(path, &lock(state)).to_string();
        write!(
            connection,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{list}",
            list.len()
        )?;
    }
    Ok(())
}

fn list(path: &str, state: &State) -> Value {
    let (kind, version) = match path.split('?').next().unwrap_or_default() {
        "/api/v1/services" => ("Service", "v1"),
        "/api/v1/nodes" => ("Node", "v1"),
        _ => ("EndpointSlice", "discovery.k8s.io/v1"),
    };
    let objects = state.objects.iter();
    let items: Vec<_> = objects.filter(|object| object["kind"] == kind).collect();
    json!({"kind": format!("{kind}List"), "apiVersion": version,
        "metadata": {"resourceVersion": state.version.to_string()}, "items": items})
}

/// Waits for a change, and sends the client that its version is gone.
fn watch(mut to: &TcpStream, state: &Mutex<State>, run: u64, from: u64) -> io::Result<()> {
    to.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    loop {
        let (now, running) = {
            let state = lock(state);
            (state.version, state.run)
        };
        if running != run {
            return Ok(());
        }
        if now != from {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                "status": "Failure", "code": 410, "reason": "Expired", "message": "gone"}});
            let line = format!("{gone}\n");
            return write!(to, "{:x}\r\n{line}\r\n0\r\n\r\n", line.len());
        }
        thread::sleep(Duration::from_millis(10));
    }
}
