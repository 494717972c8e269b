//! A real API server: the programs that envtest uses.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::{AuthInfo, Config};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use tempfile::TempDir;

/// `etcd` and `kube-apiserver`, on free ports of the loopback.
pub(crate) struct Real {
    assets: PathBuf,
    dir: TempDir,
    etcd_port: u16,
    port: u16,
    client: Client,
    _etcd: Program,
    server: Option<Program>,
}

/// A child process that ends with its owner.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Real {
    /// The token of an administrator.
    pub(crate) const TOKEN: &str = "of-the-tests";

    /// Starts both, or `None` where `KUBEBUILDER_ASSETS` names no folder.
    pub(crate) async fn start() -> Option<Self> {
        let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
        let dir = TempDir::new().unwrap();
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        fs::write(
            dir.path().join("tokens.csv"),
            format!("{},admin,1,\"system:masters\"\n", Self::TOKEN),
        )
        .unwrap();
        run(Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(dir.path().join("accounts.key"))
            .arg("2048"));
        let own = format!("http://127.0.0.1:{etcd_port}");
        let etcd = spawn(
            Command::new(assets.join("etcd"))
                .arg("--data-dir")
                .arg(dir.path().join("etcd"))
                .args(["--listen-client-urls", &own])
                .args(["--advertise-client-urls", &own])
                .args([
                    "--listen-peer-urls",
                    &format!("http://127.0.0.1:{peer_port}"),
                ]),
            &dir.path().join("etcd.log"),
        );
        let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(Self::TOKEN.to_owned().into()),
            ..AuthInfo::default()
        };
        let mut real = Self {
            assets,
            dir,
            etcd_port,
            port,
            client: Client::try_from(config).unwrap(),
            _etcd: etcd,
            server: None,
        };
        real.serve().await;
        Some(real)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    async fn serve(&mut self) {
        let key = self.dir.path().join("accounts.key");
        let mut server = Command::new(self.assets.join("kube-apiserver"));
        server
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--service-account-issuer=https://127.0.0.1",
            ])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!(
                "--etcd-servers=http://127.0.0.1:{}",
                self.etcd_port
            ));
        for (flag, file) in [
            ("--cert-dir", self.dir.path().join("certificates")),
            ("--token-auth-file", self.dir.path().join("tokens.csv")),
            ("--service-account-key-file", key.clone()),
            ("--service-account-signing-key-file", key),
        ] {
            server.arg(format!("{flag}={}", file.display()));
        }
        self.server = Some(spawn(&mut server, &self.dir.path().join("server.log")));
        for _ in 0..600 {
            let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
            if self.client.request_text(ready).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.dir.path().join("server.log"));
        panic!("kube-apiserver was not ready in 60 s:\n{}", log.unwrap());
    }

    pub(crate) async fn restart(&mut self) {
        drop(self.server.take());
        self.serve().await;
    }

    pub(crate) async fn put(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let kind = GroupVersionKind::try_from(&types).unwrap();
        let name = object.metadata.name.clone().unwrap();
        let api = self.api(&kind);
        let parameters = PatchParams::apply("svclb-tests").force();
        // A server that just became ready may still be making the namespace.
        for _ in 0..50 {
            if api
                .patch(&name, &parameters, &Patch::Apply(&object))
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let last = api.patch(&name, &parameters, &Patch::Apply(&object)).await;
        panic!("{name} cannot be applied: {last:?}");
    }

    pub(crate) async fn remove(&self, resource: &str, name: &str) {
        let kind = match resource {
            "services" => GroupVersionKind::gvk("", "v1", "Service"),
            "endpointslices" => GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"),
            other => panic!("no scenario removes {other}"),
        };
        self.api(&kind)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    fn api(&self, kind: &GroupVersionKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), "default", &ApiResource::from_gvk(kind))
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn spawn(command: &mut Command, log: &Path) -> Program {
    let log = fs::File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    Program(command.spawn().unwrap())
}
