import { useEffect, useState } from 'react';

export interface Devices {
  cameras: MediaDeviceInfo[];
  microphones: MediaDeviceInfo[];
}

/** Lists devices, again whenever one is plugged in and whenever `permission` changes (labels are empty before it is given). */
export function useDevices(permission: string): Devices {
  const [devices, setDevices] = useState<Devices>({ cameras: [], microphones: [] });
  useEffect(() => {
    const media = navigator.mediaDevices as MediaDevices | undefined;
    if (!media) return;
    let current = true;
    const list = () =>
      void media.enumerateDevices().then(
        (all) => {
          const named = all.filter((device) => device.deviceId);
          if (current) setDevices({ cameras: named.filter((d) => d.kind === 'videoinput'), microphones: named.filter((d) => d.kind === 'audioinput') });
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
