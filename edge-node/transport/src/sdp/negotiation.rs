//! One participant's negotiation: which media section carries what, from offer to offer.
//!
//! A section that ends its subscription must be answered inactive once before it may carry another track: a browser
//! announces a track only when its section comes to life.

use std::collections::HashSet;

use meridian_sfu::media::{ExtensionMap, Layer, MediaKind, PayloadType};

use super::layers;
use super::offer::{Direction, Offer, OfferedExtension, OfferedLayer, OfferedSection};
use super::ssrcs::{SsrcSequence, mix};
use super::write::{AnswerWriter, MediaSection, SentStream};
use super::{
    Answer, AudioPreferences, LocalMedia, Publication, RemoteParams, SECTIONS_WANTED_MAX, SdpError, SectionsRequired,
    SsrcInfo, SubscriptionMedia, WantedTrack, codecs, extensions,
};
use crate::DtlsRole;

/// Tracks of which a client may have said how to encode them.
const PREFERENCES_MAX: usize = 64;

/// The state of one participant's single connection. See the module [`super`].
#[derive(Debug)]
pub struct Negotiation {
    session_id: u64,
    version: u64,
    ssrcs: SsrcSequence,
    /// As in the last answered offer.
    sections: Vec<Section>,
    /// Everything subscribed, in the order asked for, whether it has a section or not.
    wanted: Vec<WantedTrack>,
    remote: Option<RemoteParams>,
    preferences: Vec<(String, AudioPreferences)>,
    /// Which codec the client is to send a video track in, by the track's name in its msid.
    video_codecs: Vec<(String, String)>,
    /// Layers of a video track, low to high, by the track's name in its msid.
    layer_orders: Vec<(String, Vec<String>)>,
}

#[derive(Debug)]
struct Section {
    mid: String,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// Rejected, or not RTP.
    Closed,
    /// Nothing flows. `free`: the client would receive here.
    Idle {
        kind: MediaKind,
        free: bool,
    },
    Receiving(Publication),
    Sending(Sending),
}

#[derive(Debug)]
struct Sending {
    track: WantedTrack,
    ssrc: u32,
    rtx_ssrc: u32,
    /// Unsubscribed since the last answer.
    ended: bool,
}

/// What of an offered section we could use.
pub(super) struct Usable<'a> {
    mid: &'a str,
    /// `None` = data channels.
    pub(super) media: Option<UsableMedia<'a>>,
}

pub(super) struct UsableMedia<'a> {
    pub(super) kind: MediaKind,
    payloads: Vec<PayloadType>,
    extensions: Vec<OfferedExtension<'a>>,
    map: ExtensionMap,
}

impl Negotiation {
    /// `seed` must be unpredictable and differ between participants: SSRCs and the session id come from it.
    pub fn new(seed: u64) -> Negotiation {
        Negotiation {
            session_id: mix(seed) >> 2,
            version: 0,
            ssrcs: SsrcSequence::new(seed),
            sections: Vec::new(),
            wanted: Vec::new(),
            remote: None,
            preferences: Vec::new(),
            video_codecs: Vec::new(),
            layer_orders: Vec::new(),
        }
    }

    /// Wants this track sent to the client. Takes effect at the next answer. A second call for a key changes the codecs
    /// of the subscription and nothing else.
    pub fn subscribe(&mut self, track: WantedTrack) {
        match self.wanted.iter_mut().find(|wanted| wanted.key == track.key) {
            Some(wanted) => wanted.codecs = track.codecs,
            None => self.wanted.push(track),
        }
    }

    /// Takes effect at the next answer. Unknown keys are ignored.
    pub fn unsubscribe(&mut self, key: u64) {
        self.wanted.retain(|wanted| wanted.key != key);
        for section in &mut self.sections {
            if let Role::Sending(sending) = &mut section.role {
                sending.ended |= sending.track.key == key;
            }
        }
    }

    /// How the client should encode the microphone it publishes as `cid` (msid track). Takes effect at the next answer.
    pub fn prefer_audio(&mut self, cid: &str, preferences: AudioPreferences) {
        remember(&mut self.preferences, cid, preferences);
    }

    /// Which codec (mime type) the client wants to send the video it publishes as `cid` (msid track) in. Browsers leave that to
    /// the answer: they send the codec that it names first. Takes effect at the next answer.
    pub fn prefer_video(&mut self, cid: &str, mime: &str) {
        remember(&mut self.video_codecs, cid, mime.to_owned());
    }

    /// The rids of the video that the client publishes as `cid` (msid track), smallest picture first, for names that do not tell. Takes effect at
    /// the next answer.
    pub fn prefer_layers(&mut self, cid: &str, rids: Vec<String>) {
        remember(&mut self.layer_orders, cid, rids);
    }

    /// A section the client sends on, its codecs in the order it is to use them.
    fn received(&self, offered: &OfferedSection<'_>, mid: &str, media: &UsableMedia<'_>) -> Publication {
        let mut publication = publication(offered, mid, media);
        let told = self.layer_orders.iter().find(|(cid, _)| *cid == publication.cid);
        layers::sort(&mut publication.rids, told.map_or(&[], |(_, rids)| rids));
        let wanted = self.video_codecs.iter().find(|(cid, _)| *cid == publication.cid);
        if let Some((_, mime)) = wanted {
            publication
                .payloads
                .sort_by_key(|payload| !payload.codec.to_string().eq_ignore_ascii_case(mime));
        }
        publication
    }

    /// Sections that waiting subscriptions need beyond the free ones, up to [`SECTIONS_WANTED_MAX`] in all.
    pub fn sections_required(&self) -> SectionsRequired {
        let missing = |of: MediaKind| {
            let waiting = self.waiting().filter(|wanted| wanted.kind == of).count();
            let free = |section: &&Section| matches!(section.role, Role::Idle { kind, free: true } if kind == of);
            waiting.saturating_sub(self.sections.iter().filter(free).count())
        };
        let room = SECTIONS_WANTED_MAX.saturating_sub(self.sections.len());
        let audios = missing(MediaKind::Audio).min(room);
        let videos = missing(MediaKind::Video).min(room - audios);
        SectionsRequired {
            audios: audios as u32,
            videos: videos as u32,
        }
    }

    /// Something waits for the client's next offer: send [`Self::sections_required`], which may be 0 and 0, to provoke it.
    pub fn needs_reoffer(&self) -> bool {
        let outdated = |section: &Section| match &section.role {
            Role::Sending(sending) => {
                let wanted = self.wanted.iter().find(|wanted| wanted.key == sending.track.key);
                sending.ended || wanted.is_some_and(|wanted| wanted.codecs != sending.track.codecs)
            }
            _ => false,
        };
        if self.sections.iter().any(outdated) {
            return true;
        }
        let required = self.sections_required();
        let free = |of: MediaKind| {
            self.sections
                .iter()
                .any(|section| matches!(section.role, Role::Idle { kind, free: true } if kind == of))
        };
        self.waiting().any(|wanted| match wanted.kind {
            MediaKind::Audio => required.audios > 0 || free(MediaKind::Audio),
            MediaKind::Video => required.videos > 0 || free(MediaKind::Video),
        })
    }

    /// What the client's transport would be after this offer, without answering it: an ICE restart needs fresh local
    /// credentials *before* [`Self::answer`], new DTLS a new peer. Costs a parse.
    pub fn inspect(&self, offer: &str) -> Result<RemoteParams, SdpError> {
        let offer = Offer::parse(offer)?;
        let usable = usable_sections(&offer)?;
        let mids = bundled(&offer, &usable);
        self.remote_params(&offer, &mids)
    }

    /// Answers an offer. On an error nothing has changed.
    pub fn answer(&mut self, offer: &str, local: &LocalMedia) -> Result<Answer, SdpError> {
        let offer = Offer::parse(offer)?;
        let usable = usable_sections(&offer)?;
        let mids = bundled(&offer, &usable);
        let remote = self.remote_params(&offer, &mids)?;

        let unsupported = self.assign(&offer, &usable);
        self.version += 1;
        let mut writer = AnswerWriter::new(local, self.session_id, self.version, &mids, offer.extmap_allow_mixed);
        writer.take_role(remote.role);
        let mut answer = Answer {
            sdp: String::new(),
            mid_to_track: Vec::new(),
            remote: remote.clone(),
            publications: Vec::new(),
            subscriptions: Vec::new(),
            unsupported,
            has_data: false,
        };
        for ((offered, usable), section) in offer.sections.iter().zip(&usable).zip(&self.sections) {
            match usable {
                None => writer.rejected(offered),
                Some(Usable { mid, media: None }) => {
                    answer.has_data = true;
                    writer.data(offered, mid);
                }
                Some(Usable {
                    mid,
                    media: Some(media),
                }) => {
                    self.write_media(&mut writer, &mut answer, offered, mid, media, section);
                }
            }
            if let Role::Receiving(publication) = &section.role {
                answer.publications.push(publication.clone());
            }
        }
        answer.sdp = writer.finish();
        self.remote = Some(remote);
        Ok(answer)
    }

    fn waiting(&self) -> impl Iterator<Item = &WantedTrack> {
        let carried: HashSet<u64> = self.sections.iter().filter_map(Section::carries).collect();
        self.wanted.iter().filter(move |wanted| !carried.contains(&wanted.key))
    }

    fn remote_params(&self, offer: &Offer<'_>, mids: &[&str]) -> Result<RemoteParams, SdpError> {
        if mids.is_empty() {
            return Err(SdpError::NothingBundled);
        }
        // The tagged section carries the transport; sections that are bundle-only may have none, the session may.
        let mut order = mids
            .iter()
            .filter_map(|mid| offer.sections.iter().find(|s| s.mid == Some(mid)));
        let transport = order
            .find(|s| s.transport.ufrag.is_some())
            .map_or(&offer.transport, |s| &s.transport);
        let ice = transport.ice().ok_or(SdpError::NoIce)?;
        let fingerprint = transport
            .fingerprint
            .or(offer.transport.fingerprint)
            .ok_or(SdpError::NoFingerprint)?;
        let role = match transport.setup.or(offer.transport.setup) {
            None | Some("actpass" | "active") => DtlsRole::Server,
            Some("passive") => DtlsRole::Client,
            Some(_) => return Err(SdpError::DtlsRole),
        };
        let restarted = self.remote.as_ref().is_some_and(|before| before.ice != ice);
        let dtls_changed = self
            .remote
            .as_ref()
            .is_some_and(|before| before.fingerprint != fingerprint);
        let kept = self.remote.as_ref().filter(|_| !dtls_changed);
        Ok(RemoteParams {
            ice,
            fingerprint,
            role: kept.map_or(role, |before| before.role),
            restarted,
            dtls_changed,
        })
    }

    /// Brings the sections to where this offer leaves them, then gives free sections to waiting subscriptions. Returns
    /// the keys of subscriptions that were dropped for want of a codec.
    fn assign(&mut self, offer: &Offer<'_>, usable: &[Option<Usable<'_>>]) -> Vec<u64> {
        let mut before = std::mem::take(&mut self.sections).into_iter();
        let mut assignable = Vec::new();
        for (index, (offered, usable)) in offer.sections.iter().zip(usable).enumerate() {
            // A section that was recycled for another mid starts afresh (RFC 9429 §5.2.2).
            let old = before
                .next()
                .filter(|old| Some(old.mid.as_str()) == offered.mid)
                .map(|old| old.role);
            // A change of hands needs one answer in between: the section dead, and the node told so.
            let was_idle = match &old {
                None | Some(Role::Idle { .. } | Role::Closed) => true,
                Some(Role::Receiving(publication)) => !publication.active,
                Some(Role::Sending(_)) => false,
            };
            let role = match usable {
                Some(Usable {
                    mid,
                    media: Some(media),
                }) => self.next_role(offered, mid, media, old),
                _ => match old {
                    Some(Role::Receiving(publication)) if publication.active => stopped(publication),
                    _ => Role::Closed,
                },
            };
            if was_idle && matches!(role, Role::Idle { free: true, .. }) {
                assignable.push(index);
            }
            self.sections.push(Section {
                mid: offered.mid.unwrap_or("").to_owned(),
                role,
            });
        }
        self.fill(usable, &assignable, offer)
    }

    fn next_role(&self, offered: &OfferedSection<'_>, mid: &str, media: &UsableMedia<'_>, old: Option<Role>) -> Role {
        match offered.direction {
            // What a client could both send and receive on is taken for sending: it has other sections to receive on.
            Direction::SendOnly | Direction::SendRecv => Role::Receiving(self.received(offered, mid, media)),
            Direction::RecvOnly | Direction::Inactive => match old {
                Some(Role::Sending(sending)) if offered.direction == Direction::RecvOnly && !sending.ended => {
                    let codecs = self.wanted.iter().find(|wanted| wanted.key == sending.track.key);
                    let codecs = codecs.map_or(sending.track.codecs, |wanted| wanted.codecs.clone());
                    Role::Sending(Sending {
                        track: WantedTrack {
                            codecs,
                            ..sending.track
                        },
                        ..sending
                    })
                }
                Some(Role::Receiving(publication)) if publication.active => stopped(publication),
                _ => Role::Idle {
                    kind: media.kind,
                    free: offered.direction == Direction::RecvOnly,
                },
            },
        }
    }

    /// First come, first served; only into sections whose codecs fit.
    fn fill(&mut self, usable: &[Option<Usable<'_>>], assignable: &[usize], offer: &Offer<'_>) -> Vec<u64> {
        let theirs: HashSet<u32> = offer
            .sections
            .iter()
            .flat_map(|section| section.ssrcs.iter().copied())
            .collect();
        let mut taken = HashSet::new();
        let mut unsupported = Vec::new();
        let waiting: Vec<WantedTrack> = self.waiting().cloned().collect();
        for track in waiting {
            let mut of_kind = assignable
                .iter()
                .copied()
                .filter(|index| !taken.contains(index))
                .filter_map(|index| {
                    let media = usable[index].as_ref()?.media.as_ref()?;
                    (media.kind == track.kind).then_some((index, media))
                });
            let fits = |media: &UsableMedia<'_>| !codecs::matching(&media.payloads, &track.codecs).is_empty();
            let Some((mut index, media)) = of_kind.next() else {
                continue;
            };
            if !fits(media) {
                match of_kind.find(|(_, media)| fits(media)) {
                    Some((fitting, _)) => index = fitting,
                    None => {
                        unsupported.push(track.key);
                        continue;
                    }
                }
            }
            taken.insert(index);
            let (ssrc, rtx_ssrc) = (self.ssrcs.next(&theirs), self.ssrcs.next(&theirs));
            self.sections[index].role = Role::Sending(Sending {
                track,
                ssrc,
                rtx_ssrc,
                ended: false,
            });
        }
        self.wanted.retain(|wanted| !unsupported.contains(&wanted.key));
        unsupported
    }

    fn write_media(
        &self,
        writer: &mut AnswerWriter<'_>,
        answer: &mut Answer,
        offered: &OfferedSection<'_>,
        mid: &str,
        media: &UsableMedia<'_>,
        section: &Section,
    ) {
        let mut text = MediaSection {
            offered,
            kind: media.kind,
            mid,
            direction: Direction::Inactive,
            payloads: &media.payloads,
            extensions: &media.extensions,
            with_transport_cc: media.map.transport_cc.is_some(),
            layers: &[],
            sent: None,
            preferences: AudioPreferences::default(),
        };
        let layers: Vec<OfferedLayer<'_>>;
        let payloads;
        match &section.role {
            Role::Receiving(publication) if publication.active => {
                text.direction = Direction::RecvOnly;
                text.payloads = &publication.payloads;
                layers = layers::declared(offered);
                text.layers = &layers;
                let preferences = self.preferences.iter().find(|(cid, _)| *cid == publication.cid);
                text.preferences = preferences.map_or_else(AudioPreferences::default, |(_, wanted)| *wanted);
            }
            Role::Sending(sending) => {
                let track = &sending.track;
                payloads = match codecs::matching(&media.payloads, &track.codecs) {
                    // The publisher changed to a codec that this client lacks: the section stays, nothing will match.
                    fitting if fitting.is_empty() => media.payloads.clone(),
                    fitting => fitting,
                };
                text.direction = Direction::SendOnly;
                text.payloads = &payloads;
                text.sent = Some(SentStream {
                    stream_id: &track.stream_id,
                    track_sid: &track.track_sid,
                    ssrc: sending.ssrc,
                    rtx_ssrc: sending.rtx_ssrc,
                });
                answer.mid_to_track.push((mid.to_owned(), track.track_sid.clone()));
                answer.subscriptions.push(SubscriptionMedia {
                    key: track.key,
                    mid: mid.to_owned(),
                    ssrc: sending.ssrc,
                    rtx_ssrc: sending.rtx_ssrc,
                    payloads: payloads.clone(),
                    extensions: extensions::usable(&media.extensions, media.kind, false),
                });
            }
            Role::Receiving(_) | Role::Idle { .. } | Role::Closed => {}
        }
        writer.media(&text);
    }
}

impl Section {
    /// The key of the live subscription here.
    fn carries(&self) -> Option<u64> {
        match &self.role {
            Role::Sending(sending) if !sending.ended => Some(sending.track.key),
            _ => None,
        }
    }
}

/// Keeps what was said last of each track, of the latest [`PREFERENCES_MAX`].
fn remember<T>(said: &mut Vec<(String, T)>, cid: &str, what: T) {
    said.retain(|(of, _)| of != cid);
    if said.len() == PREFERENCES_MAX {
        said.remove(0);
    }
    said.push((cid.to_owned(), what));
}

/// Each section of the offer, if it can be accepted.
pub(super) fn usable_sections<'a>(offer: &Offer<'a>) -> Result<Vec<Option<Usable<'a>>>, SdpError> {
    let mut mids = HashSet::new();
    let mut has_data = false;
    let bundle: HashSet<&str> = offer.bundle.iter().copied().collect();
    let mut usable = Vec::with_capacity(offer.sections.len());
    for section in &offer.sections {
        if let Some(mid) = section.mid.filter(|&mid| !mids.insert(mid)) {
            return Err(SdpError::DuplicateMid(mid.to_owned()));
        }
        let found = usable_section(section, &bundle)
            // One SCTP association to a transport (RFC 8841 §6).
            .filter(|found| found.media.is_some() || !std::mem::replace(&mut has_data, true));
        usable.push(found);
    }
    Ok(usable)
}

fn usable_section<'a>(section: &OfferedSection<'a>, bundle: &HashSet<&str>) -> Option<Usable<'a>> {
    let mid = section.mid.filter(|mid| bundle.contains(mid))?;
    // Port 0 rejects, unless the section waits to be bundled (RFC 9143 §6).
    if section.port_zero && !section.bundle_only {
        return None;
    }
    let kind = match section.media {
        "audio" => MediaKind::Audio,
        "video" => MediaKind::Video,
        "application" => {
            let sctp = matches!(section.protocol, "UDP/DTLS/SCTP" | "TCP/DTLS/SCTP");
            let accepted = sctp && section.formats_text == "webrtc-datachannel" && section.sctp_port;
            return accepted.then_some(Usable { mid, media: None });
        }
        _ => return None,
    };
    if !matches!(
        section.protocol,
        "UDP/TLS/RTP/SAVPF" | "TCP/TLS/RTP/SAVPF" | "RTP/SAVPF"
    ) || !section.rtcp_mux
    {
        return None;
    }
    let payloads = codecs::offered(section, kind);
    let (extensions, map) = extensions::accepted(section, kind);
    (!payloads.is_empty()).then_some(Usable {
        mid,
        media: Some(UsableMedia {
            kind,
            payloads,
            extensions,
            map,
        }),
    })
}

/// mids of the accepted sections in the bundle's order: the first is the tagged one.
fn bundled<'a>(offer: &Offer<'a>, usable: &[Option<Usable<'a>>]) -> Vec<&'a str> {
    let mut accepted: HashSet<&str> = usable.iter().flatten().map(|section| section.mid).collect();
    offer
        .bundle
        .iter()
        .copied()
        .filter(|mid| accepted.remove(mid))
        .collect()
}

fn publication(offered: &OfferedSection<'_>, mid: &str, media: &UsableMedia<'_>) -> Publication {
    let (stream_id, cid) = offered.msid.unwrap_or(("-", ""));
    let layers = layers::declared(offered);
    Publication {
        mid: mid.to_owned(),
        kind: media.kind,
        stream_id: stream_id.to_owned(),
        cid: cid.to_owned(),
        rids: layers.iter().map(|layer| layer.rid.to_owned()).collect(),
        ssrcs: declared_streams(offered),
        payloads: media.payloads.clone(),
        extensions: extensions::usable(&media.extensions, media.kind, true),
        active: true,
    }
}

fn stopped(publication: Publication) -> Role {
    Role::Receiving(Publication {
        active: false,
        ..publication
    })
}

/// The media streams among the declared SSRCs: those of a SIM group in its order, else all that repair no other.
fn declared_streams(offered: &OfferedSection<'_>) -> Vec<SsrcInfo> {
    let groups = |semantics: &'static str| offered.ssrc_groups.iter().filter(move |(of, _)| *of == semantics);
    let repair: HashSet<u32> = groups("FID")
        .chain(groups("FEC-FR"))
        .flat_map(|(_, ssrcs)| ssrcs.iter().skip(1).copied())
        .collect();
    let media: Vec<u32> = match groups("SIM").next() {
        Some((_, ssrcs)) => ssrcs.clone(),
        None => offered
            .ssrcs
            .iter()
            .copied()
            .filter(|ssrc| !repair.contains(ssrc))
            .collect(),
    };
    media
        .into_iter()
        .take(Layer::COUNT)
        .map(|ssrc| {
            let rtx = groups("FID")
                .find(|(_, ssrcs)| ssrcs[0] == ssrc)
                .and_then(|(_, ssrcs)| ssrcs.get(1).copied());
            SsrcInfo { ssrc, rtx }
        })
        .collect()
}
