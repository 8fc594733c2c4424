import { describe, expect, test } from 'vitest';
import { LIMITS, pageSize, planGrid, seat, stripOrder, type Seat } from './layout';

const AREAS = { desktop: { width: 1256, height: 600 }, phone: { width: 344, height: 580 }, landscapePhone: { width: 700, height: 240 } };

describe('planGrid', () => {
  for (const [name, area] of Object.entries(AREAS)) {
    test(`fits 1 to 50 people inside a ${name} window`, () => {
      for (let count = 1; count <= 50; count++) {
        const { columns, rows, tile } = planGrid(count, area);
        expect(columns * rows).toBeGreaterThanOrEqual(count);
        expect(columns * tile.width + (columns - 1) * LIMITS.gap).toBeLessThanOrEqual(area.width);
        expect(rows * tile.height + (rows - 1) * LIMITS.gap).toBeLessThanOrEqual(area.height);
        expect(tile.width).toBeGreaterThan(0);
        expect(tile.height).toBeGreaterThan(0);
      }
    });
  }

  for (const [name, area] of Object.entries({ ...AREAS, window: { width: 936, height: 470 }, besideAPanel: { width: 584, height: 470 }, large: { width: 1896, height: 900 } })) {
    test(`a few people are seen almost whole in a ${name} window`, () => {
      for (let count = 1; count <= 6; count++) {
        const { tile } = planGrid(count, area);
        expect(tile.width / tile.height / (16 / 9), `${count} people`).toBeGreaterThan(0.89);
      }
    });
  }

  test('keeps tiles between the two aspect ratios', () => {
    for (let count = 1; count <= 50; count++) {
      const { tile } = planGrid(count, AREAS.desktop);
      expect(tile.width / tile.height).toBeGreaterThan(LIMITS.aspectMinCrowd - 0.05);
      expect(tile.width / tile.height).toBeLessThan(LIMITS.aspectMax + 0.05);
    }
  });

  test('puts two people side by side on a desktop and one above the other on a phone', () => {
    expect(planGrid(2, AREAS.desktop).columns).toBe(2);
    expect(planGrid(2, AREAS.phone).columns).toBe(1);
  });

  test('an empty area gives an empty tile instead of a negative one', () => {
    expect(planGrid(4, { width: 0, height: 0 }).tile).toEqual({ width: 0, height: 0 });
  });
});

describe('pageSize', () => {
  test('a desktop shows 50 people on one page and pages beyond', () => {
    expect(pageSize(50, AREAS.desktop)).toBe(50);
    expect(pageSize(400, AREAS.desktop)).toBe(50);
  });

  test('a phone shows fewer, so that faces stay legible', () => {
    const size = pageSize(50, AREAS.phone);
    expect(size).toBeGreaterThanOrEqual(12);
    expect(size).toBeLessThan(50);
  });

  test('there is always at least one', () => {
    expect(pageSize(0, AREAS.phone)).toBe(1);
    expect(pageSize(9, { width: 20, height: 20 })).toBe(1);
  });
});

const person = (identity: string, joinedAtMs: number, lastSpokeAtMs = 0, isLocal = false): Seat => ({ identity, joinedAtMs, lastSpokeAtMs, isLocal });
const names = (people: Seat[]) => people.map((p) => p.identity).join('');

describe('seat', () => {
  test('oneself first, then by arrival', () => {
    expect(names(seat([person('b', 2), person('a', 1), person('m', 9, 0, true)], 10))).toBe('mab');
  });

  test('a speaker from a later page takes the seat of whoever was silent longest, and nobody else moves', () => {
    const people = [person('m', 0, 0, true), person('a', 1, 50), person('b', 2, 10), person('c', 3), person('d', 4, 99)];
    expect(names(seat(people, 3))).toBe('madcb');
  });

  test('nobody moves for a speaker who spoke before those already seen', () => {
    const people = [person('a', 1, 50), person('b', 2, 60), person('c', 3, 40)];
    expect(names(seat(people, 2))).toBe('abc');
  });

  test('oneself is never moved off the first page', () => {
    expect(names(seat([person('m', 0, 0, true), person('a', 1, 0), person('b', 2, 5)], 1))).toBe('mab');
  });
});

test('stripOrder shows the presenter, then recent speakers, oneself last', () => {
  expect(names(stripOrder([person('m', 0, 99, true), person('a', 1), person('b', 2, 7), person('p', 3)], 'p'))).toBe('pbam');
});
