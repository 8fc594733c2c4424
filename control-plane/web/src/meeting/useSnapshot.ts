import { useSyncExternalStore } from 'react';
import type { MeetingSnapshot, MeetingSource } from './model';

export function useSnapshot(source: MeetingSource): MeetingSnapshot {
  return useSyncExternalStore(source.subscribe, () => source.snapshot());
}
