//! The recorder and its files, as an edge runs them, in one thread whose CPU time is measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use meridian_recorder::track::TrackPacket;
use meridian_recorder::{Output, Recording, RecordingId, TrackInfo, WallMs};
use meridian_sfu::{LayerSet, TrackId};
use meridian_shard::{TapBatch, Tapped};
use meridian_spool::{RecordingFiles, Spool, Status, WakeUp};
use tokio::sync::mpsc;

use super::media::{Kind, Source};

/// More than is written here; the disk is the limit.
const SPOOL_BYTES: u64 = 64 << 30;

/// Packets made at a time: few, so that they come out of the cache as they do on an edge, where they have just been decrypted.
const CHUNK: u64 = 300;

pub(super) struct Recorder {
    recording: Recording,
    files: RecordingFiles,
    status: Arc<Status>,
    pub(super) frames: u64,
    started: Instant,
}

impl Recorder {
    pub(super) fn new(folder: &Path, tracks: &[Kind]) -> anyhow::Result<Recorder> {
        let id = RecordingId::new("bench")?;
        let status = Arc::new(Status::default());
        let spool = Spool::open(folder, SPOOL_BYTES, status.clone(), WakeUp::default())?;
        let mut recording = Recording::new(&id, "bench", "edge", 0, WallMs(0));
        for (index, kind) in tracks.iter().enumerate() {
            let info = TrackInfo {
                id: TrackId(index as u64),
                sid: format!("TR_{index}"),
                participant: format!("PA_{index}"),
                source: "camera".into(),
                codec: kind.codec(),
            };
            ensure!(recording.track_added(WallMs(0), info), "track {index} was refused");
        }
        Ok(Recorder {
            recording,
            files: spool.begin(&id, "part"),
            status,
            frames: 0,
            started: Instant::now(),
        })
    }

    pub(super) fn take(&mut self, now: Instant, tapped: Tapped) {
        let Tapped {
            track, live, packet, ..
        } = tapped;
        let wall = self.wall(now);
        self.recording.packet(now, wall, track, TrackPacket { packet, live });
        self.write(now);
    }

    pub(super) fn finish(&mut self, now: Instant) -> anyhow::Result<()> {
        let wall = self.wall(now);
        self.recording.finish(now, wall);
        self.write(now);
        let lost = self.status.lost_segments.load(Ordering::Relaxed);
        ensure!(lost == 0, "{lost} segments were lost: {:?}", self.status.trouble());
        Ok(())
    }

    fn write(&mut self, now: Instant) {
        for output in self.recording.drain() {
            if let Output::Close { entry, .. } = &output {
                self.frames += u64::from(entry.frames);
            }
            self.files.apply(now, output);
        }
    }

    fn wall(&self, now: Instant) -> WallMs {
        WallMs(now.saturating_duration_since(self.started).as_millis() as i64)
    }
}

/// One camera, so many packets as fast as they go: CPU time of recording them all, and bytes written.
pub(super) fn copy(folder: &Path, packets: u64) -> anyhow::Result<Duration> {
    let mut recorder = Recorder::new(folder, &[Kind::Camera])?;
    let mut source = Source::new(Kind::Camera);
    let mut now = Instant::now();
    let mut spent = Duration::ZERO;
    let a_frame = Kind::Camera.packets_a_frame();
    for _ in 0..packets.div_ceil(CHUNK) {
        let chunk: Vec<Tapped> = (0..CHUNK)
            .map(|_| tapped(0, &mut source, now))
            .collect::<Result<_, _>>()?;
        let before = cpu()?;
        for (index, tapped) in chunk.into_iter().enumerate() {
            if (index as u64).is_multiple_of(a_frame) {
                now += Kind::Camera.frame_interval();
            }
            recorder.take(now, tapped);
        }
        spent += cpu()? - before;
    }
    let before = cpu()?;
    recorder.finish(now)?;
    spent += cpu()? - before;
    let expected = packets.div_ceil(CHUNK) * CHUNK / a_frame;
    ensure!(
        recorder.frames == expected,
        "{} of {expected} frames were recorded",
        recorder.frames
    );
    Ok(spent)
}

pub(super) struct Live {
    pub(super) packets: u64,
    pub(super) dropped: u64,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

/// Many tracks at the pace of real people, handed over as a media thread does.
pub(super) fn live(folder: &Path, tracks: usize, length: Duration) -> anyhow::Result<Live> {
    let kinds: Vec<Kind> = (0..tracks)
        .map(|index| if index % 2 == 0 { Kind::Camera } else { Kind::Microphone })
        .collect();
    let mut recorder = Recorder::new(folder, &kinds)?;
    let (sender, mut receiver) = mpsc::channel::<TapBatch>(4_096);
    let writer = std::thread::spawn(move || -> anyhow::Result<(Duration, u64)> {
        let before = cpu()?;
        while let Some(batch) = receiver.blocking_recv() {
            let now = Instant::now();
            batch.packets.into_iter().for_each(|tapped| recorder.take(now, tapped));
        }
        recorder.finish(Instant::now())?;
        Ok((cpu()? - before, recorder.frames))
    });
    let started = Instant::now();
    let (mut packets, mut frames, mut dropped) = (0u64, 0u64, 0u64);
    let mut sources: Vec<Source> = kinds.iter().map(|kind| Source::new(*kind)).collect();
    let mut due: Vec<Instant> = (0..tracks)
        .map(|index| started + Duration::from_micros(80 * index as u64))
        .collect();
    while started.elapsed() < length {
        let now = Instant::now();
        let mut batch = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            if due[index] > now {
                continue;
            }
            due[index] += kind.frame_interval();
            frames += 1;
            for _ in 0..kind.packets_a_frame() {
                batch.push(tapped(index as u64, &mut sources[index], now)?);
            }
        }
        packets += batch.len() as u64;
        let count = batch.len() as u64;
        if count > 0 && sender.try_send(TapBatch { packets: batch }).is_err() {
            dropped += count;
        }
        let next = due.iter().min().copied().unwrap_or(now);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let elapsed = started.elapsed();
    drop(sender);
    let (cpu, recorded) = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(
        dropped > 0 || recorded == frames,
        "{recorded} of {frames} frames were recorded"
    );
    Ok(Live {
        packets,
        dropped,
        cpu,
        elapsed,
    })
}

fn tapped(track: u64, source: &mut Source, arrival: Instant) -> anyhow::Result<Tapped> {
    let packet = source.next(arrival)?;
    Ok(Tapped {
        track: TrackId(track),
        layer: packet.layer,
        live: LayerSet(1),
        packet,
    })
}

/// What this thread has spent on a CPU.
fn cpu() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().and_then(|text| text.parse().ok());
    first.map(Duration::from_nanos).context("/proc/thread-self/schedstat")
}
