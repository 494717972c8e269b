use std::path::PathBuf;

/// Why a source ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder of manifests can't be read at start.
    #[error(
        "manifests: {}: {source}; make it a readable folder of .yaml, .yml or .json files", .dir.display()
    )]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The task that reads the folder ended by a defect.
    #[error("manifests: the reader stopped ({source}); start the agent again and report this")]
    Reader {
        /// How it ended.
        source: tokio::task::JoinError,
    },
    /// A kubeconfig, or the configuration of a pod, can't be used.
    #[error(
        "kubernetes: {reason}; give a usable --kubeconfig, or run in a pod with a service account"
    )]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// `--apiserver` is no URL.
    #[error("kubernetes: --apiserver {url}: {reason}; give one like https://192.0.2.1:6443")]
    Apiserver {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}
