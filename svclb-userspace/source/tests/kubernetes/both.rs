//! What holds against any API server.

use std::time::Duration;

use serde_json::json;

use super::double::Double;
use super::real::Real;
use super::{Run, Server, service, slice};

async fn what_exists_is_sent_once_and_then_what_changes(server: Server) {
    let mut run = Run::watch(server).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    assert!(run.status.synced() && run.status.connected());
    run.server.put("services", service("web", 81)).await;
    run.expect(&["web 81"]).await;
    run.server.put("endpointslices", slice("web-2")).await;
    run.expect(&["web-2"]).await;
    run.server.remove("endpointslices", "web-1").await;
    run.expect(&["no web-1"]).await;
}

async fn a_label_that_gives_a_service_to_another_proxy_takes_it_away(server: Server) {
    let mut run = Run::watch(server).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let mut labelled = service("web", 80);
    labelled["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    run.server.put("services", labelled).await;
    run.expect(&["no web"]).await;
    run.server.put("services", service("web", 80)).await;
    run.expect(&["web 80"]).await;
}

async fn after_a_restart_only_the_differences_are_sent(server: Server) {
    let mut run = Run::watch(server).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.restart().await;
    run.server.put("services", service("other", 90)).await;
    run.server.remove("endpointslices", "web-1").await;
    run.expect(&["other 90", "no web-1"]).await;
    run.silence(Duration::from_secs(2)).await;
}

/// Each scenario against the double and against the real one.
macro_rules! against_both {
    ($($scenario:ident),* $(,)?) => {
        mod double {
            use super::{Double, Server};
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(Server::Double(Double::default())).await;
            })*
        }

        mod real {
            use super::{Real, Server};
            $(#[tokio::test]
            async fn $scenario() {
                match Real::start().await {
                    Some(real) => super::$scenario(Server::Real(Box::new(real))).await,
                    None => println!("LACKS: KUBEBUILDER_ASSETS names no folder"),
                }
            })*
        }
    };
}

against_both!(
    what_exists_is_sent_once_and_then_what_changes,
    a_label_that_gives_a_service_to_another_proxy_takes_it_away,
    after_a_restart_only_the_differences_are_sent,
);
