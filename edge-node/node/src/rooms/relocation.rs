//! Where somebody goes when this edge is being emptied: the control plane says, because it knows who has room and who is near.

use std::net::IpAddr;

use meridian_conference::{Input, Place, SessionKey};
use meridian_room::RoomName;
use meridian_wire::v1;

use super::Around;
use crate::handles::{RoomHandle, ToRoom};

/// Answers the room with [`Input::Relocated`].
pub(super) fn relocate(around: &Around, room: &RoomHandle, name: &RoomName, client: SessionKey, address: IpAddr) {
    let (control, room) = (around.control.clone(), room.clone());
    let request = v1::RelocateRequest {
        room: name.to_string(),
        client_address: address.to_string(),
    };
    tokio::spawn(async move {
        let places = match control {
            Some(control) => control.relocate(request).await.ok().and_then(places),
            // Nobody to ask: clients find another edge by themselves, as when this one dies.
            None => Some(Vec::new()),
        };
        let _ = room.send(ToRoom::Input(Input::Relocated { client, places })).await;
    });
}

fn places(answer: v1::RelocateAnswer) -> Option<Vec<Place>> {
    let place = |edge: v1::EdgeAddress| Place {
        region: edge.region,
        url: edge.url,
    };
    (!answer.edges.is_empty()).then(|| answer.edges.into_iter().map(place).collect())
}
