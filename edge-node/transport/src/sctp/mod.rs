//! Data channels: their names and limits. `association` drives the library, `guard` decides what may reach it.

mod association;
mod guard;

pub(crate) use association::{DataChannels, DataEvent};

/// Largest message a channel carries, bytes. LiveKit clients fragment above 15,000 themselves.
pub const MAX_MESSAGE_LEN: usize = 64_000;

/// The data channels of the client protocol, by their label. Channels with other labels are accepted and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// `_reliable`: ordered, every message arrives.
    Reliable,
    /// `_lossy`: unordered, no retransmission.
    Lossy,
    /// `_data_track`: unordered, no retransmission.
    DataTrack,
}

impl Channel {
    pub const ALL: [Channel; 3] = [Channel::Reliable, Channel::Lossy, Channel::DataTrack];

    pub fn label(self) -> &'static str {
        match self {
            Channel::Reliable => "_reliable",
            Channel::Lossy => "_lossy",
            Channel::DataTrack => "_data_track",
        }
    }

    pub fn from_label(label: &[u8]) -> Option<Channel> {
        Channel::ALL
            .into_iter()
            .find(|channel| channel.label().as_bytes() == label)
    }
}

/// Why a message was not taken. Nothing of it was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendDataError {
    #[error("the client has not opened this channel")]
    NotOpen,
    #[error("message of {len} bytes is larger than {MAX_MESSAGE_LEN}")]
    TooLarge { len: usize },
    #[error("the channel's send queue is full: the client does not keep up")]
    QueueFull,
}
