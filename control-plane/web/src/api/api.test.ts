import { describe, expect, test } from 'vitest';
import { routeOf } from '../app/router';
import { explain, problemOf } from '../media/problems';
import { readJoinAnswer } from './client';
import { parseMeetingCode } from './codes';
import { ApiError, sentence } from './errors';

describe('errors', () => {
  test.each([
    [403, 'wrong_passcode', 'wrong_passcode'],
    [404, 'not_found', 'not_found'],
    [404, undefined, 'not_found'],
    [409, undefined, 'full'],
    [410, 'ended', 'ended'],
    [429, undefined, 'rate_limited'],
    [503, undefined, 'unavailable'],
    [400, 'invalid_name', 'rejected'],
    [403, 'region_not_allowed', 'rejected'],
  ])('status %i with code %s is %s', (status, code, problem) => {
    expect(ApiError.fromResponse(status, { code }).problem).toBe(problem);
  });

  test('every problem has a sentence, and a refusal shows the server’s own', () => {
    expect(sentence(ApiError.fromResponse(400, { code: 'x', detail: 'The name is too long.' }))).toBe('The name is too long.');
    expect(sentence(ApiError.fromResponse(429, { retry_after_s: 20 }))).toContain('20 seconds');
    expect(sentence(new TypeError('boom'))).toContain('try again');
  });

  test('only trouble that passes by itself is called transient', () => {
    expect(ApiError.fromResponse(503, {}).transient).toBe(true);
    expect(ApiError.fromResponse(404, {}).transient).toBe(false);
  });
});

describe('join answer', () => {
  const edge = { id: 'fra-1', region: 'fra', url: 'ws://fra' };

  test('is read with everything optional missing', () => {
    expect(readJoinAnswer({ edge, token: 't' })).toMatchObject({ edge, alternates: [], iceServers: [], reasons: [] });
  });

  test('drops what it cannot use', () => {
    const answer = readJoinAnswer({ edge, token: 't', alternates: [null, { id: 'x' }, edge], ice_servers: [{ urls: [] }, { urls: ['turn:a'], username: 'u', credential: 'c' }], reasons: ['near', 4, { edge: 'fra-1', kind: 'rtt', value: 11, text: '11 ms away' }, { edge: 'iad', kind: 'rtt', text: 'iad: 100 ms' }, { edge: 'iad', kind: 'score', text: 'iad: 101 ms in all' }] });
    expect(answer.alternates).toEqual([edge]);
    expect(answer.iceServers).toEqual([{ urls: ['turn:a'], username: 'u', credential: 'c' }]);
    expect(answer.reasons).toEqual(['near', '11 ms away', 'iad: 101 ms in all']);
  });

  test('without an edge or a token is no answer', () => {
    expect(() => readJoinAnswer({ token: 't' })).toThrow(ApiError);
    expect(() => readJoinAnswer({ edge })).toThrow(ApiError);
  });
});

test('codes are found in whatever people paste', () => {
  for (const text of ['abc-defg-hij', ' ABC-DEFG-HIJ ', 'abcdefghij', 'abc defg hij', 'https://m.example/m/abc-defg-hij?from=fra']) expect(parseMeetingCode(text)).toBe('abc-defg-hij');
  for (const text of ['', 'abc', 'abc-defg-hi1', 'https://m.example/abc']) expect(parseMeetingCode(text)).toBeNull();
});

test('routes', () => {
  expect(routeOf('/')).toEqual({ page: 'landing' });
  expect(routeOf('/m/abc-defg-hij')).toEqual({ page: 'meeting', code: 'abc-defg-hij' });
  expect(routeOf('/m/ABC-DEFG-HIJ/')).toEqual({ page: 'meeting', code: 'abc-defg-hij' });
  for (const path of ['/m/', '/m/abc', '/m/%zz', '/x']) expect(routeOf(path)).toEqual({ page: 'unknown' });
});

test('device trouble is told apart', () => {
  const named = (name: string) => Object.assign(new Error(), { name });
  // Node has no media devices; a browser on https does.
  Object.defineProperty(globalThis, 'navigator', { value: { mediaDevices: {} }, configurable: true });
  expect(problemOf(named('NotAllowedError'))).toBe('denied');
  expect(problemOf(named('NotFoundError'))).toBe('missing');
  expect(problemOf(named('NotReadableError'))).toBe('busy');
  Object.defineProperty(globalThis, 'navigator', { value: {}, configurable: true });
  expect(problemOf(named('TypeError'))).toBe('insecure');
  expect(explain('denied', ['camera', 'microphone']).title).toBe('Your camera and microphone are blocked');
});
