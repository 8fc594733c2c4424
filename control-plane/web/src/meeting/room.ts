/** Making rooms, carrying tracks from a dead one to the next, and what each kind of disconnection means for the person. */
import { DisconnectReason, LocalAudioTrack, LocalVideoTrack, Room, Track, VideoPresets, type LocalTrack, type ReconnectContext, type ReconnectPolicy } from 'livekit-client';
import { mediaChoices } from '../media/choices';
import type { EndReason } from './model';

/** Longer than any rejoin takes: a room that was handed over waits until it is abandoned. */
const HELD_MS = 120_000;

/**
 * livekit-client resumes a lost socket on the same edge: quick, and nobody sees it. Everything beyond (a full rejoin) is ours, because
 * it would go back to the same URL, and that edge may be the one that died. Until the next edge is joined the old room is held, not closed:
 * what still flows goes on flowing, and an edge that lives does not take the closing for a departure.
 */
class ResumeOnly implements ReconnectPolicy {
  room: Room | null = null;

  constructor(private readonly handOver: HandOver) {}

  nextRetryDelayInMs(context: ReconnectContext): number {
    if (!this.room?.engine?.fullReconnectOnNext) {
      if (context.retryCount === 0) return Math.random() * 50;
      if (context.retryCount === 1) return 100 + Math.random() * 100;
    }
    this.handOver(Boolean(this.room?.engine?.fullReconnectOnNext));
    return HELD_MS;
  }
}

/** The room cannot help itself any more. `told`: its edge may be alive and has said to come back, at best elsewhere. */
export type HandOver = (told: boolean) => void;

export function makeRoom(captureHeight: number, handOver: HandOver): Room {
  const reconnectPolicy = new ResumeOnly(handOver);
  const { cameraId, microphoneId, speakerId } = mediaChoices();
  const room = new Room({
    adaptiveStream: true,
    dynacast: true,
    reconnectPolicy,
    // A room that loses its edge must not switch the camera off: the next room goes on with it. The session stops captures itself.
    stopLocalTrackOnUnpublish: false,
    videoCaptureDefaults: { resolution: captureResolution(captureHeight), ...(cameraId && { deviceId: cameraId }) },
    ...(microphoneId && { audioCaptureDefaults: { deviceId: microphoneId } }),
    ...(speakerId && { audioOutput: { deviceId: speakerId } }),
    publishDefaults: { simulcast: true, videoCodec: 'vp8', red: true, dtx: true },
  });
  reconnectPolicy.room = room;
  return room;
}

export function captureResolution(height: number) {
  const preset = { 180: VideoPresets.h180, 360: VideoPresets.h360, 540: VideoPresets.h540, 1080: VideoPresets.h1080 }[height] ?? VideoPresets.h720;
  return preset.resolution;
}

/** Fresh wrappers around the captures that still run, so that the camera does not blink while the edge changes. A muted camera is off: it stays behind. */
export async function salvage(published: readonly LocalTrack[]): Promise<LocalTrack[]> {
  const kept: LocalTrack[] = [];
  for (const old of published) {
    const capture = old.mediaStreamTrack;
    if (capture.readyState !== 'live' || (old.source === Track.Source.Camera && old.isMuted)) continue;
    const track = capture.kind === 'audio' ? new LocalAudioTrack(capture, old.constraints, false) : new LocalVideoTrack(capture, old.constraints, false);
    track.source = old.source;
    if (old.isMuted) await track.mute();
    kept.push(track);
  }
  return kept;
}

export function publishedTracks(room: Room): LocalTrack[] {
  return [...room.localParticipant.trackPublications.values()].map((publication) => publication.track).filter((track) => track !== undefined);
}

/** The picture or the sound of a shared screen. */
export function isScreen({ source }: LocalTrack): boolean {
  return source === Track.Source.ScreenShare || source === Track.Source.ScreenShareAudio;
}

export async function setSharing(room: Room, on: boolean): Promise<void> {
  const ended = on ? [] : publishedTracks(room).filter(isScreen);
  await room.localParticipant.setScreenShareEnabled(on, { audio: true, selfBrowserSurface: 'include' });
  for (const track of ended) track.stop();
}

/** Lets go of a room without a goodbye: the person is coming back elsewhere, and a Leave would be shown to everybody as a departure. */
export function abandon(room: Room): void {
  room.removeAllListeners();
  void Promise.resolve(room.engine?.close())
    .then(() => room.disconnect(false))
    .catch(() => undefined);
}

/** Null: the connection broke and can be rebuilt. Otherwise the meeting is over for this person, and why. */
export function endOf(reason: DisconnectReason | undefined): EndReason | null {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return 'left';
    case DisconnectReason.DUPLICATE_IDENTITY:
      return 'duplicate';
    case DisconnectReason.PARTICIPANT_REMOVED:
      return 'removed';
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return 'ended';
    default:
      return null;
  }
}
