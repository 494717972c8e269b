//! `--keep`: how to play in the lab that stays.

use anyhow::{Context as _, Result};
use svclb_tests::{peer_binary, svclb_binary};

use crate::screen::{Ink, Screen};
use crate::stage::Stage;

/// Leaves everything running and says how to use it.
pub(crate) fn keep(screen: &mut Screen, stage: Stage) -> Result<()> {
    let svclb = svclb_binary()?;
    let own = std::env::current_exe().context("the path of the running binary is unknown")?;
    screen.chapter("The lab stays open. As root:");
    let lines = [
        ("# a client in the pod `client`", String::new()),
        (
            "",
            format!(
                "in_client() {{ {} --netns {} --cgroup {} \"$@\"; }}",
                peer_binary()?.display(),
                stage.client.netns().display(),
                stage.client.cgroup().display()
            ),
        ),
        ("", "in_client ask 10.96.1.1:8080".to_owned()),
        ("", "in_client ask -n 300 10.96.1.1:8080".to_owned()),
        ("", "in_client ask --protocol udp 10.96.0.10:53".to_owned()),
        (
            "",
            "in_client exec curl -s http://10.96.1.1:8080/".to_owned(),
        ),
        ("", "in_client exec bash".to_owned()),
        ("# what is served: edit it and see", String::new()),
        ("", format!("ls {}", stage.manifests.dir().display())),
        ("# what is in the kernel", String::new()),
        (
            "",
            format!(
                "{} dump services --pin-dir {}",
                svclb.display(),
                stage.node.pin_dir().display()
            ),
        ),
        ("# when done", String::new()),
        ("", format!("{} --clean", own.display())),
    ];
    for (comment, command) in lines {
        if comment.is_empty() {
            screen.line(&command);
        } else {
            screen.line(&screen.ink(Ink::Dim, comment));
        }
    }
    stage.node.stay()?;
    for pod in stage
        .backends
        .iter()
        .chain([&stage.client, &stage.outsider])
    {
        pod.stay()?;
    }
    stage.agent.keep();
    stage.lab.keep()
}
