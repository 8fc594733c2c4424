import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { hostKeyOf, rememberHosting } from './hosting';

beforeEach(() => {
  const kept = new Map<string, string>();
  vi.stubGlobal('localStorage', { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) });
});
afterEach(() => void vi.unstubAllGlobals());

test('whoever started a meeting here is its host, of the fifty latest', () => {
  for (let n = 0; n <= 50; n++) rememberHosting(`code-${n}`, `key-${n}`);
  expect([hostKeyOf('code-50'), hostKeyOf('code-1'), hostKeyOf('code-0'), hostKeyOf('other')]).toEqual(['key-50', 'key-1', null, null]);
});

test.each(['nonsense', '{}', '[1,["a"],["a",2]]'])('a stored %s makes nobody a host', (stored) => {
  localStorage.setItem('meridian.hosting', stored);
  expect(hostKeyOf('a')).toBeNull();
});
