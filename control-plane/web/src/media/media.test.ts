import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { mediaChoices, rememberMedia } from './choices';
import { readableLabel } from './labels';

beforeEach(() => {
  const kept = new Map<string, string>();
  vi.stubGlobal('localStorage', { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) });
});

afterEach(() => void vi.unstubAllGlobals());

test('what was off is off the next time, and everything is on at first', () => {
  expect(mediaChoices()).toEqual({ camera: true, microphone: true, cameraId: '', microphoneId: '', speakerId: '' });
  rememberMedia({ camera: false });
  rememberMedia({ speakerId: 'headset' });
  expect(mediaChoices()).toEqual({ camera: false, microphone: true, cameraId: '', microphoneId: '', speakerId: 'headset' });
});

test.each(['nonsense', '7', 'null', '{"camera":0,"cameraId":5}'])('a stored %s changes nothing', (stored) => {
  localStorage.setItem('meridian.media', stored);
  expect(mediaChoices()).toMatchObject({ camera: true, microphone: true, cameraId: '' });
});

test.each([
  ['c3', 'Integrated Webcam (0bda:58f4)', 'Integrated Webcam'],
  ['default', 'Default - Headset (Jabra Link 380)', 'Headset (Jabra Link 380) (system default)'],
  ['default', 'Default', 'System default'],
  ['default', '', 'System default'],
  ['x', 'fake_device_0', 'fake device 0'],
  ['x', '', 'Camera 1'],
])('device %s “%s” reads %s', (deviceId, label, readable) => {
  expect(readableLabel({ deviceId, label }, 'Camera 1')).toBe(readable);
});
