//! Answers offers from the command line, for checking answers in real browsers: each line of standard input is one JSON
//! command, each line of standard output its result.

use std::io::BufRead;

use meridian_sfu::media::MediaKind;
use meridian_transport::sdp::{LocalMedia, Negotiation, WantedTrack};
use meridian_transport::{Fingerprint, IceCredentials};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let local = LocalMedia {
        ice: IceCredentials {
            ufrag: "meridianufrag".into(),
            pwd: "meridianpasswordmeridianpassword".into(),
        },
        fingerprint: Fingerprint([0xab; 32]),
        candidates: vec!["127.0.0.1:7881".parse()?, "[::1]:7881".parse()?],
    };
    let mut negotiation = Negotiation::new(7);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        match words.next() {
            Some("subscribe") => {
                let key: u64 = words.next().unwrap_or("").parse()?;
                let video = words.next() == Some("video");
                let codecs = match words.next() {
                    Some("vp8") => vec![meridian_sfu::media::Codec::Vp8],
                    _ => vec![],
                };
                negotiation.subscribe(WantedTrack {
                    key,
                    kind: if video { MediaKind::Video } else { MediaKind::Audio },
                    stream_id: format!("PA_{key}|TR_{key}"),
                    track_sid: format!("TR_{key}"),
                    codecs,
                });
                println!(
                    "{:?} reoffer={}",
                    negotiation.sections_required(),
                    negotiation.needs_reoffer()
                );
            }
            Some("unsubscribe") => {
                negotiation.unsubscribe(words.next().unwrap_or("").parse()?);
                println!(
                    "{:?} reoffer={}",
                    negotiation.sections_required(),
                    negotiation.needs_reoffer()
                );
            }
            Some("answer") => {
                let offer = std::fs::read_to_string(words.next().unwrap_or(""))?;
                let answer = negotiation.answer(&offer, &local)?;
                std::fs::write(words.next().unwrap_or(""), &answer.sdp)?;
                println!(
                    "{:?} pub={:?} sub={:?} restarted={}",
                    answer.mid_to_track, answer.publications, answer.subscriptions, answer.remote.restarted
                );
            }
            _ => println!("?"),
        }
    }
    Ok(())
}
