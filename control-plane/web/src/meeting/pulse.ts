/** Feeds `Liveness` from a real room: samples the transport's statistics, asks the edge's /probe when it falls silent, reports RTT and death. */
import { RoomEvent, type Room } from 'livekit-client';
import { Liveness } from './liveness';

const TICK_MS = 200;
/** A process that has ended refuses a connection within a round trip; whoever takes longer to fail may be anything. */
const REFUSED_MS = 500;
/** Packets are compared this far apart, this often, before a refusal counts: what was on its way still arrives. */
const STOPPED_MS = 80;
const STOPPED_LOOKS = 4;
const SPEECH_PACKET_BYTES = 100;

export interface PulseEvents {
  rtt(ms: number): void;
  dead(): void;
}

export interface TransportSample {
  packets: number | null;
  rttMs: number | null;
}

/** Watches until the returned function is called. */
export function watchPulse(room: Room, edgeUrl: string, events: PulseEvents): () => void {
  const liveness = new Liveness(performance.now());
  const stopped = new AbortController();
  let rttMs: number | null = null;
  let sampling = false;
  // A probe that fails while the edge certainly lives (blocked by a proxy or a policy) would call every silence a death.
  let probeWorks = false;
  void ask(edgeUrl, stopped.signal).then((ok) => (probeWorks = ok));

  const tick = async () => {
    if (sampling) return;
    sampling = true;
    const sample = await sampleTransport(room).finally(() => (sampling = false));
    if (stopped.signal.aborted) return;
    const signalRtt = room.engine?.client?.rtt;
    const measured = sample.rttMs ?? (signalRtt ? signalRtt : null);
    if (measured !== null && measured !== rttMs) events.rtt((rttMs = measured));
    const verdict = liveness.tick(performance.now(), sample.packets, rttMs);
    if (verdict === 'alive') return;
    if (!probeWorks) return liveness.answered(performance.now());
    if (verdict === 'dead') return events.dead();
    if (await ask(edgeUrl, stopped.signal)) liveness.answered(performance.now());
  };
  // The socket fell: an edge that refuses connections and sends nothing any more has ended, and resuming there would fail slowly.
  const socketLost = async () => {
    const startedMs = performance.now();
    if (!probeWorks || !navigator.onLine || (await ask(edgeUrl, stopped.signal)) || performance.now() - startedMs > REFUSED_MS) return;
    let { packets } = await sampleTransport(room);
    for (let look = 0; look < STOPPED_LOOKS && packets !== null && !stopped.signal.aborted; look++) {
      await new Promise((resolve) => setTimeout(resolve, STOPPED_MS));
      const before = packets;
      ({ packets } = await sampleTransport(room));
      if (packets === before && !stopped.signal.aborted) return events.dead();
    }
  };
  const onSocketLost = () => void socketLost();
  room.on(RoomEvent.SignalReconnecting, onSocketLost);
  const timer = setInterval(() => void tick(), TICK_MS);
  return () => {
    room.off(RoomEvent.SignalReconnecting, onSocketLost);
    clearInterval(timer);
    stopped.abort();
  };
}

async function ask(edgeUrl: string, signal: AbortSignal): Promise<boolean> {
  try {
    await fetch(probeUrl(edgeUrl), { mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal });
    return true;
  } catch {
    return false;
  }
}

export function probeUrl(edgeUrl: string): string {
  return `${edgeUrl.replace(/^ws/, 'http').replace(/\/+$/, '')}/probe`;
}

/** The statistics of one track carry the whole transport's: cheap even in a room of fifty. */
async function sampleTransport(room: Room): Promise<TransportSample> {
  const report = await reportOf(room).catch(() => undefined);
  return report ? readTransport(report) : { packets: null, rttMs: null };
}

async function reportOf(room: Room): Promise<RTCStatsReport | undefined> {
  for (const participant of [room.localParticipant, ...room.remoteParticipants.values()]) {
    for (const publication of participant.trackPublications.values()) {
      const track = publication.track as { getRTCStatsReport?: () => Promise<RTCStatsReport | undefined> } | undefined;
      const report = await track?.getRTCStatsReport?.();
      if (report) return report;
    }
  }
  return undefined;
}

export function readTransport(report: Iterable<[string, Record<string, unknown>]> | RTCStatsReport): TransportSample {
  const entries = new Map(report as Iterable<[string, Record<string, unknown>]>);
  const stats = [...entries.values()];
  const transport = stats.find(({ type }) => type === 'transport');
  // Firefox has no statistics of a transport: its candidate pairs say which one is in use.
  const pair = transport ? entries.get(String(transport.selectedCandidatePairId)) : stats.find(({ type, selected }) => type === 'candidate-pair' && selected === true);
  const rttS = pair?.currentRoundTripTime;
  return { packets: packetsOf(transport, pair), rttMs: typeof rttS === 'number' ? rttS * 1000 : null };
}

/** Where only bytes are counted, in packets of speech. */
function packetsOf(transport: Record<string, unknown> | undefined, pair: Record<string, unknown> | undefined): number | null {
  if (typeof transport?.packetsReceived === 'number') return transport.packetsReceived;
  return typeof pair?.bytesReceived === 'number' ? Math.ceil(pair.bytesReceived / SPEECH_PACKET_BYTES) : null;
}
