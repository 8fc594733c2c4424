//! What operators may do and how they show who they are, the same over HTTP (`http/operator.rs`) and gRPC (`OperatorsService` here).

use crate::database::{Database, StoreError, now_ms};
use crate::fleet::{Ask, Fleet, NotDone, Pop};
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_wire::v1;
use meridian_wire::v1::pop_action::Action;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Wrong tokens a minute from one address.
const WRONG_TOKENS_PER_MINUTE: u32 = 20;
/// How long a drain takes unless it is said, and at most: a working day is longer than any meeting needs.
const DRAIN_S_DEFAULT: u64 = 600;
const DRAIN_S_MAX: u64 = 24 * 3600;

/// Who is an operator.
pub(crate) struct Operators {
    tokens: watch::Receiver<Vec<String>>,
    tries: Limiter<IpAddr>,
}

/// Why somebody is not taken for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotOperator {
    #[error("This control plane has no operator_tokens in its configuration: set one to ask it such things.")]
    NoOperators,
    #[error("Send one of this control plane's operator_tokens, as `Authorization: Bearer …`.")]
    WrongToken,
    #[error("Too many wrong tokens: try again in {retry_after_s} s.")]
    TooManyTries { retry_after_s: u32 },
}

impl Operators {
    /// No tokens: there are no operators.
    pub(crate) fn new(tokens: watch::Receiver<Vec<String>>) -> Self {
        Operators {
            tokens,
            tries: Limiter::new(WRONG_TOKENS_PER_MINUTE),
        }
    }

    /// `given`: the Bearer token.
    pub(crate) fn admit(&self, given: Option<&str>, client: IpAddr) -> Result<(), NotOperator> {
        if self.tokens.borrow().is_empty() {
            return Err(NotOperator::NoOperators);
        }
        let key = limit_key(client);
        // Taken first and given back, so that many guesses at once are not all free.
        if let Err(retry_after_s) = self.tries.take(key, Instant::now()) {
            return Err(NotOperator::TooManyTries { retry_after_s });
        }
        let given = given.unwrap_or_default();
        let is_given = |token: &String| {
            aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), given.as_bytes()).is_ok()
        };
        if !self.tokens.borrow().iter().any(is_given) {
            return Err(NotOperator::WrongToken);
        }
        self.tries.give_back(&key);
        Ok(())
    }
}

/// Why an operator's wish was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    NotDone(#[from] NotDone),
    #[error("the database does not answer; try again")]
    Store(#[from] StoreError),
}

/// A drain with this deadline, 0 for the usual one.
///
/// # Errors
/// The range, for people.
pub(crate) fn drain(deadline_s: u64, force: bool) -> Result<Ask, String> {
    let within_s = if deadline_s == 0 { DRAIN_S_DEFAULT } else { deadline_s };
    match within_s <= DRAIN_S_MAX {
        true => Ok(Ask::Drain { within_s, force }),
        false => Err(format!("deadline_s: 1 to {DRAIN_S_MAX}.")),
    }
}

pub(crate) fn pop(fleet: &Fleet, id: &str) -> Result<Pop, NotDone> {
    let mut pops = fleet.pops(Instant::now(), now_ms()).into_iter();
    pops.find(|pop| pop.id == id)
        .ok_or_else(|| NotDone::NoSuchPop(id.chars().take(40).collect()))
}

/// Carries a wish out; gives the PoP as it is then.
pub(crate) async fn act(fleet: &Fleet, database: &Database, id: &str, ask: Ask) -> Result<Pop, Failure> {
    let row = fleet.asked(id, ask, Instant::now(), now_ms())?;
    // Saved first: what an operator was told is done outlives this process.
    if let Err(error) = database.save_wanted(std::slice::from_ref(&row)).await {
        tracing::error!(%error, "what an operator wants of an edge could not be saved");
        return Err(error.into());
    }
    tracing::info!(pop = id, ?ask, "asked by an operator");
    fleet.take_wanted(vec![row], Instant::now(), now_ms());
    Ok(pop(fleet, id)?)
}

/// The same by gRPC.
pub(crate) struct OperatorsService {
    pub(crate) operators: Arc<Operators>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) database: Database,
}

impl OperatorsService {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.remote_addr().map(|address| address.ip());
        let value = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let given = value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let admitted = self.operators.admit(given, peer.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        admitted.map_err(|error| match error {
            NotOperator::NoOperators => Status::permission_denied(error.to_string()),
            NotOperator::WrongToken => Status::unauthenticated(error.to_string()),
            NotOperator::TooManyTries { .. } => Status::resource_exhausted(error.to_string()),
        })
    }
}

#[tonic::async_trait]
impl v1::operators_server::Operators for OperatorsService {
    async fn list_pops(&self, request: Request<v1::ListPopsRequest>) -> Result<Response<v1::ListPopsAnswer>, Status> {
        self.admit(&request)?;
        let pops = self.fleet.pops(Instant::now(), now_ms()).into_iter();
        Ok(Response::new(v1::ListPopsAnswer {
            pops: pops.map(v1::Pop::from).collect(),
        }))
    }

    async fn act_on_pop(&self, request: Request<v1::PopAction>) -> Result<Response<v1::Pop>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let ask = match request.action() {
            Action::Cordon => Ask::Cordon,
            Action::Uncordon => Ask::Uncordon,
            Action::Undrain => Ask::Undrain,
            Action::Drain => drain(request.deadline_s, request.force).map_err(Status::invalid_argument)?,
            Action::Unspecified => return Err(Status::invalid_argument("say which action")),
        };
        let done = act(&self.fleet, &self.database, &request.pop, ask).await;
        done.map(|pop| Response::new(pop.into()))
            .map_err(|failure| match failure {
                Failure::NotDone(error @ NotDone::NoSuchPop(_)) => Status::not_found(error.to_string()),
                Failure::NotDone(error) => Status::failed_precondition(error.to_string()),
                Failure::Store(_) => Status::unavailable(failure.to_string()),
            })
    }
}
