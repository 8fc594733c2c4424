/** The same meeting in another tab of this browser: found before joining, and asked to hand its stay over. */

const CHANNEL = 'meridian.tabs';
const HAND_OVER_MS = 2_000;

type Word =
  | { kind: 'who'; code: string }
  | { kind: 'here'; code: string; name: string }
  | { kind: 'gone'; code: string }
  | { kind: 'hand-over'; code: string }
  | { kind: 'token'; code: string; token: string };

/** What BroadcastChannel is, as far as it is needed here. */
export interface Channel {
  postMessage(word: unknown): void;
  onmessage: ((event: MessageEvent) => void) | null;
  close(): void;
}

type Open = () => Channel | null;

/** Null in browsers without it, where tabs do not know of each other. */
const open: Open = () => (typeof BroadcastChannel === 'undefined' ? null : new BroadcastChannel(CHANNEL));

export interface Stay {
  code: string;
  name: string;
  /** The token that lets another tab go on as the same person. From now on being replaced is expected here. */
  handOver(): string | null;
}

/** Tells other tabs of a stay until the returned function is called. */
export function announce(stay: Stay, openChannel: Open = open): () => void {
  const channel = openChannel();
  if (!channel) return () => undefined;
  const say = (word: Word) => channel.postMessage(word);
  const here = () => say({ kind: 'here', code: stay.code, name: stay.name });
  channel.onmessage = ({ data }) => {
    const word = data as Word;
    if (word.code !== stay.code) return;
    if (word.kind === 'who') here();
    const token = word.kind === 'hand-over' ? stay.handOver() : null;
    if (token) say({ kind: 'token', code: stay.code, token });
  };
  here();
  return () => {
    say({ kind: 'gone', code: stay.code });
    channel.close();
  };
}

/** A tab before the meeting: hears of a stay elsewhere, and can ask for it. */
export class OtherTab {
  private readonly channel: Channel | null;
  private given: (token: string | null) => void = () => undefined;

  /** `found` gets the name that the other tab goes by, or null when it has left. */
  constructor(private readonly code: string, found: (name: string | null) => void, openChannel: Open = open) {
    this.channel = openChannel();
    if (!this.channel) return;
    this.channel.onmessage = ({ data }) => {
      const word = data as Word;
      if (word.code !== code) return;
      if (word.kind === 'here') found(word.name);
      else if (word.kind === 'gone') found(null);
      else if (word.kind === 'token') this.given(word.token);
    };
    this.channel.postMessage({ kind: 'who', code } satisfies Word);
  }

  /** The other tab's token; null if it does not answer. */
  async takeOver(): Promise<string | null> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(null), HAND_OVER_MS);
      this.given = (token) => {
        clearTimeout(timer);
        resolve(token);
      };
      this.channel?.postMessage({ kind: 'hand-over', code: this.code } satisfies Word);
    });
  }

  close(): void {
    this.channel?.close();
  }
}
