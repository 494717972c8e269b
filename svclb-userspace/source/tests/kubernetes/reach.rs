//! Proxies, and API servers behind one name.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::double::Double;
use super::relay::{Hello, Relay};
use super::silence::{double, short};
use super::{Run, Setup, service, tls};

/// Where a test that needs a process of its own learns of ports.
const PORT: &str = "SVCLB_TEST_PORT";

fn at(server: String, cluster: Value) -> Setup {
    let mut all = json!({"server": server, "certificate-authority": tls::file("ca.crt")});
    let named = cluster.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(named);
    Setup {
        cluster: all,
        api_timeouts: short(),
        ..Setup::default()
    }
}

async fn serves(setup: Setup, double: Double) -> Run<Double> {
    let mut run = setup.run(double);
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
    run
}

fn asked(relay: &Relay) -> Vec<String> {
    relay.asked.lock().unwrap().clone()
}

/// Only the proxy knows the name.
const UNKNOWN: &str = "https://api.invalid:6443";

#[tokio::test]
async fn an_http_proxy_of_the_kubeconfig() {
    let double = double();
    let relay = Relay::start(Hello::Connect, double.start_tls().await).await;
    let proxy = json!({"proxy-url": format!("http://me:secret@127.0.0.1:{}", relay.port)});
    let _run = serves(at(UNKNOWN.to_owned(), proxy), double).await;
    let asked = asked(&relay);
    assert!(
        asked[0].starts_with("CONNECT api.invalid:6443 HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    let authorization = "proxy-authorization: basic bwu6c2vjcmv0\r\n";
    assert!(
        asked[0].to_lowercase().contains(authorization),
        "{}",
        asked[0]
    );
}

#[tokio::test]
async fn a_socks_proxy_of_the_kubeconfig() {
    let double = double();
    let relay = Relay::start(Hello::Socks, double.start_tls().await).await;
    let proxy = json!({"proxy-url": format!("socks5://127.0.0.1:{}", relay.port)});
    let _run = serves(at(UNKNOWN.to_owned(), proxy), double).await;
    assert_eq!(asked(&relay)[0], "api.invalid");
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_named() {
    let setup = at(
        UNKNOWN.to_owned(),
        json!({"proxy-url": "ftp://me:secret@192.0.2.1"}),
    );
    let error = setup.run(()).source.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("proxy-url names no proxy"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

/// A test in a process of its own, by a command that is given its program.
fn again(test: &str, command: &mut Command) {
    let output = command
        .args(["--exact", &format!("reach::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

/// What the process of [`again`] was given.
fn given(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn proxies_of_the_environment() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(port) = given(PORT) {
        let port = port.parse().unwrap();
        return match given("NO_PROXY").as_deref() {
            Some(EXCEPTED) => runtime.block_on(without_proxy(port)),
            _ => runtime.block_on(with_proxy(port)),
        };
    }
    // The port is chosen here: the variable has to be there when the process begins.
    let port = free_port().to_string();
    for exceptions in ["other.invalid", EXCEPTED] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env("HTTPS_PROXY", format!("127.0.0.1:{port}"))
            .env("NO_PROXY", exceptions)
            .env(PORT, &port);
        again("proxies_of_the_environment", &mut command);
    }
}

const EXCEPTED: &str = "other,.invalid:6443";

async fn with_proxy(port: u16) {
    let double = double();
    let to = double.start_tls().await;
    let relay = Relay::start_at(port, Hello::Connect, to).await;
    let _run = serves(at(UNKNOWN.to_owned(), json!({})), double).await;
    assert!(asked(&relay)[0].starts_with("CONNECT api.invalid:6443 "));
}

async fn without_proxy(port: u16) {
    let relay = Relay::start_at(port, Hello::Connect, 1).await;
    let run = at(UNKNOWN.to_owned(), json!({})).run(());
    tokio::time::sleep(short().connect * 3).await;
    assert!(!run.status.connected());
    assert_eq!(asked(&relay), Vec::<String>::new());
}

/// Of the addresses of a name, all but one take connections and say nothing.
#[test]
fn the_next_address_of_a_name() {
    if given(PORT).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(with_addresses());
    }
    let dir = TempDir::new().unwrap();
    let hosts = dir.path().join("hosts");
    let lines = [1, 2, 3].map(|last| format!("127.0.0.{last} api.invalid\n"));
    std::fs::write(&hosts, lines.concat()).unwrap();
    let own = format!("mount --bind {} /etc/hosts", hosts.display());
    again_with_mounts("the_next_address_of_a_name", &own, &[(PORT, "any")]);
}

/// As [`again`], with mounts of its own that a script makes.
fn again_with_mounts(test: &str, script: &str, variables: &[(&str, &str)]) {
    let with = |then: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--map-root-user", "sh", "-c"])
            .arg(format!("{script} && {then}"))
            .arg("sh")
            .arg(std::env::current_exe().unwrap())
            .envs(variables.iter().copied());
        command
    };
    let allowed = with("true").output();
    if allowed.is_ok_and(|output| output.status.success()) {
        again(test, &mut with("exec \"$@\""));
    } else {
        println!("LACKS: unshare with a mount namespace");
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn with_addresses() {
    let double = double();
    let port = double.start_tls().await;
    let mut silent = Vec::new();
    for last in [2, 3] {
        let address = SocketAddr::from(([127, 0, 0, last], port));
        silent.push(TcpListener::bind(address).await.unwrap());
    }
    // Each source begins with an address of its own.
    for _ in 0..4 {
        let at_name = at(format!("https://api.invalid:{port}"), json!({}));
        let _run = serves(at_name, double.clone()).await;
    }
}

/// Where a pod has its service account's files.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn a_pod_whose_token_is_renewed() {
    if let Some(port) = given(PORT) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(in_pod(port.parse().unwrap()));
    }
    let port = free_port().to_string();
    let files = format!(
        "mount -t tmpfs none /run && mkdir -p {ACCOUNT} && cp {} {ACCOUNT}/ca.crt && \
         echo default > {ACCOUNT}/namespace && echo early > {ACCOUNT}/token",
        tls::file("ca.crt").display()
    );
    let variables = [
        ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", &port),
        (PORT, &port),
    ];
    again_with_mounts("a_pod_whose_token_is_renewed", &files, &variables);
}

async fn in_pod(port: u16) {
    let double = double();
    double.with(|inner| inner.token = Some("early".to_owned()));
    double.start_tls_at(port).await;
    let setup = Setup {
        in_pod: true,
        api_timeouts: short(),
        ..Setup::default()
    };
    let mut run = serves(setup, double.clone()).await;
    // The kubelet writes the new one while the old one is still good.
    std::fs::write(format!("{ACCOUNT}/token"), "late\n").unwrap();
    tokio::time::sleep(short().credentials * 2).await;
    double.with(|inner| inner.token = Some("late".to_owned()));
    double.with(|inner| inner.requests.clear());
    double.drop_watches();
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    run.wait_for_connected(true).await;
    let requests = double.with(|inner| inner.requests.clone());
    assert!(
        requests.iter().all(|(_, with)| with == "Bearer late"),
        "{requests:?}"
    );
}
