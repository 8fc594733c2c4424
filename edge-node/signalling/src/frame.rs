//! Frames of the WebSocket: binary ones are protobuf, text ones protojson.

use bytes::Bytes;
use livekit_protocol::{SignalRequest, SignalResponse, signal_request, signal_response};
use prost::Message;

use crate::counts;

/// Largest frame accepted, in bytes: an offer of Chromium with 64 video sections is about 340 KB.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// One WebSocket message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Binary(Bytes),
    Text(String),
}

/// What a client did that ends its session; the text is for its developer and is sent to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    pub reason: String,
}

impl Violation {
    pub fn new(reason: impl Into<String>) -> Self {
        Violation { reason: reason.into() }
    }
}

/// `None`: a message of a kind newer than this server.
pub(crate) fn decode(frame: &Frame) -> Result<Option<signal_request::Message>, Violation> {
    let length = match frame {
        Frame::Binary(bytes) => bytes.len(),
        Frame::Text(text) => text.len(),
    };
    if length > FRAME_BYTES_MAX {
        return Err(Violation::new(format!(
            "a message of {length} bytes: at most {FRAME_BYTES_MAX} are accepted"
        )));
    }
    match frame {
        Frame::Binary(bytes) => counts::check(bytes, counts::SIGNAL_REQUEST, "binary message")?,
        Frame::Text(text) => counts::check_json(text)?,
    }
    let request = match frame {
        Frame::Binary(bytes) => SignalRequest::decode(bytes.clone())
            .map_err(|error| Violation::new(format!("malformed binary message: {error}")))?,
        Frame::Text(text) => serde_json::from_str::<SignalRequest>(text)
            .map_err(|error| Violation::new(format!("malformed text message: {error}")))?,
    };
    Ok(request.message)
}

pub(crate) fn encode(message: signal_response::Message, text: bool) -> Frame {
    let response = SignalResponse { message: Some(message) };
    if text {
        // Serialising to a string fails only for types that are no JSON, which protobuf messages are not.
        if let Ok(json) = serde_json::to_string(&response) {
            return Frame::Text(json);
        }
    }
    Frame::Binary(response.encode_to_vec().into())
}
