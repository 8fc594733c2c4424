/** What the meeting screen draws. The screen knows these shapes only: a live session fills them (session.ts), and so does the development story. */

import type { Reaction } from './signals';

/** Anything that can play in a <video>: a LiveKit track, or a fake one in the story. */
export interface VideoHandle {
  attach(element: HTMLMediaElement): unknown;
  detach(element: HTMLMediaElement): unknown;
}

export type Quality = 'good' | 'fair' | 'poor' | 'lost' | 'unknown';

export interface Person {
  identity: string;
  name: string;
  isLocal: boolean;
  micOn: boolean;
  speaking: boolean;
  quality: Quality;
  /** Short name of the point of presence carrying this person, for instance `fra`; empty when unknown. */
  pop: string;
  camera: VideoHandle | null;
  screen: VideoHandle | null;
  /** False for a camera that films away from the person: only a selfie view is mirrored. */
  mirrored: boolean;
  /** When the hand went up, milliseconds since 1970; null: it is down. */
  handSinceMs: number | null;
  /** Seen for some seconds. */
  reaction: Reaction | null;
  joinedAtMs: number;
  lastSpokeAtMs: number;
}

export interface AudioSource {
  key: string;
  handle: VideoHandle;
}

export interface ChatLine {
  id: string;
  from: string;
  name: string;
  text: string;
  atMs: number;
  own: boolean;
  state: 'sent' | 'sending' | 'failed';
}

export interface Notice {
  id: number;
  text: string;
  tone: 'plain' | 'warning';
}

/** `resuming`: the signalling socket is being replaced, media still flows. `rejoining`: the edge is gone and another is being joined. */
export type Phase = 'joining' | 'connected' | 'resuming' | 'rejoining' | 'ended';

export type EndReason = 'left' | 'removed' | 'ended' | 'duplicate' | 'dropped' | 'full' | 'not_found' | 'refused';

export interface Placement {
  edgeId: string;
  region: string;
  alternates: string[];
  reasons: string[];
}

export interface MeetingSnapshot {
  phase: Phase;
  end: EndReason | null;
  code: string;
  title: string;
  people: Person[];
  audio: AudioSource[];
  chat: ChatLine[];
  notices: Notice[];
  placement: Placement | null;
  /** Round trip to the edge in milliseconds, measured; null until the first measurement. */
  rttMs: number | null;
  micOn: boolean;
  cameraOn: boolean;
  sharing: boolean;
  /** The browser refused to play sound until the person clicks. */
  soundBlocked: boolean;
  /** Ids of the devices in use; empty when unknown. */
  devices: Record<MediaDeviceKind, string>;
  /** The mesh keeps what is said and shown. */
  recording: boolean;
  /** The host's to begin and end. */
  mayRecord: boolean;
}

export interface MeetingActions {
  setMic(on: boolean): Promise<void>;
  setCamera(on: boolean): Promise<void>;
  setSharing(on: boolean): Promise<void>;
  useDevice(kind: MediaDeviceKind, deviceId: string): Promise<void>;
  sendChat(text: string): Promise<void>;
  retryChat(id: string): Promise<void>;
  raiseHand(up: boolean): Promise<void>;
  react(reaction: Reaction): Promise<void>;
  record(on: boolean): Promise<void>;
  allowSound(): Promise<void>;
  dismiss(notice: number): void;
  leave(): Promise<void>;
}

export interface MeetingSource {
  subscribe(listener: () => void): () => void;
  snapshot(): MeetingSnapshot;
  actions: MeetingActions;
}
