//! Every field that the decoder takes → whether the cases show that it acts, that it does not act where it must not, and
//! what its default is.
//!
//! All three are found by leaving the field out. A *variant* is a case without one field (where a message would be
//! invalid without it, without the nearest message around it that may go). It is played beside its case:
//! - Envoy's answer to some step must change: the field acts;
//! - Envoy's answer to some step must stay: the field acts only where it should;
//! - ripstop must answer every step of the variant as Envoy does: the default is the same.
//!
//! `coverage.tsv` says which variant shows it for which field. `UPDATE=1 cargo test -p ripstop --test oracle` looks for
//! variants for fields that have none yet and writes the table anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ripstop_model::yaml;
use ripstop_wire::descriptor::Descriptors;
use ripstop_wire::inventory::Set;
use serde_json::Value;

use super::case::{Case, Cut};
use super::exchange::Outcome;
use super::{bootstrap, compare, supported};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By leaving out what is at a pointer in the bootstrap of a case.
    Acts { case: String, at: String },
    /// Envoy does not start without it, and so every case that has it shows it.
    Required { case: String, at: String },
    /// One of the fields of a oneof that ripstop refuses.
    Refused,
    /// By another test, or in no way that a client could see; the reason.
    Elsewhere(String),
    /// Not yet.
    Missing,
}

/// A line for each field.
#[derive(Debug, Default)]
pub(crate) struct Table(pub(crate) BTreeMap<String, Shown>);

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/coverage.tsv")
}

impl Table {
    pub(crate) fn read() -> Table {
        let text = std::fs::read_to_string(file()).unwrap_or_default();
        let row = |line: &str| -> (String, Shown) {
            let parts: Vec<&str> = line.split('\t').collect();
            let shown = match parts[..] {
                [_, "acts", case, at] => Shown::Acts {
                    case: case.to_owned(),
                    at: at.to_owned(),
                },
                [_, "required", case, at] => Shown::Required {
                    case: case.to_owned(),
                    at: at.to_owned(),
                },
                [_, "elsewhere", reason] => Shown::Elsewhere(reason.to_owned()),
                [_, "refused"] => Shown::Refused,
                [_, "missing"] => Shown::Missing,
                _ => panic!("coverage.tsv: {line:?}"),
            };
            (parts[0].to_owned(), shown)
        };
        Table(text.lines().map(row).collect())
    }

    fn write(&self) {
        let line = |(field, shown): (&String, &Shown)| match shown {
            Shown::Acts { case, at } => format!("{field}\tacts\t{case}\t{at}\n"),
            Shown::Required { case, at } => format!("{field}\trequired\t{case}\t{at}\n"),
            Shown::Elsewhere(reason) => format!("{field}\telsewhere\t{reason}\n"),
            Shown::Refused => format!("{field}\trefused\n"),
            Shown::Missing => format!("{field}\tmissing\n"),
        };
        let text: String = self.0.iter().map(line).collect();
        std::fs::write(file(), text).expect("a writable table");
    }

    /// Empty when the table has exactly the fields of the decoder.
    pub(crate) fn against_the_decoder(&self) -> String {
        let descriptors = Descriptors::load().expect("Envoy's descriptors");
        let supported = supported::fields(&descriptors);
        let listed: BTreeSet<String> = self.0.keys().cloned().collect();
        let mut wrong = String::new();
        for field in supported.difference(&listed) {
            wrong.push_str(&format!("{field} is supported and not in coverage.tsv\n"));
        }
        for field in listed.difference(&supported) {
            wrong.push_str(&format!("{field} is in coverage.tsv and not supported\n"));
        }
        wrong
    }
}

/// Empty when ripstop refuses each field that it does not support, by its path, in some message of the cases that could
/// have it.
pub(crate) fn refusals(table: &Table, cases: &[Case]) -> String {
    let descriptors = Descriptors::load().expect("Envoy's descriptors");
    let mut fields = supported::refused(&descriptors);
    let refused = table
        .0
        .iter()
        .filter(|(_, shown)| **shown == Shown::Refused);
    fields.extend(refused.map(|(field, _)| field.clone()));
    let places = messages(&descriptors, cases);
    let mut by_message: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for field in &fields {
        let (message, name) = field.rsplit_once('.').expect("a message's field");
        by_message.entry(message).or_default().insert(name);
    }
    let mut wrong = String::new();
    for (message, mut open) in by_message {
        for (of, at) in places.get(message).into_iter().flatten() {
            // All at once, which is quick; then those that are left one by one: a decoder may stop at another.
            let mut rest = open.clone();
            while !rest.is_empty() {
                let given = try_fields(&descriptors, &cases[*of], at, message, &rest, &mut open);
                rest.retain(|name| !given.contains(name));
            }
            for name in open.clone() {
                let one = BTreeSet::from([name]);
                try_fields(&descriptors, &cases[*of], at, message, &one, &mut open);
            }
        }
        for name in open {
            wrong.push_str(&match places.contains_key(message) {
                true => format!("{message}.{name} is accepted\n"),
                false => format!("{message}.{name}: no case has such a message\n"),
            });
        }
    }
    wrong
}

/// Gives as many of `rest` as go together, takes those from `open` that ripstop refuses; what was given.
fn try_fields<'n>(
    descriptors: &Descriptors,
    case: &Case,
    at: &str,
    message: &str,
    rest: &BTreeSet<&'n str>,
    open: &mut BTreeSet<&'n str>,
) -> BTreeSet<&'n str> {
    let (bootstrap, given) = with(descriptors, case, at, message, rest);
    let problems = ripstop_wire::bootstrap::parse(&bootstrap.to_string());
    let problems = problems.err().unwrap_or_default();
    let message: Vec<&str> = parts(at).collect();
    let refused = |name: &str| {
        problems.0.iter().any(|problem| {
            let path: Vec<&str> = parts(&problem.path).collect();
            path.starts_with(&message) && (given.len() == 1 || path.contains(&name))
        })
    };
    open.retain(|name| !(given.contains(name) && refused(name)));
    given
}

/// The bootstrap of a case with fields added to the message at `at`, and which of those that are wanted.
fn with<'n>(
    descriptors: &Descriptors,
    case: &Case,
    at: &str,
    message: &str,
    wanted: &BTreeSet<&'n str>,
) -> (Value, BTreeSet<&'n str>) {
    let mut bootstrap = case.bootstrap.clone();
    let target = bootstrap.pointer_mut(at).and_then(Value::as_object_mut);
    let target = target.expect("the message's own place");
    let mut given: BTreeSet<&str> = BTreeSet::new();
    let mut excluded: BTreeSet<String> = BTreeSet::new();
    for name in wanted {
        let example = descriptors.example(message, name);
        let example = example.unwrap_or_else(|| panic!("{message}.{name} is not known"));
        let alone = example.others.is_empty();
        if excluded.contains(*name) || (!alone && !given.is_empty()) {
            continue;
        }
        target.retain(|name, _| !example.others.contains(name));
        target.insert((*name).to_owned(), example.value);
        excluded.extend(example.others);
        given.insert(name);
        if !alone {
            break;
        }
    }
    (bootstrap, given)
}

/// Of a JSON pointer or of a field path.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[', ']', '/'])
        .filter(|part| !part.is_empty())
}

/// Places of each message that the cases have, one of each kind.
fn messages(descriptors: &Descriptors, cases: &[Case]) -> BTreeMap<String, Vec<(usize, String)>> {
    let mut found: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    let mut kinds = BTreeSet::new();
    for (of, case) in cases.iter().enumerate() {
        for set in set_fields(descriptors, case) {
            let message = set.field.rsplit_once('.').map(|(message, _)| message);
            let place = set.at.rsplit_once('/').map(|(place, _)| place);
            if let (Some(message), Some(place)) = (message, place) {
                let kind: String = place.chars().filter(|c| !c.is_ascii_digit()).collect();
                if kinds.insert((message.to_owned(), kind)) {
                    let places = found.entry(message.to_owned()).or_default();
                    places.push((of, place.to_owned()));
                }
            }
        }
    }
    found
}

fn set_fields(descriptors: &Descriptors, case: &Case) -> Vec<Set> {
    let text = case.bootstrap.to_string();
    let document = yaml::parse(&text).pop().expect("a document");
    descriptors.set_fields(&document.root.expect("a tree"))
}

/// A case without a field, to be played beside it.
pub(crate) struct Variant {
    pub(crate) field: String,
    /// Its place among the cases.
    pub(crate) of: usize,
    pub(crate) case: Case,
    at: String,
}

impl Variant {
    fn new(number: usize, field: &str, of: usize, cases: &[Case], at: &str) -> Variant {
        let cut = Cut {
            at: at.to_owned(),
            number,
        };
        Variant {
            field: field.to_owned(),
            of,
            case: Case::variant(&cases[of].name, &cut),
            at: at.to_owned(),
        }
    }

    /// Empty when the variant shows what it should.
    pub(crate) fn check(
        &self,
        cases: &[Case],
        original: &Outcome,
        envoy: &Outcome,
        ripstop: &Outcome,
    ) -> String {
        let case = &cases[self.of];
        let changes = compare::changes(case, original, &self.case, envoy);
        let wrong = if !changes.contains(&true) {
            "changes nothing that Envoy does".to_owned()
        } else if !changes.contains(&false) {
            "changes every step: add one that the field must not touch".to_owned()
        } else {
            let difference = compare::case(&self.case, envoy, ripstop);
            if difference.is_empty() {
                return String::new();
            }
            format!("is not the same for both:\n{difference}")
        };
        format!(
            "{}: leaving out {} of {} {wrong}\n",
            self.field, self.at, case.name
        )
    }
}

/// The variants that the table names, of these cases.
pub(crate) fn variants(table: &Table, cases: &[Case]) -> Vec<Variant> {
    let rows = table.0.iter().filter_map(|(field, shown)| match shown {
        Shown::Acts { case, at } => Some((field, case, at)),
        _ => None,
    });
    let mut variants = Vec::new();
    // One variant may show several fields.
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (field, name, at) in rows {
        let Some(of) = cases.iter().position(|case| case.name == *name) else {
            continue;
        };
        if seen.insert((name, at)) {
            variants.push(Variant::new(variants.len(), field, of, cases, at));
        }
    }
    variants
}

/// Plays variants; what Envoy and ripstop did.
type Play<'p> = &'p dyn Fn(&[&Case]) -> (Vec<Outcome>, Vec<Outcome>);

/// Looks for a variant for each field that has none, and writes the table.
pub(crate) fn update(mut table: Table, cases: &[Case], originals: &[Outcome], play: Play<'_>) {
    const ROUNDS: usize = 6;
    let descriptors = Descriptors::load().expect("Envoy's descriptors");
    let supported = supported::fields(&descriptors);
    table.0.retain(|field, _| supported.contains(field));
    let mut places = places(&descriptors, cases, originals);
    for field in &supported {
        table.0.entry(field.clone()).or_insert(Shown::Missing);
    }
    let mut report = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut variants: Vec<Variant> = Vec::new();
        for (field, shown) in &mut table.0 {
            // `required` is what is left when no place could do without.
            let open = matches!(shown, Shown::Missing | Shown::Required { .. });
            let Some((of, at)) = places.get_mut(field).filter(|_| open).and_then(Vec::pop) else {
                continue;
            };
            match climb(&cases[of], &at) {
                Some(at) => {
                    variants.push(Variant::new(variants.len(), field, of, cases, &at));
                }
                None => {
                    *shown = Shown::Required {
                        case: cases[of].name.clone(),
                        at,
                    };
                }
            }
        }
        if variants.is_empty() {
            break;
        }
        let tried: Vec<(String, usize, String)> = variants
            .iter()
            .map(|variant| (variant.field.clone(), variant.of, variant.at.clone()))
            .collect();
        let variants = that_envoy_takes(variants);
        // What Envoy cannot do without goes with the message around it, in the next round.
        for (field, of, at) in tried {
            let taken = variants.iter().any(|variant| variant.field == field);
            if let Some((around, _)) = at.rsplit_once('/').filter(|_| !taken) {
                let places = places.entry(field.clone()).or_default();
                places.push((of, around.to_owned()));
                if let Some(shown @ Shown::Missing) = table.0.get_mut(&field) {
                    let case = cases[of].name.clone();
                    *shown = Shown::Required { case, at };
                }
            }
        }
        let playable: Vec<&Case> = variants.iter().map(|variant| &variant.case).collect();
        let (envoy, ripstop) = play(&playable);
        for ((variant, envoy), ripstop) in variants.iter().zip(&envoy).zip(&ripstop) {
            let wrong = variant.check(cases, &originals[variant.of], envoy, ripstop);
            if wrong.is_empty() {
                report.remove(&variant.field);
                let shown = Shown::Acts {
                    case: cases[variant.of].name.clone(),
                    at: variant.at.clone(),
                };
                table.0.insert(variant.field.clone(), shown);
            } else {
                report.insert(variant.field.clone(), wrong);
            }
        }
    }
    for wrong in report.values() {
        print!("{wrong}");
    }
    table.write();
}

/// Where the cases set each field; the quickest case last.
fn places(
    descriptors: &Descriptors,
    cases: &[Case],
    originals: &[Outcome],
) -> BTreeMap<String, Vec<(usize, String)>> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|of| {
        let took = originals[*of].played.iter().map(|played| played.took);
        std::cmp::Reverse(took.sum::<std::time::Duration>())
    });
    let mut places: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for of in order {
        for set in set_fields(descriptors, &cases[of]).into_iter().rev() {
            places.entry(set.field).or_default().push((of, set.at));
        }
    }
    // The first two places of each case, and then the next two: a case that does not show it will not at its tenth.
    for list in places.values_mut() {
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, (usize, String))> = Vec::new();
        for place in list.drain(..).rev() {
            let rank = seen.entry(place.0).or_default();
            *rank += 1;
            ranked.push((*rank / 3, place));
        }
        ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        // The sort is stable and reversed by rank only: within a rank the quickest must come last.
        let mut by_rank: BTreeMap<std::cmp::Reverse<usize>, Vec<(usize, String)>> = BTreeMap::new();
        for (rank, place) in ranked {
            by_rank
                .entry(std::cmp::Reverse(rank))
                .or_default()
                .push(place);
        }
        for mut places in by_rank.into_values() {
            places.reverse();
            list.append(&mut places);
        }
    }
    places
}

/// The nearest thing at or around `at` that ripstop's decoder can do without.
fn climb(case: &Case, at: &str) -> Option<String> {
    let mut at = at;
    // Below `/static_resources/clusters/0`.
    while at.matches('/').count() > 3 {
        let mut bootstrap = case.bootstrap.clone();
        bootstrap::cut(&mut bootstrap, at);
        if ripstop_wire::bootstrap::parse(&bootstrap.to_string()).is_ok() {
            return Some(at.to_owned());
        }
        at = at.rsplit_once('/')?.0;
    }
    None
}

/// Without those that Envoy refuses, found by halving.
fn that_envoy_takes(variants: Vec<Variant>) -> Vec<Variant> {
    if variants.is_empty() || envoy_takes(&variants) {
        return variants;
    }
    if variants.len() == 1 {
        return Vec::new();
    }
    let mut first = variants;
    let second = first.split_off(first.len() / 2);
    let mut taken = that_envoy_takes(first);
    taken.extend(that_envoy_takes(second));
    taken
}

fn envoy_takes(variants: &[Variant]) -> bool {
    let cases: Vec<&Case> = variants.iter().map(|variant| &variant.case).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bootstrap.json");
    let admin = ripstop_testkit::port::reserve();
    std::fs::write(&path, bootstrap::join(&cases, admin.addr())).expect("room for the bootstrap");
    let status = Command::new(ripstop_testkit::envoy::binary())
        .args(["--mode", "validate", "--log-level", "off", "-c"])
        .arg(&path)
        .output()
        .expect("Envoy runs");
    status.status.success()
}
