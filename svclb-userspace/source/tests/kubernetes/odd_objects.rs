//! Objects that a strict type does not hold: each costs at most itself.

use std::time::Duration;

use serde_json::{Value, json};

use super::double::Double;
use super::only_double::{listing_again, run, written};
use super::{NO_NODE, Run, Server, service, slice};

/// `lastTransitionTime: null`, which Go clients write.
fn with_a_time_that_is_null(name: &str, port: u16) -> Value {
    let mut odd = service(name, port);
    odd["status"] = json!({"conditions": [{"type": "E2E", "status": "True", "reason": "R",
        "message": "m", "lastTransitionTime": null}]});
    odd
}

fn unreadable(name: &str) -> Value {
    let mut unreadable = service(name, 80);
    unreadable["spec"]["ports"] = json!([{"port": "eighty"}]);
    unreadable
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

#[tokio::test]
async fn a_time_that_is_null_stops_neither_a_watch_nor_a_start() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.server
        .put("services", with_a_time_that_is_null("odd", 81));
    run.expect(&["odd 81"]).await;
    run.server
        .put("services", with_a_time_that_is_null("odd", 82));
    run.expect(&["odd 82"]).await;
    assert_eq!(run.status.restarts(), 3, "a watch began again");
    // Another start with the same objects.
    let mut again = Run::watch_as_it_is(Server::Double(run.server.clone()), false).await;
    again.expect(&["web 80", "odd 82", "web-1", "synced"]).await;
    assert!(again.status.synced());
    assert_eq!(again.status.problems(), NO_NODE);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_stays_as_it_was_and_its_neighbours_change() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let mut bad = unreadable("web");
    bad["metadata"]["uid"] = json!("4a3e36b1-1f0d-4c2f-9f0e-0a8a2a6f6c11");
    for _ in 0..2 {
        run.server.put("services", bad.clone());
    }
    run.server.put("services", service("late", 70));
    run.expect(&["late 70"]).await;
    assert_eq!(run.status.unreadable(), 1);
    assert_eq!(run.status.problems(), 1 + NO_NODE);
    // Neither does a list take it away.
    listing_again(&run, |double| double.put("services", service("later", 71))).await;
    run.expect(&["later 71"]).await;
    run.silence(Duration::from_millis(500)).await;
    assert_eq!(run.status.unreadable(), 1);
    // One Event says so, at the object.
    let events = written(&run).await;
    let [(namespace, event)] = &*events else {
        panic!("{events:?}");
    };
    assert_eq!(namespace, "default");
    assert_eq!(event["reason"], "FailedToReadObject");
    assert_eq!(event["regarding"]["name"], "web");
    assert_eq!(event["regarding"]["uid"], bad["metadata"]["uid"]);
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("spec.ports[0].port"), "{note}");
    // It is mended, breaks again, and is deleted.
    run.server.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    assert_eq!(run.status.unreadable(), 0);
    assert_eq!(run.status.problems(), NO_NODE);
    run.server.put("services", unreadable("web"));
    run.server.remove("services", "web");
    run.expect(&["no web"]).await;
    assert_eq!(run.status.unreadable(), 0);
    assert_eq!(run.status.problems(), NO_NODE);
}

#[tokio::test]
async fn objects_that_cannot_be_read_delay_no_first_sync_and_go_with_a_list() {
    let double = Double::default();
    double.put("services", unreadable("bad"));
    double.put("services", service("web", 80));
    let mut wrong = slice("bad-1");
    wrong["endpoints"] = json!(7);
    double.put("endpointslices", wrong);
    let mut wrong = node();
    wrong["status"] = json!("up");
    double.put("nodes", wrong);
    let mut run = Run::watch_as_it_is(Server::Double(double.clone()), false).await;
    run.expect(&["web 80", "synced"]).await;
    assert_eq!(run.status.unreadable(), 3);
    let run = run.of_double(&double);
    let events = written(&run).await;
    assert_eq!(events.len(), 3, "{events:?}");
    let mut run = run;
    listing_again(&run, |double| {
        double.remove("services", "bad");
        double.remove("endpointslices", "bad-1");
        double.put("endpointslices", slice("web-1"));
        double.put("nodes", node());
    })
    .await;
    run.expect(&["web-1", "node1"]).await;
    let all_are_read = async {
        while (run.status.unreadable(), run.status.problems()) != (0, 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_are_read)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named_and_looked_for() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    assert_eq!(run.status.problems(), NO_NODE);
    // A list finds none, either.
    listing_again(&run, |double| double.put("services", service("late", 70))).await;
    run.expect(&["late 70"]).await;
    assert_eq!(run.status.problems(), NO_NODE);
    run.server.put("nodes", node());
    run.expect(&["node1"]).await;
    assert_eq!(run.status.problems(), 0);
    run.server.remove("nodes", "node1");
    run.expect(&["no node"]).await;
    assert_eq!(run.status.problems(), NO_NODE);
}

/// Where a field stands: keys and positions.
type Path = Vec<String>;

/// All fields of a value, as JSON pointers (RFC 6901).
fn fields(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(value, &mut Path::new(), &mut found);
    found
}

fn collect(value: &Value, path: &mut Path, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, of)| (key.clone(), of)).collect(),
        Value::Array(list) => (0..).map(|i: usize| i.to_string()).zip(list).collect(),
        _ => Vec::new(),
    };
    for (key, of) in children {
        path.push(key.replace('~', "~0").replace('/', "~1"));
        found.push(format!("/{}", path.join("/")));
        collect(of, path, found);
        path.pop();
    }
}

/// Each object of the scenarios with each of its fields null, one after another on the same watch:
/// after each the watch goes on.
#[tokio::test]
async fn any_field_that_is_null_stops_no_watch() {
    let objects = [
        ("services", with_a_time_that_is_null("odd", 80)),
        ("endpointslices", slice("odd-1")),
        ("nodes", node()),
    ];
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    let mut port = 1000;
    for (resource, object) in objects {
        for field in fields(&object) {
            // The API server has objects by these.
            if field == "/metadata" || field == "/metadata/name" {
                continue;
            }
            let mut odd = object.clone();
            *odd.pointer_mut(&field).unwrap() = Value::Null;
            run.server.put(resource, odd);
            // The port shows that what came later was read; the resource itself that it still is.
            port += 1;
            run.server.put("services", service("web", port));
            let expected = format!("web {port}");
            let seen = async { while !run.next().await.contains(&expected) {} };
            tokio::time::timeout(Duration::from_secs(20), seen)
                .await
                .unwrap_or_else(|_| panic!("{resource} with {field} null stopped a watch"));
        }
        run.server.put(resource, object.clone());
    }
    assert_eq!(run.status.restarts(), 3, "a watch began again");
    assert_eq!(run.status.unreadable(), 0);
    let mut again = Run::watch_as_it_is(Server::Double(run.server.clone()), false).await;
    let web = format!("web {port}");
    again
        .expect(&[&web, "odd 80", "web-1", "odd-1", "node1", "synced"])
        .await;
}
