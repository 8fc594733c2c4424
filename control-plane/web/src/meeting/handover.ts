/**
 * From one edge to another while both still serve. Whoever moves is received from both for a moment, by themselves and by everybody else: what
 * is on the screen stays there until the same comes from the new edge, too.
 */
import { RemoteVideoTrack, RoomEvent, Track, type ElementInfo, type Participant, type RemoteTrack, type Room, type TrackPublication } from 'livekit-client';

const LOOK_MS = 40;
/** A track that brings no picture for so long is not waited for. */
const PICTURE_MS = 5_000;
/** A picture that nobody looks at yet is asked for as if it were on a tile. */
const UNSEEN = { width: 640, height: 360 };

/** Of several publications of a source the latest that flows; if none does, the first: its last picture stands. */
export function publicationOf(participant: Participant, source: Track.Source): TrackPublication | undefined {
  if (participant.isLocal) return participant.getTrackPublication(source);
  const all = [...participant.trackPublications.values()].filter((publication) => publication.source === source);
  return [...all].reverse().find(({ track }) => track && flows(track) && (track.kind !== Track.Kind.Video || pictured.has(track))) ?? all[0];
}

/** The sound of each source once, though it may be on its way twice. */
export function soundsOf(participant: Participant): TrackPublication[] {
  const sources = new Set([...participant.audioTrackPublications.values()].map(({ source }) => source));
  return [...sources].map((source) => publicationOf(participant, source)).filter((publication) => publication !== undefined);
}

/** Second camera tracks of somebody of which a picture has been decoded. */
const pictured = new WeakSet<Track>();

/** Browsers mute a received track until its first packet; whether it is a picture yet is looked at where two compete. */
const flows = (track: Track): boolean => !track.mediaStreamTrack.muted;

/** Has pictures of somebody's second camera track come before anybody looks at them. `changed`: what is shown may be another now. */
export function expectHandovers(room: Room, changed: () => void): void {
  room.on(RoomEvent.TrackSubscribed, (track: RemoteTrack, publication, participant) => {
    const others = [...participant.trackPublications.values()].filter((other) => other.source === publication.source && other !== publication);
    if (others.length === 0) return;
    const done = lookAt(track);
    void firstPicture(track).then(changed);
    room.on(RoomEvent.TrackUnsubscribed, function gone(other) {
      if (other !== track && !others.some((one) => one.track === other || one.trackSid === other.sid)) return;
      room.off(RoomEvent.TrackUnsubscribed, gone);
      done();
      changed();
    });
  });
}

/** Asks for a track's pictures although it is on no element, until the returned function is called. */
function lookAt(track: RemoteTrack): () => void {
  if (!(track instanceof RemoteVideoTrack) || !track.isAdaptiveStream) return () => undefined;
  const unseen: ElementInfo = {
    element: {}, width: () => UNSEEN.width, height: () => UNSEEN.height, visible: true, pictureInPicture: false, visibilityChangedAt: undefined,
    observe: () => undefined, stopObserving: () => undefined,
  };
  track.observeElementInfo(unseen);
  return () => track.stopObservingElementInfo(unseen);
}

/** Has everything that `fresh` receives come, and waits until that is all that `old` receives, or for so long. Gives what ends the asking. */
export async function receivesAll(old: Room, fresh: Room, patienceMs: number): Promise<() => void> {
  const looks: (() => void)[] = [];
  const look = (track: RemoteTrack) => looks.push(lookAt(track));
  for (const participant of fresh.remoteParticipants.values()) for (const { track } of participant.trackPublications.values()) if (track) look(track);
  fresh.on(RoomEvent.TrackSubscribed, look);
  const untilMs = performance.now() + patienceMs;
  while (performance.now() < untilMs && !(await isAsGood(old, fresh))) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  fresh.off(RoomEvent.TrackSubscribed, look);
  return () => looks.forEach((done) => done());
}

async function isAsGood(old: Room, fresh: Room): Promise<boolean> {
  for (const [identity, participant] of old.remoteParticipants) {
    for (const { source, track, isMuted } of participant.trackPublications.values()) {
      if (!track || isMuted || !flows(track)) continue;
      const there = fresh.remoteParticipants.get(identity);
      const same = there && [...there.trackPublications.values()].map((one) => one.source === source && one.track).filter((one) => !!one);
      if (!same || !(await any(same, async (one) => flows(one) && (await hasPicture(one))))) return false;
    }
  }
  return true;
}

async function any<T>(all: readonly T[], is: (one: T) => Promise<boolean>): Promise<boolean> {
  return (await Promise.all(all.map(is))).includes(true);
}

/** Resolves once a track is as good as one that is on the screen. */
async function firstPicture(track: RemoteTrack): Promise<void> {
  const untilMs = performance.now() + PICTURE_MS;
  while (performance.now() < untilMs && !(flows(track) && (await hasPicture(track)))) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  pictured.add(track);
}

async function hasPicture(track: Track): Promise<boolean> {
  if (!(track instanceof RemoteVideoTrack)) return true;
  const report = await track.getRTCStatsReport();
  return [...(report?.values() ?? [])].some(({ type, framesDecoded }) => type === 'inbound-rtp' && framesDecoded > 0);
}
