//! From the media threads to the rooms: which room a peer or a track belongs to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_conference::{Input, MediaPlane};
use meridian_room::RoomName;
use meridian_sfu::TrackId;
use meridian_shard::{Command, Event, PeerId, Shards};
use tokio::sync::mpsc;

use crate::handles::{RoomHandle, ToRoom, Worth};
use crate::mesh::MeshHandle;
use crate::recording::RecorderHandle;

/// The media threads, and who gets their events. Routes are written when peers and tracks come and go, read once per event.
pub(crate) struct Media {
    shards: Arc<Shards>,
    routes: Mutex<Routes>,
    next_track: AtomicU64,
}

#[derive(Default)]
struct Routes {
    peers: HashMap<PeerId, RoomHandle>,
    tracks: HashMap<TrackId, (RoomName, RoomHandle)>,
}

impl Media {
    pub(crate) fn new(shards: Arc<Shards>) -> Media {
        Media {
            shards,
            routes: Mutex::default(),
            next_track: AtomicU64::new(1),
        }
    }

    /// Passes a room's command on. What the command makes known to the media threads is the room's from then on.
    pub(crate) fn send(&self, room: &RoomHandle, name: &RoomName, command: Command) {
        match &command {
            Command::AddPeer { peer, .. } => {
                self.lock().peers.insert(*peer, room.clone());
            }
            Command::RemovePeer { peer } => {
                self.lock().peers.remove(peer);
            }
            Command::Publish { track, .. } | Command::AddRemoteTrack { track, .. } => {
                self.lock().tracks.insert(*track, (name.clone(), room.clone()));
            }
            Command::Unpublish { track } | Command::RemoveTrack { track } => {
                self.lock().tracks.remove(track);
            }
            _ => {}
        }
        self.shards.send(command);
    }

    fn of_peer(&self, peer: PeerId) -> Option<RoomHandle> {
        self.lock().peers.get(&peer).cloned()
    }

    fn of_track(&self, track: TrackId) -> Option<RoomHandle> {
        self.lock().tracks.get(&track).map(|(_, room)| room.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MediaPlane for Media {
    fn allocate_peer(&self) -> PeerId {
        self.shards.allocate_peer()
    }

    fn allocate_peer_on(&self, shard: u16) -> PeerId {
        self.shards.allocate_peer_on(shard)
    }

    fn candidates(&self, peer: PeerId) -> Vec<SocketAddr> {
        self.shards.candidates(peer)
    }

    fn allocate_track(&self) -> TrackId {
        TrackId(self.next_track.fetch_add(1, Ordering::Relaxed))
    }
}

/// Hands every event of the media threads to its room. Ends with the shards.
pub(crate) async fn route(
    media: Arc<Media>,
    mesh: Arc<MeshHandle>,
    recorder: Arc<RecorderHandle>,
    mut events: mpsc::Receiver<Event>,
) {
    while let Some(event) = events.recv().await {
        let room = match &event {
            Event::PeerConnected { peer, .. }
            | Event::PeerClosed { peer, .. }
            | Event::ChannelOpen { peer, .. }
            | Event::Data { peer, .. }
            | Event::DataQueue { peer, .. }
            | Event::PeerStats { peer, .. }
            | Event::StreamState { peer, .. }
            | Event::SubscriptionStarted { peer, .. } => media.of_peer(*peer),
            Event::MediaStarted { track, .. } | Event::KeyframeWanted { track, .. } => media.of_track(*track),
            Event::SenderReport {
                track,
                encoding,
                layers,
                report,
            } => {
                mesh.sender_report(*track, *encoding, *layers, *report);
                recorder.sender_report(*track, *report);
                None
            }
            Event::AudioLevels(levels) => {
                route_levels(&media, levels);
                None
            }
        };
        if let Some(room) = room {
            // Never waits: a room that is behind holds nobody else's events back.
            let worth = worth(&event);
            room.post(ToRoom::Input(Input::Media(event)), worth);
        }
    }
}

/// What the room loses if it is behind and does not get it.
fn worth(event: &Event) -> Worth {
    match event {
        // The next one says all that this one did; whoever sees no picture asks again.
        Event::AudioLevels(_) | Event::PeerStats { .. } | Event::KeyframeWanted { .. } => Worth::Moment,
        Event::Data { payload, .. } => Worth::Data(payload.len()),
        _ => Worth::State,
    }
}

/// One message per room, with the levels of its own tracks.
fn route_levels(media: &Media, levels: &[(TrackId, f32)]) {
    let mut by_room: HashMap<RoomName, (RoomHandle, Vec<(TrackId, f32)>)> = HashMap::new();
    {
        let routes = media.lock();
        for (track, level) in levels {
            if let Some((name, room)) = routes.tracks.get(track) {
                let entry = by_room
                    .entry(name.clone())
                    .or_insert_with(|| (room.clone(), Vec::new()));
                entry.1.push((*track, *level));
            }
        }
    }
    for (room, levels) in by_room.into_values() {
        room.post(ToRoom::Input(Input::Media(Event::AudioLevels(levels))), Worth::Moment);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use meridian_conference::CloseKind;
    use meridian_transport::Channel;

    use super::*;
    use crate::handles::LiveRooms;

    fn levels(room: &RoomHandle, of: TrackId) -> bool {
        room.try_send(ToRoom::Input(Input::Media(Event::AudioLevels(vec![(of, 0.5)]))))
    }

    /// A room whose task reads nothing, with its queue filled up.
    fn stuck(rooms: &LiveRooms, name: &RoomName) -> (RoomHandle, mpsc::Receiver<ToRoom>) {
        let (room, queue) = open(rooms, name);
        while levels(&room, TrackId(0)) {}
        (room, queue)
    }

    fn open(rooms: &LiveRooms, name: &RoomName) -> (RoomHandle, mpsc::Receiver<ToRoom>) {
        let mut queue = None;
        let room = rooms.get_or_start(name, |_, receiver| queue = Some(receiver)).unwrap();
        (room, queue.unwrap())
    }

    #[tokio::test]
    async fn a_room_that_reads_nothing_holds_up_no_other() {
        let rooms = LiveRooms::default();
        let [slow, quick] = ["slow", "quick"].map(RoomName::new);
        let (_stuck, _unread) = stuck(&rooms, &slow);
        let (_, mut read) = open(&rooms, &quick);
        // Nothing here waits, so that the router's and the control plane's tasks do not either.
        for name in [&slow, &quick] {
            rooms.close(name, CloseKind::RoomClosed);
        }
        let first = tokio::time::timeout(Duration::from_secs(5), read.recv()).await.unwrap();
        assert!(matches!(
            first,
            Some(ToRoom::Input(Input::Close(CloseKind::RoomClosed)))
        ));
    }

    #[tokio::test]
    async fn a_room_that_was_behind_gets_every_change_of_state_in_order_and_loses_what_the_next_one_says_anyway() {
        let rooms = LiveRooms::default();
        let (room, mut queue) = stuck(&rooms, &RoomName::new("slow"));
        let full = queue.len();
        let peer = |index| PeerId { shard: 0, index };
        let closed = |index| Event::ChannelOpen {
            peer: peer(index),
            channel: Channel::Reliable,
        };
        for index in 0..3_000 {
            room.post(ToRoom::Input(Input::Media(closed(index))), Worth::State);
            let moment = Event::AudioLevels(Vec::new());
            let of = worth(&moment);
            room.post(ToRoom::Input(Input::Media(moment)), of);
        }
        assert_eq!(rooms.events_lost(), 3_000);
        for _ in 0..full {
            queue.recv().await.unwrap();
        }
        for index in 0..3_000 {
            let Some(ToRoom::Input(Input::Media(Event::ChannelOpen { peer: of, .. }))) = queue.recv().await else {
                panic!("change {index} is missing")
            };
            assert_eq!(of, peer(index));
        }
        // It is no longer behind.
        room.post(
            ToRoom::Input(Input::Media(Event::AudioLevels(Vec::new()))),
            Worth::Moment,
        );
        assert!(queue.recv().await.is_some());
    }

    #[tokio::test]
    async fn data_for_a_room_that_is_behind_is_kept_up_to_a_limit_and_counted_beyond_it() {
        let rooms = LiveRooms::default();
        let (room, _queue) = stuck(&rooms, &RoomName::new("slow"));
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..20 {
            let event = Event::Data {
                peer: PeerId { shard: 0, index: 1 },
                channel: Channel::Reliable,
                payload: megabyte.clone(),
                binary: true,
            };
            let of = worth(&event);
            room.post(ToRoom::Input(Input::Media(event)), of);
        }
        assert_eq!(rooms.events_lost(), 4, "16 MiB are kept");
    }
}
