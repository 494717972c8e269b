use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use svclb_core::model::{Event, Object, ObjectKey};
use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

use super::FolderOptions;
use super::folder::Folder;
use crate::event_sender::EventSender;
use crate::kube::relist_guard::GuardTimeouts;
use crate::status::Status;

/// For how long a folder has to stay empty here.
const CONFIRM_AFTER: Duration = Duration::from_millis(300);

struct Scanned {
    dir: TempDir,
    folder: Folder,
    events: Receiver<Vec<Event>>,
    status: Status,
}

fn service(name: &str, port: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: {port}\n"
    )
}

impl Scanned {
    fn cached(&self) -> usize {
        self.folder.cached()
    }

    fn new(files: &[(&str, &str)]) -> Self {
        Self::where_something_is_served(false, files)
    }

    fn where_something_is_served(serves: bool, files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let (sender, events) = channel(1000);
        let status = Status::default();
        let event_sender = EventSender::new(sender, status.clone());
        let options = FolderOptions {
            dir: dir.path().to_owned(),
            node_name: "node1".into(),
            serves,
            guard_timeouts: GuardTimeouts {
                gone: Duration::ZERO,
                confirm_after: CONFIRM_AFTER,
            },
        };
        let folder = Folder::new(options, event_sender, status.clone());
        let mut scanned = Self {
            dir,
            folder,
            events,
            status,
        };
        for (name, text) in files {
            scanned.write(name, text);
        }
        scanned
    }

    /// By an atomic rename, so that each write has a file of its own.
    fn write(&mut self, name: &str, text: &str) {
        let temporary = self.dir.path().join(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.dir.path().join(name)).unwrap();
    }

    /// What a scan sends: for each object its port, or nothing if it is gone.
    fn scan(&mut self) -> BTreeMap<String, Option<u16>> {
        self.folder.scan().unwrap();
        let mut sent = BTreeMap::new();
        while let Ok(batch) = self.events.try_recv() {
            for event in batch {
                match event {
                    Event::Apply(Object::Service(service)) => {
                        sent.insert(
                            service.name.to_string(),
                            service.ports.first().map(|p| p.port),
                        );
                    }
                    Event::Apply(Object::EndpointSlice(slice)) => {
                        sent.insert(slice.name.to_string(), slice.ports.first().map(|p| p.port));
                    }
                    Event::Apply(Object::Node(node)) => {
                        sent.insert(node.name.to_string(), Some(0));
                    }
                    Event::Delete(ObjectKey::Service(name) | ObjectKey::EndpointSlice(name)) => {
                        sent.insert(name.to_string(), None);
                    }
                    Event::Delete(ObjectKey::Node) | Event::Synced => {}
                }
            }
        }
        sent
    }
}

fn events(entries: &[(&str, Option<u16>)]) -> BTreeMap<String, Option<u16>> {
    entries
        .iter()
        .map(|(name, port)| ((*name).to_owned(), *port))
        .collect()
}

#[test]
fn several_documents_a_list_and_json_are_read() {
    let two = format!(
        "# a comment\n---\n{}---\n{}",
        service("a", 1),
        service("b", 2)
    );
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: c}\n  spec: {clusterIP: 10.96.0.3, ports: [{port: 3}]}\n";
    let json = r#"{"kind":"Service","metadata":{"name":"d"},"spec":{"clusterIP":"10.96.0.4","ports":[{"port":4}]},"apiVersion":"v1"}"#;
    let mut folder = Scanned::new(&[
        ("two.yaml", &two),
        ("list.yml", list),
        ("one.json", json),
        ("no.txt", "x"),
    ]);
    assert_eq!(
        folder.scan(),
        events(&[
            ("default/a", Some(1)),
            ("default/b", Some(2)),
            ("default/c", Some(3)),
            ("default/d", Some(4))
        ])
    );
    assert_eq!(folder.status.problems(), 0);
    assert!(folder.status.synced());
}

#[test]
fn a_kind_may_stand_anywhere_and_in_any_notation() {
    let fields = |port: u32| {
        format!(
            "metadata: {{name: web}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
        )
    };
    let notations = [
        format!("{}kind: Service\napiVersion: v1\n", fields(1)),
        format!("kind: Service # ours\napiVersion: v1\n{}", fields(2)),
        format!("\"kind\": \"Service\"\n'apiVersion': 'v1'\n{}", fields(3)),
        "{apiVersion: v1, kind: Service, metadata: {name: web}, \
          spec: {clusterIP: 10.96.0.1, ports: [{port: 4}]}}\n"
            .to_owned(),
        r#"{"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 5}]}, "kind": "Service",
            "metadata": {"name": "web"}, "apiVersion": "v1"}"#
            .to_owned(),
    ];
    let mut scanned = Scanned::new(&[]);
    for (port, text) in (1..).zip(notations) {
        scanned.write("web.yaml", &text);
        assert_eq!(
            scanned.scan(),
            events(&[("default/web", Some(port))]),
            "{text}"
        );
        assert_eq!(scanned.status.problems(), 0, "{text}");
    }
}

#[test]
fn json_with_more_behind_it_is_broken() {
    let text = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}} }"#;
    let mut scanned = Scanned::new(&[("web.json", text)]);
    assert_eq!(scanned.scan(), events(&[]));
    assert_eq!(scanned.status.problems(), 1);
}

#[test]
fn only_what_changed_is_sent_again() {
    let mut folder = Scanned::new(&[(
        "a.yaml",
        &format!("{}---\n{}", service("a", 1), service("b", 2)),
    )]);
    folder.scan();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 1), service("b", 3)),
    );
    assert_eq!(folder.scan(), events(&[("default/b", Some(3))]));
    assert_eq!(folder.scan(), events(&[]));
}

#[test]
fn what_leaves_a_file_is_gone_and_what_moves_to_another_is_not() {
    let mut folder = Scanned::new(&[(
        "a.yaml",
        &format!("{}---\n{}", service("a", 1), service("b", 2)),
    )]);
    folder.scan();
    folder.write("z.yaml", &service("b", 2));
    folder.write("a.yaml", &service("a", 1));
    assert_eq!(folder.scan().get("default/b").copied().flatten(), Some(2));
    fs::remove_file(folder.dir.path().join("a.yaml")).unwrap();
    assert_eq!(folder.scan(), events(&[("default/a", None)]));
}

#[test]
fn a_broken_file_keeps_what_was_good_and_is_a_problem_until_it_is_mended() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 2))]);
    folder.scan();
    folder.write(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: [\n",
    );
    folder.write("b.yaml", &service("b", 3));
    assert_eq!(folder.scan(), events(&[("default/b", Some(3))]));
    assert_eq!(folder.status.problems(), 1);
    folder.write("a.yaml", &service("a", 4));
    assert_eq!(folder.scan(), events(&[("default/a", Some(4))]));
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn an_object_of_wrong_types_stays_as_it_was_and_its_neighbours_change() {
    let mut folder = Scanned::new(&[(
        "a.yaml",
        &format!("{}---\n{}", service("a", 1), service("b", 2)),
    )]);
    folder.scan();
    let wrong = service("a", 1).replace("port: 1", "port: eighty");
    folder.write("a.yaml", &format!("{wrong}---\n{}", service("b", 3)));
    assert_eq!(folder.scan(), events(&[("default/b", Some(3))]));
    assert_eq!(folder.status.problems(), 1);
}

#[test]
fn an_unknown_kind_is_a_problem_and_the_rest_is_read() {
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    let mut folder = Scanned::new(&[("a.yaml", &format!("{other}---\n{}", service("a", 1)))]);
    assert_eq!(folder.scan(), events(&[("default/a", Some(1))]));
    assert_eq!(folder.status.problems(), 1);
}

#[test]
fn of_two_files_with_one_object_the_first_counts_and_the_other_takes_over() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("a", 2))]);
    assert_eq!(folder.scan(), events(&[("default/a", Some(1))]));
    assert_eq!(folder.status.problems(), 1);
    fs::remove_file(folder.dir.path().join("a.yaml")).unwrap();
    assert_eq!(folder.scan(), events(&[("default/a", Some(2))]));
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn a_config_map_volume_is_swapped_whole() {
    let mut folder = Scanned::new(&[]);
    let dir = folder.dir.path().to_owned();
    for (version, port) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("a.yaml"), service("a", port)).unwrap();
    }
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    assert_eq!(folder.scan(), events(&[("default/a", Some(1))]));
    symlink("..2", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    assert_eq!(folder.scan(), events(&[("default/a", Some(2))]));
}

#[test]
fn a_folder_that_goes_away_takes_nothing_with_it() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1))]);
    folder.scan();
    fs::remove_dir_all(folder.dir.path()).unwrap();
    assert_eq!(folder.scan(), events(&[]));
    assert_eq!(folder.status.problems(), 1);
}

#[test]
fn a_service_of_another_proxy_is_not_ours_whenever_it_is_labelled() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1))]);
    folder.scan();
    let labelled = service("a", 1).replace(
        "name: a",
        "name: a\n  labels: {service.kubernetes.io/service-proxy-name: x}",
    );
    folder.write("a.yaml", &labelled);
    assert_eq!(folder.scan(), events(&[("default/a", None)]));
}

#[test]
fn a_service_without_an_address_is_a_problem() {
    let mut folder = Scanned::new(&[(
        "a.yaml",
        &service("a", 1).replace("  clusterIP: 10.96.0.1\n", ""),
    )]);
    folder.scan();
    assert_eq!(folder.status.problems(), 1);
}

#[test]
fn a_folder_that_was_away_and_comes_back_empty_takes_effect_only_after_a_while() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1))]);
    assert_eq!(folder.scan(), events(&[("default/a", Some(1))]));
    let (dir, moved) = (folder.dir.path().to_owned(), TempDir::new().unwrap());
    fs::rename(&dir, moved.path().join("moved")).unwrap();
    assert_eq!(folder.scan(), events(&[]));
    assert!(!folder.status.connected());
    fs::create_dir(&dir).unwrap();
    for _ in 0..2 {
        assert_eq!(folder.scan(), events(&[]));
        assert_eq!(folder.status.problems(), 1);
    }
    std::thread::sleep(CONFIRM_AFTER);
    assert_eq!(folder.scan(), events(&[("default/a", None)]));
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn a_folder_that_was_away_and_comes_back_with_less_takes_effect() {
    let both = [("a.yaml", &*service("a", 1)), ("b.yaml", &service("b", 2))];
    let mut folder = Scanned::new(&both);
    folder.scan();
    let (dir, moved) = (folder.dir.path().to_owned(), TempDir::new().unwrap());
    fs::rename(&dir, moved.path().join("moved")).unwrap();
    assert_eq!(folder.scan(), events(&[]));
    fs::create_dir(&dir).unwrap();
    folder.write("b.yaml", &service("b", 2));
    assert_eq!(folder.scan(), events(&[("default/a", None)]));
}

#[test]
fn a_list_or_endpoints_with_a_wrong_type_stays_as_it_was() {
    let list = |port: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {{name: c}}\n  spec: {{clusterIP: 10.96.0.3, ports: [{{port: {port}}}]}}\n"
        )
    };
    let endpoints = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: c}}\nsubsets: [{{addresses: [{{ip: 10.0.0.1}}], ports: [{{port: {port}}}]}}]\n"
        )
    };
    let mut folder = Scanned::new(&[("list.yaml", &list("3")), ("end.yaml", &endpoints("4"))]);
    assert_eq!(folder.scan().len(), 2);
    folder.write("list.yaml", &list("three"));
    folder.write("end.yaml", &endpoints("four"));
    assert_eq!(folder.scan(), events(&[]));
    assert_eq!(folder.status.problems(), 2);
    folder.write("list.yaml", &list("5"));
    assert_eq!(folder.scan(), events(&[("default/c", Some(5))]));
}

/// A document that was cut off.
const HALF: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: b\nspec: {clusterIP:";

#[test]
fn a_start_over_a_half_written_file_is_synced_when_the_file_is_whole() {
    let wrong_types = service("b", 2).replace("port: 2", "port: two");
    for broken in [HALF, &wrong_types] {
        check_waits_for_whole_file(broken);
    }
}

fn check_waits_for_whole_file(broken: &str) {
    let files = [("a.yaml", &*service("a", 1)), ("b.yaml", broken)];
    let mut scanned = Scanned::where_something_is_served(true, &files);
    assert_eq!(scanned.scan(), events(&[("default/a", Some(1))]));
    assert!(!scanned.status.synced(), "what `b` had would be removed");
    // Both that the file is broken and that the sync waits for it.
    assert_eq!(scanned.status.problems(), 2);
    assert!(scanned.folder.scan_again_in().is_some());
    scanned.write("b.yaml", &service("b", 2));
    assert_eq!(scanned.scan(), events(&[("default/b", Some(2))]));
    assert!(scanned.status.synced());
    assert_eq!(scanned.status.problems(), 0);
    assert_eq!(scanned.folder.scan_again_in(), None);
}

#[test]
fn a_start_over_a_file_that_stays_broken_or_goes_is_synced_in_the_end() {
    let files = [("a.yaml", &*service("a", 1)), ("b.yaml", HALF)];
    for goes in [false, true] {
        let mut scanned = Scanned::where_something_is_served(true, &files);
        scanned.scan();
        if goes {
            fs::remove_file(scanned.dir.path().join("b.yaml")).unwrap();
        } else {
            std::thread::sleep(CONFIRM_AFTER);
        }
        scanned.scan();
        assert!(scanned.status.synced());
        assert_eq!(scanned.status.problems(), u64::from(!goes));
    }
}

#[test]
fn where_nothing_is_served_a_broken_file_delays_no_sync() {
    let mut scanned = Scanned::new(&[("a.yaml", &service("a", 1)), ("b.yaml", HALF)]);
    scanned.scan();
    assert!(scanned.status.synced());
    assert_eq!(scanned.folder.scan_again_in(), None);
}

/// A list as `kubectl get -o yaml` writes it, in which the Services have these ports.
fn kubectl_list(ports: impl IntoIterator<Item = (usize, String)>) -> String {
    let mut text = "apiVersion: v1\nitems:\n".to_owned();
    for (number, port) in ports {
        let fields: String = (0..60)
            .map(|field| format!("      f:field{field}: {{}}\n"))
            .collect();
        text += &format!(
            "- apiVersion: v1\n  kind: Service\n  metadata:\n    annotations:\n      note: |\n        - kind: \
             none\n\n        # text\n    creationTimestamp: null\n    managedFields:\n    - fieldsV1:\n{fields}    \
             name: s{number}\n    namespace: default\n  spec:\n    clusterIP: 10.96.1.{}\n    ports:\n    - \
             port: {port}\n      protocol: TCP\n  status:\n    loadBalancer: {{}}\n",
            number % 250,
        );
    }
    text + "kind: List\nmetadata:\n  resourceVersion: \"\"\n"
}

#[test]
fn a_list_of_thousands_is_read_and_one_of_its_items_costs_only_itself() {
    let ports = |odd: &str| {
        let odd = odd.to_owned();
        (0..3000).map(move |number| match number {
            7 => (number, odd.clone()),
            _ => (number, "80".to_owned()),
        })
    };
    let mut folder = Scanned::new(&[("all.yaml", &kubectl_list(ports("80")))]);
    assert_eq!(folder.scan().len(), 3000);
    assert_eq!(folder.status.problems(), 0);
    folder.write("all.yaml", &kubectl_list(ports("81")));
    assert_eq!(folder.scan(), events(&[("default/s7", Some(81))]));
    // Of a wrong type, and a key twice: it stays as it was.
    for odd in ["eighty", "82\n      port: 82"] {
        folder.write("all.yaml", &kubectl_list(ports(odd)));
        assert_eq!(folder.scan(), events(&[]), "{odd}");
        assert_eq!(folder.status.problems(), 1, "{odd}");
    }
    let rest = ports("81").filter(|(number, _)| *number != 8);
    folder.write("all.yaml", &kubectl_list(rest));
    assert_eq!(folder.scan(), events(&[("default/s8", None)]));
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn a_list_in_another_notation_is_read_whole_however_long() {
    let items: String = (0..30_000)
        .map(|number| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, \
                 spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}},\n  "
            )
        })
        .collect();
    let text = format!("apiVersion: v1\nkind: List\nitems: [\n  {items}]\n");
    let mut folder = Scanned::new(&[("all.yaml", &text)]);
    assert_eq!(folder.scan().len(), 30_000);
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn lists_of_json_and_of_one_kind_are_read_item_by_item() {
    let list = |port: &str| {
        format!(
            r#"{{"kind": "ServiceList", "apiVersion": "v1", "items": [
                {{"metadata": {{"name": "a"}}, "spec": {{"clusterIP": "10.96.0.1", "ports": [{{"port": 1}}]}}}},
                {{"metadata": {{"name": "b"}}, "spec": {{"clusterIP": "10.96.0.2", "ports": [{{"port": {port}}}]}}}}
            ]}}"#
        )
    };
    let mut folder = Scanned::new(&[("all.json", &list("2"))]);
    assert_eq!(
        folder.scan(),
        events(&[("default/a", Some(1)), ("default/b", Some(2))])
    );
    folder.write(
        "all.json",
        &list("\"two\"").replace("\"port\": 1}", "\"port\": 3}"),
    );
    assert_eq!(folder.scan(), events(&[("default/a", Some(3))]));
    assert_eq!(folder.status.problems(), 1);
}

#[test]
fn a_key_that_is_there_twice_costs_its_document_and_not_the_file() {
    let both = |b: &str, port| format!("{}---\n{b}", service("a", port));
    let mut folder = Scanned::new(&[("a.yaml", &both(&service("b", 2), 1))]);
    assert_eq!(folder.scan().len(), 2);
    let twice = service("b", 3) + "spec: {}\n";
    folder.write("a.yaml", &both(&twice, 4));
    assert_eq!(folder.scan(), events(&[("default/a", Some(4))]));
    assert_eq!(folder.status.problems(), 1);
    // Also where it is the first thing that is read.
    let mut folder = Scanned::new(&[("a.yaml", &both(&twice, 4))]);
    assert_eq!(folder.scan(), events(&[("default/a", Some(4))]));
}

#[test]
fn directives_and_markers_are_no_problems() {
    let (a, b) = (service("a", 1), service("b", 2));
    let mut folder = Scanned::new(&[]);
    for text in [
        format!("%YAML 1.2\n---\n{a}...\n%YAML 1.2\n---\n{b}...\n"),
        format!("%YAML 1.1\n---\n{a}---\n---\n# nothing\n---\n{b}---\n"),
        format!("\u{feff}--- # the first\n{a}...\n{b}"),
        format!("---\n{a}---\nnull\n---\n~\n---\n{b}").replace('\n', "\r\n"),
    ] {
        folder.write("a.yaml", &text);
        folder.scan();
        assert_eq!(folder.status.problems(), 0, "{text}");
        assert_eq!(folder.cached(), 2, "{text}");
    }
}

#[test]
fn leading_zeros_in_addresses_are_read_as_kubernetes_reads_them() {
    let text = service("a", 1).replace("10.96.0.1", "010.096.000.001");
    let mut folder = Scanned::new(&[("a.yaml", &text)]);
    assert_eq!(folder.scan(), events(&[("default/a", Some(1))]));
    assert_eq!(folder.status.problems(), 0);
}

#[test]
fn a_file_that_is_too_large_says_what_the_limit_is() {
    let mut folder = Scanned::new(&[("a.yaml", &service("a", 1))]);
    folder.scan();
    // A file of holes has no blocks.
    let large = fs::File::create(folder.dir.path().join("b.yaml")).unwrap();
    large.set_len(1 << 30).unwrap();
    assert_eq!(folder.scan(), events(&[]));
    assert_eq!(folder.status.problems(), 1);
}
