//! What happened with Envoy and with ripstop → a report of every difference that the closed list does not allow.

use std::collections::BTreeMap;
use std::time::Duration;

use super::case::{Case, Request};
use super::differences::{BEHAVIOUR, ONLY_ENVOY, normalised, status_line, without_limit};
use super::exchange::{Outcome, Played};

/// Empty when all is well.
pub(crate) fn case(case: &Case, envoy: &Outcome, ripstop: &Outcome) -> String {
    let mut report = String::new();
    for ((name, theirs), (_, ours)) in envoy.counters.iter().zip(&ripstop.counters) {
        if theirs != ours || theirs.is_none() {
            let line = format!("{} {name}: Envoy {theirs:?}, ripstop {ours:?}\n", case.name);
            report.push_str(&line);
        }
    }
    let mut rest = envoy.played.iter().zip(&ripstop.played).peekable();
    while let Some((envoy, ripstop)) = rest.next() {
        let complaints = if envoy.request.tolerance.is_some() {
            let step = |played: &Played| played.at.split('.').next().map(str::to_owned);
            let mut pairs = vec![(envoy, ripstop)];
            while let Some(pair) = rest.next_if(|(next, _)| step(next) == step(envoy)) {
                pairs.push(pair);
            }
            let (envoy, ripstop): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            shares(&envoy, &ripstop)
        } else {
            one(case, envoy, ripstop)
        };
        for complaint in complaints {
            let request = &envoy.request;
            let what = request.raw.as_deref().unwrap_or(&request.request);
            let why = match request.why.as_str() {
                "" => String::new(),
                why => format!(" ({why})"),
            };
            report.push_str(&format!(
                "{} {} {what:?}{why}: {complaint}\n",
                case.name, envoy.at
            ));
        }
    }
    report
}

/// Rows of the closed list that no case needs any more: a list that only grows is not closed.
pub(crate) fn unused(cases: &[Case]) -> String {
    let steps = cases.iter().flat_map(|case| &case.steps);
    let used: Vec<&str> = steps
        .flat_map(|step| step.requests())
        .filter_map(|request| Some(request.differs.as_ref()?.by.as_str()))
        .collect();
    BEHAVIOUR
        .iter()
        .filter(|(id, _)| !used.contains(id))
        .map(|(id, _)| format!("differences.rs: no case differs by {id}; remove the row\n"))
        .collect()
}

/// What Envoy did, for the author of a case.
pub(crate) fn show(case: &Case, envoy: &Outcome) -> String {
    let mut text = format!("== {}\n", case.name);
    for (name, value) in &envoy.counters {
        text.push_str(&format!("   {name}: {value:?}\n"));
    }
    for played in &envoy.played {
        let what = played
            .request
            .raw
            .as_deref()
            .unwrap_or(&played.request.request);
        text.push_str(&format!("-- {} {what:?} in {:?}\n", played.at, played.took));
        text.push_str(&describe(case, played, false).join("\n"));
        text.push('\n');
    }
    text
}

fn one(case: &Case, envoy: &Played, ripstop: &Played) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = match envoy.request.expect.as_str() {
        Some(text) => text.to_owned(),
        None => envoy.request.expect.to_string(),
    };
    let only_status = envoy.request.only_status;
    let brief = |played: &Played| {
        if only_status {
            status(played)
        } else {
            brief(played)
        }
    };
    let loose = envoy.request.loose;
    if !loose && expected != "any" && brief(envoy) != expected {
        wrong.push(format!(
            "the case expects `{expected}`, Envoy did `{}`\n{}",
            brief(envoy),
            indent(&describe(case, envoy, false))
        ));
    }
    if let Some(differs) = &envoy.request.differs {
        if loose {
            return wrong;
        }
        assert!(
            BEHAVIOUR.iter().any(|(id, _)| *id == differs.by),
            "`{}` is not in the closed list",
            differs.by
        );
        if brief(ripstop) != differs.ripstop {
            wrong.push(format!(
                "ripstop should differ by {} with `{}`, and did `{}`\n{}",
                differs.by,
                differs.ripstop,
                brief(ripstop),
                indent(&describe(case, ripstop, true))
            ));
        }
        return wrong;
    }
    if let Some((least, most)) = envoy.request.takes.filter(|_| !loose) {
        for (who, played) in [("Envoy", envoy), ("ripstop", ripstop)] {
            let bounds = Duration::from_secs_f64(least)..=Duration::from_secs_f64(most);
            if !bounds.contains(&played.took) {
                wrong.push(format!(
                    "{who} took {:?}, not {least} to {most} s",
                    played.took
                ));
            }
        }
    }
    if only_status {
        if brief(envoy) != brief(ripstop) {
            wrong.push(format!(
                "Envoy `{}`, ripstop `{}`",
                brief(envoy),
                brief(ripstop)
            ));
        }
        return wrong;
    }
    let (mut theirs, ours) = (describe(case, envoy, false), describe(case, ripstop, true));
    for row in ONLY_ENVOY.iter().filter(|row| (row.to)(&envoy.request)) {
        let line = format!("< {}", row.header);
        theirs.retain(|other| *other != line || ours.contains(&line));
    }
    if theirs != ours {
        wrong.push(format!("\n{}", difference(&theirs, &ours)));
    }
    wrong
}

/// The shares of the kinds of answers.
fn shares(envoy: &[&Played], ripstop: &[&Played]) -> Vec<String> {
    let request: &Request = &envoy[0].request;
    let mut wrong: Vec<String> = differ(request, envoy, ripstop).into_iter().collect();
    let theirs = kinds(request, envoy);
    if request.loose {
        return wrong;
    }
    let expected = request
        .expect
        .as_object()
        .expect("shares are expected as a mapping");
    for (kind, expected) in expected {
        let expected = expected.as_u64().expect("a count") as usize;
        let found = theirs.get(kind).copied().unwrap_or(0);
        if found.abs_diff(expected) as f64 > tolerance(request, envoy) {
            wrong.push(format!(
                "the case expects {expected} of `{kind}`, Envoy did {theirs:?}"
            ));
        }
    }
    wrong
}

fn tolerance(request: &Request, all: &[&Played]) -> f64 {
    request.tolerance.unwrap_or(0.0) / 100.0 * all.len() as f64
}

fn kinds(request: &Request, all: &[&Played]) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for played in all {
        let kind = if request.only_status {
            status(played)
        } else {
            brief(played)
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// What is said of shares that differ by more than the tolerance.
fn differ(request: &Request, one: &[&Played], other: &[&Played]) -> Option<String> {
    let (one, other, most) = (
        kinds(request, one),
        kinds(request, other),
        tolerance(request, one),
    );
    let of =
        |counts: &BTreeMap<String, usize>, kind: &String| counts.get(kind).copied().unwrap_or(0);
    one.keys()
        .chain(other.keys())
        .any(|kind| of(&one, kind).abs_diff(of(&other, kind)) as f64 > most)
        .then(|| format!("Envoy {one:?}, ripstop {other:?}"))
}

/// By step of a case: whether a variant of it changed what Envoy did.
pub(crate) fn changes(
    case: &Case,
    original: &Outcome,
    variant: &Case,
    changed: &Outcome,
) -> Vec<bool> {
    let step = |played: &Played| played.at.split('.').next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    let counters = |outcome: &Outcome| -> Vec<Option<u64>> {
        outcome.counters.iter().map(|(_, value)| *value).collect()
    };
    let (before, after) = (counters(original), counters(changed));
    if before.len() == after.len() && !before.is_empty() {
        found.push(before != after);
    }
    let mut rest = original.played.iter().zip(&changed.played).peekable();
    while let Some(first) = rest.next() {
        let mut pairs = vec![first];
        while let Some(pair) = rest.next_if(|(next, _)| step(next) == step(first.0)) {
            pairs.push(pair);
        }
        let request = &first.0.request;
        found.push(if request.tolerance.is_some() {
            let (before, after): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let loose = Request {
                loose: true,
                ..request.clone()
            };
            differ(&loose, &before, &after).is_some()
        } else {
            let late = |played: &Played| match request.takes {
                Some((least, most)) => {
                    let took = played.took.as_secs_f64();
                    took < least || took > most
                }
                None => false,
            };
            pairs.into_iter().any(|(before, after)| {
                let same = if request.only_status {
                    status(before) == status(after)
                } else {
                    describe(case, before, false) == describe(variant, after, false)
                };
                !same || late(after)
            })
        });
    }
    found
}

/// `200 a b`.
fn brief(played: &Played) -> String {
    let mut text = status(played);
    for seen in &played.seen {
        text.push(' ');
        text.push_str(&seen.upstream);
    }
    text
}

fn status(played: &Played) -> String {
    match &played.answer {
        Ok(answer) if answer.cut => format!("{} cut", answer.status()),
        Ok(answer) => answer.status().to_owned(),
        Err(std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => {
            "closed".into()
        }
        Err(kind) => format!("{kind:?}"),
    }
}

/// Everything that is compared, a line each.
fn describe(case: &Case, played: &Played, ripstop: bool) -> Vec<String> {
    let mut lines = Vec::new();
    match &played.answer {
        Err(_) => lines.push(status(played)),
        Ok(answer) => {
            let answer = match ripstop {
                true => &without_limit(answer),
                false => answer,
            };
            let interim = answer.interim.iter().filter(|line| line.contains(" 100"));
            lines.extend(interim.map(|line| format!("< {}", status_line(line))));
            lines.push(format!("< {}", status_line(&answer.line)));
            lines.extend(
                normalised(&answer.headers, ripstop)
                    .iter()
                    .map(|line| format!("< {line}")),
            );
            lines.push(format!(
                "< body {:?}",
                String::from_utf8_lossy(&answer.body)
            ));
            for line in normalised(&answer.trailers, ripstop) {
                lines.push(format!("< trailer {line}"));
            }
            if answer.cut {
                lines.push("< cut short".to_owned());
            }
        }
    }
    if let Some(tunnel) = &played.tunnel {
        lines.push(format!("< tunnel {:?}", String::from_utf8_lossy(tunnel)));
    }
    for (index, seen) in played.seen.iter().enumerate() {
        let to = &seen.upstream;
        lines.push(format!("{to}> {}", seen.line));
        // What is left of the time is told to every attempt; after the first one it is measured.
        let again = played.seen[..index]
            .iter()
            .any(|before| before.line == seen.line);
        lines.extend(
            normalised(&seen.headers, ripstop)
                .iter()
                .filter(|line| !again || !line.starts_with("x-envoy-expected-rq-timeout-ms: "))
                .map(|line| format!("{to}> {line}")),
        );
        if !seen.body.is_empty() {
            lines.push(format!(
                "{to}> body {:?}",
                String::from_utf8_lossy(&seen.body)
            ));
        }
        for line in normalised(&seen.trailers, ripstop) {
            lines.push(format!("{to}> trailer {line}"));
        }
    }
    lines.iter().map(|line| case.neutral(line)).collect()
}

/// Both, the lines of only one of them marked.
fn difference(envoy: &[String], ripstop: &[String]) -> String {
    let mut text = String::new();
    let mut rest: Vec<&String> = ripstop.iter().collect();
    for line in envoy {
        match rest.iter().position(|other| *other == line) {
            Some(at) => {
                rest.remove(at);
            }
            None => text.push_str(&format!("    Envoy    {line}\n")),
        }
    }
    for line in rest {
        text.push_str(&format!("    ripstop  {line}\n"));
    }
    if text.is_empty() {
        text.push_str(&format!(
            "    only the order: Envoy {envoy:?}\n    ripstop {ripstop:?}\n"
        ));
    }
    text
}

fn indent(lines: &[String]) -> String {
    lines.iter().map(|line| format!("    {line}\n")).collect()
}
