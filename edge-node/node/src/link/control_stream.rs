//! Messages on the first stream of a connection: a length of four bytes, big-endian, then that many bytes.

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("peer announced a message of {len} bytes, the limit is {max}")]
    TooLarge { len: usize, max: usize },
    #[error("reading: {0}")]
    Read(#[from] ReadExactError),
    #[error("writing: {0}")]
    Write(#[from] WriteError),
}

/// Reads one message of at most `max` bytes.
pub(super) async fn read(stream: &mut RecvStream, max: usize) -> Result<Bytes, StreamError> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > max {
        return Err(StreamError::TooLarge { len, max });
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message.into())
}

/// Writes one message. The caller keeps it below what the reader accepts.
pub(super) async fn write(stream: &mut SendStream, message: Bytes) -> Result<(), StreamError> {
    let len = Bytes::copy_from_slice(&(message.len() as u32).to_be_bytes());
    stream.write_all_chunks(&mut [len, message]).await?;
    Ok(())
}
