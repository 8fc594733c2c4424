//! A request's body that must come within a time: whoever sends half of one holds a connection, and whoever waits for the rest, for no
//! longer.

use axum::BoxError;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// From a request's head to the end of its body. The largest that any role takes is some kilobytes long.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// `incoming`, which fails once its time is over. A WebSocket is none of it: what follows its head is no body.
pub(super) fn bounded(incoming: Incoming) -> Body {
    match incoming.is_end_stream() {
        true => Body::empty(),
        false => Body::new(Bounded {
            incoming,
            over: Box::pin(tokio::time::sleep(BODY_WITHIN)),
        }),
    }
}

struct Bounded {
    incoming: Incoming,
    over: Pin<Box<Sleep>>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let over = self.over.as_mut().poll(cx);
        over.map(|()| Some(Err("the request's body took too long".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
