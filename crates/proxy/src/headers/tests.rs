use super::{Headers, Known, Line};

fn lines(headers: &Headers) -> String {
    let mut out = Vec::new();
    headers.write_lines(&mut out, 0, |_| Line::Keep);
    String::from_utf8(out).unwrap()
}

fn sample() -> Headers {
    let mut headers = Headers::new();
    assert!(headers.append_named("Host", "a.example"));
    assert!(headers.append_named("X-One", "1"));
    assert!(headers.append_named("Accept", "text/html"));
    assert!(headers.append_named("x-one", "2"));
    headers
}

#[test]
fn order_and_case_survive() {
    assert_eq!(
        lines(&sample()),
        "Host: a.example\r\nX-One: 1\r\nAccept: text/html\r\nx-one: 2\r\n"
    );
}

#[test]
fn names_are_found_in_any_case() {
    let headers = sample();
    assert_eq!(headers.get(Known::Host), Some(&b"a.example"[..]));
    assert_eq!(headers.first_named("ACCEPT"), Some(&b"text/html"[..]));
    assert_eq!(headers.joined("X-ONE").as_deref(), Some("1,2"));
    assert_eq!(headers.joined("absent"), None);
    assert_eq!(headers.get(Known::Te), None);
}

#[test]
fn set_keeps_place_and_spelling() {
    let mut headers = sample();
    assert!(headers.set_named("X-ONE", "3"));
    headers.set(Known::Host, "b.example");
    assert!(headers.set_named("x-new", "n"));
    assert_eq!(
        lines(&headers),
        "Host: b.example\r\nX-One: 3\r\nAccept: text/html\r\nx-new: n\r\n"
    );
}

#[test]
fn removal_is_complete() {
    let mut headers = sample();
    assert!(headers.remove_named("x-One"));
    assert!(!headers.remove_named("x-one"));
    assert!(headers.remove(Known::Host));
    assert!(!headers.has(Known::Host));
    assert_eq!(lines(&headers), "Accept: text/html\r\n");
}

#[test]
fn families_are_removed_whole_and_found_by_name() {
    let mut headers = Headers::new();
    assert!(headers.append_named("x-envoy-max-retries", "3"));
    assert!(headers.append_named("X-Envoy-Retry-On", "5xx"));
    assert_eq!(headers.first_named("x-envoy-retry-on"), Some(&b"5xx"[..]));
    assert_eq!(headers.first_named("x-envoy-hedge"), None);
    assert!(headers.remove(Known::Envoy));
    assert!(headers.is_empty());
}

#[test]
fn a_value_cannot_start_a_line() {
    let mut headers = Headers::new();
    assert!(headers.append_named("x", "a\r\nHost: evil\0"));
    assert_eq!(lines(&headers), "x: a  Host: evil \r\n");
    assert!(!headers.append_named("bad name", "x"));
    assert!(!headers.append_named("", "x"));
    assert!(!headers.set_named("a:b", "x"));
}

#[test]
fn specials_are_dropped_or_replaced_in_place() {
    let mut out = Vec::new();
    sample().write_lines(&mut out, Known::Host.bit(), |_| Line::Value(b"c"));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "Host: c\r\nX-One: 1\r\nAccept: text/html\r\nx-one: 2\r\n"
    );
}

#[test]
fn names_are_spelt_as_a_list_says() {
    let spelt = |list: &str| {
        let mut headers = Headers::new();
        for (name, value) in [("accept", "a"), ("x-one", "1"), ("x-late", "2")] {
            headers.append_named(name, value);
        }
        let host = headers.intern(b"h.test:80");
        headers.append_named("x-list", list);
        let names = headers.cut("x-list").unwrap();
        let fits = headers.respell(names, host);
        let mut out = Vec::new();
        headers.write_lines(&mut out, 0, |_| Line::Keep);
        (fits, String::from_utf8(out).unwrap())
    };
    assert_eq!(
        spelt("Accept,HOST,x-ONE,x-late"),
        (
            true,
            "Accept: a\r\nHOST: h.test:80\r\nx-ONE: 1\r\nx-late: 2\r\n".to_owned()
        )
    );
    // What comes behind was put there by the proxy itself.
    let (fits, lines) = spelt("ACCEPT");
    assert!(fits && lines.starts_with("ACCEPT: a\r\nx-one: 1"));
    for lie in [
        "x-one,accept",
        "accept,x-one,x-late,x-more",
        "acc",
        ",",
        "accept,,x-one",
    ] {
        assert!(!spelt(lie).0, "{lie}");
    }
}
