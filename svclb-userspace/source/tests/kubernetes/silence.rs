//! An API server that falls silent is noticed, in whatever phase it does.
//!
//! The times are a fraction of the shipped ones, of which a test of `kube::timeouts` says that each
//! phase is noticed within 45 s.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use svclb_source::ApiTimeouts;
use tokio::time::{sleep, timeout};

use super::double::{Double, Mood};
use super::relay::{Hello, Relay};
use super::{Run, Setup, service, slice, tls};

/// No phase may last longer than this here.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

pub(super) fn short() -> ApiTimeouts {
    let ms = Duration::from_millis;
    ApiTimeouts {
        connect: ms(600),
        plugin: ms(600),
        response: ms(900),
        // The word of an API server with nothing to say takes a second.
        watch_response: ms(1500),
        body: ms(500),
        whole: ms(2000),
        quiet: ms(600),
        bookmark: ms(2500),
        ping: ms(500),
        pong: ms(500),
        tcp: Duration::from_secs(2),
        credentials: ms(200),
        retry_after: Duration::from_secs(60),
    }
}

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this thread's tasks log, which are all of its test.
pub(super) struct Log;

struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// A subscriber of each thread would miss lines: whether anything listens to one is cached.
    pub(super) fn begin() -> Self {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::INFO)
                .with_writer(|| Lines)
                .init();
        });
        LINES.take();
        Self
    }

    pub(super) fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8(lines.clone()).unwrap())
    }

    /// Waits for a line that has this.
    pub(super) async fn wait_for(&self, part: &str, within: Duration) {
        let wait = async {
            while !self.text().contains(part) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let came = timeout(within, wait).await;
        assert!(came.is_ok(), "no {part:?} in {within:?}: {}", self.text());
    }
}

/// One with a Service and a slice.
pub(super) fn double() -> Double {
    let double = Double::default();
    double.put("services", service("web", 80));
    double.put("endpointslices", slice("web-1"));
    double
}

fn at(url: String) -> Setup {
    Setup {
        cluster: json!({"server": url, "certificate-authority": tls::file("ca.crt")}),
        api_timeouts: short(),
        ..Setup::default()
    }
}

/// A source of a double in clear, by HTTP/1.
async fn run() -> Run<Double> {
    let double = double();
    at(double.start().await).run(double)
}

/// It serves when it serves again.
async fn serves_again(run: &mut Run<Double>) {
    run.wait_for_connected(true).await;
    run.server.put("services", service("late", 70));
    run.expect(&["late 70"]).await;
}

/// The kernel drops what asks for a connection that nobody accepts.
#[tokio::test]
async fn connecting() {
    let log = Log::begin();
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let _waiting = [(); 4].map(|()| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&address);
        socket
    });
    let port = address.as_socket().unwrap().port();
    let run = at(format!("https://127.0.0.1:{port}")).run(());
    log.wait_for("cannot watch Services", NOTICED_WITHIN).await;
    assert!(!run.status.connected());
    assert_eq!(run.status.heard_ago(), None);
}

#[tokio::test]
async fn tls_handshake() {
    let log = Log::begin();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = at(format!("https://127.0.0.1:{port}")).run(());
    log.wait_for("cannot watch Services", NOTICED_WITHIN).await;
    assert!(!run.status.connected());
    // It is tried again.
    for _ in 0..6 {
        let again = timeout(NOTICED_WITHIN, listener.accept());
        again.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_list_whose_response_never_comes() {
    let log = Log::begin();
    let double = double();
    double.with(|inner| inner.mood = Mood::HangsAtLists);
    let mut run = at(double.start().await).run(double);
    log.wait_for("cannot watch Services", NOTICED_WITHIN).await;
    assert!(!log.text().contains("watching"), "{}", log.text());
    assert!(!run.status.connected());
    run.server.with(|inner| inner.mood = Mood::Well);
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
}

#[tokio::test]
async fn a_watch_whose_response_never_comes() {
    let log = Log::begin();
    let double = double();
    double.with(|inner| inner.mood = Mood::HangsAtWatches);
    let mut run = at(double.start().await).run(double);
    log.wait_for("cannot watch Services", NOTICED_WITHIN).await;
    assert!(!run.status.connected());
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.with(|inner| inner.mood = Mood::Well);
    serves_again(&mut run).await;
}

/// Nothing distinguishes it from an API server with nothing to say but that it is asked.
async fn watches_that_say_nothing(url: String, double: Double) {
    let log = Log::begin();
    double.with(|inner| inner.mood = Mood::Mute);
    let mut run = at(url).run(double);
    run.expect(&["web 80", "web-1", "synced"]).await;
    log.wait_for("said nothing", NOTICED_WITHIN).await;
    assert!(!run.status.connected());
    // Watches are accepted again and again: that is no word.
    for _ in 0..200 {
        sleep(Duration::from_millis(20)).await;
        assert!(!run.status.connected(), "{}", log.text());
    }
    let warnings = log.text().matches("said nothing for").count();
    assert!(warnings < 6, "{}", log.text());
    run.server.with(|inner| inner.mood = Mood::Well);
    serves_again(&mut run).await;
    log.wait_for("answers again", NOTICED_WITHIN).await;
}

#[tokio::test]
async fn watches_that_were_accepted_and_say_nothing() {
    let double = double();
    watches_that_say_nothing(double.start().await, double).await;
}

#[tokio::test]
async fn watches_that_were_accepted_and_say_nothing_though_pings_are_answered() {
    let double = double();
    let port = double.start_tls().await;
    watches_that_say_nothing(format!("https://127.0.0.1:{port}"), double.clone()).await;
    let clients = double.with(|inner| Arc::clone(&inner.clients));
    let protocols = clients.lock().unwrap().protocols.clone();
    assert!(
        protocols.iter().all(|protocol| protocol == b"h2"),
        "{protocols:?}"
    );
}

/// Once it is silent, a change that happens in the meantime comes by another connection.
async fn a_relay_that_stops(scheme: &str, port: u16, double: Double) {
    let relay = Relay::start(Hello::None, port).await;
    let mut run = at(format!("{scheme}://127.0.0.1:{}", relay.port)).run(double);
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
    relay.freeze();
    run.server.put("services", service("web", 81));
    timeout(NOTICED_WITHIN, run.expect(&["web 81"]))
        .await
        .unwrap();
    run.wait_for_connected(true).await;
    relay.freeze_all();
    let since = Instant::now();
    run.wait_for_connected(false).await;
    assert!(since.elapsed() < NOTICED_WITHIN, "{:?}", since.elapsed());
    let heard_ago = run.status.heard_ago().unwrap();
    assert!(heard_ago < NOTICED_WITHIN, "{heard_ago:?}");
    relay.freeze();
    serves_again(&mut run).await;
}

#[tokio::test]
async fn an_established_watch_over_http1() {
    let double = double();
    let url = double.start().await;
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    a_relay_that_stops("http", port, double).await;
}

#[tokio::test]
async fn an_established_watch_over_http2() {
    let double = double();
    let port = double.start_tls().await;
    a_relay_that_stops("https", port, double).await;
}

/// Neither pings nor a limit of ours are at work here: the kernel gives the connection up.
#[test]
fn an_established_watch_whose_packets_vanish() {
    let lost = std::thread::spawn(|| {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            println!("LACKS: root, for a network namespace");
            return;
        }
        let loopback = |state| {
            let ip = std::process::Command::new("ip")
                .args(["link", "set", "lo", state])
                .status();
            assert!(ip.unwrap().success());
        };
        loopback("up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let log = Log::begin();
            let double = double();
            let hour = Duration::from_secs(3600);
            let mut setup = at(format!("https://127.0.0.1:{}", double.start_tls().await));
            setup.api_timeouts = ApiTimeouts {
                quiet: hour,
                bookmark: hour,
                ping: hour,
                ..short()
            };
            let mut run = setup.run(double);
            run.expect(&["web 80", "web-1", "synced"]).await;
            run.wait_for_connected(true).await;
            // So that it is no request that is not responded to.
            while run.server.with(|inner| inner.watches.len()) < 3 {
                sleep(Duration::from_millis(10)).await;
            }
            sleep(Duration::from_millis(100)).await;
            loopback("down");
            let limit = short().tcp * 2 + Duration::from_secs(2);
            log.wait_for("cannot watch", limit).await;
            run.wait_for_connected(false).await;
            loopback("up");
            serves_again(&mut run).await;
        });
    });
    lost.join().unwrap();
}

#[tokio::test]
async fn an_api_server_with_nothing_to_say_is_connected() {
    for tls in [false, true] {
        let log = Log::begin();
        let double = double();
        let url = match tls {
            true => format!("https://127.0.0.1:{}", double.start_tls().await),
            false => double.start().await,
        };
        let mut run = at(url).run(double);
        run.expect(&["web 80", "web-1", "synced"]).await;
        run.wait_for_connected(true).await;
        let mut longest = Duration::ZERO;
        for _ in 0..400 {
            sleep(Duration::from_millis(10)).await;
            assert!(run.status.connected(), "{}", log.text());
            longest = longest.max(run.status.heard_ago().unwrap());
        }
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        let text = log.text();
        let mut warnings = text.lines().filter(|line| line.contains("WARN"));
        // The double has no Node.
        assert!(
            warnings.all(|line| line.contains("there is no Node")),
            "{text}"
        );
        assert_eq!(run.status.restarts(), 3);
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let log = Log::begin();
    let double = double();
    double.with(|inner| inner.mood = Mood::Busy(1));
    let mut run = at(double.start().await).run(double);
    sleep(Duration::from_millis(4500)).await;
    assert!(!run.status.connected());
    assert!(
        log.text().contains("cannot watch Services"),
        "{}",
        log.text()
    );
    let requests = run.server.with(|inner| inner.requests.clone());
    // Three kinds at a time, at most once in each second.
    assert!(requests.len() >= 6, "{}", requests.len());
    let mut rounds: Vec<_> = requests.iter().map(|(at, _)| *at).collect();
    rounds.dedup_by(|later, earlier| *later - *earlier < Duration::from_millis(300));
    for pair in rounds.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= Duration::from_millis(990), "{apart:?}");
    }
    run.server.with(|inner| inner.mood = Mood::Well);
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
}

#[tokio::test]
async fn a_silent_api_server_that_serves_something_takes_nothing_away() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.server.with(|inner| inner.watches.len()) < 3 {
        sleep(Duration::from_millis(10)).await;
    }
    run.server.with(|inner| inner.mood = Mood::HangsAtLists);
    run.server.gone();
    run.wait_for_connected(false).await;
    run.silence(Duration::from_secs(1)).await;
}
