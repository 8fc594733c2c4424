//! Failures a client asks for, to test how it recovers. It can only hurt itself, so nobody needs a permission.

use std::time::{Duration, Instant};

use meridian_room::DisconnectReason;
use meridian_signalling::LeaveAction;
use meridian_signalling::proto::simulate_scenario::Scenario;

use crate::conference::Conference;
use crate::io::SessionKey;

/// How long somebody may be shown as speaking at most, and how loudly (0..=1).
const SPEAKING_MAX_S: u64 = 30;
const LOUDNESS: f32 = 0.9;

/// What becomes of the socket with which a client resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResumeFailure {
    /// It closes once the first messages are written.
    AfterMessages,
    /// It closes without a message.
    BeforeMessages,
}

impl Conference {
    pub(crate) fn simulate(&mut self, key: SessionKey, scenario: Scenario) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        tracing::info!(room = %self.name, identity = %member.stay.identity, ?scenario, "client simulates a failure");
        let sid = member.stay.sid.clone();
        match scenario {
            Scenario::SpeakerUpdate(seconds) => {
                let seconds = u64::try_from(seconds).unwrap_or(0).clamp(1, SPEAKING_MAX_S);
                let until = self.now + Duration::from_secs(seconds);
                self.simulated_speakers.insert(sid.clone(), until);
                self.speaking.insert(sid, LOUDNESS);
                self.speaking_changed = true;
            }
            // As if this edge had died: nothing is said, and the session is unknown to whoever resumes it.
            Scenario::NodeFailure(true) => self.remove(key, DisconnectReason::ServerShutdown, ""),
            Scenario::Migration(true) => {
                self.say_goodbye(&sid, LeaveAction::Reconnect, DisconnectReason::Migration);
            }
            Scenario::ServerLeave(true) => {
                self.say_goodbye(&sid, LeaveAction::Disconnect, DisconnectReason::ServerShutdown);
            }
            Scenario::LeaveRequestFullReconnect(true) => {
                self.say_goodbye(&sid, LeaveAction::Reconnect, DisconnectReason::Unknown);
            }
            Scenario::DisconnectSignalOnResume(on) => {
                member.resume_failure = on.then_some(ResumeFailure::AfterMessages);
            }
            Scenario::DisconnectSignalOnResumeNoMessages(on) => {
                member.resume_failure = on.then_some(ResumeFailure::BeforeMessages);
            }
            // An edge has UDP candidates only, which TURN reaches as well, and paces subscribers by what their paths carry.
            Scenario::SwitchCandidateProtocol(_) | Scenario::SubscriberBandwidth(_) => {}
            Scenario::NodeFailure(false)
            | Scenario::Migration(false)
            | Scenario::ServerLeave(false)
            | Scenario::LeaveRequestFullReconnect(false) => {}
        }
    }

    /// Simulated speakers fall silent when their time is over.
    pub(crate) fn end_simulations(&mut self, now: Instant) {
        let over: Vec<_> = self
            .simulated_speakers
            .extract_if(|_, until| *until <= now)
            .map(|(sid, _)| sid)
            .collect();
        for sid in over {
            self.speaking.remove(&sid);
            self.speaking_changed = true;
        }
    }
}
