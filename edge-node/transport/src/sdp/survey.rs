//! An offer looked at before anybody is let in with it: what it would send and receive, and whether we could take all of it.

use meridian_sfu::media::MediaKind;

use super::negotiation::{Negotiation, usable_sections};
use super::offer::{Direction, Offer};
use super::{RemoteParams, SdpError};

/// What an offer asks for. Sections that it gives up itself (port 0, not for a bundle) and data channels are not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub remote: RemoteParams,
    /// Kinds of the sections that the client would send on and not receive.
    pub sends: Vec<MediaKind>,
    /// Those that it would receive on and not send.
    pub receives: Vec<MediaKind>,
    /// Those that it would do both on.
    pub both: Vec<MediaKind>,
    /// `audio` or `video` and the mid of each section that could not be accepted.
    pub refused: Vec<String>,
}

impl Survey {
    /// # Errors
    /// As [`Negotiation::answer`].
    pub fn of(offer: &str) -> Result<Survey, SdpError> {
        let remote = Negotiation::new(0).inspect(offer)?;
        let offer = Offer::parse(offer)?;
        let mut survey = Survey {
            remote,
            sends: Vec::new(),
            receives: Vec::new(),
            both: Vec::new(),
            refused: Vec::new(),
        };
        for (section, usable) in offer.sections.iter().zip(usable_sections(&offer)?) {
            let given_up = section.port_zero && !section.bundle_only;
            match usable.and_then(|usable| usable.media) {
                Some(media) => match section.direction {
                    Direction::SendOnly => survey.sends.push(media.kind),
                    Direction::RecvOnly => survey.receives.push(media.kind),
                    Direction::SendRecv => survey.both.push(media.kind),
                    Direction::Inactive => {}
                },
                None if section.is_rtp() && !given_up => {
                    let mid = section.mid.unwrap_or("-");
                    survey.refused.push(format!("{} (mid {mid})", section.media));
                }
                None => {}
            }
        }
        Ok(survey)
    }
}
