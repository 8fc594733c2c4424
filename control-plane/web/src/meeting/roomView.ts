/** Reads a LiveKit room into the shapes the screen draws. Pure reading: nothing here changes the room. */
import { ConnectionQuality, Track, type Participant, type Room, type TrackPublication } from 'livekit-client';
import { publicationOf, soundsOf } from './handover';
import type { AudioSource, Person, Quality, VideoHandle } from './model';
import type { Signals } from './signals';

/** What people say without a word. */
type Said = Pick<Signals, 'handOf' | 'reactionOf'>;

const QUALITY: Record<ConnectionQuality, Quality> = {
  [ConnectionQuality.Excellent]: 'good',
  [ConnectionQuality.Good]: 'fair',
  [ConnectionQuality.Poor]: 'poor',
  [ConnectionQuality.Lost]: 'lost',
  [ConnectionQuality.Unknown]: 'unknown',
};

export function peopleOf(room: Room, ownPop: string, said: Said): Person[] {
  return [personOf(room.localParticipant, ownPop, said), ...[...room.remoteParticipants.values()].map((p) => personOf(p, '', said))];
}

function personOf(participant: Participant, fallbackPop: string, said: Said): Person {
  return {
    identity: participant.identity,
    name: participant.name || participant.identity || 'Guest',
    isLocal: participant.isLocal,
    micOn: participant.isMicrophoneEnabled,
    speaking: participant.isSpeaking,
    quality: QUALITY[participant.connectionQuality],
    pop: popOf(participant) || fallbackPop,
    camera: shown(publicationOf(participant, Track.Source.Camera)),
    screen: shown(publicationOf(participant, Track.Source.ScreenShare)),
    mirrored: participant.isLocal && facesTheUser(participant.getTrackPublication(Track.Source.Camera)),
    joinedAtMs: participant.joinedAt?.getTime() ?? 0,
    handSinceMs: said.handOf(participant.identity, participant.isLocal),
    reaction: said.reactionOf(participant.identity),
    lastSpokeAtMs: participant.lastSpokeAt?.getTime() ?? 0,
  };
}

/** The server stamps `meridian.pop` on everyone; any other LiveKit server gives at least a region. */
function popOf(participant: Participant): string {
  const stamped = participant.attributes['meridian.pop'];
  if (stamped) return stamped;
  const info = (participant as unknown as { participantInfo?: { region?: string } }).participantInfo;
  return info?.region ?? '';
}

function shown(publication: TrackPublication | undefined): VideoHandle | null {
  return publication?.track && !publication.isMuted ? publication.track : null;
}

function facesTheUser(publication: TrackPublication | undefined): boolean {
  return publication?.track?.mediaStreamTrack.getSettings().facingMode !== 'environment';
}

export function audioOf(room: Room): AudioSource[] {
  const sources: AudioSource[] = [];
  for (const participant of room.remoteParticipants.values()) {
    for (const publication of soundsOf(participant)) {
      if (publication.track) sources.push({ key: publication.trackSid, handle: publication.track });
    }
  }
  return sources;
}

/** What is captured and heard with right now; empty where nothing has been chosen. */
export function devicesOf(room: Room): Record<MediaDeviceKind, string> {
  const captured = (source: Track.Source) => room.localParticipant.getTrackPublication(source)?.track?.mediaStreamTrack.getSettings().deviceId;
  const of = (kind: MediaDeviceKind, source?: Track.Source) => (source && captured(source)) || room.getActiveDevice(kind) || '';
  return { audioinput: of('audioinput', Track.Source.Microphone), videoinput: of('videoinput', Track.Source.Camera), audiooutput: of('audiooutput') || 'default' };
}

/**
 * The browser keeps somebody's sound from playing until the person presses something. livekit-client also says so of a machine whose
 * AudioContext has no device to run on, while the sound plays.
 */
export function soundIsHeldBack(room: Room): boolean {
  if (room.canPlaybackAudio) return false;
  const heard = [...room.remoteParticipants.values()].flatMap((participant) => [...participant.audioTrackPublications.values()]);
  return heard.some(({ track }) => track?.attachedElements.some((element) => element.paused));
}
