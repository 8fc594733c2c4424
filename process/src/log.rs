//! Where log lines go: to a descriptor that may be full, closed or stuck, by way of a thread of their own. Whoever logs neither waits
//! nor fails. Lines that cannot be written are dropped and counted, and the count is told once lines can be written again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may wait for the descriptor: seconds of a busy role at `debug`.
const WAITING_MAX: usize = 4 << 20;
/// What one line may take; a longer one is cut, or dropped where a part of it would not be JSON.
const LINE_MAX: usize = 64 << 10;
/// By how much a cut line may be longer: its last character, what marks the cut, the end.
const MARKS: usize = 16;
/// A descriptor that is merely full for the moment (a pipe that somebody has made non-blocking) is asked again after this long.
const AGAIN: Duration = Duration::from_millis(20);
/// How often at most a loss is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Lines dropped since the process began.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Log lines of this process that could not be written, since it began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Appends what was counted to `text`, in the Prometheus text format (version 0.0.4).
pub fn render_metrics(text: &mut String) {
    let name = "meridian_log_lines_dropped_total";
    let help = "Log lines that could not be written: the disk is full, or nobody reads them.";
    text.push_str(&format!(
        "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n",
        dropped()
    ));
}

/// What a line may hold besides text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line of text for each event: control characters within it, which strangers may have put there, are escaped.
    Text,
    /// Text with colours, for a terminal: the formatter's own escape sequences stay, and it escapes those of strangers.
    Coloured,
    /// JSON escapes by itself.
    Json,
}

/// Takes lines, each in one `write`. Clones write to the same descriptor.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
    format: Format,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something waits, or nothing does any more.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread has taken lines that it has not written yet.
    writing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Starts the thread that writes to `out`. It ends with the process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(out: impl Write + Send + 'static, format: Format) -> io::Result<Sink> {
        let shared = Arc::new(Shared::default());
        let sink = Sink {
            shared: shared.clone(),
            format,
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&shared, out))?;
        Ok(sink)
    }

    /// Waits until everything is written or dropped, but no longer than `at_most`: for the end of the process.
    pub fn flush(&self, at_most: Duration) {
        let queue = self.shared.lock();
        let busy = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        drop(self.shared.changed.wait_timeout_while(queue, at_most, busy));
    }
}

impl Write for Sink {
    /// Never fails and never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let entry = match self.format {
            Format::Json => line.to_owned(),
            Format::Text => tidy(line, |_| false),
            Format::Coloured => tidy(line, |character| character == '\u{1b}'),
        };
        let mut queue = self.shared.lock();
        if entry.len() > LINE_MAX + MARKS || queue.bytes + entry.len() > WAITING_MAX {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.bytes += entry.len();
            queue.lines.push_back(entry);
            self.shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line as it is written: of bounded length, ended once, nothing in it that a terminal would obey unless the formatter wrote it.
fn tidy(line: &[u8], formatted: impl Fn(char) -> bool) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if out.len() >= LINE_MAX {
            out.push('…');
            break;
        }
        match character.is_control() && !formatted(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out.push('\n');
    out.into_bytes()
}

fn write_lines(shared: &Shared, mut out: impl Write) {
    let mut told = (0, None::<Instant>);
    loop {
        let mut queue = shared.lock();
        queue.writing = false;
        shared.changed.notify_all();
        queue = shared
            .changed
            .wait_while(queue, |queue| queue.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut queue.lines);
        queue.writing = true;
        drop(queue);
        let mut written = false;
        for line in lines {
            match write_whole(&mut out, &line) {
                Ok(()) => written = true,
                Err(_) => drop(DROPPED.fetch_add(1, Ordering::Relaxed)),
            }
            shared.lock().bytes -= line.len();
        }
        let lost = dropped();
        if written && lost != told.0 && told.1.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            tracing::warn!(
                lines = lost - told.0,
                "log lines were lost: the log could not be written"
            );
            told = (lost, Some(Instant::now()));
        }
    }
}

fn write_whole(out: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Passes each write on and lets the test say what comes of it.
    struct Scripted {
        asked: mpsc::Sender<String>,
        outcome: mpsc::Receiver<io::Result<usize>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(String::from_utf8_lossy(bytes).into_owned());
            self.outcome.recv().unwrap_or(Ok(bytes.len()))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Sink, mpsc::Receiver<String>, mpsc::Sender<io::Result<usize>>) {
        let (asked, asks) = mpsc::channel();
        let (answer, outcome) = mpsc::channel();
        let sink = Sink::start(Scripted { asked, outcome }, Format::Text).unwrap();
        (sink, asks, answer)
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_later_ones_are_written() {
        let (mut sink, asks, answer) = scripted();
        let before = dropped();
        writeln!(sink, "one").unwrap();
        assert_eq!(asks.recv().unwrap(), "one\n");
        answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        writeln!(sink, "two").unwrap();
        assert_eq!(asks.recv().unwrap(), "two\n");
        answer.send(Ok(2)).unwrap();
        assert_eq!(asks.recv().unwrap(), "o\n", "what is left of it");
        answer.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        assert_eq!(asks.recv().unwrap(), "o\n", "a moment later, again");
        answer.send(Ok(2)).unwrap();
        sink.flush(Duration::from_secs(10));
        assert!(dropped() > before);
    }

    #[test]
    fn a_sink_that_is_stuck_holds_nobody_up_and_takes_bounded_memory() {
        let (mut sink, asks, answer) = scripted();
        let before = dropped();
        let line = "x".repeat(LINE_MAX / 2);
        writeln!(sink, "{line}").unwrap();
        asks.recv().unwrap();
        for _ in 0..2 * WAITING_MAX / line.len() {
            writeln!(sink, "{line}").unwrap();
        }
        assert!(dropped() - before >= (WAITING_MAX / line.len()) as u64);
        assert!(sink.shared.lock().bytes <= WAITING_MAX);
        drop(answer);
        sink.flush(Duration::from_secs(10));
        assert_eq!(sink.shared.lock().bytes, 0, "all written once it goes on");
    }

    #[test]
    fn a_stranger_can_neither_begin_a_line_nor_speak_to_the_terminal() {
        let bad = b"name=\"a\nINFO all is well\r\x1b[2J\x07\" \xff\xc2\x9b";
        let text = String::from_utf8(tidy(bad, |_| false)).unwrap();
        assert_eq!(
            text,
            "name=\"a\\nINFO all is well\\r\\u{1b}[2J\\u{7}\" \u{fffd}\\u{9b}\n"
        );
        let coloured = String::from_utf8(tidy(b"\x1b[1mINFO\x1b[0m a\nb\n", |c| c == '\u{1b}')).unwrap();
        assert_eq!(coloured, "\x1b[1mINFO\x1b[0m a\\nb\n");
        let long = tidy("é".repeat(LINE_MAX).as_bytes(), |_| false);
        assert!(long.len() <= LINE_MAX + MARKS && long.ends_with("…\n".as_bytes()));
    }
}
