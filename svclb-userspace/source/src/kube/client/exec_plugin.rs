//! Programs that give credentials: `user.exec` of a kubeconfig.
//!
//! kube runs them, too, but without a limit, and not again when the API server says 401.

use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use kube::config::{ExecAuthCluster, ExecConfig};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

/// `status` of `client.authentication.k8s.io`'s ExecCredential.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ExecCredential {
    pub(super) token: Option<String>,
    /// PEM.
    pub(super) client_certificate_data: Option<String>,
    /// PEM.
    pub(super) client_key_data: Option<String>,
    /// When to run the plugin again; without it, when the API server says 401.
    pub(super) expiration_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Output {
    status: Option<ExecCredential>,
}

/// Runs a plugin.
///
/// # Errors
/// Why it gave nothing that can be used.
pub(super) async fn run(exec: &ExecConfig, limit: Duration) -> Result<ExecCredential, String> {
    let command = exec.command.as_deref().unwrap_or_default();
    let failed = |why: String| {
        let hint = exec.install_hint.as_deref().unwrap_or_default();
        let hint = if hint.is_empty() {
            ""
        } else {
            &format!("; {}", hint.trim())
        };
        format!("the plugin {command} of the kubeconfig {why}{hint}")
    };
    let child = command_of(exec, command)
        .map_err(|error| failed(format!("cannot be asked: {error}")))?
        .output();
    let output = timeout(limit, child)
        .await
        .map_err(|_elapsed| {
            failed(format!(
                "gave no credentials within {} s",
                limit.as_secs_f32()
            ))
        })?
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().next_back().unwrap_or_default();
        return Err(failed(format!("ended with {}: {said}", output.status)));
    }
    // As client-go reads it: JSON, or YAML.
    let read = serde_saphyr::from_slice::<Output>(&output.stdout);
    let read = read.map_err(|error| failed(format!("printed no ExecCredential: {error}")))?;
    let status = read.status.unwrap_or_default();
    let has_pair = status.client_certificate_data.is_some() && status.client_key_data.is_some();
    if status.token.is_none() && !has_pair {
        return Err(failed(
            "printed no token and no certificate with its key".to_owned(),
        ));
    }
    Ok(status)
}

fn command_of(exec: &ExecConfig, command: &str) -> serde_json::Result<Command> {
    let mut spec = json!({"interactive": false});
    if exec.provide_cluster_info {
        spec["cluster"] = cluster(exec.cluster.as_ref())?;
    }
    let info = json!({"kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec});
    let mut child = Command::new(command);
    child
        .args(exec.args.iter().flatten())
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            child.env(name, value);
        }
    }
    Ok(child)
}

fn cluster(cluster: Option<&ExecAuthCluster>) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(cluster)
}
