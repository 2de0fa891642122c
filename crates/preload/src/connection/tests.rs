use super::*;

const SLOTS: u32 = 64;

/// A process with a table, without the calls.
struct Process {
    words: Vec<AtomicU32>,
    of: Vec<Connection>,
    generations: AtomicU32,
    silent: AtomicBool,
}

impl Process {
    fn new() -> Process {
        serve(NOTHING);
        let mut words: Vec<u32> = vec![0; 16 + 32 * SLOTS as usize];
        words[0] = u32::from_le_bytes(*b"rips");
        words[1] = u32::from_le_bytes(*b"top1");
        (words[2], words[3]) = (SLOTS, 128);
        Process {
            words: words.into_iter().map(AtomicU32::new).collect(),
            of: (0..32).map(|_| Connection::default()).collect(),
            generations: AtomicU32::new(1),
            silent: AtomicBool::new(false),
        }
    }

    fn all(&self) -> Connections<'_> {
        // SAFETY: the words are this process's, as long as told.
        let table = unsafe { Table::new(self.words.as_ptr(), self.words.len() * 4) };
        Connections::new(
            &self.of,
            table.expect("of this format"),
            &self.generations,
            &self.silent,
        )
    }

    fn accept(&self, descriptor: i32) {
        self.all()
            .begin(descriptor, Kind::Inbound, 1, &ends(descriptor));
    }

    fn connect(&self, descriptor: i32) {
        self.all().opened(descriptor, 1, &ends(descriptor));
    }

    fn write(&self, descriptor: i32, start: &[u8; 3]) {
        self.all().write(descriptor, *start);
    }

    /// Which inbound connection the row of an outbound one names, and the bytes; `None`: nobody's, or no row.
    fn row(&self, outbound: i32) -> Option<(u32, u32)> {
        let read = |at: usize| self.words[at].load(Ordering::Relaxed);
        let mut rows = (0..SLOTS as usize).map(|slot| 16 + 32 * slot);
        let at = rows.find(|at| read(at + 1) != 0 && read(at + 12) == ends(outbound)[8])?;
        (read(at + 1) & 0xff == 2).then(|| (read(at + 24), read(at + 26)))
    }

    fn rows(&self) -> usize {
        let state = |slot: usize| self.words[16 + 32 * slot + 1].load(Ordering::Relaxed);
        (0..SLOTS as usize).filter(|slot| state(*slot) != 0).count()
    }
}

/// Told apart by the ports.
fn ends(descriptor: i32) -> Ends {
    [0, 0, 0, 1, 0, 0, 0, 2, descriptor as u32]
}

const GET: &[u8; 3] = b"GET";

#[test]
fn a_call_serves_what_its_thread_has_read_last() {
    let process = Process::new();
    process.accept(3);
    process.connect(4);
    process.all().read(3, 100);
    process.write(4, GET);
    assert_eq!(process.row(4), Some((3, 100)));
    // The answer ends it.
    process.all().read(4, 10);
    process.write(3, b"HTT");
    process.write(4, GET);
    assert_eq!((process.row(4), process.rows()), (None, 1));
    // The next request on the same connections.
    process.all().read(4, 10);
    process.all().read(3, 50);
    process.write(4, GET);
    assert_eq!(process.row(4), Some((3, 150)));
    process.all().end(4, || 1);
    assert_eq!(process.rows(), 0);
}

#[test]
fn another_thread_serves_nothing() {
    let process = Process::new();
    process.accept(3);
    process.connect(4);
    process.all().read(3, 100);
    std::thread::scope(|scope| {
        scope.spawn(|| process.write(4, GET));
    });
    assert_eq!(process.row(4), None);
    // In the middle of its request nobody takes the connection over.
    process.write(4, b"abc");
    assert_eq!(process.row(4), None);
}

#[test]
fn a_number_that_is_used_again_is_something_else() {
    let process = Process::new();
    process.accept(3);
    process.all().read(3, 100);
    process.all().end(3, || 1);
    process.accept(3);
    process.connect(4);
    process.write(4, GET);
    assert_eq!(process.row(4), None);
}

#[test]
fn what_is_not_http_1_keeps_the_row_that_it_was_opened_with() {
    let process = Process::new();
    process.accept(3);
    process.all().read(3, 100);
    for start in [b"PRI", b"\x16\x03\x01", b"get", &[0; 3]] {
        process.connect(4);
        process.write(4, start);
        process.all().read(3, 10);
        process.write(4, GET);
        assert_eq!(process.all().kind(4), Kind::Opaque);
        assert_eq!(process.row(4).map(|(inbound, _)| inbound), Some(3));
        process.all().end(4, || 1);
        assert_eq!(process.rows(), 0);
    }
    // Opened for nobody, it has none.
    process.write(3, b"HTT");
    process.connect(4);
    assert_eq!(process.rows(), 0);
}

#[test]
fn who_closes_a_copy_ends_nothing() {
    let process = Process::new();
    process.accept(3);
    process.connect(4);
    process.all().read(3, 100);
    process.write(4, GET);
    process.all().end(4, || 2);
    assert_eq!(process.row(4), Some((3, 100)));
}

#[test]
fn an_event_loop_silences_its_process() {
    type Act = fn(&Process);
    let acts: [(&str, Act); 4] = [
        ("epoll", |process| process.all().registered(3)),
        ("polled together", |process| {
            process.all().wait([3, 5].into_iter())
        }),
        ("a second request before the first is answered", |process| {
            process.all().read(5, 10);
        }),
        ("another request's answer", |process| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    process.accept(6);
                    process.connect(7);
                    process.all().read(6, 10);
                    process.write(7, GET);
                });
            });
            process.all().read(7, 10);
        }),
    ];
    for (name, act) in acts {
        let process = Process::new();
        process.accept(3);
        process.accept(5);
        process.connect(4);
        process.all().read(3, 100);
        act(&process);
        process.write(4, GET);
        assert_eq!(process.row(4), None, "{name}");
        assert!(process.all().is_silent(), "{name}");
    }
}

#[test]
fn waiting_for_one_socket_is_no_event_loop() {
    let process = Process::new();
    process.accept(3);
    process.connect(4);
    process.all().read(3, 100);
    // 9 is a pipe, say.
    process.all().wait([3, 9].into_iter());
    process.all().registered(4);
    process.write(4, GET);
    assert_eq!(process.row(4), Some((3, 100)));
}
