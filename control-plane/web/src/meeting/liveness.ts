/**
 * Decides whether the edge still lives, from what is heard of it. A dead process closes its socket and needs none of this; a dead
 * machine or path is silent, and is found here within a second: media that stops flowing raises the question, one unanswered
 * request settles it. No clock and no network in here: times come in as milliseconds.
 */

/** Media normally arrives every 20 ms, so this much silence is already strange. */
const SILENT_MS = 350;
/** A quiet meeting (nobody sends anything) is asked this often. */
const IDLE_ASK_MS = 2_000;
const ANSWER_MS_MIN = 400;
/** Fewer packets than this in one tick are reports and keep-alives, not media: their pauses mean nothing. */
const FLOWING_PACKETS = 3;
/** A gap between ticks this long means that this page slept, not that the edge died. */
const SLEPT_MS = 3_000;

export type Verdict = 'alive' | 'ask' | 'dead';

export class Liveness {
  private heardAtMs: number;
  private askedAtMs: number | null = null;
  private tickedAtMs: number;
  private packets = 0;
  private flowing = false;
  private overdue = 0;

  constructor(nowMs: number) {
    this.heardAtMs = nowMs;
    this.tickedAtMs = nowMs;
  }

  /** `packets`: how many have arrived since the connection began; null when it cannot be known. `ask` means: put one request to the edge now. */
  tick(nowMs: number, packets: number | null, rttMs: number | null): Verdict {
    const slept = nowMs - this.tickedAtMs > SLEPT_MS;
    this.tickedAtMs = nowMs;
    if (slept) this.answered(nowMs);
    if (packets !== null) this.hear(nowMs, packets);

    if (this.askedAtMs !== null) {
      const patienceMs = Math.max(ANSWER_MS_MIN, 3 * (rttMs ?? 0));
      // Two overdue ticks, because a busy page may run this timer before the answer that is already here.
      this.overdue = nowMs - this.askedAtMs > patienceMs ? this.overdue + 1 : 0;
      return this.overdue >= 2 ? 'dead' : 'alive';
    }
    if (nowMs - this.heardAtMs < (this.flowing ? SILENT_MS : IDLE_ASK_MS)) return 'alive';
    this.askedAtMs = nowMs;
    return 'ask';
  }

  answered(nowMs: number): void {
    this.heardAtMs = nowMs;
    this.askedAtMs = null;
    this.overdue = 0;
    this.flowing = false;
  }

  private hear(nowMs: number, packets: number): void {
    const arrived = packets - this.packets;
    this.packets = packets;
    if (arrived <= 0) return;
    this.answered(nowMs);
    this.flowing = arrived >= FLOWING_PACKETS;
  }
}
