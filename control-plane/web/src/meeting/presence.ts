/**
 * Who is here, for a person's eyes. In an outage people change edges one after the other: the room says that they left and, a second later,
 * that they joined. Here they stay, with their last picture, until they are back or have been away for too long.
 */
import { DisconnectReason } from 'livekit-client';
import type { Person } from './model';

/** As long as a rejoin takes at its slowest but one: somebody who needs more is told of, and welcomed back. */
const AWAY_MS = 12_000;

/** Somebody who said goodbye, or was shown out. Everything else may be an outage. */
const FINAL: ReadonlySet<DisconnectReason | undefined> = new Set([
  DisconnectReason.CLIENT_INITIATED, DisconnectReason.PARTICIPANT_REMOVED, DisconnectReason.ROOM_DELETED, DisconnectReason.ROOM_CLOSED, DisconnectReason.USER_REJECTED,
]);

export interface PresenceEvents {
  joined(name: string): void;
  left(name: string): void;
}

export class Presence {
  private away = new Map<string, { person: Person; timer: ReturnType<typeof setTimeout> }>();

  constructor(private readonly events: PresenceEvents) {}

  connected(identity: string, name: string): void {
    if (!this.returned(identity)) this.events.joined(name);
  }

  /** `last`: how the person was seen until now. */
  disconnected(identity: string, name: string, last: Person | undefined, reason: DisconnectReason | undefined): void {
    if (FINAL.has(reason) || !last) {
      this.returned(identity);
      this.events.left(name);
    } else {
      this.hold(last);
    }
  }

  /** Another room: whoever was here and is not in it yet is on the way. */
  moved(before: readonly Person[], here: ReadonlySet<string>): void {
    for (const person of before) if (!person.isLocal && !here.has(person.identity)) this.hold(person);
    for (const identity of here) this.returned(identity);
  }

  /** Everybody in the room, and after them those who are on their way back. */
  with(people: Person[]): Person[] {
    const here = new Set(people.map(({ identity }) => identity));
    return [...people, ...[...this.away.values()].map(({ person }) => person).filter(({ identity }) => !here.has(identity))];
  }

  close(): void {
    for (const { timer } of this.away.values()) clearTimeout(timer);
    this.away.clear();
  }

  private hold(person: Person): void {
    if (this.away.has(person.identity)) return;
    const timer = setTimeout(() => {
      this.away.delete(person.identity);
      this.events.left(person.name);
    }, AWAY_MS);
    this.away.set(person.identity, { person: { ...person, speaking: false, quality: 'lost', screen: null }, timer });
  }

  private returned(identity: string): boolean {
    const held = this.away.get(identity);
    if (held) clearTimeout(held.timer);
    return this.away.delete(identity);
  }
}
