import { useCallback, useEffect, useRef, useState } from 'react';
import { OtherTab } from './tabs';

/** The name under which another tab of this browser is in the meeting, and how to take its place (its token; null if it has gone). */
export function useOtherTab(code: string): { name: string | null; takeOver: () => Promise<string | null> } {
  const [name, setName] = useState<string | null>(null);
  const tab = useRef<OtherTab | null>(null);
  useEffect(() => {
    const other = (tab.current = new OtherTab(code, setName));
    return () => other.close();
  }, [code]);
  const takeOver = useCallback(async () => (await tab.current?.takeOver()) ?? null, []);
  return { name, takeOver };
}
