import { expect, test } from 'vitest';
import type { JoinAnswer } from '../api/client';
import { rtcConfigFor } from './ice';

const fra = { id: 'fra', region: 'fra', url: 'wss://fra' };
const iad = { id: 'iad', region: 'iad', url: 'wss://iad' };
const turn = { urls: ['turn:a:3478?transport=udp', 'turn:a:3478?transport=tcp', 'turns:a:443?transport=tcp'], username: 'u', credential: 'c' };
const answer = (iceServers: RTCIceServer[]): JoinAnswer => ({ edge: fra, alternates: [iad], iceServers, token: 't', identity: 'i', room: 'r', reasons: [] });

test('the answer’s servers are used at its edge, and an alternate names its own', () => {
  expect(rtcConfigFor(answer([turn]), fra, undefined)).toEqual({ iceServers: [turn] });
  expect(rtcConfigFor(answer([turn]), iad, undefined)).toBeUndefined();
  expect(rtcConfigFor(answer([]), fra, undefined)).toBeUndefined();
});

test('a chosen relay leaves its own URLs only, and nothing but relaying', () => {
  const urls = (relay: 'udp' | 'tcp' | 'tls') => rtcConfigFor(answer([{ urls: 'stun:a' }, turn]), iad, relay);
  expect(urls('udp')).toEqual({ iceServers: [{ ...turn, urls: [turn.urls[0]] }], iceTransportPolicy: 'relay' });
  expect(urls('tcp')).toEqual({ iceServers: [{ ...turn, urls: [turn.urls[1]] }], iceTransportPolicy: 'relay' });
  expect(urls('tls')).toEqual({ iceServers: [{ ...turn, urls: [turn.urls[2]] }], iceTransportPolicy: 'relay' });
});
