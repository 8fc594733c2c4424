import { useCallback, useEffect, useRef } from 'react';
import type { JoinApi } from '../api/client';
import { Probes, type Measurement } from './probes';

/** Measures as soon as the page is open; the function gives what is known by now. Not for who says where to be placed (`from`). */
export function useProbes(api: JoinApi, from: string | undefined): () => Measurement[] {
  const probes = useRef<Probes | null>(null);
  useEffect(() => {
    if (from) return;
    const running = (probes.current = new Probes());
    void running.run((signal) => api.probes(signal)).then(() => performance.mark('meridian-probes'));
    return () => running.stop();
  }, [api, from]);
  return useCallback(() => probes.current?.results() ?? [], []);
}
