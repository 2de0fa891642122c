//! The decoder's own source → every field that it takes, and every one that it refuses, by the name of Envoy's API.
//!
//! The decoder destructures each message whole in `fields!` (crates/wire/src/decode.rs), so the first list of each is what
//! ripstop supports, and a field that is added there appears here without anybody's doing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ripstop_wire::descriptor::Descriptors;
use ripstop_wire::inventory::Shape;

/// `envoy.config.route.v3.RouteMatch.prefix` and all its like. A oneof stands for each of its fields.
pub(crate) fn fields(descriptors: &Descriptors) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for message in messages() {
        message.add(descriptors, &message.taken, &mut found);
    }
    found
}

/// The fields that the decoder knows and does not support.
pub(crate) fn refused(descriptors: &Descriptors) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for message in messages() {
        message.add(descriptors, &message.refused, &mut found);
    }
    // What one side of a proxy refuses, the other may take (`HttpProtocolOptions`).
    let supported = fields(descriptors);
    found.retain(|field| !supported.contains(field));
    found
}

fn messages() -> Vec<Message> {
    let mut messages = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("the decoder's source");
        let code: String = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        let calls = code.split("fields!(").skip(1);
        messages.extend(calls.map(|call| {
            Message::read(call).unwrap_or_else(|| panic!("{}: fields!({call:.60}", file.display()))
        }));
    }
    messages
}

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/src");
    let folder = std::fs::read_dir(root.join("decode")).expect("the decoder's folder");
    let mut files: Vec<PathBuf> = folder
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.push(root.join("bootstrap.rs"));
    files.sort();
    files
}

/// Of the same name and shape as one that the decoder reads, and never read themselves.
const NOT_READ: [&str; 3] = [
    "envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector",
    "envoy.extensions.filters.network.thrift_proxy.v3.WeightedCluster.ClusterWeight",
    "envoy.type.http.v3.Cookie",
];

/// One `fields!`.
struct Message {
    /// The type's last name, which may be an alias.
    name: String,
    taken: Vec<String>,
    refused: Vec<String>,
    all: BTreeSet<String>,
}

impl Message {
    fn read(call: &str) -> Option<Message> {
        let (_, rest) = call.split_once("=>")?;
        let (path, rest) = rest.split_once('{')?;
        let name = path.trim().rsplit("::").next()?.to_owned();
        let (taken, mut rest) = rest.split_once('}')?;
        let taken = names(taken);
        let mut all: BTreeSet<String> = taken.iter().cloned().collect();
        let mut refused = Vec::new();
        for kind in ["refuse", "ignore", "inert"] {
            if let Some(more) = rest.trim_start().strip_prefix(kind) {
                let (more, after) = more.split_once('{')?.1.split_once('}')?;
                all.extend(names(more));
                if kind != "inert" {
                    refused.extend(names(more));
                }
                rest = after;
            }
        }
        Some(Message {
            name,
            taken,
            refused,
            all,
        })
    }

    /// The message is known by its members, which the destructuring names without exception; its name decides among
    /// several.
    fn add(&self, descriptors: &Descriptors, wanted: &[String], found: &mut BTreeSet<String>) {
        let same = |shape: &&Shape| {
            let members: BTreeSet<&str> = shape.members.iter().map(|m| m.name.as_str()).collect();
            self.all.len() == members.len() && self.all.iter().all(|m| members.contains(&**m))
        };
        let named = descriptors.shapes(Some(&self.name));
        let mut shapes: Vec<&Shape> = named.iter().filter(same).collect();
        let all;
        if shapes.is_empty() {
            all = descriptors.shapes(None);
            shapes = all.iter().filter(same).collect();
        }
        assert!(!shapes.is_empty(), "no message is a {}", self.name);
        shapes.retain(|shape| !NOT_READ.contains(&&*shape.name));
        for shape in shapes {
            let wanted = |name: &str| wanted.iter().any(|wanted| wanted == name);
            for member in &shape.members {
                if wanted(&member.name) {
                    let fields = member.fields.iter();
                    found.extend(fields.map(|field| format!("{}.{field}", shape.name)));
                }
            }
        }
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',')
        .map(|name| name.trim().trim_start_matches("r#").to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}
