//! Figures and their bars → lines as they are measured, and at the end the bars once more.

use std::path::Path;
use std::process::Command;

/// What a figure has to stay below.
pub(super) struct Bar {
    pub(super) text: &'static str,
    pub(super) met: bool,
}

#[derive(Default)]
pub(super) struct Report {
    judged: Vec<String>,
}

impl Report {
    pub(super) fn start(ripstop: &Path) -> Report {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        println!("binary     {}", ripstop.display());
        println!("machine    {}, {cpus} CPUs", output("uname", &["-srm"]));
        println!("date       {}", output("date", &["-u", "+%F %R UTC"]));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        println!("load       {load} before anything was started");
        Report::default()
    }

    pub(super) fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// A figure, and the bar it is measured by where there is one.
    pub(super) fn figure(&mut self, what: &str, figure: &str, bar: Option<Bar>) {
        match bar {
            None => println!("  {what:<52} {figure}"),
            Some(bar) => println!("{}", self.judged(what, figure, &bar)),
        }
    }

    /// A figure that a table has shown already: it appears among the bars only.
    pub(super) fn judge(&mut self, what: &str, figure: &str, bar: &Bar) {
        self.judged(what, figure, bar);
    }

    fn judged(&mut self, what: &str, figure: &str, bar: &Bar) -> String {
        let met = if bar.met { "met" } else { "MISSED" };
        let line = format!("  {what:<52} {figure:<38} bar: {}: {met}", bar.text);
        self.judged.push(line.clone());
        line
    }

    pub(super) fn end(&self) {
        if !self.judged.is_empty() {
            println!("\nbars");
        }
        for line in &self.judged {
            println!("{line}");
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("{program}: {error}"),
    }
}
