/**
 * Round trips to the regions worth considering, measured while somebody gets ready to join. Nothing ever waits for them: a join takes
 * whatever is known when the button is pressed.
 */

/** A region and where its edge answers with as little as there can be. */
export interface ProbeTarget {
  region: string;
  url: string;
}

export interface Measurement {
  region: string;
  rttMs: number;
}

export const REGIONS_MAX = 3;
/** From the first request to the end of all of them. A region too far away to connect to and ask within it is none to be placed in. */
export const BUDGET_MS = 250;
const SAMPLES_MAX = 5;
/** Somebody who comes back to the lobby after this long may be on another network. */
const RESULTS_FOR_MS = 10 * 60_000;

/** The browser, as far as measuring needs it. */
export interface ProbeTools {
  fetch(url: string, signal: AbortSignal): Promise<void>;
  now(): number;
  /** From the request's first byte sent to the answer's first byte, without the time to connect; undefined if the browser does not tell. */
  timing(url: string): number | undefined;
}

export class Probes {
  private readonly stopping = new AbortController();
  private readonly best = new Map<string, number>();
  private measuredMs = 0;

  constructor(private readonly tools: ProbeTools = browser) {}

  /** Measures what is listed, once the list is there. Never rejects. */
  async run(list: (signal: AbortSignal) => Promise<ProbeTarget[]>): Promise<void> {
    const { signal } = this.stopping;
    const targets = await list(signal).catch(() => []);
    if (signal.aborted || targets.length === 0) return;
    const timer = setTimeout(() => this.stop(), BUDGET_MS);
    await Promise.all(targets.slice(0, REGIONS_MAX).map((target) => this.measure(target)));
    clearTimeout(timer);
    this.stop();
  }

  /** What is known by now. */
  results(): Measurement[] {
    if (this.tools.now() - this.measuredMs > RESULTS_FOR_MS) return [];
    return [...this.best].map(([region, rttMs]) => ({ region, rttMs }));
  }

  stop(): void {
    this.stopping.abort();
  }

  private async measure({ region, url }: ProbeTarget): Promise<void> {
    for (let sample = 0; sample < SAMPLES_MAX; sample++) {
      // An address of its own for each request: its timings are found by it.
      const own = `${url}?${sample}`;
      const sentMs = this.tools.now();
      try {
        await this.tools.fetch(own, this.stopping.signal);
      } catch {
        return;
      }
      if (this.stopping.signal.aborted) return;
      // The first request pays for name, connection and TLS: only the browser's own account of it is a round trip.
      const tookMs = this.tools.timing(own) ?? (sample > 0 ? this.tools.now() - sentMs : undefined);
      if (tookMs === undefined || !(tookMs > 0)) continue;
      // The least is the path; whatever is above it was waiting somewhere, often in this very page.
      this.best.set(region, Math.min(tookMs, this.best.get(region) ?? Infinity));
      this.measuredMs = this.tools.now();
    }
  }
}

const browser: ProbeTools = {
  async fetch(url, signal) {
    const response = await fetch(url, { signal, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' });
    await response.arrayBuffer();
  },
  now: () => performance.now(),
  timing(url) {
    const entry = performance.getEntriesByName(new URL(url).href, 'resource').at(-1) as PerformanceResourceTiming | undefined;
    return entry && entry.requestStart > 0 ? entry.responseStart - entry.requestStart : undefined;
  },
};
