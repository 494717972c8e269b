//! How long the API server may say nothing.

use std::time::Duration;

/// How long the API server may say nothing before it is taken for away, in each phase of a request.
///
/// The defaults notice it within 45 seconds, whatever it is that hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiTimeouts {
    /// For the name, TCP to each of its addresses, the proxy and TLS.
    pub connect: Duration,
    /// For a plugin that gives credentials.
    pub plugin: Duration,
    /// From a request to the beginning of its response, the connection included. Lists of a busy
    /// API server wait in a queue.
    pub response: Duration,
    /// The same for a watch. Its response begins at once, also where nothing changes.
    pub watch_response: Duration,
    /// Silence in the middle of a response that is no watch.
    pub body: Duration,
    /// A whole response that is no watch.
    pub whole: Duration,
    /// After how long without a word of any watch the API server is asked for one, and, with
    /// HTTP/1, a silent watch begun anew.
    pub quiet: Duration,
    /// Silence of a watch over HTTP/2. It is longer than the minute between two bookmarks.
    pub bookmark: Duration,
    /// After how long without a frame an HTTP/2 ping is sent.
    pub ping: Duration,
    /// How long its answer may take.
    pub pong: Duration,
    /// After how long without a segment TCP sends its first keepalive, and how long what was sent
    /// may go without acknowledgement.
    pub tcp: Duration,
    /// How often files with credentials are read again.
    pub credentials: Duration,
    /// What `Retry-After` may ask for.
    pub retry_after: Duration,
}

/// Within this time the defaults notice an API server that has fallen silent.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_secs(45);

impl Default for ApiTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(12),
            plugin: Duration::from_secs(15),
            response: Duration::from_secs(30),
            watch_response: Duration::from_secs(20),
            body: Duration::from_secs(10),
            whole: Duration::from_secs(120),
            quiet: Duration::from_secs(20),
            bookmark: Duration::from_secs(90),
            ping: Duration::from_secs(15),
            pong: Duration::from_secs(15),
            tcp: Duration::from_secs(30),
            credentials: Duration::from_secs(10),
            retry_after: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::client::connector::{keepalive_interval, keepalive_retries};

    #[test]
    fn silence_in_any_phase_is_noticed_within_45_seconds() {
        let t = ApiTimeouts::default();
        let keepalive = t.tcp / 2 + keepalive_interval(&t) * keepalive_retries();
        for (phase, noticed) in [
            ("a plugin, then a list", t.plugin + t.response),
            ("connecting, a proxy, TLS", t.connect),
            ("a list's response", t.response),
            ("the middle of a list", t.body),
            ("a watch's response", t.watch_response),
            ("a watch that says nothing", t.quiet + t.watch_response),
            ("a connection that answers no ping", t.ping + t.pong),
            ("no acknowledgement", t.tcp),
            ("no answer to keepalives", keepalive),
        ] {
            assert!(noticed <= NOTICED_WITHIN, "{phase}: {noticed:?}");
        }
        assert!(t.connect < t.watch_response.min(t.response));
    }

    #[test]
    fn a_watch_over_http2_is_given_the_time_of_a_bookmark() {
        // kube-apiserver: bookmarkFrequency is a minute, each with a jitter of a quarter at most.
        assert!(ApiTimeouts::default().bookmark > Duration::from_secs(75));
    }
}
