/** The lobby's camera and microphone: started together (one question from the browser), held until the meeting takes them over. */
import { createLocalAudioTrack, createLocalTracks, createLocalVideoTrack, type LocalAudioTrack, type LocalTrack, type LocalVideoTrack } from 'livekit-client';
import { useCallback, useEffect, useRef, useState } from 'react';
import { captureResolution } from '../meeting/room';
import { mediaChoices, rememberMedia } from './choices';
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
  const [camera, setCamera] = useState<DeviceState<LocalVideoTrack>>(() => atFirst('camera'));
  const [microphone, setMicrophone] = useState<DeviceState<LocalAudioTrack>>(() => atFirst('microphone'));
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
    setCamera(atFirst('camera'));
    setMicrophone(atFirst('microphone'));
    void startWanted(captureHeight).then(([video, audio]) => {
      if (!current) {
        video?.track?.stop();
        audio?.track?.stop();
        return;
      }
      if (video) showCamera(video);
      if (audio) showMicrophone(audio);
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
    rememberMedia(kind === 'camera' ? { camera: camera.status !== 'on' } : { microphone: microphone.status !== 'on' });
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
    rememberMedia(kind === 'camera' ? { camera: true, cameraId: deviceId } : { microphone: true, microphoneId: deviceId });
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

function atFirst(kind: DeviceKind): { status: 'starting' } | { status: 'off' } {
  return mediaChoices()[kind] ? STARTING : { status: 'off' };
}

/** What the person left on the last time, by one question of the browser. */
async function startWanted(height: number): Promise<[Started<LocalVideoTrack> | null, Started<LocalAudioTrack> | null]> {
  const wanted = mediaChoices();
  if (wanted.camera && wanted.microphone) return startBoth(height);
  return Promise.all([wanted.camera ? startCamera(height) : null, wanted.microphone ? startMicrophone() : null]);
}

async function startBoth(height: number): Promise<[Started<LocalVideoTrack>, Started<LocalAudioTrack>]> {
  const { cameraId, microphoneId } = mediaChoices();
  try {
    // A device that was chosen and is not there today is replaced by another.
    const tracks = await createLocalTracks({ audio: microphoneId ? { deviceId: microphoneId } : true, video: { resolution: captureResolution(height), ...(cameraId && { deviceId: cameraId }) } });
    const video = tracks.find((track) => track.kind === 'video') as LocalVideoTrack | undefined;
    const audio = tracks.find((track) => track.kind === 'audio') as LocalAudioTrack | undefined;
    return [video ? { track: video } : { problem: 'missing' }, audio ? { track: audio } : { problem: 'missing' }];
  } catch {
    // One of the two spoiled it: ask for each alone, so that the other still works and the message names the right one.
    return Promise.all([startCamera(height), startMicrophone()]);
  }
}

async function startCamera(height: number, deviceId?: string): Promise<Started<LocalVideoTrack>> {
  const { cameraId } = mediaChoices();
  const device = deviceId ? { deviceId: { exact: deviceId } } : cameraId ? { deviceId: cameraId } : {};
  try {
    return { track: await createLocalVideoTrack({ resolution: captureResolution(height), ...device }) };
  } catch (error) {
    return { problem: problemOf(error) };
  }
}

async function startMicrophone(deviceId?: string): Promise<Started<LocalAudioTrack>> {
  const { microphoneId } = mediaChoices();
  const device = deviceId ? { deviceId: { exact: deviceId } } : microphoneId ? { deviceId: microphoneId } : undefined;
  try {
    return { track: await createLocalAudioTrack(device) };
  } catch (error) {
    return { problem: problemOf(error) };
  }
}
