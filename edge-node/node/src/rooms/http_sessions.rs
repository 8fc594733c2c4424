//! Members that came by an HTTP request (WHIP, WHEP), as resources that later requests find: by an id that nobody can guess, and only with the
//! token of whoever made them. A resource ends with its member's stay; an entry costs its room nothing.
//!
//! Three bounds: so many resources on an edge, one request of a resource at a time, and so long until a room has answered.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_conference::{HttpAsk, HttpReply, HttpVoice, Newcomer, Purpose, SessionKey};
use meridian_room::Identity;
use meridian_serving::metrics::head;
use meridian_transport::IceCredentials;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::{ConnectError, Rooms};
use crate::handles::{Connect, Outgoing, RoomHandle, ToRoom, ToSocket};

/// Resources that an edge holds at most.
const SESSIONS_MAX: usize = 10_000;
/// A room that takes longer to answer is given up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Replies that may wait for their request: one, and last words.
const REPLIES_QUEUED: usize = 4;
/// 128 bits and more.
const ID_CHARS: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Whip,
    Whep,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Whip => "whip",
            Role::Whep => "whep",
        }
    }
}

/// Who may ask about a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) identity: String,
    pub(crate) room: String,
    /// Of the token that it was made with, which counts for this resource after it has expired.
    pub(crate) token_sha256: [u8; 32],
}

/// A request that is not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, text: impl Into<String>) -> Refusal {
        let text = text.into();
        Refusal { status, text }
    }
}

/// The client's ICE session, as its last answered request left it.
#[derive(Clone, Debug)]
pub(crate) struct IceSession {
    pub(crate) etag: String,
    pub(crate) remote: IceCredentials,
}

pub(crate) struct HttpSession {
    pub(crate) id: String,
    pub(crate) role: Role,
    pub(crate) owner: Owner,
    room: RoomHandle,
    key: SessionKey,
    ice: Mutex<IceSession>,
    /// One request at a time.
    turn: Arc<Semaphore>,
    waiting: Mutex<Option<oneshot::Sender<HttpReply>>>,
}

/// What a resource is made of.
pub(crate) struct Offered {
    pub(crate) owner: Owner,
    pub(crate) client: meridian_conference::Connect,
    pub(crate) remote: IceCredentials,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<String, Arc<HttpSession>>,
    /// Being answered.
    coming: usize,
    opened: BTreeMap<Role, u64>,
    /// By role and HTTP status.
    refused: BTreeMap<(Role, u16), u64>,
}

/// The resources of one edge.
#[derive(Default)]
pub(crate) struct HttpSessions {
    table: Mutex<Table>,
}

/// A place in the table, until its resource stands there or nowhere.
struct Coming<'a>(&'a HttpSessions);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.lock().coming -= 1;
    }
}

impl HttpSessions {
    pub(crate) fn get(&self, role: Role, id: &str) -> Option<Arc<HttpSession>> {
        let found = self.lock().sessions.get(id).cloned();
        found.filter(|session| session.role == role)
    }

    /// Lets a client into its room and answers its offer.
    ///
    /// # Errors
    /// The room's own refusal, or 503.
    pub(crate) async fn open(
        self: &Arc<Self>,
        rooms: &Arc<Rooms>,
        role: Role,
        offered: Offered,
    ) -> Result<(Arc<HttpSession>, String), Refusal> {
        let _coming = self.reserve()?;
        let (frames, mut said) = mpsc::channel(REPLIES_QUEUED);
        let given_up = Arc::new(Notify::new());
        let connect = Connect {
            client: offered.client,
            socket: ToSocket { frames, given_up },
        };
        let (key, room) = match rooms.connect(connect).await {
            Ok(joined) => joined,
            Err(error @ ConnectError::TooManyRooms(_)) => return Err(Refusal::new(503, error.to_string())),
            Err(ConnectError::Refused) => {
                let last_words = said.recv().await.map(refusal_of);
                return Err(last_words.unwrap_or_else(ended));
            }
        };
        let session = Arc::new(HttpSession {
            id: random(ID_CHARS),
            role,
            owner: offered.owner,
            room,
            key,
            ice: Mutex::new(IceSession {
                etag: etag(),
                remote: offered.remote,
            }),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Mutex::default(),
        });
        let first = tokio::time::timeout(ANSWER_PATIENCE, said.recv()).await;
        let answer = match first {
            Ok(Some(Outgoing::Frame(frame))) => match HttpReply::from_frame(&frame) {
                Some(HttpReply::Answer(answer)) => answer,
                _ => {
                    session.leave().await;
                    return Err(refusal_of(Outgoing::Frame(frame)));
                }
            },
            Ok(Some(close)) => return Err(refusal_of(close)),
            Ok(None) => return Err(ended()),
            Err(_) => {
                session.leave().await;
                return Err(ended());
            }
        };
        let mut table = self.lock();
        table.sessions.insert(session.id.clone(), session.clone());
        *table.opened.entry(role).or_default() += 1;
        drop(table);
        tokio::spawn(self.clone().watch(session.clone(), said));
        Ok((session, answer))
    }

    /// Passes replies on until the member's stay ends.
    async fn watch(self: Arc<Self>, session: Arc<HttpSession>, mut said: mpsc::Receiver<Outgoing>) {
        while let Some(Outgoing::Frame(frame)) = said.recv().await {
            let waiting = session.waiting().take();
            if let (Some(waiting), Some(reply)) = (waiting, HttpReply::from_frame(&frame)) {
                let _ = waiting.send(reply);
            }
        }
        session.waiting().take();
        self.lock().sessions.remove(&session.id);
    }

    /// Ends a resource at its owner's wish.
    pub(crate) async fn close(&self, session: &HttpSession) {
        self.lock().sessions.remove(&session.id);
        session.leave().await;
    }

    pub(crate) fn count_refusal(&self, role: Role, status: u16) {
        *self.lock().refused.entry((role, status)).or_default() += 1;
    }

    fn reserve(&self) -> Result<Coming<'_>, Refusal> {
        let mut table = self.lock();
        if table.sessions.len() + table.coming >= SESSIONS_MAX {
            let text = format!("this edge holds {SESSIONS_MAX} WHIP and WHEP sessions already: use another edge");
            return Err(Refusal::new(503, text));
        }
        table.coming += 1;
        Ok(Coming(self))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn render(&self, text: &mut String) {
        let table = self.lock();
        let roles = [Role::Whip, Role::Whep];
        head(
            text,
            "meridian_http_sessions",
            "gauge",
            "WHIP publishers and WHEP viewers on this edge.",
        );
        for role in roles {
            let now = table.sessions.values().filter(|session| session.role == role).count();
            let _ = writeln!(text, "meridian_http_sessions{{protocol=\"{}\"}} {now}", role.name());
        }
        head(
            text,
            "meridian_http_sessions_opened_total",
            "counter",
            "WHIP and WHEP offers that were answered.",
        );
        for role in roles {
            let opened = table.opened.get(&role).copied().unwrap_or_default();
            let protocol = role.name();
            let _ = writeln!(
                text,
                "meridian_http_sessions_opened_total{{protocol=\"{protocol}\"}} {opened}"
            );
        }
        head(
            text,
            "meridian_http_requests_refused_total",
            "counter",
            "WHIP and WHEP requests that were refused, by HTTP status.",
        );
        for ((role, status), count) in &table.refused {
            let protocol = role.name();
            let _ = writeln!(
                text,
                "meridian_http_requests_refused_total{{protocol=\"{protocol}\",status=\"{status}\"}} {count}"
            );
        }
    }
}

impl HttpSession {
    pub(crate) fn ice(&self) -> IceSession {
        self.ice.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins ICE anew with these credentials of the client; our side of it, as a fragment.
    ///
    /// # Errors
    /// 404 when the stay has ended meanwhile, 503 when the room does not answer.
    pub(crate) async fn restart(&self, remote: IceCredentials) -> Result<String, Refusal> {
        // One at a time also where requests come faster than they are answered.
        let Ok(turn) = self.turn.acquire().await else {
            return Err(gone());
        };
        let (waiting, reply) = oneshot::channel();
        *self.waiting() = Some(waiting);
        self.say(&HttpAsk::Restart(remote.clone())).await;
        let reply = tokio::time::timeout(ANSWER_PATIENCE, reply).await;
        drop(turn);
        match reply {
            Ok(Ok(HttpReply::Restarted(fragment))) => {
                let etag = etag();
                *self.ice.lock().unwrap_or_else(PoisonError::into_inner) = IceSession { etag, remote };
                Ok(fragment)
            }
            Ok(Ok(HttpReply::Refused { status, text })) => Err(Refusal { status, text }),
            Ok(Ok(HttpReply::Answer(_)) | Err(_)) => Err(gone()),
            Err(_) => Err(ended()),
        }
    }

    async fn leave(&self) {
        self.say(&HttpAsk::Leave).await;
    }

    async fn say(&self, ask: &HttpAsk) {
        let Ok(permit) = Arc::new(Semaphore::new(1)).acquire_owned().await else {
            return;
        };
        let (session, frame) = (self.key, ask.to_frame());
        // A room that has ended has no member to ask.
        let _ = self.room.send(ToRoom::Frame { session, frame, permit }).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<oneshot::Sender<HttpReply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a client that has offered this speaks in its room.
pub(crate) fn newcomer(identity: &str, purpose: Purpose, offer: String) -> Newcomer {
    let voice = HttpVoice::new(Identity::from(identity), purpose, offer, rand::rng().random());
    Newcomer::Other(Box::new(voice))
}

pub(crate) fn gone() -> Refusal {
    Refusal::new(404, "there is no such session (any more): POST a new offer")
}

fn ended() -> Refusal {
    Refusal::new(503, "the room has just ended or does not answer: try again")
}

fn refusal_of(said: Outgoing) -> Refusal {
    match said {
        Outgoing::Frame(frame) => match HttpReply::from_frame(&frame) {
            Some(HttpReply::Refused { status, text }) => Refusal { status, text },
            _ => ended(),
        },
        Outgoing::Close { reason, .. } => Refusal::new(422, reason),
    }
}

/// An entity tag (RFC 9110 §8.8.3) that was never given before.
fn etag() -> String {
    format!("\"{}\"", random(12))
}

fn random(chars: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(chars)
        .map(char::from)
        .collect()
}
