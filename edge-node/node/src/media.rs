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

use crate::handles::{RoomHandle, ToRoom};
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
                route_levels(&media, levels).await;
                None
            }
        };
        if let Some(room) = room {
            // A room that is behind holds the others' events back only as long as its queue is full.
            let _ = room.send(ToRoom::Input(Input::Media(event))).await;
        }
    }
}

/// One message per room, with the levels of its own tracks.
async fn route_levels(media: &Media, levels: &[(TrackId, f32)]) {
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
        let _ = room.send(ToRoom::Input(Input::Media(Event::AudioLevels(levels)))).await;
    }
}
