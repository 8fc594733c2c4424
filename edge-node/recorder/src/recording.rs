//! A recording: the people and tracks of one room, on one edge.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bytes::Bytes;
use meridian_sfu::{Codec, Layer, MediaKind, SenderReportInfo, TrackId};

use crate::WallMs;
use crate::clock::PublisherClock;
use crate::manifest::{self, Entry, Missing, SegmentEntry};
use crate::track::{Context, TrackPacket, TrackRecorder};

/// Tracks that are recorded at a time; more are refused, and the manifest does not name them.
pub const TRACKS_MAX: usize = 1000;
/// People whose clocks are kept.
const PEOPLE_MAX: usize = 10_000;

/// Names the recording for people and in the store; one folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordingId(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recording's id is 1 to 64 letters, digits, - and _: it names a folder")]
pub struct BadRecordingId;

impl RecordingId {
    /// # Errors
    /// When it could not be a folder's name everywhere.
    pub fn new(id: &str) -> Result<RecordingId, BadRecordingId> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=64).contains(&id.len()) && id.chars().all(good) {
            Ok(RecordingId(id.to_owned()))
        } else {
            Err(BadRecordingId)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file of this recording, while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// What is to be known of a track before its first packet.
#[derive(Clone, Debug)]
pub struct TrackInfo {
    pub id: TrackId,
    /// Names its folder: letters, digits, - and _ only, as our own sids are.
    pub sid: String,
    pub participant: String,
    pub source: String,
    pub codec: Codec,
}

impl TrackInfo {
    pub(crate) fn codec_kind(&self) -> MediaKind {
        self.codec.kind()
    }

    fn codec_name(&self) -> &'static str {
        match self.codec {
            Codec::Opus | Codec::Red => "opus",
            Codec::Pcmu => "pcmu",
            Codec::Pcma => "pcma",
            Codec::Vp8 => "vp8",
            Codec::Vp9 { .. } => "vp9",
            Codec::H264 { .. } => "h264",
            Codec::Av1 => "av1",
        }
    }
}

/// What the driver must do. Outputs about one file come in order: open, append, close.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make this file, below the recording's folder, with these bytes.
    Open {
        segment: SegmentId,
        file: String,
        header: Bytes,
    },
    Append {
        segment: SegmentId,
        bytes: Bytes,
    },
    /// The file is complete. Once its bytes are on disk, this line belongs into the manifest, and the file may be uploaded.
    Close {
        segment: SegmentId,
        entry: Box<SegmentEntry>,
    },
    /// A line for the manifest.
    Line(Box<Entry>),
    /// Ask the publisher for a keyframe of this layer.
    KeyframeWanted {
        track: TrackId,
        layer: Layer,
    },
}

impl Output {
    pub(crate) fn missing(missing: Missing) -> Output {
        Output::Line(Box::new(Entry::Missing(missing)))
    }
}

/// Drive it so: after each call take [`Recording::drain`], and call [`Recording::handle_timeout`] at [`Recording::poll_timeout`]. Calls about tracks that
/// are not there are ignored.
pub struct Recording {
    tracks: HashMap<TrackId, TrackRecorder>,
    clocks: BTreeMap<String, PublisherClock>,
    no_clock: PublisherClock,
    next_segment: u64,
    speakers: Vec<String>,
    out: Vec<Output>,
}

impl Recording {
    /// `part` counts the edges that have recorded this before.
    pub fn new(id: &RecordingId, room: &str, edge: &str, part: u32, at: WallMs) -> Recording {
        let begin = Entry::Recording {
            version: manifest::VERSION,
            id: id.as_str().to_owned(),
            room: room.to_owned(),
            edge: edge.to_owned(),
            at,
            part,
        };
        Recording {
            tracks: HashMap::new(),
            clocks: BTreeMap::new(),
            no_clock: PublisherClock::default(),
            next_segment: 0,
            speakers: Vec::new(),
            out: vec![Output::Line(Box::new(begin))],
        }
    }

    pub fn joined(&mut self, at: WallMs, participant: &str, identity: &str, name: &str) {
        self.line(Entry::Joined {
            at,
            participant: participant.to_owned(),
            identity: identity.to_owned(),
            name: name.to_owned(),
        });
    }

    pub fn left(&mut self, at: WallMs, participant: &str) {
        self.clocks.remove(participant);
        self.line(Entry::Left {
            at,
            participant: participant.to_owned(),
        });
    }

    /// `false`: there are [`TRACKS_MAX`] already, or it is recorded already, or its codec cannot be.
    pub fn track_added(&mut self, at: WallMs, info: TrackInfo) -> bool {
        let recordable = !matches!(info.codec, Codec::Pcmu | Codec::Pcma);
        if !recordable || self.tracks.len() >= TRACKS_MAX || self.tracks.contains_key(&info.id) {
            return false;
        }
        self.line(Entry::Track {
            at,
            track: info.sid.clone(),
            participant: info.participant.clone(),
            source: info.source.clone(),
            codec: info.codec_name().to_owned(),
        });
        self.tracks.insert(info.id, TrackRecorder::new(info));
        true
    }

    pub fn track_removed(&mut self, now: Instant, wall: WallMs, track: TrackId) {
        let Some(sid) = self.tracks.get(&track).map(|held| held.info().sid.clone()) else {
            return;
        };
        self.with_track(now, wall, track, |recorder, cx| recorder.finish(cx));
        self.tracks.remove(&track);
        self.line(Entry::TrackEnded { at: wall, track: sid });
    }

    pub fn muted(&mut self, at: WallMs, track: TrackId, muted: bool) {
        if let Some(recorder) = self.tracks.get(&track) {
            let track = recorder.info().sid.clone();
            self.line(Entry::Muted { at, track, muted });
        }
    }

    /// Participants who speak now, loudest first; told only when it changes.
    pub fn speaking(&mut self, at: WallMs, participants: Vec<String>) {
        if self.speakers != participants {
            self.speakers.clone_from(&participants);
            self.line(Entry::Speakers { at, participants });
        }
    }

    /// A sender report of the publisher, as it arrived now.
    pub fn sender_report(&mut self, wall: WallMs, track: TrackId, report: SenderReportInfo) {
        let Some(recorder) = self.tracks.get_mut(&track) else {
            return;
        };
        recorder.report(report);
        let participant = &recorder.info().participant;
        if let Some(clock) = self.clocks.get_mut(participant) {
            clock.report(wall, report);
        } else if self.clocks.len() < PEOPLE_MAX {
            let mut clock = PublisherClock::default();
            clock.report(wall, report);
            self.clocks.insert(participant.clone(), clock);
        }
    }

    pub fn packet(&mut self, now: Instant, wall: WallMs, track: TrackId, packet: TrackPacket) {
        self.with_track(now, wall, track, |recorder, cx| recorder.packet(cx, packet));
    }

    pub fn handle_timeout(&mut self, now: Instant, wall: WallMs) {
        let due = |recorder: &TrackRecorder| recorder.poll_timeout().is_some_and(|due| due <= now);
        let ready: Vec<TrackId> = (self.tracks.iter())
            .filter(|(_, recorder)| due(recorder))
            .map(|(id, _)| *id)
            .collect();
        for track in ready {
            self.with_track(now, wall, track, |recorder, cx| recorder.handle_timeout(cx));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tracks.values().filter_map(TrackRecorder::poll_timeout).min()
    }

    /// Everything that was begun is completed.
    pub fn finish(&mut self, now: Instant, wall: WallMs) {
        let mut tracks: Vec<TrackId> = self.tracks.keys().copied().collect();
        tracks.sort_unstable();
        for track in tracks {
            self.track_removed(now, wall, track);
        }
        self.line(Entry::Ended { at: wall });
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Output> {
        self.out.drain(..)
    }

    fn line(&mut self, entry: Entry) {
        self.out.push(Output::Line(Box::new(entry)));
    }

    fn with_track(
        &mut self,
        now: Instant,
        wall: WallMs,
        track: TrackId,
        f: impl FnOnce(&mut TrackRecorder, &mut Context<'_>),
    ) {
        let Some(recorder) = self.tracks.get_mut(&track) else {
            return;
        };
        let publisher = self.clocks.get(&recorder.info().participant).unwrap_or(&self.no_clock);
        let mut cx = Context {
            now,
            wall,
            publisher,
            next_segment: &mut self.next_segment,
            out: &mut self.out,
        };
        f(recorder, &mut cx);
    }
}
