//! One TCP or TLS connection of a client: bytes in, frames out, and a bounded queue of what the client has not read.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;

use meridian_turn_core::ClientSocket;
use meridian_turn_core::framing::{FRAME_BYTES_MAX, Frame, next_frame};

/// Most frames are packets; longer ones make the buffer grow.
const INPUT_BYTES: usize = 4 * 1024;
/// Answers may still be queued when relayed data may not.
const ANSWER_ROOM: usize = 16 * 1024;

pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    pub(crate) client: ClientSocket,
    /// When it last had an allocation; for the idle limit.
    pub(crate) useful: Instant,
    pub(crate) dirty: bool,
    /// The peer it is spliced to (RFC 6062): its bytes are no frames any more.
    pub(crate) peer: Option<usize>,
    /// Nothing more will be read from it.
    pub(crate) ended: bool,
    tls: Option<Box<rustls::ServerConnection>>,
    input: Input,
    output: Vec<u8>,
    written: usize,
    queue_bytes_max: usize,
}

/// Received bytes: `bytes[..filled]`, of which `bytes[..consumed]` are done with.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    filled: usize,
    consumed: usize,
    /// Where the last frame began.
    last: usize,
}

impl Input {
    /// The next whole message; `Err` = the stream speaks something else.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, io::Error> {
        let start = self.consumed;
        match next_frame(&self.bytes[start..self.filled]) {
            Frame::Complete { message, consumed } => {
                self.last = start;
                self.consumed += consumed;
                Ok(Some(&self.bytes[start..start + message]))
            }
            Frame::Incomplete(_) => Ok(None),
            Frame::Violation => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// The last frame is to come again.
    pub(crate) fn rewind(&mut self) {
        self.consumed = self.last;
    }

    /// Room for reading: what is left of an incomplete frame moves to the front.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        (self.consumed, self.last) = (0, 0);
        let want = match next_frame(&self.bytes[..self.filled]) {
            Frame::Incomplete(total) => total.clamp(INPUT_BYTES, FRAME_BYTES_MAX),
            _ => INPUT_BYTES,
        };
        if self.bytes.len() < want.max(self.filled + 1) {
            self.bytes.resize(want.max(self.filled + 1), 0);
        }
        &mut self.bytes[self.filled..]
    }
}

impl Stream {
    pub(crate) fn new(
        socket: TcpStream,
        client: ClientSocket,
        tls: Option<rustls::ServerConnection>,
        queue_bytes_max: usize,
        now: Instant,
    ) -> Stream {
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(queue_bytes_max + ANSWER_ROOM));
            Box::new(connection)
        });
        Stream {
            socket,
            client,
            useful: now,
            dirty: false,
            peer: None,
            ended: false,
            tls,
            input: Input::default(),
            output: Vec::new(),
            written: 0,
            queue_bytes_max,
        }
    }

    /// Reads once. `Ok(0)`: nothing more for now.
    pub(crate) fn read(&mut self) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let n = would_block(self.socket.read(self.input.room()))?;
            return match n {
                Some(0) => Err(ErrorKind::UnexpectedEof.into()),
                Some(n) => {
                    self.input.filled += n;
                    Ok(n)
                }
                None => Ok(0),
            };
        };
        loop {
            match tls.reader().read(self.input.room()) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.input.filled += n;
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match would_block(tls.read_tls(&mut self.socket))? {
                None => return Ok(0),
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(_) => {
                    self.dirty = true;
                    tls.process_new_packets()
                        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                }
            }
        }
    }

    /// Appends what was received to `out`, bytes that came behind the last frame first. `Ok(0)`: nothing more for now.
    pub(crate) fn take_raw(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        if self.input.consumed == self.input.filled && self.read()? == 0 {
            return Ok(0);
        }
        let bytes = &self.input.bytes[self.input.consumed..self.input.filled];
        out.extend_from_slice(bytes);
        let n = bytes.len();
        self.input.consumed = self.input.filled;
        Ok(n)
    }

    /// Queues bytes as they are; the caller minds [`Stream::waiting`].
    pub(crate) fn queue_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Bytes that the client has not taken.
    pub(crate) fn waiting(&self) -> usize {
        let unsent = usize::from(self.tls.as_ref().is_some_and(|tls| tls.wants_write()));
        self.output.len() - self.written + unsent
    }

    /// Takes the input away, so that frames can be handled while other streams are written to.
    pub(crate) fn take_input(&mut self) -> Input {
        std::mem::take(&mut self.input)
    }

    pub(crate) fn put_input(&mut self, mut input: Input) {
        if input.consumed == input.filled {
            (input.consumed, input.filled, input.last) = (0, 0, 0);
            if input.bytes.len() > INPUT_BYTES {
                input.bytes = Vec::new();
            }
        }
        self.input = input;
    }

    /// Queues `len` bytes that `write` fills in. `false`: the client reads too slowly, nothing was queued.
    pub(crate) fn queue(&mut self, len: usize, is_answer: bool, write: impl FnOnce(&mut [u8])) -> bool {
        let limit = self.queue_bytes_max + if is_answer { ANSWER_ROOM } else { 0 };
        if self.output.len() - self.written + len > limit {
            return false;
        }
        let start = self.output.len();
        self.output.resize(start + len, 0);
        write(&mut self.output[start..]);
        self.dirty = true;
        true
    }

    /// Writes as much as the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.dirty = false;
        loop {
            let Some(tls) = &mut self.tls else {
                return self.flush_plain();
            };
            if self.written < self.output.len() {
                // One record's worth at a time, so that what waits is counted here and not hidden in the TLS buffer.
                if !tls.wants_write() || tls.is_handshaking() {
                    let end = self.output.len().min(self.written + 16_384);
                    if !tls.is_handshaking() {
                        self.written += tls.writer().write(&self.output[self.written..end])?;
                    }
                }
            }
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
            if !tls.wants_write() {
                return Ok(());
            }
            if would_block(tls.write_tls(&mut self.socket))?.is_none() {
                return Ok(());
            }
        }
    }

    fn flush_plain(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            match would_block(self.socket.write(&self.output[self.written..]))? {
                Some(0) => return Err(ErrorKind::WriteZero.into()),
                Some(n) => self.written += n,
                None => break,
            }
        }
        self.output.drain(..self.written);
        self.written = 0;
        Ok(())
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
