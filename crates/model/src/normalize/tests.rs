use proptest::prelude::*;

use super::{AuthorityError, Path, PathError, application_reading, authority, path};
use crate::snapshot::http::{EscapedSlashes, PathOptions};

/// What Envoy does when its bootstrap says nothing.
const ENVOY: PathOptions = PathOptions {
    normalize: false,
    merge_slashes: false,
    escaped_slashes: EscapedSlashes::KeepUnchanged,
};
/// Istio's `pathNormalization: DEFAULT` (BASE).
const ISTIO: PathOptions = PathOptions {
    normalize: true,
    ..ENVOY
};
const MERGE_SLASHES: PathOptions = PathOptions {
    merge_slashes: true,
    ..ISTIO
};
const DECODE_AND_MERGE_SLASHES: PathOptions = PathOptions {
    escaped_slashes: EscapedSlashes::UnescapeAndForward,
    ..MERGE_SLASHES
};

fn forward(input: &str, options: &PathOptions) -> String {
    match path(input, options) {
        Ok(Path::Forward(text)) => text.into_owned(),
        other => panic!("{input}: {other:?}"),
    }
}

#[test]
fn paths_take_one_form() {
    for (input, base, merged, decoded) in [
        ("/", "/", "/", "/"),
        ("/a/b", "/a/b", "/a/b", "/a/b"),
        ("/a/./b", "/a/b", "/a/b", "/a/b"),
        ("/a/../b", "/b", "/b", "/b"),
        ("/../../b", "/b", "/b", "/b"),
        ("/a/..", "/", "/", "/"),
        ("/a/b/..", "/a/", "/a/", "/a/"),
        ("/a/b/.", "/a/b/", "/a/b/", "/a/b/"),
        ("//a", "//a", "/a", "/a"),
        ("/a//b///c", "/a//b///c", "/a/b/c", "/a/b/c"),
        ("/a//../b", "/a/b", "/a/b", "/a/b"),
        ("/%61dmin", "/admin", "/admin", "/admin"),
        ("/%2e%2e/admin", "/admin", "/admin", "/admin"),
        ("/a/%2E/b", "/a/b", "/a/b", "/a/b"),
        ("/%2561dmin", "/%2561dmin", "/%2561dmin", "/%2561dmin"),
        ("/a%2fb", "/a%2fb", "/a%2fb", "/a/b"),
        ("/a%5Cb", "/a%5Cb", "/a%5Cb", "/a/b"),
        (
            "/x%2f..%2fadmin",
            "/x%2f..%2fadmin",
            "/x%2f..%2fadmin",
            "/admin",
        ),
        ("/a\\b", "/a/b", "/a/b", "/a/b"),
        ("/x\\..\\admin", "/admin", "/admin", "/admin"),
        (
            "/.hidden/..x/...",
            "/.hidden/..x/...",
            "/.hidden/..x/...",
            "/.hidden/..x/...",
        ),
        ("/caf%C3%A9", "/caf%C3%A9", "/caf%C3%A9", "/caf%C3%A9"),
        ("/a;v=1/b", "/a;v=1/b", "/a;v=1/b", "/a;v=1/b"),
    ] {
        assert_eq!(forward(input, &ISTIO), base, "{input} base");
        assert_eq!(forward(input, &MERGE_SLASHES), merged, "{input} merged");
        assert_eq!(
            forward(input, &DECODE_AND_MERGE_SLASHES),
            decoded,
            "{input} decoded"
        );
        assert_eq!(forward(input, &ENVOY), input, "{input} envoy");
    }
}

#[test]
fn doubtful_paths_are_refused_whatever_the_options() {
    for (input, want) in [
        ("a", PathError::NoSlash),
        ("", PathError::NoSlash),
        ("/%", PathError::MalformedEscape),
        ("/%4", PathError::MalformedEscape),
        ("/%zz", PathError::MalformedEscape),
        ("/%%341", PathError::MalformedEscape),
        ("/a%00", PathError::Nul),
        ("/a\0", PathError::Nul),
        ("/%c0%af", PathError::OverlongUtf8),
        ("/%C1%81dmin", PathError::OverlongUtf8),
        ("/%e0%80%af", PathError::OverlongUtf8),
        ("/%f0%80%80%af", PathError::OverlongUtf8),
    ] {
        for options in [ENVOY, DECODE_AND_MERGE_SLASHES] {
            assert_eq!(path(input, &options), Err(want), "{input}");
        }
    }
}

#[test]
fn escaped_slashes_follow_envoys_actions() {
    let with = |escaped_slashes| PathOptions {
        escaped_slashes,
        ..MERGE_SLASHES
    };
    assert_eq!(
        path("/a%2Fb", &with(EscapedSlashes::Reject)),
        Err(PathError::EscapedSlash)
    );
    assert_eq!(
        path("/a%2F..%2Fb", &with(EscapedSlashes::UnescapeAndRedirect)),
        Ok(Path::Redirect("/b".into()))
    );
    assert_eq!(
        path("/a/b", &with(EscapedSlashes::UnescapeAndRedirect)),
        Ok(Path::Forward("/a/b".into()))
    );
}

#[test]
fn normal_paths_are_borrowed() {
    for input in ["/", "/a/b.c/d-e_f~g", "/a;x=1", "/caf%C3%A9"] {
        assert!(matches!(
            path(input, &DECODE_AND_MERGE_SLASHES),
            Ok(Path::Forward(std::borrow::Cow::Borrowed(_)))
        ));
    }
}

/// No spelling of `/admin` an application could accept gets past a rule that also looks at this reading.
#[test]
fn the_generous_reading_finds_admin() {
    for spelling in [
        "/admin",
        "/%61dmin",
        "/x/../admin",
        "/x%2f..%2fadmin",
        "/x/..;/admin",
        "/admin;a=b",
        "/;a/admin",
        "//admin",
        "/%2fadmin",
        "/\\admin",
        "/x%5c..%5cadmin",
        "/./admin",
        "/x/%2e%2e/admin",
        "/x/..%3b/admin",
    ] {
        assert_eq!(application_reading(spelling), "/admin", "{spelling}");
    }
}

#[test]
fn authorities_take_one_form() {
    for (input, want) in [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("a.example:80", "a.example"),
        ("a.example.:80", "a.example"),
        ("a.example:", "a.example"),
        ("a.example:8080", "a.example:8080"),
        ("A.EXAMPLE.:08080", "a.example:8080"),
        ("a.example:0080", "a.example"),
        ("under_score", "under_score"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("[0:0:0:0:0:0:0:1]:81", "[::1]:81"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
    ] {
        assert_eq!(authority(input, 80).as_deref(), Ok(want), "{input}");
    }
    assert_eq!(authority("a:443", 443).as_deref(), Ok("a"));
    assert!(matches!(
        authority("a.example:8080", 80),
        Ok(std::borrow::Cow::Borrowed(_))
    ));
}

#[test]
fn doubtful_authorities_are_refused() {
    for (input, want) in [
        ("", AuthorityError::Empty),
        (".", AuthorityError::Empty),
        (":80", AuthorityError::Empty),
        ("a@b", AuthorityError::UserInfo),
        ("a:b@c", AuthorityError::UserInfo),
        ("a,b", AuthorityError::List),
        ("a b", AuthorityError::List),
        ("a.test%2esecret", AuthorityError::HostByte),
        ("a/b", AuthorityError::HostByte),
        ("a\u{0}", AuthorityError::HostByte),
        ("b\u{fc}cher", AuthorityError::HostByte),
        ("a..b", AuthorityError::EmptyLabel),
        ("a..", AuthorityError::EmptyLabel),
        (".a", AuthorityError::EmptyLabel),
        ("[::1", AuthorityError::Ipv6),
        ("[::1%eth0]", AuthorityError::Ipv6),
        ("[1.2.3.4]", AuthorityError::Ipv6),
        ("[::1]a", AuthorityError::HostByte),
        ("a:0", AuthorityError::Port),
        ("a:70000", AuthorityError::Port),
        ("a:8x", AuthorityError::Port),
        ("a:+80", AuthorityError::Port),
        ("::1", AuthorityError::Port),
    ] {
        assert_eq!(authority(input, 80), Err(want), "{input}");
    }
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(input in "/[a/.%25eE2fF\\\\;5cC]{0,24}") {
        for options in [ISTIO, MERGE_SLASHES] {
            if let Ok(Path::Forward(once)) = path(&input, &options) {
                prop_assert_eq!(forward(&once, &options), once.as_ref());
            }
        }
    }

    #[test]
    fn merged_paths_have_no_dots_and_no_double_slashes(input in "/[a/.%25eE\\\\]{0,24}") {
        if let Ok(Path::Forward(text)) = path(&input, &MERGE_SLASHES) {
            prop_assert!(!text.contains("//"));
            prop_assert!(!text.split('/').any(|segment| segment == "." || segment == ".."));
        }
    }

    #[test]
    fn nothing_panics(input in "\\PC{0,32}") {
        let _ = path(&input, &DECODE_AND_MERGE_SLASHES);
        let _ = application_reading(&input);
        let _ = authority(&input, 80);
    }
}
