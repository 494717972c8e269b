//! Whether an API server that says nothing has nothing to say.
//!
//! Between two bookmarks of a watch there is a minute, and a connection that stands does not tell
//! whether anything behind it works. So when no watch has brought anything for a while, one on this
//! Node is asked for that the API server has to end after a second. In a busy cluster that is
//! never; in a quiet one it is a small request of each agent.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use kube::Client;
use kube::api::WatchParams;
use kube::client::Body;
use kube::core::Request;
use svclb_core::error_chain::error_chain;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::client::{ApiClient, AsksForWord};
use super::watch::Shared;
use crate::status::Status;

/// Asks for a word when none came for long, for ever. Where none is said, the watches are begun
/// anew over new connections.
pub(super) async fn probe(
    api_client: &ApiClient,
    client: &Client,
    node_name: &str,
    shared: &Arc<Shared>,
    status: &Status,
) {
    let timeouts = api_client.timeouts();
    let limit = timeouts.quiet + timeouts.watch_response;
    let pause = timeouts.quiet / 10;
    // When the watches began to stand.
    let mut since = Instant::now().into_std();
    loop {
        // Watches that do not stand say so themselves.
        if !shared.stand() {
            sleep(pause).await;
            since = Instant::now().into_std();
            continue;
        }
        let silent_for = || {
            let last_said = status.last_said().map_or(since, |said| said.max(since));
            last_said.elapsed()
        };
        let is_known = shared.is_silent();
        if !is_known && silent_for() < timeouts.quiet {
            sleep(timeouts.quiet - silent_for()).await;
            continue;
        }
        let present = api_client.present().await;
        let left = match is_known {
            true => timeouts.watch_response,
            false => limit.saturating_sub(silent_for()),
        };
        match timeout(left, ask(client, node_name)).await {
            Ok(Ok(())) => {
                // A refusal is a word, too.
                status.said();
                if is_known {
                    // Those of before may stay silent.
                    api_client.end_watches();
                }
                shared.spoke();
                continue;
            }
            Ok(Err(error)) => debug!(
                "the API server was asked for a word: {}",
                error_chain(&error)
            ),
            Err(_elapsed) => {}
        }
        if is_known || silent_for() >= limit {
            api_client.leave(present).await;
            if shared.fell_silent(limit) {
                api_client.end_watches();
            }
        }
        sleep(pause).await;
    }
}

/// Until something is said, or the response ends.
async fn ask(client: &Client, node_name: &str) -> kube::Result<()> {
    let own = WatchParams::default()
        .fields(&format!("metadata.name={node_name}"))
        .timeout(1);
    // Of the API server's cache: the Node is in it, so that a word is there at once.
    let request = Request::new("/api/v1/nodes").watch(&own, "0");
    let request = request.map_err(kube::Error::BuildRequest)?;
    let mut request = request.map(Body::from);
    request.extensions_mut().insert(AsksForWord);
    let response = client.send(request).await?;
    match response.into_body().frame().await {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(()),
    }
}
