//! Request + table → the virtual host and route that take it. Pure, the same code for the proxy, `explain` and analysis.
//!
//! Domains are searched exact, longest `*.suffix`, longest `prefix.*`, `*`; routes in order, first match wins
//! (Envoy, `config.route.v3.VirtualHost.domains`).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::request::RequestView;
use crate::snapshot::route::{PathMatch, Route, RouteConfig, RouteMatch, VirtualHost};
use paths::Paths;

mod paths;

/// A [`RouteConfig`] with its domains and paths indexed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    pub config: Arc<RouteConfig>,
    domains: Arc<Domains>,
    /// Of each virtual host.
    paths: Arc<[Paths]>,
}

#[derive(Debug, Default)]
struct Domains {
    exact: FxHashMap<String, usize>,
    /// Suffix with its dot and host index, longest first.
    suffixes: Vec<(String, usize)>,
    /// Prefix with its dot and host index, longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
}

/// What [`Table::select`] found.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub host: &'a Arc<VirtualHost>,
    pub route: &'a Arc<Route>,
}

/// Why nothing was selected; both are `route_not_found` to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    NoVirtualHost,
    NoRoute,
}

impl Table {
    pub fn new(config: Arc<RouteConfig>) -> Table {
        let paths = config.hosts.iter().map(|host| Paths::new(&host.routes));
        Table {
            domains: Arc::new(Domains::new(&config.hosts)),
            paths: paths.collect(),
            config,
        }
    }

    /// Selects a route. `draw` is uniformly random and decides runtime fractions; `tls` says whether the client came over TLS.
    pub fn select<R: RequestView + ?Sized>(
        &self,
        request: &R,
        draw: u64,
        tls: bool,
    ) -> Result<Selected<'_>, Miss> {
        let at = self.find(request.authority());
        let of_host = at.and_then(|at| Some((self.config.hosts.get(at)?, self.paths.get(at)?)));
        let (host, paths) = of_host.ok_or(Miss::NoVirtualHost)?;
        let holds = |index: usize| {
            let route = host.routes.get(index);
            route.is_some_and(|route| route.matches.holds(request, draw, tls))
        };
        let route = paths.first(request.path(), holds);
        let route = route.and_then(|index| host.routes.get(index));
        let route = route.ok_or(Miss::NoRoute)?;
        Ok(Selected { host, route })
    }

    /// The virtual host that serves a normalised authority.
    pub fn host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.config.hosts.get(self.find(authority)?)
    }

    fn find(&self, authority: &str) -> Option<usize> {
        self.domains.find(match self.config.ignore_port {
            true => without_port(authority),
            false => authority,
        })
    }
}

impl Domains {
    fn new(hosts: &[Arc<VirtualHost>]) -> Domains {
        let mut domains = Domains::default();
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                if domain == "*" {
                    domains.any.get_or_insert(index);
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    domains.suffixes.push((suffix.to_owned(), index));
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    domains.prefixes.push((prefix.to_owned(), index));
                } else {
                    domains.exact.entry(domain.clone()).or_insert(index);
                }
            }
        }
        // The request's authority comes without a default port, so a domain written with one must be found without it too.
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                if let Some(bare) = domain
                    .strip_suffix(":80")
                    .or_else(|| domain.strip_suffix(":443"))
                {
                    domains.exact.entry(bare.to_owned()).or_insert(index);
                }
            }
        }
        domains
            .suffixes
            .sort_by_key(|(suffix, index)| (std::cmp::Reverse(suffix.len()), *index));
        domains
            .prefixes
            .sort_by_key(|(prefix, index)| (std::cmp::Reverse(prefix.len()), *index));
        domains
    }

    fn find(&self, authority: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(authority) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let longer = |part: &str| authority.len() > part.len();
        let suffix = self
            .suffixes
            .iter()
            .find(|(suffix, _)| longer(suffix) && authority.ends_with(suffix.as_str()));
        suffix
            .or_else(|| {
                self.prefixes
                    .iter()
                    .find(|(prefix, _)| longer(prefix) && authority.starts_with(prefix.as_str()))
            })
            .map(|(_, index)| *index)
            .or(self.any)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && !host.ends_with(':') =>
        {
            host
        }
        _ => authority,
    }
}

impl RouteMatch {
    pub fn holds<R: RequestView + ?Sized>(&self, request: &R, draw: u64, tls: bool) -> bool {
        self.path.holds(request, self.ignore_case)
            && self.fraction.is_none_or(|share| share.holds(draw))
            && self.tls_presented.is_none_or(|want| want == tls)
            && (!self.grpc || is_grpc(request))
            && self.headers.iter().all(|header| header.matches(request))
            && self
                .query
                .iter()
                .all(|parameter| parameter.matches(request.query()))
    }
}

impl PathMatch {
    fn holds<R: RequestView + ?Sized>(&self, request: &R, ignore_case: bool) -> bool {
        if request.method() == "CONNECT" {
            return matches!(self, PathMatch::Connect);
        }
        let path = request.path();
        match self {
            PathMatch::Prefix(prefix) => starts_with(path, prefix, ignore_case),
            PathMatch::SegmentPrefix(prefix) => {
                starts_with(path, prefix, ignore_case)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Exact(exact) => {
                if ignore_case {
                    path.eq_ignore_ascii_case(exact)
                } else {
                    path == exact
                }
            }
            PathMatch::Regex(pattern) => pattern.is_match(path),
            PathMatch::Connect => false,
        }
    }
}

fn starts_with(path: &str, prefix: &str, ignore_case: bool) -> bool {
    path.as_bytes().get(..prefix.len()).is_some_and(|head| {
        if ignore_case {
            head.eq_ignore_ascii_case(prefix.as_bytes())
        } else {
            head == prefix.as_bytes()
        }
    })
}

/// `content-type` is `application/grpc` or `application/grpc+…` (gRPC over HTTP/2 protocol).
pub fn is_grpc<R: RequestView + ?Sized>(request: &R) -> bool {
    request
        .header("content-type")
        .is_some_and(|value| is_grpc_content_type(&value))
}

pub fn is_grpc_content_type(value: &str) -> bool {
    value
        .strip_prefix("application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::Fixture;
    use crate::snapshot::fault::Fault;
    use crate::snapshot::matching::{HeaderMatch, HeaderTest, Pattern, StringMatch};
    use crate::snapshot::route::{Action, Direct};
    use crate::snapshot::{Fraction, http::PerFilter};

    fn route(name: &str, matches: RouteMatch) -> Arc<Route> {
        Arc::new(Route {
            name: name.into(),
            matches,
            action: Action::Direct(Direct {
                status: 200,
                body: Vec::new(),
            }),
            headers: Default::default(),
            per_filter: PerFilter {
                fault: Some(Arc::new(Fault::default())),
                ..Default::default()
            },
            resource: None,
        })
    }

    fn path(path: PathMatch) -> RouteMatch {
        RouteMatch {
            path,
            ..RouteMatch::any()
        }
    }

    fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> Arc<VirtualHost> {
        Arc::new(VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            routes,
            headers: Default::default(),
            require_tls: Default::default(),
            retry: None,
            request_attempt_count: false,
            response_attempt_count: false,
            per_filter: Default::default(),
        })
    }

    fn table(hosts: Vec<Arc<VirtualHost>>, ignore_port: bool) -> Table {
        Table::new(Arc::new(RouteConfig {
            name: "t".into(),
            hosts,
            headers: Default::default(),
            internal_only_headers: Vec::new(),
            most_specific_headers_win: false,
            ignore_port,
            max_direct_response: 4096,
        }))
    }

    #[test]
    fn domain_precedence() {
        let t = table(
            vec![
                host("any", &["*"], vec![]),
                host("short", &["*.com"], vec![]),
                host("long", &["*.example.com"], vec![]),
                host("prefix", &["www.*"], vec![]),
                host("exact", &["a.example.com", "p:8080", "q:80"], vec![]),
            ],
            false,
        );
        for (authority, want) in [
            ("a.example.com", "exact"),
            ("b.example.com", "long"),
            ("www.example.com", "long"),
            ("www.example.org", "prefix"),
            ("example.com", "short"),
            ("p:8080", "exact"),
            ("p", "any"),
            ("q", "exact"),
        ] {
            assert_eq!(&*t.host(authority).unwrap().name, want, "{authority}");
        }
        assert!(
            table(vec![host("a", &["*.b"], vec![])], false)
                .host(".b")
                .is_none()
        );
        assert!(
            table(vec![host("a", &["a"], vec![])], true)
                .host("a:81")
                .is_some()
        );
    }

    /// The index finds what a scan finds.
    #[test]
    fn many_routes_in_order() {
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let mut found = 0;
        for _ in 0..500 {
            let mut text = |most: u64| -> String {
                let letters = (0..next(most)).map(|_| ['a', 'b', '/', 'A'][next(4) as usize]);
                std::iter::once('/').chain(letters).collect()
            };
            let paths: Vec<String> = (0..8).map(|_| text(5)).collect();
            let asked: Vec<String> = (0..20).map(|_| text(8)).collect();
            let routes = paths.into_iter().map(|literal| {
                let of = match next(6) {
                    0 => PathMatch::Exact(literal),
                    1 => PathMatch::SegmentPrefix(literal),
                    2 => PathMatch::Regex(Pattern::new(&format!("{literal}.*")).unwrap()),
                    _ => PathMatch::Prefix(literal),
                };
                let ignore_case = next(5) == 0;
                route(
                    "r",
                    RouteMatch {
                        ignore_case,
                        ..path(of)
                    },
                )
            });
            let t = table(vec![host("h", &["*"], routes.collect())], false);
            for asked in asked {
                let request = Fixture::get("any", &asked);
                let scanned = t.config.hosts[0]
                    .routes
                    .iter()
                    .find(|r| r.matches.holds(&request, 0, false));
                let selected = t
                    .select(&request, 0, false)
                    .ok()
                    .map(|selected| selected.route);
                assert!(
                    match (scanned, selected) {
                        (Some(scanned), Some(selected)) => Arc::ptr_eq(scanned, selected),
                        (None, None) => true,
                        _ => false,
                    },
                    "{asked}: {scanned:?} {selected:?}"
                );
                found += usize::from(selected.is_some());
            }
        }
        assert!(found > 3000, "{found} of 10000 matched something");
    }

    #[test]
    fn routes_in_order() {
        let t = table(
            vec![host(
                "h",
                &["*"],
                vec![
                    route("exact", path(PathMatch::Exact("/a".into()))),
                    route("segment", path(PathMatch::SegmentPrefix("/seg".into()))),
                    route(
                        "folded",
                        RouteMatch {
                            ignore_case: true,
                            ..path(PathMatch::Prefix("/FOLD".into()))
                        },
                    ),
                    route(
                        "regex",
                        path(PathMatch::Regex(Pattern::new("/r/[0-9]+").unwrap())),
                    ),
                    route(
                        "half",
                        RouteMatch {
                            fraction: Some(Fraction::percent(50.0)),
                            ..path(PathMatch::Prefix("/half".into()))
                        },
                    ),
                    route(
                        "grpc",
                        RouteMatch {
                            grpc: true,
                            ..RouteMatch::any()
                        },
                    ),
                    route(
                        "header",
                        RouteMatch {
                            headers: vec![HeaderMatch {
                                name: ":method".into(),
                                test: HeaderTest::String(StringMatch::exact("POST")),
                                invert: false,
                                missing_as_empty: false,
                            }],
                            ..RouteMatch::any()
                        },
                    ),
                    route("prefix", path(PathMatch::Prefix("/b".into()))),
                ],
            )],
            false,
        );
        let pick = |request: &Fixture, draw| {
            t.select(request, draw, false)
                .map(|s| s.route.name.to_string())
        };
        let get = |path: &str| Fixture::get("h", path);
        assert_eq!(pick(&get("/a"), 0).unwrap(), "exact");
        assert_eq!(pick(&get("/seg"), 0).unwrap(), "segment");
        assert_eq!(pick(&get("/seg/x"), 0).unwrap(), "segment");
        assert_eq!(pick(&get("/segment"), 0), Err(Miss::NoRoute));
        assert_eq!(pick(&get("/folded"), 0).unwrap(), "folded");
        assert_eq!(pick(&get("/r/12"), 0).unwrap(), "regex");
        assert_eq!(pick(&get("/r/12x"), 0), Err(Miss::NoRoute));
        assert_eq!(pick(&get("/half"), 0).unwrap(), "half");
        assert_eq!(pick(&get("/half"), 999_999), Err(Miss::NoRoute));
        assert_eq!(
            pick(&get("/x").with("content-type", "application/grpc+proto"), 0).unwrap(),
            "grpc"
        );
        assert_eq!(
            pick(&get("/x").with("content-type", "application/grpc-web"), 0),
            Err(Miss::NoRoute)
        );
        assert_eq!(
            pick(
                &Fixture {
                    method: "POST".into(),
                    ..get("/x")
                },
                0
            )
            .unwrap(),
            "header"
        );
        assert_eq!(pick(&get("/bar"), 0).unwrap(), "prefix");
    }
}
