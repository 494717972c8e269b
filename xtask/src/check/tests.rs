//! What holds for the files that are not Rust.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::workspace;

/// The documents of a YAML file.
fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let read: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&text);
    read.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_kustomization_lists_every_file_beside_it() {
    let base = workspace::root().join("deploy/base");
    let kustomization = &documents(&base.join("kustomization.yaml"))[0];
    let mut listed: Vec<_> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    let mut files: Vec<_> = fs::read_dir(&base)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    files.sort();
    assert_eq!(listed, files);
}

#[test]
fn every_flag_and_variable_of_the_daemon_set_is_one_of_svclb_run() {
    let args = workspace::root().join("svclb-userspace/src/cli/args.rs");
    let args = fs::read_to_string(args).unwrap();
    let file = workspace::root().join("deploy/base/daemonset.yaml");
    let daemon_set = documents(&file)
        .into_iter()
        .find(|document| document["kind"] == "DaemonSet")
        .unwrap();
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"][0], "run");
    for flag in container["args"].as_array().unwrap().iter().skip(1) {
        let flag = flag.as_str().unwrap().split('=').next().unwrap();
        let field = flag.trim_start_matches("--").replace('-', "_");
        assert!(args.contains(&format!(" {field}: ")), "no flag {flag}");
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap();
        assert!(args.contains(&format!("\"{name}\"")), "no variable {name}");
    }
}
