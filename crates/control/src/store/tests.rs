use super::*;

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec: {hosts: [api.example.com], ports: [{number: 80, name: http}], resolution: DNS}
";
const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api.example.com]
  http: [{timeout: 2s, route: [{destination: {host: api.example.com}}]}]
";

fn listing(files: &[(&str, &str)]) -> Change {
    Change::Listing {
        source: "config".into(),
        files: files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        problems: Vec::new(),
    }
}

fn names(store: &Store) -> Vec<String> {
    let objects = store.configuration().objects;
    objects
        .iter()
        .map(|object| path_of(&object.key()))
        .collect()
}

#[test]
fn a_bad_edit_keeps_the_last_good_version_and_hurts_nobody_else() {
    let mut store = Store::default();
    assert!(store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", ROUTE)])));
    let good = store.configuration().objects;
    let bad = ROUTE.replace("timeout", "timeoot");
    assert!(
        !store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", &bad)])),
        "nothing in force changed"
    );
    assert_eq!(store.configuration().objects, good);
    let resources = store.resources();
    let route = resources
        .iter()
        .find(|r| r.resource.starts_with("Virtual"))
        .unwrap();
    assert!(!route.accepted && route.last_good);
    assert!(
        route.messages[0].contains("b.yaml:6")
            && route.messages[0].contains("did you mean `timeout`")
    );
    // A file that does not parse loses nothing either.
    assert!(!store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", "a: [")])));
    assert_eq!(store.configuration().objects, good);
    // Taking it out is a change, and so is putting a good one back.
    assert!(store.change(listing(&[("a.yaml", SERVICE)])));
    assert_eq!(names(&store), ["ServiceEntry/default/api"]);
    assert!(store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", ROUTE)])));
}

#[test]
fn a_resource_that_never_was_good_fails_closed_for_its_hosts_alone() {
    let mut store = Store::default();
    let bad = ROUTE.replace("timeout", "timeoot");
    assert!(store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", &bad)])));
    let configuration = store.configuration();
    assert_eq!(configuration.objects.len(), 1);
    assert_eq!(configuration.closed[0].hosts, ["api.example.com"]);
}

#[test]
fn a_source_that_fails_keeps_what_it_said() {
    let mut store = Store::default();
    store.change(listing(&[("a.yaml", SERVICE)]));
    let failed = Change::Failed {
        source: "config".into(),
        error: "gone".into(),
    };
    assert!(!store.change(failed));
    assert_eq!(names(&store).len(), 1);
    assert_eq!(store.source_statuses()[0].error.as_deref(), Some("gone"));
    assert!(!store.change(listing(&[("a.yaml", SERVICE)])));
    assert_eq!(store.source_statuses()[0].error, None);
}

#[test]
fn resources_over_the_api_are_put_listed_and_deleted() {
    let mut store = Store::default();
    let (documents, diagnostics) = store.check(&format!("{SERVICE}---\n{ROUTE}"));
    assert_eq!(
        (documents.len(), diagnostics.len()),
        (2, 0),
        "{diagnostics:?}"
    );
    for (key, text) in &documents {
        assert!(store.put(key, text.clone()), "{text}");
    }
    let listed = store.list(Some(Kind::VirtualService), Some("default"), Some("api"));
    assert_eq!(listed[0].origin, "api");
    assert!(listed[0].text.contains("timeout: 2s"), "{}", listed[0].text);
    assert_eq!(
        store.check(&listed[0].text).0.len(),
        1,
        "what is listed can be applied again"
    );
    assert_eq!(store.delete(&documents[1].0), Some(true));
    assert_eq!(store.delete(&documents[1].0), None);
    assert_eq!(names(&store), ["ServiceEntry/default/api"]);
    // A file's version counts before the API's.
    store.change(listing(&[("a.yaml", SERVICE)]));
    assert_eq!(store.file_of(&documents[0].0).as_deref(), Some("a.yaml"));
}

#[test]
fn items_of_a_list_can_be_applied_one_by_one() {
    let list = "apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: api}
  spec: {hosts: [api.example.com], ports: [{number: 80, name: \"http\"}], resolution: DNS}
";
    let mut store = Store::default();
    let (documents, diagnostics) = store.check(list);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let (key, text) = documents.into_iter().next().unwrap();
    assert!(store.put(&key, text.clone()), "{text}");
}

#[test]
fn what_is_applied_is_judged_among_what_there_is() {
    let mut store = Store::default();
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api.example.com, subsets: [{name: v1, labels: {version: v1}}]}
";
    let to_subset = ROUTE.replace("api.example.com}}", "api.example.com, subset: v1}}");
    let said = |store: &Store| {
        let said = store.check(&to_subset).1;
        said.iter().map(|d| d.code).collect::<Vec<_>>()
    };
    assert_eq!(said(&store), [Code::UnknownSubset]);
    store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", rule)]));
    assert_eq!(said(&store), []);
    // Another route for the same host yields, and says to whom.
    store.change(listing(&[
        ("a.yaml", SERVICE),
        ("b.yaml", rule),
        ("c.yaml", ROUTE),
    ]));
    let second = to_subset.replace("name: api}", "name: later}");
    let said = store.check(&second).1;
    assert_eq!(said[0].code, Code::Conflict, "{said:?}");
    assert!(said[0].message.contains("VirtualService default/api"));
    // Its own earlier version is no rival.
    assert!(store.check(ROUTE).1.is_empty());
}

/// What a control plane that starts anew knows of the one before.
fn restarted(store: &Store) -> Store {
    let memories: Vec<Memory> = store
        .from_sources()
        .filter_map(|object| store.memory(object))
        .collect();
    Store::new([], memories)
}

#[test]
fn the_last_good_version_survives_a_restart() {
    let mut store = Store::default();
    let other = format!("# two\n---\n{ROUTE}");
    store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", &other)]));
    let good = store.configuration().objects;
    // The folder is not there: what it said stays in force.
    let mut store = restarted(&store);
    assert_eq!(store.configuration().objects, good);
    store.change(Change::Failed {
        source: "config".into(),
        error: "gone".into(),
    });
    assert_eq!(store.configuration().objects, good);
    assert_eq!(
        store.configuration().objects[0].origin.line,
        good[0].origin.line
    );
    // It is back, with a bad edit.
    let bad = other.replace("timeout", "timeoot");
    store.change(listing(&[("a.yaml", SERVICE), ("b.yaml", &bad)]));
    assert_eq!(store.configuration().objects, good);
    assert!(store.configuration().closed.is_empty());
    let status = store.resources();
    let route = status.iter().find(|r| r.resource.starts_with("Virtual"));
    assert!(route.is_some_and(|route| route.last_good));
    // And again without the route: what its source does not name is gone.
    store.change(listing(&[("a.yaml", SERVICE)]));
    assert_eq!(names(&store), ["ServiceEntry/default/api"]);
}

#[test]
fn a_source_that_is_no_longer_configured_is_not_remembered() {
    let mut store = Store::default();
    store.change(listing(&[("a.yaml", SERVICE)]));
    let mut store = restarted(&store);
    assert_eq!(names(&store).len(), 1);
    assert!(store.keep_sources(&BTreeSet::from(["elsewhere".into()])));
    assert!(names(&store).is_empty());
}
