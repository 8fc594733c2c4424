//! The edge's recorder: one thread that takes tapped packets and what rooms tell, and writes the spool's files; and the task that uploads them.
//!
//! What is decided here: nothing but when to call whom. Rooms say what is recorded (`meridian-conference`), `meridian-recorder` what is written, `meridian-spool`
//! where it goes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_conference::Recorded;
use meridian_recorder::track::TrackPacket;
use meridian_recorder::{Output, Recording, RecordingId, TrackInfo, WallMs};
use meridian_room::RoomName;
use meridian_serving::metrics::head;
use meridian_sfu::{Layer, SenderReportInfo, TrackId};
use meridian_shard::{Command, TapBatch};
use meridian_spool::{RecordingFiles, RecordingSettings, Spool, SpoolError, Status, StoreError, Uploader, WakeUp};
use tokio::sync::{mpsc, oneshot};

use crate::clock::unix_now_ms;

/// What rooms tell, and sender reports, that may wait for the recorder. A disk that stands still for longer costs what comes then, counted.
const NEWS: usize = 16_384;
/// Holes, silent tracks and pieces of manifests are looked after this often: what waits for them waits for most of a second anyway, and asking every
/// track when it is due would cost more than the packets of a batch.
const TICK: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the recorder's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

enum News {
    Room(RoomName, Recorded),
    SenderReport(TrackId, SenderReportInfo),
}

/// The way to the recorder, from rooms and media events. Never waits.
pub(crate) struct RecorderHandle {
    news: Option<mpsc::Sender<News>>,
    pub(crate) status: Arc<Status>,
    pub(crate) news_lost: AtomicU64,
}

/// A recorder that has its folder and its store, and waits to be run.
pub(crate) struct Recorder {
    news: mpsc::Receiver<News>,
    spool: Spool,
    uploader: Uploader,
}

impl RecorderHandle {
    /// # Errors
    /// When the store or the spool cannot be used as configured.
    pub(crate) fn new(settings: &RecordingSettings) -> Result<(RecorderHandle, Option<Recorder>), RecorderError> {
        let status = Arc::new(Status::default());
        let mut handle = RecorderHandle {
            news: None,
            status: status.clone(),
            news_lost: AtomicU64::new(0),
        };
        if !settings.is_on() {
            return Ok((handle, None));
        }
        let wake = WakeUp::default();
        let spool = Spool::open(&settings.spool, settings.spool_bytes_max, status.clone(), wake.clone())?;
        let uploader = Uploader::new(settings, status, wake)?;
        let (sender, news) = mpsc::channel(NEWS);
        handle.news = Some(sender);
        let recorder = Recorder { news, spool, uploader };
        Ok((handle, Some(recorder)))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.news.is_some()
    }

    pub(crate) fn room(&self, room: &RoomName, recorded: Recorded) {
        self.tell(News::Room(room.clone(), recorded));
    }

    pub(crate) fn sender_report(&self, track: TrackId, report: SenderReportInfo) {
        self.tell(News::SenderReport(track, report));
    }

    pub(crate) fn render_metrics(&self, text: &mut String) {
        let status = &self.status;
        let counters = [
            ("uploaded_files", "Files that the store has.", &status.uploaded_files),
            ("uploaded_bytes", "Bytes of them.", &status.uploaded_bytes),
            (
                "upload_failures",
                "Attempts that failed; each is repeated.",
                &status.upload_failures,
            ),
            (
                "lost_segments",
                "Segments the disk or the spool's limit refused.",
                &status.lost_segments,
            ),
            (
                "salvaged_files",
                "Files kept that a crash had left open.",
                &status.salvaged_files,
            ),
            (
                "news_lost",
                "What rooms told while the recorder was behind.",
                &self.news_lost,
            ),
        ];
        for (name, help, value) in counters {
            let name = format!("meridian_recording_{name}_total");
            head(text, &name, "counter", help);
            let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
        }
        let gauges = [
            (
                "spooled_bytes",
                "Bytes on disk that the store does not have.",
                status.spooled_bytes.load(Ordering::Relaxed),
            ),
            (
                "in_trouble",
                "1 while something keeps recordings from being whole or stored.",
                u64::from(status.trouble().is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let name = format!("meridian_recording_{name}");
            head(text, &name, "gauge", help);
            let _ = writeln!(text, "{name} {value}");
        }
    }

    fn tell(&self, news: News) {
        if let Some(sender) = &self.news
            && sender.try_send(news).is_err()
        {
            self.news_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Recorder {
    /// Starts the thread, which ends when the last of the senders of `taps` is gone; the uploads are for a task of their own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        self,
        node: String,
        taps: mpsc::Receiver<TapBatch>,
        shards: impl Fn(Command) + Send + 'static,
    ) -> io::Result<Uploads> {
        let (written, all_written) = oneshot::channel::<Infallible>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let writer = Writer {
            node,
            spool: self.spool,
            shards,
            rooms: HashMap::new(),
            tracks: HashMap::new(),
            parts: 0,
        };
        std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let _written = written;
            runtime.block_on(writer.run(self.news, taps));
        })?;
        Ok(Uploads {
            uploader: self.uploader,
            all_written,
        })
    }
}

/// Sends the spool's files to the store.
pub(crate) struct Uploads {
    uploader: Uploader,
    /// Ends, unanswered, when the recorder's thread has.
    all_written: oneshot::Receiver<Infallible>,
}

impl Uploads {
    /// Runs until the recorder has ended and what it wrote last is in the store, or cannot be got there now: the next start sends it.
    pub(crate) async fn run(self) {
        tokio::select! {
            () = self.uploader.run() => {}
            _ = self.all_written => {}
        }
        if let Err(error) = self.uploader.round().await {
            tracing::warn!(%error, "recordings stay in the spool until this edge runs again");
        }
    }
}

struct Room {
    recording: Recording,
    files: RecordingFiles,
}

struct Writer<S> {
    node: String,
    spool: Spool,
    shards: S,
    rooms: HashMap<RoomName, Room>,
    tracks: HashMap<TrackId, RoomName>,
    /// Recordings begun by this process: part of their names, so that none is ever used twice.
    parts: u32,
}

impl<S: Fn(Command)> Writer<S> {
    async fn run(mut self, mut news: mpsc::Receiver<News>, mut taps: mpsc::Receiver<TapBatch>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Packets last: there may always be more of them.
                biased;
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => break,
                },
                _ = tick.tick() => self.each(|recording, files, now, wall| {
                    recording.handle_timeout(now, wall);
                    files.handle_timeout(now);
                }),
                batch = taps.recv() => match batch {
                    Some(batch) => self.take(batch),
                    None => break,
                },
            }
        }
        // The edge has stopped: what stands in memory is written.
        self.each(|recording, _, now, wall| recording.finish(now, wall));
    }

    fn take(&mut self, batch: TapBatch) {
        let (now, wall) = (Instant::now(), wall());
        for tapped in batch.packets {
            let Some(room) = self.tracks.get(&tapped.track).and_then(|name| self.rooms.get_mut(name)) else {
                continue;
            };
            let packet = TrackPacket {
                packet: tapped.packet,
                live: tapped.live,
            };
            room.recording.packet(now, wall, tapped.track, packet);
            room.write(now, &self.shards);
        }
    }

    fn each(&mut self, f: impl Fn(&mut Recording, &mut RecordingFiles, Instant, WallMs)) {
        let (now, wall) = (Instant::now(), wall());
        for room in self.rooms.values_mut() {
            f(&mut room.recording, &mut room.files, now, wall);
            room.write(now, &self.shards);
        }
    }

    fn hear(&mut self, news: News) {
        let (now, wall) = (Instant::now(), wall());
        let name = match &news {
            News::Room(name, Recorded::Begin { id }) => return self.begin(now, wall, name, id),
            News::Room(name, _) => name.clone(),
            News::SenderReport(track, _) => match self.tracks.get(track) {
                Some(name) => name.clone(),
                None => return,
            },
        };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let recording = &mut room.recording;
        match news {
            News::SenderReport(track, report) => recording.sender_report(wall, track, report),
            News::Room(_, Recorded::Begin { .. }) => {}
            News::Room(_, Recorded::End) => {
                recording.finish(now, wall);
                room.write(now, &self.shards);
                self.rooms.remove(&name);
                self.tracks.retain(|_, held| *held != name);
                tracing::info!(room = %name, "recording ended");
                return;
            }
            News::Room(
                _,
                Recorded::Joined {
                    participant,
                    identity,
                    name,
                },
            ) => recording.joined(wall, &participant, &identity, &name),
            News::Room(_, Recorded::Left { participant }) => recording.left(wall, &participant),
            News::Room(
                _,
                Recorded::Track {
                    id,
                    sid,
                    participant,
                    source,
                    codec,
                },
            ) => {
                let source = source.to_owned();
                let info = TrackInfo {
                    id,
                    sid,
                    participant,
                    source,
                    codec,
                };
                if recording.track_added(wall, info) {
                    self.tracks.insert(id, name.clone());
                } else {
                    tracing::warn!(room = %name, ?codec, "a track is not recorded: its codec cannot be, or there are too many");
                }
            }
            News::Room(_, Recorded::TrackEnded { id }) => {
                recording.track_removed(now, wall, id);
                self.tracks.remove(&id);
            }
            News::Room(_, Recorded::Muted { id, muted }) => recording.muted(wall, id, muted),
            News::Room(_, Recorded::Speaking(participants)) => recording.speaking(wall, participants),
        }
        room.write(now, &self.shards);
    }

    fn begin(&mut self, now: Instant, wall: WallMs, name: &RoomName, id: &str) {
        let id = match RecordingId::new(id) {
            Ok(id) => id,
            Err(error) => return tracing::warn!(room = %name, %error, "not recorded"),
        };
        let part = format!("{}-{}-{}", self.node, wall.0, self.parts);
        let mut room = Room {
            recording: Recording::new(&id, name.as_str(), &self.node, self.parts, wall),
            files: self.spool.begin(&id, &part),
        };
        self.parts += 1;
        room.write(now, &self.shards);
        self.rooms.insert(name.clone(), room);
        tracing::info!(room = %name, recording = id.as_str(), "recording");
    }
}

impl Room {
    fn write(&mut self, now: Instant, shards: &impl Fn(Command)) {
        for output in self.recording.drain() {
            if let Output::KeyframeWanted { track, layer } = output {
                ask(shards, track, layer);
            } else {
                self.files.apply(now, output);
            }
        }
    }
}

fn ask(shards: &impl Fn(Command), track: TrackId, layer: Layer) {
    shards(Command::RequestKeyframe { track, layer });
}

fn wall() -> WallMs {
    WallMs(i64::try_from(unix_now_ms()).unwrap_or(i64::MAX))
}
