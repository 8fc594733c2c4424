/** The keys of meetings that were started in this browser: whoever holds one is the meeting's host. */

const KEY = 'meridian.hosting';
/** The oldest go first. */
const MEETINGS_MAX = 50;

function read(): [string, string][] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    const isPair = (pair: unknown): pair is [string, string] => Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string');
    return Array.isArray(kept) ? kept.filter(isPair) : [];
  } catch {
    return [];
  }
}

export function hostKeyOf(code: string): string | null {
  return read().find(([kept]) => kept === code)?.[1] ?? null;
}

export function rememberHosting(code: string, key: string): void {
  if (!key) return;
  try {
    localStorage.setItem(KEY, JSON.stringify([...read().filter(([kept]) => kept !== code), [code, key]].slice(-MEETINGS_MAX)));
  } catch {
    // Private windows may refuse: the meeting has no host there.
  }
}
