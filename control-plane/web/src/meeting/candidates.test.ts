import { expect, test } from 'vitest';
import type { JoinAnswer } from '../api/client';
import { candidates, tokenExpired } from './candidates';

const NOW_MS = 1_000_000_000;
const token = (exp: number) => `h.${btoa(JSON.stringify({ exp }))}.s`;
const VALID = token(NOW_MS / 1000 + 600);
const EXPIRED = token(NOW_MS / 1000 - 1);

function answer(edge: string, alternates: string[], identity = 'ana', jwt = VALID): JoinAnswer {
  const address = (name: string) => ({ id: name, region: name, url: `ws://${name}` });
  return { edge: address(edge), alternates: alternates.map(address), iceServers: [], token: jwt, identity, room: 'r', reasons: [] };
}
const order = (list: ReturnType<typeof candidates>) => list.map(({ edge }) => edge.id).join(' ');

test('the first join tries the edge, then its alternates', () => {
  expect(order(candidates(answer('fra', ['iad', 'sin']), null, null, NOW_MS))).toBe('fra iad sin');
});

test('the edge that was just lost comes last, even when the server still recommends it', () => {
  expect(order(candidates(answer('fra', ['iad']), answer('fra', ['iad', 'sin']), 'ws://fra', NOW_MS))).toBe('iad sin fra');
});

test('without an answer the alternates and the token at hand serve', () => {
  const list = candidates(null, answer('fra', ['iad', 'sin']), 'ws://fra', NOW_MS);
  expect(order(list)).toBe('iad sin fra');
  expect(list[0]?.token).toBe(VALID);
});

test('a fresh token for the same identity replaces the old one', () => {
  const fresh = token(NOW_MS / 1000 + 1_800);
  expect(candidates(answer('iad', [], 'ana', fresh), answer('fra', []), 'ws://fra', NOW_MS)[0]?.token).toBe(fresh);
});

test('a token that would make me somebody new is used only when mine has expired', () => {
  const stranger = token(NOW_MS / 1000 + 900);
  expect(candidates(answer('iad', [], 'new', stranger), answer('fra', []), 'ws://fra', NOW_MS)[0]?.token).toBe(VALID);
  expect(candidates(answer('iad', [], 'new', stranger), answer('fra', [], 'ana', EXPIRED), 'ws://fra', NOW_MS)[0]?.token).toBe(stranger);
});

test('nothing to try with an expired token and no answer', () => {
  expect(candidates(null, answer('fra', ['iad'], 'ana', EXPIRED), 'ws://fra', NOW_MS)).toEqual([]);
});

test('an unreadable token is left to the edge to judge', () => {
  expect(tokenExpired('nonsense', NOW_MS)).toBe(false);
});
