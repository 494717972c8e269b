//! What only a double can be told to do.

use std::time::Duration;

use kube::runtime::watcher::DefaultBackoff;

use serde_json::json;
use svclb_core::model::ObjectName;
use svclb_source::Notice;

use super::double::{Double, Mood};
use super::{Run, SELECTOR, Server, service};

async fn run() -> Run<Double> {
    let double = Double::default();
    let run = Run::follow(Server::Double(double.clone())).await;
    Run {
        server: double,
        events: run.events,
        status: run.status,
        notices: run.notices,
        _dir: run._dir,
    }
}

#[tokio::test]
async fn the_api_server_is_asked_for_what_is_ours() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    for (resource, selector) in run.server.with(|inner| inner.selectors.clone()) {
        let expected = if resource == "nodes" {
            "metadata.name=node1"
        } else {
            SELECTOR
        };
        assert_eq!(selector, expected, "of {resource}");
    }
}

#[tokio::test]
async fn after_410_gone_only_the_differences_are_said() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.server.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listings = run.server.with(|inner| inner.listings);
    run.server.gone();
    run.server.quietly(|double| {
        double.put("services", service("other", 90));
        double.remove("endpointslices", "web-1");
    });
    run.expect(&["other 90", "no web-1"]).await;
    assert!(
        run.server.with(|inner| inner.listings) > listings,
        "nothing was listed again"
    );
    run.silence(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn while_the_api_server_is_broken_what_was_said_stays_said() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.with(|inner| inner.mood = Mood::Broken);
    run.server.drop_watches();
    run.silence(Duration::from_secs(3)).await;
    assert!(!run.status.connected(), "nobody noticed");
    run.server.with(|inner| inner.mood = Mood::Well);
    run.server.put("services", service("late", 70));
    run.expect(&["late 70"]).await;
    assert!(run.status.synced());
}

#[tokio::test]
async fn an_event_cut_in_half_is_no_event() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.server.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.server.with(|inner| {
        for watch in inner.watches.get("services").into_iter().flatten() {
            watch
                .send("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"na".to_owned())
                .unwrap();
        }
    });
    run.server
        .quietly(|double| double.put("services", service("web", 82)));
    run.expect(&["web 82"]).await;
}

#[test]
fn an_api_server_that_was_away_for_an_hour_is_missed_for_a_minute_at_most() {
    let mut away = Duration::ZERO;
    let mut last = Duration::ZERO;
    for delay in DefaultBackoff::default() {
        last = delay;
        away += delay;
        if away > Duration::from_secs(3600) {
            break;
        }
    }
    assert!(
        away > Duration::from_secs(3600),
        "it gives up after {away:?}"
    );
    assert!(last <= Duration::from_secs(60), "{last:?}");
}

#[tokio::test]
async fn notices_become_events_about_their_service() {
    let run = run().await;
    let notice = Notice {
        service: ObjectName::new("shop", "web"),
        reason: "FailedToStartServiceHealthcheck",
        action: "Listen",
        note: "the port is taken".to_owned(),
    };
    run.notices.send(notice).await.unwrap();
    let told = async || {
        while run.server.with(|inner| inner.told.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told())
        .await
        .unwrap();
    let (namespace, event) = run.server.with(|inner| inner.told[0].clone());
    assert_eq!(namespace, "shop");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(event["note"], "the port is taken");
    assert_eq!(event["reportingController"], "svclb");
    assert_eq!(event["reportingInstance"], "node1");
    let about = &event["regarding"];
    assert_eq!(
        (&about["kind"], &about["name"]),
        (&json!("Service"), &json!("web"))
    );
}
