//! A connection in front of HTTP, for what hyper neither lets pass nor lets anybody else answer.
//!
//! - Its refusals (400, 414, 431) have no body and no CORS headers, so a page cannot read them: they are written as problem details.
//! - It takes no address above 65,534 bytes, and browsers cannot send a WebSocket's token in any other place: the query of a
//!   connection's first request travels as a header when it is longer. Only of the first, because where a later one begins, only hyper
//!   knows. (A browser opens a connection of its own for every WebSocket.)
//! - A refusal that is sent while the client still sends is lost with the connection's reset: what comes is read for a while.

use crate::problem::{MEDIA_TYPE, Problem};
use axum::http::StatusCode;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Where a long query travels. Nobody else's header of this name gets to a router.
pub(super) const QUERY_HEADER: &str = "x-meridian-query";
/// What `http::Uri` takes is 65,534 bytes.
const LINE_BYTES: usize = 60_000;
/// Longest first line that is looked at: what signalling takes as a query, and a path.
const LINE_BYTES_MAX: usize = 388 * 1024;
const CHUNK: usize = 8 * 1024;
/// What a refused client may still send before it is hung up on.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// What a connection and the service that answers on it tell each other.
#[derive(Default)]
pub(super) struct Told {
    /// The first request's query is in [`QUERY_HEADER`].
    pub(super) long: AtomicBool,
    /// A request was refused, perhaps before all of it was read.
    pub(super) refused: AtomicBool,
}

pub(super) struct Front<S> {
    stream: S,
    told: Arc<Told>,
    begin: Begin,
    /// Written in place of hyper's own words, and how far.
    instead: Option<(Vec<u8>, usize)>,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

/// The first line of a connection.
enum Begin {
    Reading(Vec<u8>),
    Known(Vec<u8>, usize),
    Passed,
}

impl<S> Front<S> {
    pub(super) fn new(stream: S, told: Arc<Told>) -> Front<S> {
        Front {
            stream,
            told,
            begin: Begin::Reading(Vec::new()),
            instead: None,
            linger: None,
        }
    }
}

impl<S: AsyncRead + Unpin> Front<S> {
    /// Reads until the first line is whole, or too long to be one.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Begin::Reading(line) = &mut self.begin {
            let seen = line.len();
            line.resize(seen + CHUNK, 0);
            let mut buffer = ReadBuf::new(&mut line[seen..]);
            let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let read = buffer.filled().len();
            line.truncate(seen + read);
            ready!(polled)?;
            let whole = line[seen..].contains(&b'\n');
            if whole || read == 0 || line.len() > LINE_BYTES_MAX {
                let read = std::mem::take(line);
                let begin = match moved(&read) {
                    Some(begin) => {
                        self.told.long.store(true, Ordering::Relaxed);
                        begin
                    }
                    None => read,
                };
                self.begin = Begin::Known(begin, 0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Front<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_begin(cx))?;
        if let Begin::Known(begin, at) = &mut this.begin {
            let rest = &begin[*at..];
            let given = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..given]);
            *at += given;
            if *at == begin.len() {
                this.begin = Begin::Passed;
            }
            // An empty beginning is an end, and is told as one.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Front<S> {
    /// `None`: these are no words of hyper's own.
    fn poll_instead(&mut self, cx: &mut Context<'_>, first: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() {
            let status = bare_refusal(first)?;
            self.told.refused.store(true, Ordering::Relaxed);
            self.instead = Some((refusal(status), 0));
        }
        while let Some((text, at)) = &mut self.instead {
            match Pin::new(&mut self.stream).poll_write(cx, &text[*at..]) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => *at += written,
                other => return Some(other),
            }
            if *at == text.len() {
                self.instead = None;
            }
        }
        Some(Poll::Ready(Ok(first.len())))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Front<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(polled) = self.poll_instead(cx, buf) {
            return polled;
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.told.refused.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let (over, left) = this
            .linger
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        let mut bytes = [0; CHUNK];
        while *left > 0 && over.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len())
                }
                // It has gone.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(polled) = first.and_then(|first| self.poll_instead(cx, first)) {
            return polled;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A beginning whose first line is too long for hyper, with its query as a header. `None`: it is as it should be, or is no request.
fn moved(begin: &[u8]) -> Option<Vec<u8>> {
    let end = begin.iter().position(|byte| *byte == b'\n')?;
    let line = begin[..end].strip_suffix(b"\r").unwrap_or(&begin[..end]);
    if line.len() <= LINE_BYTES {
        return None;
    }
    let question = line.iter().position(|byte| *byte == b'?')?;
    let space = line.iter().rposition(|byte| *byte == b' ')?;
    let query = line.get(question + 1..space)?;
    query.iter().all(u8::is_ascii_graphic).then(|| {
        let parts: [&[u8]; 7] = [
            &line[..question],
            &line[space..],
            b"\r\n",
            QUERY_HEADER.as_bytes(),
            b": ",
            query,
            b"\r\n",
        ];
        [&parts.concat(), &begin[end + 1..]].concat()
    })
}

/// The status of an answer that hyper has made by itself: without a body, and without what our service puts into every head.
fn bare_refusal(written: &[u8]) -> Option<StatusCode> {
    let head = written.strip_prefix(b"HTTP/1.1 ")?;
    if head.len() > 200 || !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    let has = |text: &str| head.windows(text.len()).any(|part| part == text.as_bytes());
    let ours = has(super::REQUEST_ID) || !has("content-length: 0");
    let status = StatusCode::from_bytes(head.get(..3)?).ok()?;
    (!ours && matches!(status.as_u16(), 400 | 414 | 431)).then_some(status)
}

fn refusal(status: StatusCode) -> Vec<u8> {
    let body = Problem::of_status(status).to_json();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\naccess-control-allow-origin: *\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_query_is_moved_and_nothing_is_lost() {
        let request = |query: &str| format!("GET /rtc/v1?{query} HTTP/1.1\r\nhost: x\r\n\r\nrest").into_bytes();
        assert_eq!(moved(&request("access_token=short")), None);
        let query = format!("access_token={}", "a".repeat(LINE_BYTES));
        let text = String::from_utf8(moved(&request(&query)).unwrap()).unwrap();
        let expected = format!("GET /rtc/v1 HTTP/1.1\r\n{QUERY_HEADER}: {query}\r\nhost: x\r\n\r\nrest");
        assert!(text == expected, "{} bytes", text.len());
        let smuggled = request(&format!("{query}\r"));
        assert_eq!(moved(&smuggled), None, "what is no query stays hyper's to refuse");
        assert_eq!(moved(&b"a".repeat(LINE_BYTES * 2)), None);
    }

    #[test]
    fn only_what_hyper_says_by_itself_is_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: Mon, 30 Nov 2026 07:00:00 GMT\r\n\r\n";
        assert_eq!(bare_refusal(bare), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        for other in [
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno",
            "HTTP/1.1 4",
        ] {
            assert_eq!(bare_refusal(other.as_bytes()), None, "{other}");
        }
    }
}
