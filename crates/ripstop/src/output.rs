//! What workloads write → whole lines on this process' output, each behind the name of its workload.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::console::Console;

/// A longer line is told in pieces, so that what an app writes without an end is bounded here.
const LONGEST: usize = 64 << 10;
/// Colours told apart on dark and light terminals: cyan, green, yellow, magenta, blue and their bright ones.
const COLOURS: [u8; 10] = [36, 32, 33, 35, 34, 96, 92, 93, 95, 94];

/// Where the lines go. Clones share it, so that lines never mix.
#[derive(Clone)]
pub(crate) struct Output {
    sink: Arc<Mutex<Box<dyn Write + Send>>>,
    styled: bool,
}

impl Output {
    pub(crate) fn stdout() -> Output {
        Output::new(Box::new(Console::Stdout), Console::Stdout.is_terminal())
    }

    pub(crate) fn stderr() -> Output {
        Output::new(Box::new(Console::Stderr), Console::Stderr.is_terminal())
    }

    pub(crate) fn file(file: std::fs::File) -> Output {
        Output::new(Box::new(file), false)
    }

    fn new(sink: Box<dyn Write + Send>, styled: bool) -> Output {
        Output {
            sink: Arc::new(Mutex::new(sink)),
            styled,
        }
    }

    /// Copies `from` until its end.
    pub(crate) async fn follow(self, name: String, mut from: impl AsyncRead + Unpin) {
        let mut lines = Lines::default();
        let mut scratch = vec![0; 8 << 10];
        while let Ok(length @ 1..) = from.read(&mut scratch).await {
            lines.feed(scratch.get(..length).unwrap_or_default());
            while let Some(line) = lines.next() {
                self.line(&name, &line);
            }
        }
        if let Some(line) = lines.rest() {
            self.line(&name, &line);
        }
    }

    /// Says something as `name`.
    pub(crate) fn line(&self, name: &str, line: &[u8]) {
        let mut text = Vec::with_capacity(line.len() + name.len() + 16);
        if self.styled {
            let place = name.bytes().fold(0usize, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(byte.into())
            });
            let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or(36);
            text.extend_from_slice(format!("\x1b[{colour}m{name} |\x1b[0m ").as_bytes());
        } else {
            text.extend_from_slice(format!("{name} | ").as_bytes());
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        self.write(&text);
    }

    fn write(&self, text: &[u8]) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pipe ends nobody's mesh.
        let _ = sink.write_all(text).and_then(|()| sink.flush());
    }
}

/// Bytes in, lines without their ends out.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let end = match self.pending.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.pending.len() >= LONGEST => LONGEST,
            None => return None,
        };
        let mut line: Vec<u8> = self.pending.drain(..end).collect();
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }

    fn rest(self) -> Option<Vec<u8>> {
        (!self.pending.is_empty()).then_some(self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn followed(styled: bool, bytes: &[u8]) -> String {
        let sink = Sink::default();
        Output::new(Box::new(sink.clone()), styled)
            .follow("users-v1-0".into(), bytes)
            .await;
        let written = sink.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[tokio::test]
    async fn lines_carry_their_name() {
        assert_eq!(
            followed(false, b"a\r\n\nlast").await,
            "users-v1-0 | a\nusers-v1-0 | \nusers-v1-0 | last\n"
        );
        assert!(followed(true, b"a\n").await.starts_with("\x1b["));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_bounded() {
        let long = vec![b'x'; LONGEST * 2 + 1];
        assert_eq!(followed(false, &long).await.lines().count(), 3);
    }
}
