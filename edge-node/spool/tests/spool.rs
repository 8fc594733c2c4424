//! From the recorder's outputs to the store, over trouble of every kind.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_recorder::{Entry, Output, RecordingId, SegmentEntry, SegmentId, WallMs};
use meridian_spool::{RecordingFiles, RecordingSettings, Spool, Status, Trouble, Uploader, WakeUp};

struct World {
    settings: RecordingSettings,
    status: Arc<Status>,
    spool: Spool,
    uploader: Uploader,
    store: PathBuf,
    now: Instant,
}

impl World {
    fn new(name: &str) -> World {
        let folder = std::env::temp_dir().join(format!("meridian-spool-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        World::in_folder(&folder, 1 << 20)
    }

    /// As an edge starts.
    fn in_folder(folder: &Path, spool_bytes_max: u64) -> World {
        let store = folder.join("store");
        let settings = RecordingSettings {
            store: format!("file://{}", store.display()),
            spool: folder.join("spool"),
            spool_bytes_max,
            ..RecordingSettings::default()
        };
        let (status, wake) = (Arc::new(Status::default()), WakeUp::default());
        let uploader = Uploader::new(&settings, status.clone(), wake.clone()).unwrap();
        let spool = Spool::open(&settings.spool, spool_bytes_max, status.clone(), wake).unwrap();
        World {
            settings,
            status,
            spool,
            uploader,
            store,
            now: Instant::now(),
        }
    }

    fn begin(&self) -> RecordingFiles {
        self.spool.begin(&RecordingId::new("rec-1").unwrap(), "fra-1-1000")
    }

    fn segment(&mut self, files: &mut RecordingFiles, index: u64, bytes: usize) {
        let file = format!("TR_1/{index:06}.mkv");
        files.apply(self.now, open(index, &file));
        files.apply(self.now, append(index, bytes));
        files.apply(self.now, close(index, &file, 4 + bytes as u64));
    }

    fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        files_of(&self.store)
    }

    fn spooled(&self) -> BTreeMap<String, Vec<u8>> {
        files_of(&self.settings.spool)
    }

    fn lines(&self) -> Vec<Entry> {
        let stored = self.stored();
        let pieces = stored.iter().filter(|(name, _)| name.ends_with(".jsonl"));
        let lines = pieces.flat_map(|(_, piece)| piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}

fn open(index: u64, file: &str) -> Output {
    Output::Open {
        segment: SegmentId(index),
        file: file.into(),
        header: Bytes::from_static(b"head"),
    }
}

fn append(index: u64, bytes: usize) -> Output {
    Output::Append {
        segment: SegmentId(index),
        bytes: vec![index as u8; bytes].into(),
    }
}

fn close(index: u64, file: &str, bytes: u64) -> Output {
    Output::Close {
        segment: SegmentId(index),
        entry: Box::new(SegmentEntry {
            track: "TR_1".into(),
            file: file.into(),
            at: WallMs(1000 + index as i64),
            duration_ms: 4000,
            bytes,
            frames: 100,
            keyframe: true,
            size: None,
            layer: 0,
        }),
    }
}

fn ended() -> Output {
    Output::Line(Box::new(Entry::Ended { at: WallMs(9000) }))
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn complete_files_reach_the_store_and_leave_the_spool_and_open_ones_stay() {
    let mut world = World::new("complete");
    let mut files = world.begin();
    world.segment(&mut files, 0, 1000);
    files.apply(world.now, open(1, "TR_1/000001.mkv"));
    files.apply(world.now, append(1, 10));
    world.uploader.round().await.unwrap();
    let stored = world.stored();
    assert_eq!(stored["rec-1/fra-1-1000/TR_1/000000.mkv"].len(), 1004);
    assert_eq!(
        stored.len(),
        1,
        "the manifest's piece is still open: {:?}",
        stored.keys()
    );
    // Pieces of the manifest close after ten seconds, or with the recording.
    world.now += Duration::from_secs(10);
    files.handle_timeout(world.now);
    world.uploader.round().await.unwrap();
    assert!(matches!(&world.lines()[..], [Entry::Segment(entry)] if entry.file == "TR_1/000000.mkv"));
    files.apply(world.now, close(1, "TR_1/000001.mkv", 14));
    files.apply(world.now, ended());
    world.uploader.round().await.unwrap();
    assert_eq!(world.lines().len(), 3);
    assert!(world.spooled().is_empty() && world.status.trouble().is_none());
    assert_eq!(
        std::fs::read_dir(&world.settings.spool).unwrap().count(),
        0,
        "no empty folders either"
    );
    assert_eq!(world.status.spooled_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(world.status.uploaded_files.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_lost() {
    let mut world = World::new("away");
    let mut files = world.begin();
    // Where the store's folder was stands a file.
    std::fs::remove_dir(&world.store).unwrap();
    std::fs::write(&world.store, b"").unwrap();
    for index in 0..20 {
        world.segment(&mut files, index, 100);
    }
    files.apply(world.now, ended());
    let before = world.spooled();
    assert!(world.uploader.round().await.is_err());
    assert!(world.uploader.round().await.is_err());
    assert_eq!(world.spooled(), before);
    assert!(world.status.upload_failures.load(Ordering::Relaxed) >= 2);
    std::fs::remove_file(&world.store).unwrap();
    std::fs::create_dir(&world.store).unwrap();
    world.uploader.round().await.unwrap();
    assert_eq!(world.stored(), before);
    assert!(world.spooled().is_empty());
}

#[tokio::test]
async fn a_full_spool_says_so_and_records_on_once_there_is_room() {
    let folder = std::env::temp_dir().join(format!("meridian-spool-{}-full", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let mut world = World::in_folder(&folder, 5_000);
    let mut files = world.begin();
    for index in 0..10 {
        world.segment(&mut files, index, 1000);
        world.now += Duration::from_secs(4);
    }
    assert_eq!(world.status.trouble(), Some(Trouble::SpoolFull));
    let lost = world.status.lost_segments.load(Ordering::Relaxed);
    assert!((5..=7).contains(&lost), "{lost}");
    world.uploader.round().await.unwrap();
    let kept = world.stored().keys().filter(|name| name.ends_with(".mkv")).count() as u64;
    assert_eq!(kept + lost, 10, "what was written whole is there, the rest is counted");
    world.segment(&mut files, 10, 1000);
    assert_eq!(world.status.trouble(), None);
    files.apply(world.now, ended());
    world.uploader.round().await.unwrap();
    assert!(world.stored().contains_key("rec-1/fra-1-1000/TR_1/000010.mkv"));
    let missing = world
        .lines()
        .iter()
        .filter(|line| matches!(line, Entry::Missing(_)))
        .count() as u64;
    assert_eq!(missing, lost, "and said in the manifest");
}

#[tokio::test]
async fn what_a_crash_leaves_open_is_kept_up_to_its_last_whole_cluster() {
    let mut world = World::new("crash");
    let folder = world.settings.spool.parent().unwrap().to_owned();
    // A true segment, as the recorder writes it: two seconds of sound.
    let mut recording = sound::recording();
    let outputs = sound::two_seconds(&mut recording);
    let mut files = world.begin();
    for output in outputs {
        files.apply(world.now, output);
    }
    world.segment(&mut files, 100, 10);
    drop(files);
    let open = world
        .spooled()
        .into_iter()
        .find(|(name, _)| name.ends_with(".mkv.part"))
        .unwrap();
    // The crash cut the last write short.
    let path = world.settings.spool.join(&open.0);
    std::fs::write(&path, [&open.1[..], b"\x1f\x43\xb6\x75\x10\x00"].concat()).unwrap();
    world = World::in_folder(&folder, 1 << 20);
    assert_eq!(
        world.status.salvaged_files.load(Ordering::Relaxed),
        2,
        "a segment and a piece of the manifest"
    );
    world.uploader.round().await.unwrap();
    assert!(world.spooled().is_empty());
    let stored = world.stored();
    assert_eq!(stored[open.0.strip_suffix(".part").unwrap()], open.1);
    let interruptions = (world.lines().iter())
        .filter(|line| matches!(line, Entry::Interrupted { .. }))
        .count();
    assert_eq!(interruptions, 1, "the manifest says that there is a gap");
    let salvaged: Vec<SegmentEntry> = (world.lines().into_iter())
        .filter_map(|line| match line {
            Entry::Segment(entry) if entry.track == "TR_9" => Some(entry),
            _ => None,
        })
        .collect();
    assert_eq!(salvaged.len(), 1);
    assert_eq!((salvaged[0].at, salvaged[0].bytes), (sound::START, open.1.len() as u64));
    assert!(
        (50..=100).contains(&salvaged[0].frames),
        "at most the last second is gone"
    );
}

#[test]
fn a_store_that_makes_no_sense_is_refused_with_what_to_write() {
    let refused = |store: &str| {
        let settings = RecordingSettings {
            store: store.into(),
            ..RecordingSettings::default()
        };
        settings.open_store().err().map(|error| error.to_string())
    };
    assert!(refused("recordings").unwrap().contains("s3://bucket/prefix"));
    assert!(refused("ftp://host/x").unwrap().contains("recording.store"));
    assert_eq!(refused("s3://bucket/prefix"), None);
}

mod sound {
    use std::time::{Duration, Instant};

    use meridian_recorder::track::TrackPacket;
    use meridian_recorder::{Output, Recording, RecordingId, TrackInfo, WallMs};
    use meridian_sfu::packet::{PacketOrigin, PacketPool, RtpHeader};
    use meridian_sfu::{Codec, Encoding, ExtensionMap, Layer, LayerSet, SourceSequence, TrackId};

    pub(super) const START: WallMs = WallMs(1_800_000_000_000);

    pub(super) fn recording() -> Recording {
        let mut recording = Recording::new(&RecordingId::new("rec-1").unwrap(), "room", "fra-1", 0, START);
        let info = TrackInfo {
            id: TrackId(9),
            sid: "TR_9".into(),
            participant: "PA_1".into(),
            source: "microphone".into(),
            codec: Codec::Opus,
        };
        assert!(recording.track_added(START, info));
        recording
    }

    /// The file stays open.
    pub(super) fn two_seconds(recording: &mut Recording) -> Vec<Output> {
        let mut pool = PacketPool::new(8);
        let mut now = Instant::now();
        for index in 0..100u32 {
            let mut data = vec![0x80, 111, 0, index as u8];
            data.extend_from_slice(&(index * 960).to_be_bytes());
            data.extend_from_slice(&[0, 0, 0, 1, 0xFC, 0xFF, 0xFE]);
            let origin = PacketOrigin {
                arrival: now,
                encoding: Encoding(0),
                layer: Layer(0),
                codec: Codec::Opus,
            };
            let header = RtpHeader::parse(&data).unwrap();
            let mut packet = pool.build(&data, &header, &ExtensionMap::default(), origin).unwrap();
            std::sync::Arc::get_mut(&mut packet).unwrap().extended_sequence = SourceSequence(65_536 + u64::from(index));
            let live = LayerSet(1);
            let wall = WallMs(START.0 + i64::from(index) * 20);
            recording.packet(now, wall, TrackId(9), TrackPacket { packet, live });
            now += Duration::from_millis(20);
        }
        recording.drain().collect()
    }
}
