/**
 * One join at a time. An edge that does not answer in time is passed over, but its join may still land there, after the one that won: the
 * mesh then takes it for the newer stay and ends the one in use. So an attempt is followed to its end. One that lands is told to go once another
 * has won after it: while it is the newest, the mesh would take its goodbye for the person's.
 */
import { RoomEvent, type Room } from 'livekit-client';
import { abandon } from './room';

/** How long one edge may take before the next is tried. */
export interface Patience {
  socketMs: number;
  mediaMs: number;
}

/** An attempt that was passed over may land for as long as this. */
const LATE_MS = 20_000;
/** What an attempt that landed late did to the stay in use is heard of within this time. */
const ECHO_MS = 5_000;

interface Attempt {
  url: string;
  room: Room;
  /** The edge has let it in: somebody there waits for this person. */
  landed: boolean;
}

export class Joining {
  private passedOver = new Set<Attempt>();
  private lateUntilMs = 0;
  private closed = false;

  /** Resolves to whether the room is joined within its time; if not, it is this object's to be rid of. */
  async attempt(room: Room, url: string, token: string, patience: Patience, rtcConfig: RTCConfiguration | undefined): Promise<boolean> {
    // Firefox opens one socket at a time to an address: an old one that still waits would hold the new one up.
    for (const old of this.passedOver) if (old.url === url && !old.landed) this.drop(old);
    const attempt: Attempt = { url, room, landed: false };
    let timer: ReturnType<typeof setTimeout> | undefined;
    const outOfTime = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), patience.socketMs);
      room.on(RoomEvent.SignalConnected, () => {
        attempt.landed = true;
        clearTimeout(timer);
        timer = setTimeout(() => resolve('late'), patience.mediaMs);
      });
    });
    const joined = room.connect(url, token, { maxRetries: 0, websocketTimeout: LATE_MS, peerConnectionTimeout: LATE_MS, ...(rtcConfig && { rtcConfig }) }).then(
      () => 'joined' as const,
      () => 'failed' as const,
    );
    const outcome = await Promise.race([joined, outOfTime]);
    clearTimeout(timer);
    if (outcome === 'joined') return true;
    if (outcome === 'failed') {
      this.drop(attempt);
      return false;
    }
    this.passedOver.add(attempt);
    this.lateUntilMs = Date.now() + LATE_MS + ECHO_MS;
    void joined.then((end) => (end === 'joined' ? this.landedLate(attempt) : this.drop(attempt)));
    return false;
  }

  /** Another attempt has won, after all that have landed. */
  won(): void {
    for (const attempt of this.passedOver) if (attempt.landed) this.tellToGo(attempt);
  }

  /** The person has left: whatever lands from now on goes at once. */
  close(): void {
    this.closed = true;
    this.won();
  }

  /** Whether being replaced may be the doing of an attempt of our own. */
  mayHaveReplacedUs(nowMs: number): boolean {
    return nowMs < this.lateUntilMs;
  }

  /** Mostly the stay in use is replaced by it, and another join comes after it (`won`). If not, it was the older one after all. */
  private landedLate(attempt: Attempt): void {
    const go = () => this.passedOver.has(attempt) && this.tellToGo(attempt);
    if (this.closed) go();
    else setTimeout(go, ECHO_MS);
  }

  private tellToGo(attempt: Attempt): void {
    this.passedOver.delete(attempt);
    attempt.room.removeAllListeners();
    void attempt.room.disconnect(false).catch(() => undefined);
  }

  private drop(attempt: Attempt): void {
    this.passedOver.delete(attempt);
    abandon(attempt.room);
  }
}
