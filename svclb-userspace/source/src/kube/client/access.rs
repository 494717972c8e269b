//! What a kubeconfig, or a pod's service account, says about reaching the API server.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use kube::Config;
use kube::config::{AuthInfo, Cluster, ExecConfig, KubeConfigOptions, Kubeconfig};
use secrecy::ExposeSecret as _;
use svclb_core::error_chain::error_chain;

use super::identity::Identity;
use super::proxy::{Proxy, proxy_for};
use crate::error::SourceError;
use crate::kube::KubeOptions;

/// How to reach the API server, and as whom.
pub(super) struct Access {
    /// Without credentials.
    pub(super) config: Config,
    pub(super) identity: Option<Identity>,
    /// The header `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
    /// The program that gives credentials; it was not run yet.
    pub(super) exec: Option<ExecConfig>,
    pub(super) proxy: Option<Proxy>,
}

/// The files that an [`Access`] was read from, with what they had.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Files(Vec<(PathBuf, u64)>);

impl Files {
    fn add(&mut self, path: impl Into<PathBuf>) {
        let path = path.into();
        let content = content(&path);
        self.0.push((path, content));
    }

    /// Whether one of them has something else now.
    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, had)| content(path) != *had)
    }
}

fn content(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(path).ok().hash(&mut hasher);
    hasher.finish()
}

/// Reads it, with the files as they were before.
///
/// # Errors
/// What cannot be used.
pub(super) async fn read(options: &KubeOptions) -> Result<(Access, Files), SourceError> {
    let unusable = |reason: String| SourceError::Config { reason };
    // What changes after this is noticed.
    let mut files = Files::default();
    let mut named_proxy = None;
    let mut config = match &options.kubeconfig {
        Some(path) => {
            files.add(path);
            let kubeconfig = Kubeconfig::read_from(path);
            let kubeconfig = kubeconfig.map_err(|error| unusable(error_chain(&error)))?;
            if let Some(cluster) = cluster(&kubeconfig) {
                named_proxy = cluster.proxy_url.clone();
                if let Some(authority) = &cluster.certificate_authority {
                    files.add(authority);
                }
            }
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|error| unusable(error_chain(&error)))?
        }
        None => {
            let config = Config::incluster().map_err(|error| unusable(error_chain(&error)))?;
            config
                .root_cert_file
                .iter()
                .for_each(|file| files.add(file));
            config
        }
    };
    if let Some(url) = &options.apiserver {
        config.cluster_url =
            url.parse()
                .map_err(|error: http::uri::InvalidUri| SourceError::Apiserver {
                    url: url.clone(),
                    reason: error.to_string(),
                })?;
    }
    let environment = |name: &str| std::env::var(name).ok();
    let proxy = proxy_for(&config.cluster_url, named_proxy.as_deref(), &environment);
    let user = std::mem::take(&mut config.auth_info);
    let of_user = [&user.client_certificate, &user.client_key, &user.token_file];
    of_user
        .into_iter()
        .flatten()
        .for_each(|file| files.add(file));
    config.auth_info = AuthInfo {
        impersonate: user.impersonate.clone(),
        impersonate_uid: user.impersonate_uid.clone(),
        impersonate_groups: user.impersonate_groups.clone(),
        impersonate_user_extra: user.impersonate_user_extra.clone(),
        auth_provider: user.auth_provider.clone(),
        ..AuthInfo::default()
    };
    let access = Access {
        proxy: proxy.map_err(unusable)?,
        identity: identity(&user).map_err(unusable)?,
        authorization: authorization(&user).map_err(unusable)?,
        exec: user.exec,
        config,
    };
    Ok((access, files))
}

/// The cluster of the current context.
fn cluster(kubeconfig: &Kubeconfig) -> Option<&Cluster> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == *name)?;
    cluster.cluster.as_ref()
}

/// As in client-go, what is in the kubeconfig comes before a file.
fn identity(user: &AuthInfo) -> Result<Option<Identity>, String> {
    let key_data = user.client_key_data.as_ref();
    let key_data = key_data.map(|data| data.expose_secret());
    let data = user.client_certificate_data.as_deref();
    let certificate = data_or_file(
        data,
        user.client_certificate.as_deref(),
        "client-certificate",
    )?;
    let key = data_or_file(key_data, user.client_key.as_deref(), "client-key")?;
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(_), None) => Err("the user has client-certificate and no client-key".to_owned()),
        (None, Some(_)) => Err("the user has client-key and no client-certificate".to_owned()),
        (Some((certificate, from)), Some((key, from_key))) => Ok(Some(Identity {
            certificate,
            key,
            from: if from == from_key {
                from
            } else {
                format!("{from}, {from_key}")
            },
        })),
    }
}

/// With where it is from.
fn data_or_file(
    data: Option<&str>,
    file: Option<&str>,
    field: &str,
) -> Result<Option<(Vec<u8>, String)>, String> {
    if let Some(data) = data.filter(|data| !data.trim().is_empty()) {
        let data: String = data.split_whitespace().collect();
        let decoded = BASE64_STANDARD.decode(data);
        let decoded = decoded.map_err(|error| format!("{field}-data is no base64: {error}"))?;
        return Ok(Some((decoded, "the kubeconfig".to_owned())));
    }
    let Some(file) = file.filter(|file| !file.is_empty()) else {
        return Ok(None);
    };
    match fs::read(file) {
        Ok(content) => Ok(Some((content, file.to_owned()))),
        Err(error) => Err(format!("{field}: {file}: {error}")),
    }
}

/// As in client-go, a file comes before a token in the kubeconfig, if it can be read.
fn authorization(user: &AuthInfo) -> Result<Option<HeaderValue>, String> {
    let inline = user.token.as_ref().map(|token| token.expose_secret());
    let inline = inline.map(str::trim).filter(|token| !token.is_empty());
    let file = user.token_file.as_deref().filter(|file| !file.is_empty());
    let from_file = file.map(|file| match fs::read_to_string(file) {
        Ok(token) if token.trim().is_empty() => Err(format!("{file} has no token")),
        Ok(token) => Ok(token.trim().to_owned()),
        Err(error) => Err(format!("{file}: {error}")),
    });
    match (from_file, inline) {
        (Some(Ok(token)), _) => bearer(&token, file.unwrap_or_default()).map(Some),
        (_, Some(token)) => bearer(token, "the kubeconfig").map(Some),
        (Some(Err(error)), None) => Err(error),
        (None, None) => basic(user),
    }
}

fn basic(user: &AuthInfo) -> Result<Option<HeaderValue>, String> {
    let (Some(name), Some(password)) = (&user.username, &user.password) else {
        return Ok(None);
    };
    let pair = BASE64_STANDARD.encode(format!("{name}:{}", password.expose_secret()));
    header(&format!("Basic {pair}"), "the kubeconfig").map(Some)
}

/// The header for a token.
///
/// # Errors
/// If it has characters that no header may have.
pub(super) fn bearer(token: &str, from: &str) -> Result<HeaderValue, String> {
    header(&format!("Bearer {}", token.trim()), from)
}

fn header(value: &str, from: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(value);
    let mut value = value.map_err(|_invalid| {
        format!("{from}: the token has characters that a header cannot have, such as a line break")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
