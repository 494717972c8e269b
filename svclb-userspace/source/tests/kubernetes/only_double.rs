//! Scenarios for which only the double can be made to misbehave.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::runtime::watcher::DefaultBackoff;

use serde_json::{Value, json};
use svclb_core::model::{ObjectKey, ObjectName};
use svclb_source::KubeEvent;

use super::double::{Double, Mood, Objects};
use super::{CONFIRM_AFTER, NO_NODE, Run, SELECTOR, Server, service, slice};

pub(crate) async fn run() -> Run<Double> {
    let double = Double::default();
    let run = Run::watch(Server::Double(double.clone())).await;
    run.of_double(&double)
}

#[tokio::test]
async fn only_objects_for_this_proxy_are_requested() {
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
async fn after_410_gone_only_the_differences_are_sent() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.server.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listings = run.server.with(|inner| inner.listings);
    run.server.gone();
    run.server.quietly(|double| {
        double.put("services", service("other", 90));
        double.put("endpointslices", slice("web-2"));
        double.remove("endpointslices", "web-1");
    });
    run.expect(&["other 90", "web-2", "no web-1"]).await;
    assert!(
        run.server.with(|inner| inner.listings) > listings,
        "nothing was listed again"
    );
    run.silence(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn while_the_api_server_is_broken_what_was_sent_stays() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.with(|inner| inner.mood = Mood::Broken);
    run.server.drop_watches();
    run.silence(Duration::from_secs(3)).await;
    assert!(
        !run.status.connected(),
        "a broken watch counts as connected"
    );
    run.server.with(|inner| inner.mood = Mood::Well);
    run.server.put("services", service("late", 70));
    run.expect(&["late 70"]).await;
    assert!(run.status.synced());
}

#[tokio::test]
async fn a_slow_api_server_is_waited_for_and_what_was_sent_stays() {
    const SLOW: Duration = Duration::from_secs(2);
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.with(|inner| inner.mood = Mood::Slow(SLOW));
    listing_again(&run, |double| double.put("services", service("late", 70))).await;
    // The list and the watch after it are late; neither is given up.
    run.silence(SLOW - Duration::from_millis(500)).await;
    run.expect(&["late 70"]).await;
    run.server.put("services", service("later", 71));
    run.expect(&["later 71"]).await;
    assert!(run.status.connected());
}

/// As after 410 Gone, with what an API server has by then.
pub(crate) async fn listing_again(run: &Run<Double>, act: impl FnOnce(&Double)) {
    while run.server.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.server.gone();
    run.server.quietly(act);
}

#[tokio::test]
async fn an_empty_list_takes_nothing_away_until_it_is_confirmed() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    listing_again(&run, |double| {
        double.remove("services", "web");
        double.remove("endpointslices", "web-1");
    })
    .await;
    run.silence(CONFIRM_AFTER - Duration::from_secs(1)).await;
    run.expect(&["no web", "no web-1"]).await;
}

#[tokio::test]
async fn an_api_server_that_was_empty_for_a_moment_changes_nothing() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let objects = run.server.with(|inner| inner.objects.clone());
    listing_again(&run, |double| double.with(|inner| inner.objects.clear())).await;
    run.silence(Duration::from_secs(1)).await;
    run.server.with(|inner| inner.objects = objects);
    run.silence(CONFIRM_AFTER * 2).await;
    run.server.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
}

/// A source that was sent two changes, and the objects before them.
async fn changed() -> (Run<Double>, Objects) {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let before = run.server.with(|inner| inner.objects.clone());
    run.server.put("services", service("web", 81));
    run.server.put("services", service("late", 70));
    run.expect(&["web 81", "late 70"]).await;
    (run, before)
}

#[tokio::test]
async fn a_list_from_before_is_held_back_and_what_is_new_in_it_is_sent() {
    let (mut run, before) = changed().await;
    // A replica that is behind: it lacks both changes, and has another one.
    let now = run.server.with(|inner| inner.objects.clone());
    listing_again(&run, |double| {
        double.with(|inner| inner.objects = before);
        double.put("services", service("other", 90));
    })
    .await;
    run.expect(&["other 90"]).await;
    run.silence(Duration::from_secs(1)).await;
    run.server.with(|inner| inner.objects = now);
    // By then `other` is gone, by a list that is not from before.
    run.expect(&["no other"]).await;
    run.silence(CONFIRM_AFTER).await;
}

#[tokio::test]
async fn the_list_of_an_api_server_restored_from_a_backup_takes_effect_in_the_end() {
    let (mut run, before) = changed().await;
    listing_again(&run, |double| double.with(|inner| inner.objects = before)).await;
    run.silence(CONFIRM_AFTER - Duration::from_secs(1)).await;
    run.expect(&["web 80", "no late"]).await;
}

#[tokio::test]
async fn where_something_is_served_an_empty_first_list_is_no_sync_until_it_is_confirmed() {
    let double = Double::default();
    let mut run = Run::watch_as_it_is(Server::Double(double.clone()), true).await;
    run.silence(CONFIRM_AFTER - Duration::from_secs(1)).await;
    assert!(!run.status.synced());
    run.expect(&["synced"]).await;

    let double = Double::default();
    let mut run = Run::watch_as_it_is(Server::Double(double.clone()), true).await;
    run.silence(Duration::from_secs(1)).await;
    double.put("services", service("web", 80));
    double.put("endpointslices", slice("web-1"));
    run.expect(&["web 80", "web-1", "synced"]).await;
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
fn after_an_hour_without_an_api_server_a_retry_comes_within_a_minute() {
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

/// The Events that were written, at least one.
pub(crate) async fn written(run: &Run<Double>) -> Vec<(String, Value)> {
    let written = async {
        while run.server.with(|inner| inner.written.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    run.server.with(|inner| inner.written.clone())
}

#[tokio::test]
async fn kube_events_are_written_about_their_service() {
    let mut run = run().await;
    let mut web = service("web", 80);
    web["metadata"]["uid"] = json!("4a3e36b1-1f0d-4c2f-9f0e-0a8a2a6f6c11");
    run.server.put("services", web);
    run.expect(&["web 80", "web-1", "synced"]).await;
    let kube_event = KubeEvent {
        regarding: ObjectKey::Service(ObjectName::new("default", "web")),
        uid: None,
        reason: "FailedToStartServiceHealthcheck",
        action: "Listen",
        note: "the port is taken".to_owned(),
    };
    run.event_recorder.send(kube_event).await.unwrap();
    let (namespace, event) = written(&run).await[0].clone();
    assert_eq!(namespace, "default");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(event["note"], "the port is taken");
    assert_eq!(event["reportingController"], "svclb");
    assert_eq!(event["reportingInstance"], "node1");
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"]),
        (&json!("Service"), &json!("web"))
    );
    // What `kubectl describe` selects by.
    assert_eq!(regarding["uid"], "4a3e36b1-1f0d-4c2f-9f0e-0a8a2a6f6c11");
}

#[tokio::test]
async fn a_suspicious_list_is_confirmed_on_a_busy_watch() {
    let (mut run, before) = changed().await;
    listing_again(&run, |double| double.with(|inner| inner.objects = before)).await;
    // Events that are closer to each other than lists are.
    let double = run.server.clone();
    let busy = tokio::spawn(async move {
        for port in 1.. {
            double.put("services", service("busy", port));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let confirmed = async {
        let mut sent = BTreeSet::new();
        while !(sent.contains("web 80") && sent.contains("no late")) {
            sent.extend(run.next().await);
        }
    };
    let limit = CONFIRM_AFTER + Duration::from_secs(2);
    let in_time = tokio::time::timeout(limit, confirmed).await;
    busy.abort();
    in_time.expect("the list is held back for as long as events come");
}

/// A slice that belongs to no Service.
fn unlabelled(name: &str) -> Value {
    let mut slice = slice(name);
    slice["metadata"]["labels"] = json!({});
    slice
}

#[tokio::test]
async fn a_slice_that_loses_its_label_is_removed() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.put("endpointslices", unlabelled("web-1"));
    run.expect(&["no web-1"]).await;
    run.server.put("endpointslices", slice("web-1"));
    run.expect(&["web-1"]).await;
    assert_eq!(run.status.problems(), NO_NODE);
}

#[tokio::test]
async fn a_deleted_object_is_removed_though_it_can_no_longer_be_converted() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server.with(|inner| {
        let slices = inner.objects.get_mut("endpointslices").unwrap();
        slices.get_mut("web-1").unwrap()["metadata"]["labels"] = json!({});
    });
    run.server.remove("endpointslices", "web-1");
    run.expect(&["no web-1"]).await;
}

#[tokio::test]
async fn a_slice_that_is_listed_again_without_its_label_is_removed_at_once() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    listing_again(&run, |double| {
        double.put("endpointslices", unlabelled("web-1"));
    })
    .await;
    let limit = CONFIRM_AFTER - Duration::from_secs(1);
    tokio::time::timeout(limit, run.expect(&["no web-1"]))
        .await
        .expect("a list with a slice in it is taken for an empty one");
}

/// The `resourceVersion` of each list that was requested, by resource.
fn lists(run: &Run<Double>) -> Vec<(String, Option<String>)> {
    run.server.with(|inner| std::mem::take(&mut inner.lists))
}

#[tokio::test]
async fn the_first_list_may_be_a_cached_one_and_later_ones_may_not() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    for (resource, version) in lists(&run) {
        assert_eq!(version.as_deref(), Some("0"), "of {resource}");
    }
    listing_again(&run, |double| double.put("services", service("late", 70))).await;
    run.expect(&["late 70"]).await;
    let again = lists(&run);
    assert!(!again.is_empty());
    for (resource, version) in again {
        assert_eq!(version, None, "of {resource}");
    }
}

#[tokio::test]
async fn where_something_is_served_the_first_list_is_no_cached_one() {
    let double = Double::default();
    double.put("services", service("web", 80));
    double.put("endpointslices", slice("web-1"));
    let mut run = Run::watch_as_it_is(Server::Double(double.clone()), true).await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    for (resource, version) in double.with(|inner| inner.lists.clone()) {
        assert_eq!(version, None, "of {resource}");
    }
}

#[tokio::test]
async fn problems_of_all_kinds_count_and_go_with_their_objects() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let mut wrong = service("wrong", 80);
    wrong["spec"]["sessionAffinity"] = json!("Sometimes");
    run.server.put("services", wrong);
    run.expect(&["wrong 80"]).await;
    run.server.put("endpointslices", unlabelled("web-2"));
    run.server.put("endpointslices", slice("web-3"));
    run.expect(&["web-3"]).await;
    assert_eq!(run.status.problems(), 2 + NO_NODE);
    listing_again(&run, |double| {
        double.remove("services", "wrong");
        double.remove("endpointslices", "web-2");
        double.put("endpointslices", slice("web-4"));
    })
    .await;
    run.expect(&["no wrong", "web-4"]).await;
    assert_eq!(run.status.problems(), NO_NODE);
}

#[tokio::test]
async fn a_source_that_has_reached_no_api_server_is_not_connected() {
    let double = Double::default();
    double.with(|inner| inner.mood = Mood::Broken);
    let run = Run::watch_as_it_is(Server::Double(double.clone()), false).await;
    for _ in 0..3000 {
        assert!(!run.status.connected());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(
        double.with(|inner| inner.failures) > 3,
        "no request was repeated"
    );
}

#[tokio::test]
async fn watches_that_stand_again_are_connected_though_nothing_changes() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.server.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(run.status.connected());
    run.server.with(|inner| inner.mood = Mood::Broken);
    run.server.drop_watches();
    run.wait_for_connected(false).await;
    run.server.with(|inner| inner.mood = Mood::Well);
    run.wait_for_connected(true).await;
    // The watches go on where they were: nothing was listed again.
    run.silence(Duration::from_millis(100)).await;
    assert_eq!(run.status.restarts(), 3);
}
