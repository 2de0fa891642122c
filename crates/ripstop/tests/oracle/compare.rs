//! What happened with Envoy and with ripstop → a report of every difference that the closed list does not allow.

use std::collections::BTreeMap;
use std::time::Duration;

use super::case::{Case, Request, Step};
use super::differences::{BEHAVIOUR, ONLY_ENVOY, normalised, status_line};
use super::exchange::Played;

/// Empty when all is well.
pub(crate) fn case(case: &Case, envoy: &[Played], ripstop: &[Played]) -> String {
    let mut report = String::new();
    let mut rest = envoy.iter().zip(ripstop).peekable();
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
            one(envoy, ripstop)
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
    let requests = |case: &Case| -> Vec<Request> {
        let steps = case.steps.iter().cloned();
        steps
            .flat_map(|step| match step {
                Step::Together(group) => group,
                Step::One(request) => vec![*request],
            })
            .collect()
    };
    let used: Vec<String> = cases
        .iter()
        .flat_map(requests)
        .filter_map(|request| Some(request.differs?.by))
        .collect();
    BEHAVIOUR
        .iter()
        .filter(|(id, _)| !used.iter().any(|by| by == id))
        .map(|(id, _)| format!("differences.rs: no case differs by {id}; remove the row\n"))
        .collect()
}

/// What Envoy did, for the author of a case.
pub(crate) fn show(case: &Case, envoy: &[Played]) -> String {
    let mut text = format!("== {}\n", case.name);
    for played in envoy {
        let what = played
            .request
            .raw
            .as_deref()
            .unwrap_or(&played.request.request);
        text.push_str(&format!("-- {} {what:?} in {:?}\n", played.at, played.took));
        text.push_str(&describe(played, false).join("\n"));
        text.push('\n');
    }
    text
}

fn one(envoy: &Played, ripstop: &Played) -> Vec<String> {
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
    if expected != "any" && brief(envoy) != expected {
        wrong.push(format!(
            "the case expects `{expected}`, Envoy did `{}`\n{}",
            brief(envoy),
            indent(&describe(envoy, false))
        ));
    }
    if let Some(differs) = &envoy.request.differs {
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
                indent(&describe(ripstop, true))
            ));
        }
        return wrong;
    }
    if let Some((least, most)) = envoy.request.takes {
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
    let (mut theirs, ours) = (describe(envoy, false), describe(ripstop, true));
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
    let tolerance = request.tolerance.unwrap_or(0.0) / 100.0 * envoy.len() as f64;
    let count = |all: &[&Played]| {
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
    };
    let (theirs, ours) = (count(envoy), count(ripstop));
    let far = |a: usize, b: usize| a.abs_diff(b) as f64 > tolerance;
    let mut wrong = Vec::new();
    let of =
        |counts: &BTreeMap<String, usize>, kind: &String| counts.get(kind).copied().unwrap_or(0);
    let mut kinds: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    kinds.sort();
    kinds.dedup();
    if kinds
        .iter()
        .any(|kind| far(of(&theirs, kind), of(&ours, kind)))
    {
        wrong.push(format!("Envoy {theirs:?}, ripstop {ours:?}"));
    }
    let expected = request
        .expect
        .as_object()
        .expect("shares are expected as a mapping");
    for (kind, expected) in expected {
        let expected = expected.as_u64().expect("a count") as usize;
        if far(of(&theirs, kind), expected) {
            wrong.push(format!(
                "the case expects {expected} of `{kind}`, Envoy did {theirs:?}"
            ));
        }
    }
    wrong
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
fn describe(played: &Played, ripstop: bool) -> Vec<String> {
    let mut lines = Vec::new();
    match &played.answer {
        Err(_) => lines.push(status(played)),
        Ok(answer) => {
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
            .any(|before| before.upstream == *to);
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
    lines
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
