//! A look at the mesh → the parts of the API as bytes, encoded once and shared by all readers.

use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use crate::picture::{Control, Look, Traffic};

/// Of one part. What does not fit is counted as omitted.
const MAX_PART: usize = 1 << 20;

/// The parts of the API, in the order of a stream. `mesh` tells the time, so every look ends with it.
pub(crate) const PARTS: [&str; 7] = [
    "services",
    "workloads",
    "proxies",
    "resources",
    "sources",
    "traffic",
    "mesh",
];

/// One part as a Server-Sent Event, of which its JSON is a slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Grows when the part changes.
    pub(crate) version: u64,
    /// `event: NAME\ndata: JSON\n\n`
    pub(crate) event: Bytes,
    pub(crate) json: Bytes,
}

/// All parts at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) parts: [Part; PARTS.len()],
    /// `None`: nobody has looked yet.
    pub(crate) taken: Option<Instant>,
}

impl Frame {
    pub(crate) fn empty() -> Frame {
        let nothing = list::<()>(&[]);
        Frame {
            parts: PARTS.map(|name| Part::new(name, 0, &nothing)),
            taken: None,
        }
    }

    pub(crate) fn part(&self, name: &str) -> Option<&Part> {
        let at = PARTS.iter().position(|part| *part == name)?;
        self.parts.get(at)
    }

    /// What a newer look makes of this frame. Where it says nothing, what is known stays; why it says nothing is in `mesh`.
    /// `at`: milliseconds since 1970.
    pub(crate) fn next(&self, look: &Look, now: Instant, at: u64) -> Frame {
        let mut next = self.clone();
        next.taken = Some(now);
        let mut problems: Vec<&str> = Vec::new();
        match &look.control {
            Ok(control) => next.control(control),
            Err(problem) => problems.push(problem),
        }
        match &look.traffic {
            Traffic::Measured(edges) => next.put("traffic", &list(edges)),
            Traffic::Silent(problem) => problems.push(problem),
            Traffic::Unmeasured => {}
        }
        let control = look.control.as_ref().ok();
        let mesh = json!({
            "name": look.mesh,
            "version": look.version,
            "at": at,
            "revision": control.map(|control| control.revision),
            "authorityExpires": control.and_then(|control| control.authority_expires),
            "measured": look.traffic != Traffic::Unmeasured,
            "problems": problems,
        });
        next.put("mesh", &mesh.to_string());
        next
    }

    /// What is not well comes first, so that a bound never hides it.
    fn control(&mut self, control: &Control) {
        let mut proxies: Vec<_> = control.proxies.iter().collect();
        proxies.sort_by_key(|proxy| proxy.is_well(control.revision));
        let mut resources: Vec<_> = control.resources.iter().collect();
        resources.sort_by_key(|resource| resource.is_well());
        let mut sources: Vec<_> = control.sources.iter().collect();
        sources.sort_by_key(|source| source.error.is_none());
        self.put("services", &list(&control.services));
        self.put("workloads", &list(&control.workloads));
        self.put("proxies", &list(&proxies));
        self.put("resources", &list(&resources));
        self.put("sources", &list(&sources));
    }

    fn put(&mut self, name: &'static str, json: &str) {
        let at = PARTS.iter().position(|part| *part == name);
        if let Some(part) = at.and_then(|at| self.parts.get_mut(at))
            && (part.version == 0 || part.json != json)
        {
            *part = Part::new(name, part.version + 1, json);
        }
    }

    /// `{"mesh": …, "services": …, …}`
    pub(crate) fn whole(&self) -> Bytes {
        let mut text = Vec::with_capacity(self.parts.iter().map(|p| p.event.len()).sum());
        for (name, part) in PARTS.iter().zip(&self.parts) {
            text.push(if text.is_empty() { b'{' } else { b',' });
            text.extend_from_slice(format!("\"{name}\":").as_bytes());
            text.extend_from_slice(&part.json);
        }
        text.push(b'}');
        text.into()
    }
}

impl Part {
    /// `json` has no line break, as serde_json writes it.
    fn new(name: &str, version: u64, json: &str) -> Part {
        let head = format!("event: {name}\ndata: ");
        let event = Bytes::from(format!("{head}{json}\n\n"));
        Part {
            version,
            json: event.slice(head.len()..head.len() + json.len()),
            event,
        }
    }
}

/// `{"items": […], "omitted": N}`, of at most [`MAX_PART`] bytes.
fn list<T: Serialize>(items: &[T]) -> String {
    let mut text = "{\"items\":[".to_owned();
    let mut omitted = 0;
    for item in items {
        // Our own types: strings, numbers and lists of them, which always serialise.
        let item = serde_json::to_string(item).unwrap_or_default();
        if item.is_empty() || text.len() + item.len() > MAX_PART {
            omitted += 1;
            continue;
        }
        if !text.ends_with('[') {
            text.push(',');
        }
        text += &item;
    }
    text + &format!("],\"omitted\":{omitted}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Edge, Proxy, Resource, Service};

    fn look(control: Result<Control, String>) -> Look {
        Look {
            mesh: "shop".into(),
            version: "1".into(),
            control,
            traffic: Traffic::Measured(vec![Edge {
                source: "a\n\"</script>".into(),
                ..Edge::default()
            }]),
        }
    }

    fn value(frame: &Frame, part: &str) -> serde_json::Value {
        serde_json::from_slice(&frame.part(part).unwrap().json).unwrap()
    }

    #[test]
    fn parts_change_only_when_they_differ() {
        let now = Instant::now();
        let first = Frame::empty().next(&look(Ok(Control::default())), now, 1);
        let again = first.next(&look(Ok(Control::default())), now, 2);
        for name in PARTS {
            let (before, after) = (first.part(name).unwrap(), again.part(name).unwrap());
            assert_eq!(before.version, 1, "{name}");
            assert_eq!(after.version, if name == "mesh" { 2 } else { 1 }, "{name}");
        }
    }

    #[test]
    fn an_event_is_three_lines_whatever_is_in_it() {
        let frame = Frame::empty().next(&look(Ok(Control::default())), Instant::now(), 1);
        let part = frame.part("traffic").unwrap();
        let text = String::from_utf8(part.event.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: traffic\ndata: {\"items\":[{\"source\":\"a\\n"));
        assert!(text.ends_with("\n\n"));
        assert_eq!(
            value(&frame, "traffic")["items"][0]["source"],
            "a\n\"</script>"
        );
    }

    #[test]
    fn silence_keeps_what_was_known_and_is_told() {
        let known = Control {
            revision: 3,
            services: vec![Service {
                name: "users".into(),
                ..Service::default()
            }],
            ..Control::default()
        };
        let frame = Frame::empty().next(&look(Ok(known)), Instant::now(), 1);
        let frame = frame.next(&look(Err("no answer".into())), Instant::now(), 2);
        assert_eq!(value(&frame, "services")["items"][0]["name"], "users");
        assert_eq!(value(&frame, "mesh")["problems"][0], "no answer");
    }

    #[test]
    fn what_is_not_well_comes_first_and_the_rest_may_be_omitted() {
        let good = Resource {
            accepted: true,
            ..Resource::default()
        };
        let mut resources = vec![
            Resource {
                origin: "x".repeat(1000).into(),
                ..good
            };
            2000
        ];
        resources.push(Resource {
            resource: "bad".into(),
            ..Resource::default()
        });
        let proxies = vec![
            Proxy {
                node: "well".into(),
                acked_revision: 2,
                ..Proxy::default()
            },
            Proxy {
                node: "behind".into(),
                acked_revision: 1,
                ..Proxy::default()
            },
        ];
        let control = Control {
            revision: 2,
            proxies,
            resources,
            ..Control::default()
        };
        let frame = Frame::empty().next(&look(Ok(control)), Instant::now(), 1);
        assert_eq!(value(&frame, "proxies")["items"][0]["node"], "behind");
        let listed = value(&frame, "resources");
        assert_eq!(listed["items"][0]["resource"], "bad");
        assert!(frame.part("resources").unwrap().json.len() <= MAX_PART + 64);
        let shown = listed["items"].as_array().unwrap().len() as u64;
        assert_eq!(shown + listed["omitted"].as_u64().unwrap(), 2001);
        let whole: serde_json::Value = serde_json::from_slice(&frame.whole()).unwrap();
        assert_eq!(whole["mesh"]["name"], "shop");
        assert_eq!(whole.as_object().unwrap().len(), PARTS.len());
    }
}
