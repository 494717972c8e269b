//! A folder of manifests as a person or a ConfigMap volume would change it, and the
//! objects to put into it.

mod endpoint;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub use endpoint::{Endpoint, node};

/// A folder that `svclb run --manifests` reads.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// An empty folder, made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// A folder with a copy of every file of another (not of folders in it).
    ///
    /// # Errors
    /// If one of them cannot be read or written.
    pub fn copy_of(source: &Path, dir: impl Into<PathBuf>) -> Result<Self> {
        let manifests = Self::new(dir)?;
        let entries =
            fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
        for entry in entries {
            let path = entry.context("cannot read a folder")?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                fs::copy(&path, manifests.dir.join(name))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
        Ok(manifests)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Replaces a file by an atomic rename: a reader sees the old text or the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let hidden = self.dir.join(format!(".{file}.new"));
        fs::write(&hidden, text).with_context(|| format!("cannot write {}", hidden.display()))?;
        fs::rename(&hidden, self.dir.join(file)).with_context(|| format!("cannot rename {file}"))
    }

    /// The same with several objects, one document each.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, file: &str, objects: &[Value]) -> Result<()> {
        self.write(file, &documents(objects))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(file)).with_context(|| format!("cannot remove {file}"))
    }

    /// Puts files as the kubelet does for a ConfigMap volume: into a dated folder that
    /// the symbolic link `..data` is switched to, with a link through it for each file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn project(&self, revision: u32, files: &[(&str, String)]) -> Result<()> {
        let dated = format!("..2026_01_01_{revision:02}");
        let target = self.dir.join(&dated);
        fs::create_dir_all(&target).context("cannot make the dated folder")?;
        for (file, text) in files {
            fs::write(target.join(file), text).context("cannot write a projected file")?;
        }
        let (hidden, data) = (self.dir.join("..data_tmp"), self.dir.join("..data"));
        let before = fs::read_link(&data).ok();
        symlink(&dated, &hidden).context("cannot link")?;
        fs::rename(&hidden, &data).context("cannot switch ..data")?;
        for (file, _) in files {
            let link = self.dir.join(file);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(file), &link).context("cannot link")?;
            }
        }
        if let Some(before) = before.filter(|before| before.as_os_str() != dated.as_str()) {
            fs::remove_dir_all(self.dir.join(before)).context("cannot remove the old folder")?;
        }
        Ok(())
    }
}

/// Objects as documents of one YAML text, their fields sorted as kubectl does.
pub fn documents(objects: &[Value]) -> String {
    objects
        .iter()
        .map(|object| {
            let yaml = serde_saphyr::to_string(object).expect("a JSON value is no less than YAML");
            format!("---\n{yaml}\n")
        })
        .collect()
}

/// A Service in the making, and the EndpointSlices that go with it.
#[derive(Clone, Debug)]
pub struct Service {
    namespace: String,
    name: String,
    created: Option<String>,
    ips: Vec<IpAddr>,
    ports: Vec<Port>,
    affinity_seconds: Option<u32>,
    kind: &'static str,
    /// What is added to the ports' numbers for their node ports; `None` without any.
    node_ports_from: Option<u16>,
    external_local: bool,
    ingress_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    source_ranges: Vec<String>,
}

#[derive(Clone, Debug)]
struct Port {
    proto: &'static str,
    port: u16,
    target: u16,
}

impl Port {
    fn name(&self) -> String {
        format!("{}-{}", self.proto.to_lowercase(), self.port)
    }
}

impl Service {
    /// A ClusterIP Service in the namespace `default`.
    pub fn new(name: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            created: None,
            ips: Vec::new(),
            ports: Vec::new(),
            affinity_seconds: None,
            kind: "ClusterIP",
            node_ports_from: None,
            external_local: false,
            ingress_ips: Vec::new(),
            external_ips: Vec::new(),
            source_ranges: Vec::new(),
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a cluster IP; the first is `clusterIP` too.
    #[must_use]
    pub fn at(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ips.push(ip.into());
        self
    }

    /// Adds a TCP port that leads to the endpoints' `target`.
    #[must_use]
    pub fn tcp(mut self, port: u16, target: u16) -> Self {
        let proto = "TCP";
        self.ports.push(Port {
            proto,
            port,
            target,
        });
        self
    }

    /// Adds a UDP port that leads to the endpoints' `target`.
    #[must_use]
    pub fn udp(mut self, port: u16, target: u16) -> Self {
        let proto = "UDP";
        self.ports.push(Port {
            proto,
            port,
            target,
        });
        self
    }

    /// `sessionAffinity: ClientIP` with a time-out.
    #[must_use]
    pub fn sticky(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// `type: NodePort`, unless it is a LoadBalancer: port 80 gets the node port `from` + 80.
    #[must_use]
    pub fn node_ports(mut self, from: u16) -> Self {
        self.node_ports_from = Some(from);
        if self.kind == "ClusterIP" {
            self.kind = "NodePort";
        }
        self
    }

    /// `type: LoadBalancer`, with an address that the balancer announced.
    #[must_use]
    pub fn balanced_at(mut self, ip: impl Into<IpAddr>) -> Self {
        self.kind = "LoadBalancer";
        self.ingress_ips.push(ip.into());
        self
    }

    /// One of `externalIPs`.
    #[must_use]
    pub fn external_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.external_ips.push(ip.into());
        self
    }

    /// One of `loadBalancerSourceRanges`.
    #[must_use]
    pub fn allows(mut self, range: impl Into<String>) -> Self {
        self.source_ranges.push(range.into());
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external_local = true;
        self
    }

    /// `metadata.creationTimestamp`, RFC 3339.
    #[must_use]
    pub fn created(mut self, time: &str) -> Self {
        self.created = Some(time.to_owned());
        self
    }

    /// The Service as an object.
    pub fn object(&self) -> Value {
        let families: Vec<&str> = self.ips.iter().map(|ip| family(*ip)).collect();
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut entry = json!({
                    "name": port.name(),
                    "protocol": port.proto,
                    "port": port.port,
                    "targetPort": port.target,
                });
                if let Some(from) = self.node_ports_from {
                    entry["nodePort"] = json!(from + port.port);
                }
                entry
            })
            .collect();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "namespace": self.namespace },
            "spec": {
                "type": self.kind,
                "clusterIP": self.ips.first(),
                "clusterIPs": self.ips,
                "ipFamilies": families,
                "ports": ports,
            },
        });
        if self.external_local {
            object["spec"]["externalTrafficPolicy"] = json!("Local");
        }
        if !self.external_ips.is_empty() {
            object["spec"]["externalIPs"] = json!(self.external_ips);
        }
        if !self.ingress_ips.is_empty() {
            let ingress: Vec<Value> = self
                .ingress_ips
                .iter()
                .map(|ip| json!({ "ip": ip }))
                .collect();
            object["status"]["loadBalancer"]["ingress"] = json!(ingress);
        }
        if !self.source_ranges.is_empty() {
            object["spec"]["loadBalancerSourceRanges"] = json!(self.source_ranges);
        }
        if let Some(created) = &self.created {
            object["metadata"]["creationTimestamp"] = json!(created);
        }
        if let Some(seconds) = self.affinity_seconds {
            object["spec"]["sessionAffinity"] = json!("ClientIP");
            object["spec"]["sessionAffinityConfig"] =
                json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        object
    }

    /// An EndpointSlice of these addresses, all of one family, all ready.
    pub fn slice(&self, endpoints: &[IpAddr]) -> Value {
        let endpoints: Vec<Endpoint> = endpoints.iter().copied().map(Endpoint::new).collect();
        self.slice_of(&endpoints)
    }

    /// An EndpointSlice of these endpoints, all of one family.
    pub fn slice_of(&self, endpoints: &[Endpoint]) -> Value {
        let family = endpoints
            .first()
            .map_or("IPv4", |endpoint| family(endpoint.ip()));
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!({ "name": port.name(), "protocol": port.proto, "port": port.target }))
            .collect();
        let endpoints: Vec<Value> = endpoints.iter().map(Endpoint::object).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()),
                "namespace": self.namespace,
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": family,
            "ports": ports,
            "endpoints": endpoints,
        })
    }

    /// The Service and a slice for each family among the endpoints.
    pub fn with(&self, endpoints: &[IpAddr]) -> Vec<Value> {
        let mut objects = vec![self.object()];
        for v6 in [false, true] {
            let of_family: Vec<IpAddr> = endpoints
                .iter()
                .copied()
                .filter(|ip| ip.is_ipv6() == v6)
                .collect();
            if !of_family.is_empty() {
                objects.push(self.slice(&of_family));
            }
        }
        objects
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IPv6" } else { "IPv4" }
}
