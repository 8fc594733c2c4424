import { expect, test } from 'vitest';
import type { Person } from './model';
import { presentersOf } from './MeetingScreen';
import { byHand } from './PeoplePanel';

const handle = { attach: () => undefined, detach: () => undefined };
const person = (identity: string, screen: boolean, isLocal = false) => ({ identity, isLocal, screen: screen ? handle : null }) as Person;

test('every screen of others can be looked at, one’s own cannot: it would show itself in itself', () => {
  const people = [person('me', true, true), person('wei', true), person('cai', false), person('eli', true)];
  expect(presentersOf(people).map(({ identity }) => identity)).toEqual(['wei', 'eli']);
  expect(presentersOf([person('me', true, true)])).toEqual([]);
});

test('in the list of people raised hands come first, in the order in which they went up', () => {
  const list = [['ana', null], ['wei', 20], ['cai', null], ['eli', 10]] as const;
  const people = list.map(([identity, handSinceMs], joinedAtMs) => ({ identity, handSinceMs, joinedAtMs, isLocal: false, lastSpokeAtMs: 0 }) as unknown as Person);
  expect(byHand(people).map(({ identity }) => identity)).toEqual(['eli', 'wei', 'ana', 'cai']);
});
