/** Why a camera or microphone is not running, and the words for it. */

export type DeviceKind = 'camera' | 'microphone';
export type DeviceProblem = 'denied' | 'missing' | 'busy' | 'insecure' | 'failed';

export function problemOf(error: unknown): DeviceProblem {
  if (typeof navigator !== 'undefined' && !navigator.mediaDevices) return 'insecure';
  const name = error instanceof Error ? error.name : '';
  switch (name) {
    case 'NotAllowedError':
    case 'PermissionDeniedError':
    case 'SecurityError':
      return 'denied';
    case 'NotFoundError':
    case 'DevicesNotFoundError':
    case 'OverconstrainedError':
      return 'missing';
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return 'busy';
    default:
      return 'failed';
  }
}

export interface Explanation {
  title: string;
  advice: string;
}

export function explain(problem: DeviceProblem, kinds: readonly DeviceKind[]): Explanation {
  const what = kinds.length === 2 ? 'camera and microphone' : (kinds[0] ?? 'camera');
  const are = kinds.length === 2 ? 'are' : 'is';
  switch (problem) {
    case 'denied':
      return {
        title: `Your ${what} ${are} blocked`,
        advice: 'Allow access from the icon beside the address at the top of the browser, then try again. You can also join without.',
      };
    case 'missing':
      return { title: `No ${kinds.length === 2 ? 'camera or microphone' : what} found`, advice: 'Plug one in and try again, or join without: you will still see and hear everyone.' };
    case 'busy':
      return { title: `Your ${what} ${are} in use elsewhere`, advice: 'Another application seems to be holding on. Close it, then try again.' };
    case 'insecure':
      return { title: 'This page can’t reach your camera', advice: 'Browsers allow cameras and microphones only on https pages and on localhost. Open the https link of this meeting.' };
    case 'failed':
      return { title: `Your ${what} could not be started`, advice: 'Try again, or choose another device.' };
  }
}
