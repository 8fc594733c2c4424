/**
 * The meeting's chat: LiveKit text streams on the topic `lk.chat`. It outlives a change of edge, so it holds no room: rooms are plugged in.
 *
 * A browser that has sent something knows nothing: the edge may have stopped with the words in its queue. So some of those who should
 * have them are asked (an RPC behind the words, on the same ordered channel). Words that were not confirmed are sent once more under the
 * same id, by which everybody knows what they have already.
 */
import { RoomEvent, RpcError, type ChatMessage, type Room } from 'livekit-client';
import { Changes } from './changes';
import type { ChatLine } from './model';

const TOPIC = 'lk.chat';
/** Asked with a line's id; the answer is `seen` or `missing`. SDKs without it refuse the method, which says as much as `seen`. */
const ASK = 'meridian.chat.seen';
const LINES_MAX = 500;
export const CHAT_TEXT_MAX = 2_000;
/** Whoever is asked answers within a round trip of the mesh; this is many. */
const ANSWER_MS = 4_000;
/** One of each PoP first, as these fail together; no more in a room of a thousand. */
const ASKED_MAX = 6;
/** The words, and once again. */
const SENDINGS = 2;

export class ChatLog extends Changes {
  private room: Room | null = null;
  private sendings = new Map<string, number>();
  lines: ChatLine[] = [];

  /** Prepares a room that is about to be joined. */
  plugIn(room: Room): void {
    room.registerTextStreamHandler(TOPIC, (reader, sender) => {
      const { id, timestamp } = reader.info;
      const name = room.remoteParticipants.get(sender.identity)?.name;
      void reader.readAll().then(
        (text) => this.receive(id, sender.identity, name, text, timestamp),
        () => undefined, // The sender vanished in mid-message: half a message is none, and it is sent again.
      );
    });
    room.registerRpcMethod(ASK, async ({ payload }) => (this.has(payload) ? 'seen' : 'missing'));
    // Older SDKs still send chat as a message of its own kind.
    room.on(RoomEvent.ChatMessage, (message: ChatMessage, from) => {
      if (from && !from.isLocal) this.receive(message.id, from.identity, from.name, message.message, message.timestamp);
    });
  }

  /** This room carries the words from now on; null: none does, and they wait. */
  use(room: Room | null): void {
    this.room = room;
    if (!room) return;
    for (const line of this.lines) if (line.own && line.state === 'sending') void this.deliver(line.id, line.text);
  }

  async send(text: string): Promise<void> {
    const trimmed = text.trim().slice(0, CHAT_TEXT_MAX);
    if (!trimmed) return;
    const id = crypto.randomUUID();
    this.add({ id, from: this.room?.localParticipant.identity ?? '', name: '', text: trimmed, atMs: Date.now(), own: true, state: 'sending' });
    await this.deliver(id, trimmed);
  }

  async retry(id: string): Promise<void> {
    const line = this.lines.find((l) => l.id === id && l.state === 'failed');
    if (!line) return;
    this.sendings.delete(id);
    this.mark(id, 'sending');
    await this.deliver(id, line.text);
  }

  /** Until the words are confirmed, or the room is lost (the next one goes on), or they have been sent often enough. */
  private async deliver(id: string, text: string): Promise<void> {
    while (this.room) {
      const room = this.room;
      const sent = (this.sendings.get(id) ?? 0) + 1;
      if (sent > SENDINGS) return this.mark(id, 'failed');
      this.sendings.set(id, sent);
      const confirmed = await sendOnce(room, id, text);
      if (confirmed) return this.mark(id, 'sent');
      if (room !== this.room) return;
    }
  }

  private has(id: string): boolean {
    return this.lines.some((line) => line.id === id);
  }

  private receive(id: string, from: string, name: string | undefined, text: string, timestamp: number): void {
    if (!text.trim() || this.has(id)) return;
    const atMs = Number.isFinite(timestamp) && timestamp > 0 ? timestamp : Date.now();
    this.add({ id, from, name: name || from, text: text.slice(0, CHAT_TEXT_MAX), atMs, own: false, state: 'sent' });
  }

  private add(line: ChatLine): void {
    this.lines = [...this.lines, line].slice(-LINES_MAX);
    this.changed();
  }

  private mark(id: string, state: ChatLine['state']): void {
    if (state !== 'sending') this.sendings.delete(id);
    this.lines = this.lines.map((line) => (line.id === id ? { ...line, state } : line));
    this.changed();
  }
}

async function sendOnce(room: Room, id: string, text: string): Promise<boolean> {
  const witnesses = witnessesOf(room);
  try {
    const writer = await room.localParticipant.streamText({ topic: TOPIC, streamId: id, totalSize: new TextEncoder().encode(text).length });
    await writer.write(text);
    await writer.close();
  } catch {
    return false;
  }
  const answers = await Promise.all(witnesses.map((identity) => ask(room, identity, id)));
  // Alone there is nobody who could miss it. Whoever left meanwhile is not missed either.
  return answers.every((answer) => answer !== 'missing') || answers.length === 0;
}

async function ask(room: Room, identity: string, id: string): Promise<'seen' | 'missing' | 'gone'> {
  try {
    const answer = await room.localParticipant.performRpc({ destinationIdentity: identity, method: ASK, payload: id, responseTimeout: ANSWER_MS });
    return answer === 'seen' ? 'seen' : 'missing';
  } catch (error) {
    if (error instanceof RpcError && error.code === RpcError.ErrorCode.UNSUPPORTED_METHOD) return 'seen';
    return room.remoteParticipants.has(identity) ? 'missing' : 'gone';
  }
}

/** Whom to ask: one of each PoP, then others. */
function witnessesOf(room: Room): string[] {
  const people = [...room.remoteParticipants.values()].filter((person) => !person.isAgent);
  const pops = new Set<string>();
  const first = people.filter(({ attributes }) => !pops.has(attributes['meridian.pop'] ?? '') && pops.add(attributes['meridian.pop'] ?? ''));
  return [...new Set([...first, ...people])].slice(0, ASKED_MAX).map(({ identity }) => identity);
}
