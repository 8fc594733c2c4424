/** What the person chose about camera, microphone and speaker, kept for the next time: a reload or a rejoin switches nothing on that was off. */

const KEY = 'meridian.media';

export interface MediaChoices {
  camera: boolean;
  microphone: boolean;
  cameraId: string;
  microphoneId: string;
  speakerId: string;
}

const AT_FIRST: MediaChoices = { camera: true, microphone: true, cameraId: '', microphoneId: '', speakerId: '' };

export function mediaChoices(): MediaChoices {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Record<keyof MediaChoices, unknown>>;
    const id = (value: unknown) => (typeof value === 'string' ? value.slice(0, 200) : '');
    return { camera: kept.camera !== false, microphone: kept.microphone !== false, cameraId: id(kept.cameraId), microphoneId: id(kept.microphoneId), speakerId: id(kept.speakerId) };
  } catch {
    return AT_FIRST;
  }
}

export function rememberMedia(change: Partial<MediaChoices>): void {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...mediaChoices(), ...change }));
  } catch {
    // Private windows may refuse: everything is on next time, as at first.
  }
}
