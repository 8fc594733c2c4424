/** The lobby's camera and microphone: started together (one question from the browser), held until the meeting takes them over. */
import { createLocalAudioTrack, createLocalTracks, createLocalVideoTrack, type LocalAudioTrack, type LocalTrack, type LocalVideoTrack } from 'livekit-client';
import { useCallback, useEffect, useRef, useState } from 'react';
import { captureResolution } from '../meeting/room';
import { problemOf, type DeviceKind, type DeviceProblem } from './problems';

export type DeviceState<T> = { status: 'starting' } | { status: 'off' } | { status: 'on'; track: T } | { status: 'problem'; problem: DeviceProblem };

export interface LocalMedia {
  camera: DeviceState<LocalVideoTrack>;
  microphone: DeviceState<LocalAudioTrack>;
  toggle(kind: DeviceKind): void;
  choose(kind: DeviceKind, deviceId: string): void;
  retry(): void;
  /** Hands the running tracks over; the lobby no longer stops them. */
  take(): LocalTrack[];
  /** Takes them back after a join that failed. */
  giveBack(): void;
}

const STARTING = { status: 'starting' } as const;

export function useLocalMedia(enabled: boolean, captureHeight: number): LocalMedia {
  const [camera, setCamera] = useState<DeviceState<LocalVideoTrack>>(STARTING);
  const [microphone, setMicrophone] = useState<DeviceState<LocalAudioTrack>>(STARTING);
  const [attempt, setAttempt] = useState(0);
  const held = useRef<{ camera?: LocalVideoTrack | undefined; microphone?: LocalAudioTrack | undefined; taken: boolean; closed: boolean }>({ taken: false, closed: false });

  const showCamera = useCallback((result: Started<LocalVideoTrack>) => {
    if (held.current.closed) return result.track?.stop();
    held.current.camera?.stop();
    held.current.camera = result.track;
    setCamera(result.track ? { status: 'on', track: result.track } : { status: 'problem', problem: result.problem });
  }, []);
  const showMicrophone = useCallback((result: Started<LocalAudioTrack>) => {
    if (held.current.closed) return result.track?.stop();
    held.current.microphone?.stop();
    held.current.microphone = result.track;
    setMicrophone(result.track ? { status: 'on', track: result.track } : { status: 'problem', problem: result.problem });
  }, []);

  useEffect(() => {
    if (!enabled) return;
    let current = true;
    setCamera(STARTING);
    setMicrophone(STARTING);
    void startBoth(captureHeight).then(([video, audio]) => {
      if (!current) {
        video.track?.stop();
        audio.track?.stop();
        return;
      }
      showCamera(video);
      showMicrophone(audio);
    });
    return () => {
      current = false;
    };
  }, [enabled, attempt, captureHeight, showCamera, showMicrophone]);

  useEffect(() => {
    const holding = held.current;
    holding.closed = false;
    return () => {
      holding.closed = true;
      if (holding.taken) return;
      holding.camera?.stop();
      holding.microphone?.stop();
    };
  }, []);

  const toggle = (kind: DeviceKind) => {
    if (kind === 'camera') {
      if (camera.status === 'on') {
        held.current.camera?.stop();
        held.current.camera = undefined;
        return setCamera({ status: 'off' });
      }
      setCamera(STARTING);
      void startCamera(captureHeight).then(showCamera);
    } else {
      if (microphone.status === 'on') {
        held.current.microphone?.stop();
        held.current.microphone = undefined;
        return setMicrophone({ status: 'off' });
      }
      setMicrophone(STARTING);
      void startMicrophone().then(showMicrophone);
    }
  };

  const choose = (kind: DeviceKind, deviceId: string) => {
    if (kind === 'camera') void startCamera(captureHeight, deviceId).then(showCamera);
    else void startMicrophone(deviceId).then(showMicrophone);
  };

  return {
    camera,
    microphone,
    toggle,
    choose,
    retry: () => setAttempt((n) => n + 1),
    take: () => {
      held.current.taken = true;
      return [held.current.microphone, held.current.camera].filter((track) => track !== undefined);
    },
    giveBack: () => {
      held.current.taken = false;
    },
  };
}

type Started<T> = { track: T; problem?: undefined } | { track?: undefined; problem: DeviceProblem };

async function startBoth(height: number): Promise<[Started<LocalVideoTrack>, Started<LocalAudioTrack>]> {
  try {
    const tracks = await createLocalTracks({ audio: true, video: { resolution: captureResolution(height) } });
    const video = tracks.find((track) => track.kind === 'video') as LocalVideoTrack | undefined;
    const audio = tracks.find((track) => track.kind === 'audio') as LocalAudioTrack | undefined;
    return [video ? { track: video } : { problem: 'missing' }, audio ? { track: audio } : { problem: 'missing' }];
  } catch {
    // One of the two spoiled it: ask for each alone, so that the other still works and the message names the right one.
    return Promise.all([startCamera(height), startMicrophone()]);
  }
}

async function startCamera(height: number, deviceId?: string): Promise<Started<LocalVideoTrack>> {
  try {
    return { track: await createLocalVideoTrack({ resolution: captureResolution(height), ...(deviceId && { deviceId: { exact: deviceId } }) }) };
  } catch (error) {
    return { problem: problemOf(error) };
  }
}

async function startMicrophone(deviceId?: string): Promise<Started<LocalAudioTrack>> {
  try {
    return { track: await createLocalAudioTrack(deviceId ? { deviceId: { exact: deviceId } } : undefined) };
  } catch (error) {
    return { problem: problemOf(error) };
  }
}
