//! GStreamer doing the same: RTP out of a file (RFC 4571), depayloaded and muxed into Matroska, nothing decoded.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::media::Kind;

/// A packet behind its length: each is read by itself and stamped as it is read, as a socket's would be. Without stamps `matroskamux` drops every
/// frame and the pipeline still ends well.
const FRAMED: usize = 2 + 12 + super::media::VIDEO_PAYLOAD;

/// CPU time of a whole process that records so many packets of a camera.
pub(super) fn copy(folder: &Path, packets: u64) -> anyhow::Result<Duration> {
    let (input, output) = (folder.join("peer.rtp"), folder.join("peer.mkv"));
    write_input(&input, packets)?;
    let pipeline = format!(
        "gst-launch-1.0 -q filesrc location={} blocksize={FRAMED} do-timestamp=true ! \
         application/x-rtp-stream,media=video,clock-rate=90000,encoding-name=VP8,payload=96 ! \
         rtpstreamdepay ! rtpvp8depay ! matroskamux ! filesink location={} && times",
        input.display(),
        output.display()
    );
    let ran = Command::new("bash").args(["-c", &pipeline]).output().context("bash")?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(
        ran.status.success(),
        "GStreamer did not record (apt: gstreamer1.0-tools gstreamer1.0-plugins-good): {}{}",
        said,
        String::from_utf8_lossy(&ran.stderr)
    );
    let written = std::fs::metadata(&output)?.len();
    let payload = packets * (super::media::VIDEO_PAYLOAD as u64 - 20);
    ensure!(
        written > payload,
        "GStreamer wrote {written} bytes of at least {payload}"
    );
    let children = said.lines().nth(1).context("times says what children used")?;
    let spent = children
        .split(' ')
        .map(parse_time)
        .sum::<Option<f64>>()
        .context("times")?;
    for path in [input, output] {
        std::fs::remove_file(path)?;
    }
    Ok(Duration::from_secs_f64(spent))
}

/// `1m2.345s`
fn parse_time(text: &str) -> Option<f64> {
    let (minutes, seconds) = text.trim().strip_suffix('s')?.split_once('m')?;
    Some(60.0 * minutes.parse::<f64>().ok()? + seconds.parse::<f64>().ok()?)
}

fn write_input(path: &Path, packets: u64) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut packet = Vec::new();
    for index in 0..packets {
        Kind::Camera.write(index, &mut packet);
        file.write_all(&(packet.len() as u16).to_be_bytes())?;
        file.write_all(&packet)?;
    }
    file.flush()?;
    Ok(())
}
