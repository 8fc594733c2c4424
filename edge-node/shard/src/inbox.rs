//! What reaches a media thread from outside: commands and other shards' notes, unbounded because their number follows
//! the node's own state; media and messages, bounded. And the eventfd that wakes the thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use meridian_sfu::{Encoding, Layer, LayerSet, Packet, SenderReportInfo, TrackId};
use meridian_transport::Channel;
use meridian_udp::{Handover, Waker};

use meridian_shard_api::Command;

/// Packets from other shards that may wait: 20 ms of 200,000 packets a second.
const MEDIA_QUEUE_MAX: usize = 4_096;
/// `RemoteMedia` and lossy `SendData` commands that may wait. Senders of reliable data are held back instead.
const BULK_QUEUE_MAX: usize = 8_192;

/// A packet of a track whose home is another shard; its encoding and layer are the packet's.
pub(crate) struct Mirrored {
    pub(crate) track: TrackId,
    pub(crate) packet: Packet,
}

pub(crate) enum Note {
    Command(Command),
    /// Shard wants every packet of the track. To the track's home.
    Attach {
        track: TrackId,
        shard: u16,
    },
    Detach {
        track: TrackId,
        shard: u16,
    },
    /// The track's home is that shard from now on; `None` = it has none any more. To mirrors.
    Home {
        track: TrackId,
        home: Option<u16>,
    },
    /// A mirror's subscribers need a keyframe. To the track's home.
    Keyframe {
        track: TrackId,
        layer: Layer,
    },
    /// To mirrors.
    SenderReport {
        track: TrackId,
        encoding: Encoding,
        report: SenderReportInfo,
    },
    /// To mirrors.
    Absent {
        track: TrackId,
        layers: LayerSet,
    },
    /// To mirrors.
    Muted {
        track: TrackId,
        muted: bool,
    },
    Shutdown,
}

/// The sending side, shared by the front and all other shards.
#[derive(Clone)]
pub(crate) struct Mailbox {
    notes: Sender<Note>,
    media: SyncSender<Mirrored>,
    bulk: Arc<AtomicUsize>,
    relayed: Arc<Handover>,
    waker: Arc<Waker>,
}

/// The receiving side, owned by the media thread.
pub(crate) struct Inbox {
    pub(crate) notes: Receiver<Note>,
    pub(crate) media: Receiver<Mirrored>,
    bulk: Arc<AtomicUsize>,
    /// Datagrams from this process's TURN server.
    pub(crate) relayed: Arc<Handover>,
    pub(crate) waker: Arc<Waker>,
}

pub(crate) fn inbox() -> std::io::Result<(Mailbox, Inbox)> {
    let (notes, notes_rx) = channel();
    let (media, media_rx) = sync_channel(MEDIA_QUEUE_MAX);
    let (bulk, waker) = (Arc::new(AtomicUsize::new(0)), Arc::new(Waker::new()?));
    let relayed = Arc::new(Handover::default());
    let inbox = Inbox {
        relayed: relayed.clone(),
        notes: notes_rx,
        media: media_rx,
        bulk: bulk.clone(),
        waker: waker.clone(),
    };
    Ok((
        Mailbox {
            notes,
            media,
            bulk,
            relayed,
            waker,
        },
        inbox,
    ))
}

fn is_bulk(command: &Command) -> bool {
    match command {
        Command::RemoteMedia { .. } => true,
        Command::SendData { channel, .. } => *channel != Channel::Reliable,
        _ => false,
    }
}

impl Mailbox {
    /// A note that must arrive. A thread that has ended takes none, and nobody misses it.
    pub(crate) fn note(&self, note: Note) {
        let _ = self.notes.send(note);
        self.waker.wake();
    }

    /// `false`: the shard is behind, and the command was of the kind that may be dropped.
    pub(crate) fn command(&self, command: Command) -> bool {
        if is_bulk(&command) && self.bulk.fetch_add(1, Ordering::Relaxed) >= BULK_QUEUE_MAX {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.note(Note::Command(command));
        true
    }

    /// Queues without waking: call [`Mailbox::wake`] after a batch. `false` = full.
    pub(crate) fn media(&self, media: Mirrored) -> bool {
        self.media.try_send(media).is_ok()
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Datagrams of a TURN client. `false` = too many wait.
    pub(crate) fn relayed(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        self.relayed.push(from, to, segment, bytes)
    }

    pub(crate) fn wake_if_relayed(&self) {
        if self.relayed.take_news() {
            self.waker.wake();
        }
    }
}

impl Inbox {
    pub(crate) fn next_note(&self) -> Option<Note> {
        let note = self.notes.try_recv().ok()?;
        if matches!(&note, Note::Command(command) if is_bulk(command)) {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
        }
        Some(note)
    }
}

/// Where tracks live. Locked on changes of state and by the front, never on the packet path.
#[derive(Default)]
pub(crate) struct Routes {
    tracks: std::collections::HashMap<TrackId, Route>,
}

#[derive(Default)]
struct Route {
    home: Option<u16>,
    /// Shards with subscribers.
    attached: Vec<u16>,
}

impl Routes {
    pub(crate) fn home(&self, track: TrackId) -> Option<u16> {
        self.tracks.get(&track)?.home
    }

    /// The track lives on `home` from now on. Returns the shards that already have subscribers for it.
    pub(crate) fn set_home(&mut self, track: TrackId, home: u16) -> Vec<u16> {
        let route = self.tracks.entry(track).or_default();
        route.home = Some(home);
        route.attached.iter().copied().filter(|&s| s != home).collect()
    }

    /// The track ended. Returns the shards that still have subscribers for it.
    pub(crate) fn clear_home(&mut self, track: TrackId) -> Vec<u16> {
        let Some(route) = self.tracks.get_mut(&track) else {
            return Vec::new();
        };
        route.home = None;
        let attached = route.attached.clone();
        if attached.is_empty() {
            self.tracks.remove(&track);
        }
        attached
    }

    /// The same, said by a shard: heeded only if the track has not moved elsewhere meanwhile.
    pub(crate) fn clear_home_if(&mut self, track: TrackId, home: u16) -> Vec<u16> {
        if self.home(track) == Some(home) {
            self.clear_home(track)
        } else {
            Vec::new()
        }
    }

    pub(crate) fn attach(&mut self, track: TrackId, shard: u16) -> Option<u16> {
        let route = self.tracks.entry(track).or_default();
        if !route.attached.contains(&shard) {
            route.attached.push(shard);
        }
        route.home
    }

    pub(crate) fn detach(&mut self, track: TrackId, shard: u16) -> Option<u16> {
        let route = self.tracks.get_mut(&track)?;
        route.attached.retain(|&s| s != shard);
        let home = route.home;
        if home.is_none() && route.attached.is_empty() {
            self.tracks.remove(&track);
        }
        home
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACK: TrackId = TrackId(1);

    #[test]
    fn shards_that_wait_for_a_track_are_known_to_whoever_publishes_it() {
        let mut routes = Routes::default();
        assert_eq!(routes.attach(TRACK, 2), None);
        assert_eq!(routes.attach(TRACK, 1), None);
        assert_eq!(routes.set_home(TRACK, 1), [2]);
        assert_eq!(routes.attach(TRACK, 3), Some(1));
        assert_eq!(routes.clear_home(TRACK), [2, 1, 3]);
        for shard in [1, 2, 3] {
            assert_eq!(routes.detach(TRACK, shard), None);
        }
        assert!(routes.tracks.is_empty());
    }

    #[test]
    fn bulk_commands_are_bounded_and_others_are_not() {
        let (mailbox, inbox) = inbox().expect("eventfd");
        let bulk = || Command::RemoteMedia {
            track: TRACK,
            encoding: Encoding::ONLY,
            layer: Layer::LOW,
            packets: Vec::new(),
        };
        for _ in 0..BULK_QUEUE_MAX {
            assert!(mailbox.command(bulk()));
        }
        assert!(!mailbox.command(bulk()));
        assert!(mailbox.command(Command::Unpublish { track: TRACK }));
        assert!(inbox.next_note().is_some());
        assert!(mailbox.command(bulk()));
    }
}
