import { useEffect, useState } from 'react';

export interface Devices {
  cameras: MediaDeviceInfo[];
  microphones: MediaDeviceInfo[];
  /** Empty where the page cannot choose: the system does. */
  speakers: MediaDeviceInfo[];
}

const NONE: Devices = { cameras: [], microphones: [], speakers: [] };
const canChooseSpeaker = typeof HTMLMediaElement !== 'undefined' && 'setSinkId' in HTMLMediaElement.prototype;

/** Lists devices, again whenever one is plugged in and whenever `permission` changes (labels are empty before it is given). */
export function useDevices(permission: string): Devices {
  const [devices, setDevices] = useState<Devices>(NONE);
  useEffect(() => {
    const media = navigator.mediaDevices as MediaDevices | undefined;
    if (!media) return;
    let current = true;
    const list = () =>
      void media.enumerateDevices().then(
        (all) => {
          const named = all.filter((device) => device.deviceId);
          const of = (kind: MediaDeviceKind) => named.filter((device) => device.kind === kind);
          if (current) setDevices({ cameras: of('videoinput'), microphones: of('audioinput'), speakers: canChooseSpeaker ? of('audiooutput') : [] });
        },
        () => undefined,
      );
    list();
    media.addEventListener('devicechange', list);
    return () => {
      current = false;
      media.removeEventListener('devicechange', list);
    };
  }, [permission]);
  return devices;
}
