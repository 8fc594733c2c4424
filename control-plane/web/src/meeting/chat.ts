/** The meeting's chat: LiveKit text streams on the topic `lk.chat`. It outlives a change of edge, so it holds no room: rooms are plugged in. */
import { RoomEvent, type ChatMessage, type Room } from 'livekit-client';
import { Changes } from './changes';
import type { ChatLine } from './model';

const TOPIC = 'lk.chat';
const LINES_MAX = 500;
export const CHAT_TEXT_MAX = 2_000;

export class ChatLog extends Changes {
  private room: Room | null = null;
  private nextOwn = 1;
  lines: ChatLine[] = [];

  plugIn(room: Room): void {
    this.room = room;
    room.registerTextStreamHandler(TOPIC, (reader, sender) => {
      const { id, timestamp } = reader.info;
      const name = room.remoteParticipants.get(sender.identity)?.name;
      void reader.readAll().then(
        (text) => this.receive(id, sender.identity, name, text, timestamp),
        () => undefined, // The sender vanished in mid-message: half a message is none.
      );
    });
    // Older SDKs still send chat as a message of its own kind.
    room.on(RoomEvent.ChatMessage, (message: ChatMessage, from) => {
      if (from && !from.isLocal) this.receive(message.id, from.identity, from.name, message.message, message.timestamp);
    });
  }

  async send(text: string): Promise<void> {
    const trimmed = text.trim().slice(0, CHAT_TEXT_MAX);
    if (!trimmed) return;
    const id = `own-${this.nextOwn++}`;
    this.add({ id, from: this.room?.localParticipant.identity ?? '', name: '', text: trimmed, atMs: Date.now(), own: true, state: 'sending' });
    await this.deliver(id, trimmed);
  }

  async retry(id: string): Promise<void> {
    const line = this.lines.find((l) => l.id === id && l.state === 'failed');
    if (!line) return;
    this.mark(id, 'sending');
    await this.deliver(id, line.text);
  }

  private async deliver(id: string, text: string): Promise<void> {
    try {
      if (!this.room) throw new Error('no room');
      await this.room.localParticipant.sendText(text, { topic: TOPIC });
      this.mark(id, 'sent');
    } catch {
      this.mark(id, 'failed');
    }
  }

  private receive(id: string, from: string, name: string | undefined, text: string, timestamp: number): void {
    if (!text.trim() || this.lines.some((line) => line.id === id)) return;
    const atMs = Number.isFinite(timestamp) && timestamp > 0 ? timestamp : Date.now();
    this.add({ id, from, name: name || from, text: text.slice(0, CHAT_TEXT_MAX), atMs, own: false, state: 'sent' });
  }

  private add(line: ChatLine): void {
    this.lines = [...this.lines, line].slice(-LINES_MAX);
    this.changed();
  }

  private mark(id: string, state: ChatLine['state']): void {
    this.lines = this.lines.map((line) => (line.id === id ? { ...line, state } : line));
    this.changed();
  }
}
