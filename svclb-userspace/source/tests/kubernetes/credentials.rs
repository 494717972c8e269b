//! Credentials that change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use svclb_source::ApiTimeouts;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::double::Double;
use super::silence::{Log, double, short};
use super::{Run, Setup, service, tls};

/// Files are looked at after an hour, so that a 401 alone can be the reason.
const HOUR: Duration = Duration::from_secs(3600);

async fn at_tls(double: &Double, user: Value, api_timeouts: ApiTimeouts) -> Run<Double> {
    let port = double.start_tls().await;
    let setup = Setup {
        cluster: json!({"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": tls::file("ca.crt")}),
        user,
        api_timeouts,
        ..Setup::default()
    };
    setup.run(double.clone())
}

/// The error that a source ends with at its start.
async fn refused(user: Value) -> String {
    let run = at_tls(&double(), user, short()).await;
    let ended = timeout(Duration::from_secs(5), run.source).await;
    ended.unwrap().unwrap().unwrap_err().to_string()
}

fn token(double: &Double, token: &str) {
    double.with(|inner| inner.token = Some(token.to_owned()));
}

/// Replaces a file at once, as what renews credentials does.
fn replace(file: &Path, content: impl AsRef<[u8]>) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

/// The last `Authorization` that came.
fn last_authorization(double: &Double) -> String {
    double.with(|inner| inner.requests.last().unwrap().1.clone())
}

#[tokio::test]
async fn a_token_file_may_end_with_a_line_break() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "of-a-file\n").unwrap();
    let double = double();
    token(&double, "of-a-file");
    let mut run = at_tls(&double, json!({"tokenFile": file}), short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
}

#[tokio::test]
async fn a_token_file_that_changed_is_read_when_the_api_server_says_401() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "early").unwrap();
    let double = double();
    token(&double, "early");
    let timeouts = ApiTimeouts {
        credentials: HOUR,
        ..short()
    };
    let mut run = at_tls(&double, json!({"tokenFile": file}), timeouts).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
    // It is revoked before the new one is there.
    token(&double, "late");
    double.drop_watches();
    run.wait_for_connected(false).await;
    replace(&file, "late\n");
    run.wait_for_connected(true).await;
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
}

#[tokio::test]
async fn a_token_file_is_read_again_before_its_token_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "early").unwrap();
    let double = double();
    let mut run = at_tls(
        &double,
        json!({"tokenFile": file, "token": "older"}),
        short(),
    )
    .await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    assert_eq!(last_authorization(&double), "Bearer early");
    replace(&file, "late");
    sleep(short().credentials).await;
    double.drop_watches();
    let wait = async {
        while last_authorization(&double) != "Bearer late" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.unwrap();
    // One that is gone for a moment takes nothing away.
    fs::remove_file(&file).unwrap();
    sleep(short().credentials * 2).await;
    double.drop_watches();
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
}

#[tokio::test]
async fn a_kubeconfig_that_changed_is_read_again() {
    let double = double();
    token(&double, "early");
    let mut run = at_tls(&double, json!({"token": "early"}), short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    token(&double, "late");
    let kubeconfig = run._dir.path().join("config");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    replace(&kubeconfig, text.replace("early", "late"));
    double.drop_watches();
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    run.wait_for_connected(true).await;
}

/// Client certificates that were shown, by what [`tls::certificate`] calls them.
fn shown(double: &Double, names: &[&str]) -> Vec<String> {
    let clients = double.with(|inner| Arc::clone(&inner.clients));
    let shown = clients.lock().unwrap().certificates.clone();
    let name = |certificate| {
        let is_it = |name: &&&str| tls::certificate(name) == certificate;
        names.iter().find(is_it).map_or("another", |name| name)
    };
    shown
        .into_iter()
        .map(|shown| name(shown).to_owned())
        .collect()
}

fn pair(dir: &Path, name: &str) -> [PathBuf; 2] {
    ["crt", "key"].map(|kind| {
        let file = dir.join(format!("client.{kind}"));
        replace(
            &file,
            fs::read(tls::file(&format!("{name}.{kind}"))).unwrap(),
        );
        file
    })
}

#[tokio::test]
async fn a_client_certificate_that_changed_is_shown_by_new_connections() {
    let dir = TempDir::new().unwrap();
    let [certificate, key] = pair(dir.path(), "first");
    let double = double();
    let user = json!({"client-certificate": certificate, "client-key": key});
    let mut run = at_tls(&double, user, short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let names = ["first", "second"];
    assert!(shown(&double, &names).iter().all(|name| name == "first"));
    // One file is replaced before the other: what was before goes on.
    replace(&certificate, fs::read(tls::file("second.crt")).unwrap());
    sleep(short().credentials * 2).await;
    double.drop_watches();
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    pair(dir.path(), "second");
    sleep(short().credentials * 2).await;
    double.drop_watches();
    double.put("services", service("web", 82));
    run.expect(&["web 82"]).await;
    run.wait_for_connected(true).await;
    let shown = shown(&double, &names);
    assert_eq!(shown.last().unwrap(), "second", "{shown:?}");
}

#[tokio::test]
async fn a_client_certificate_of_version_1_is_shown() {
    let dir = TempDir::new().unwrap();
    let [certificate, key] = pair(dir.path(), "version1");
    let double = double();
    let user = json!({"client-certificate": certificate, "client-key": key});
    let mut run = at_tls(&double, user, short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let shown = shown(&double, &["version1"]);
    assert!(!shown.is_empty() && shown.iter().all(|name| name == "version1"));
}

#[tokio::test]
async fn what_is_wrong_with_a_pair_is_said_with_the_files_name() {
    let dir = TempDir::new().unwrap();
    let [certificate, key] = pair(dir.path(), "first");
    let user = json!({"client-certificate": certificate, "client-key": key});
    for (file, content, expected) in [
        (
            &key,
            fs::read(tls::file("second.key")).unwrap(),
            "not that of the client certificate",
        ),
        (&key, b"none".to_vec(), "there is no private key in PEM"),
        (
            &certificate,
            b"none".to_vec(),
            "there is no certificate in PEM",
        ),
        (
            &certificate,
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
            "is no X.509 certificate",
        ),
    ] {
        pair(dir.path(), "first");
        fs::write(file, content).unwrap();
        let error = refused(user.clone()).await;
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
    let error = refused(json!({"client-certificate": certificate})).await;
    assert!(error.contains("no client-key"), "{error}");
    let error = refused(json!({"token": "a\u{1}b"})).await;
    assert!(error.contains("the token has characters"), "{error}");
}

/// A plugin that prints what a file has, and counts how often it ran.
struct Plugin {
    dir: TempDir,
}

impl Plugin {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("plugin");
        fs::write(
            &program,
            "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$KUBERNETES_EXEC_INFO $EXTRA $1\" >> runs\n\
             . ./act\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let plugin = Self { dir };
        plugin.act("exit 1");
        plugin
    }

    fn user(&self) -> Value {
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "args": ["argument"],
            "command": self.dir.path().join("plugin"), "interactiveMode": "Never",
            "provideClusterInfo": true, "env": [{"name": "EXTRA", "value": "extra"}]}})
    }

    fn act(&self, script: &str) {
        replace(&self.dir.path().join("act"), script);
    }

    fn gives(&self, status: &Value) {
        let credential = json!({"kind": "ExecCredential",
            "apiVersion": "client.authentication.k8s.io/v1", "status": status});
        fs::write(self.dir.path().join("given"), credential.to_string()).unwrap();
        self.act("cat given");
    }

    fn runs(&self) -> Vec<String> {
        let runs = fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default();
        runs.lines().map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn a_plugin_runs_again_before_its_token_expires() {
    let plugin = Plugin::new();
    let expires = |in_seconds| {
        let at = jiff::Timestamp::now() + Duration::from_secs(in_seconds);
        at.to_string()
    };
    plugin.gives(&json!({"token": "early", "expirationTimestamp": expires(2)}));
    let double = double();
    let mut run = at_tls(&double, plugin.user(), short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    assert_eq!(last_authorization(&double), "Bearer early");
    let runs = plugin.runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert!(runs[0].ends_with(" extra argument"), "{}", runs[0]);
    assert!(
        runs[0].contains("\"server\":\"https://127.0.0.1:"),
        "{}",
        runs[0]
    );
    plugin.gives(&json!({"token": "late\n", "expirationTimestamp": expires(3600)}));
    // The word that is asked for takes it up, though nothing happens.
    let wait = async {
        while last_authorization(&double) != "Bearer late" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(plugin.runs().len(), 2);
}

#[tokio::test]
async fn a_plugin_runs_again_when_the_api_server_says_401() {
    let plugin = Plugin::new();
    plugin.gives(&json!({"token": "early"}));
    let double = double();
    token(&double, "early");
    let mut run = at_tls(&double, plugin.user(), short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.wait_for_connected(true).await;
    plugin.gives(&json!({"token": "late"}));
    token(&double, "late");
    double.drop_watches();
    double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    run.wait_for_connected(true).await;
    assert_eq!(plugin.runs().len(), 2);
}

#[tokio::test]
async fn a_plugins_certificate_is_shown() {
    let plugin = Plugin::new();
    let [certificate, key] =
        ["first.crt", "first.key"].map(|name| fs::read_to_string(tls::file(name)).unwrap());
    plugin.gives(&json!({"clientCertificateData": certificate, "clientKeyData": key}));
    let double = double();
    let mut run = at_tls(&double, plugin.user(), short()).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let shown = shown(&double, &["first"]);
    assert!(!shown.is_empty() && shown.iter().all(|name| name == "first"));
}

#[tokio::test]
async fn a_plugin_that_hangs_or_fails_is_named_and_run_again() {
    let log = Log::begin();
    let plugin = Plugin::new();
    plugin.act("sleep 60");
    let double = double();
    let began = Instant::now();
    let mut run = at_tls(&double, plugin.user(), short()).await;
    log.wait_for("gave no credentials within 0.6 s", Duration::from_secs(5))
        .await;
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(!run.status.connected());
    plugin.act("echo out of order >&2; exit 3");
    log.wait_for("out of order", Duration::from_secs(10)).await;
    plugin.gives(&json!({"token": "late"}));
    run.expect(&["web 80", "web-1", "synced"]).await;
}
