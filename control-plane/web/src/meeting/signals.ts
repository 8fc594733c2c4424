/**
 * Raised hands and reactions: small words between the apps, as data on a topic of their own. A hand stays up until it is taken down, so its owner
 * tells whoever comes later and whoever it meets on another edge; a reaction is seen for some seconds.
 */
import { RoomEvent, type RemoteParticipant, type Room } from 'livekit-client';
import { Changes } from './changes';

const TOPIC = 'meridian.signal';
export const REACTIONS = ['👍', '👏', '❤️', '😂', '😮', '🎉'] as const;
export type Reaction = (typeof REACTIONS)[number];

const SHOWN_MS = 4_000;
/** What a stranger may make this page hold and draw. */
const BYTES_MAX = 200;
const PEOPLE_MAX = 1_000;

export class Signals extends Changes {
  private room: Room | null = null;
  /** When each hand went up, by its owner's clock: the order in which people are called. */
  private readonly hands = new Map<string, number>();
  private readonly reactions = new Map<string, { reaction: Reaction; timer: ReturnType<typeof setTimeout> }>();
  private ownSinceMs: number | null = null;

  plugIn(room: Room): void {
    room.on(RoomEvent.DataReceived, (bytes, from, _kind, topic) => {
      if (from && topic === TOPIC && bytes.length <= BYTES_MAX) this.receive(from.identity, bytes);
    });
    room.on(RoomEvent.ParticipantConnected, (newcomer: RemoteParticipant) => {
      if (room === this.room && this.ownSinceMs !== null) void this.tell({ hand: this.ownSinceMs }, [newcomer.identity]);
    });
    room.on(RoomEvent.ParticipantDisconnected, ({ identity }) => {
      if (room === this.room) this.hands.delete(identity);
    });
  }

  /** This room carries the words from now on; null: none does. */
  use(room: Room | null): void {
    this.room = room;
    if (room && this.ownSinceMs !== null) void this.tell({ hand: this.ownSinceMs });
  }

  async raise(up: boolean): Promise<void> {
    this.ownSinceMs = up ? Date.now() : null;
    this.changed();
    await this.tell({ hand: this.ownSinceMs });
  }

  async react(reaction: Reaction): Promise<void> {
    if (this.room) this.show(this.room.localParticipant.identity, reaction);
    await this.tell({ reaction });
  }

  handOf(identity: string, isLocal: boolean): number | null {
    return isLocal ? this.ownSinceMs : (this.hands.get(identity) ?? null);
  }

  reactionOf(identity: string): Reaction | null {
    return this.reactions.get(identity)?.reaction ?? null;
  }

  close(): void {
    for (const { timer } of this.reactions.values()) clearTimeout(timer);
    this.reactions.clear();
    this.hands.clear();
  }

  private async tell(word: { hand: number | null } | { reaction: Reaction }, to?: string[]): Promise<void> {
    const bytes = new TextEncoder().encode(JSON.stringify(word));
    // A hand that could not be told is told again to the next room.
    await this.room?.localParticipant.publishData(bytes, { reliable: true, topic: TOPIC, ...(to && { destinationIdentities: to }) }).catch(() => undefined);
  }

  private receive(identity: string, bytes: Uint8Array): void {
    const word = parse(bytes);
    if (word.hand === null) this.hands.delete(identity);
    else if (typeof word.hand === 'number' && Number.isFinite(word.hand) && (this.hands.has(identity) || this.hands.size < PEOPLE_MAX)) this.hands.set(identity, word.hand);
    const reaction = REACTIONS.find((known) => known === word.reaction);
    if (reaction && (this.reactions.has(identity) || this.reactions.size < PEOPLE_MAX)) this.show(identity, reaction);
    this.changed();
  }

  private show(identity: string, reaction: Reaction): void {
    clearTimeout(this.reactions.get(identity)?.timer);
    const timer = setTimeout(() => {
      this.reactions.delete(identity);
      this.changed();
    }, SHOWN_MS);
    this.reactions.set(identity, { reaction, timer });
    this.changed();
  }
}

function parse(bytes: Uint8Array): { hand?: unknown; reaction?: unknown } {
  try {
    return (JSON.parse(new TextDecoder().decode(bytes)) as { hand?: unknown; reaction?: unknown } | null) ?? {};
  } catch {
    return {};
  }
}
