import type { DeviceKind } from './problems';
import type { Devices } from './useDevices';

interface Props {
  devices: Devices;
  camera: MediaStreamTrack | null;
  microphone: MediaStreamTrack | null;
  onChoose: (kind: DeviceKind, deviceId: string) => void;
}

export function DevicePicker({ devices, camera, microphone, onChoose }: Props) {
  return (
    <div className="devices">
      <Choice kind="microphone" label="Microphone" list={devices.microphones} current={microphone} onChoose={onChoose} />
      <Choice kind="camera" label="Camera" list={devices.cameras} current={camera} onChoose={onChoose} />
    </div>
  );
}

interface ChoiceProps {
  kind: DeviceKind;
  label: string;
  list: MediaDeviceInfo[];
  current: MediaStreamTrack | null;
  onChoose: Props['onChoose'];
}

function Choice({ kind, label, list, current, onChoose }: ChoiceProps) {
  const chosen = current?.getSettings().deviceId ?? '';
  return (
    <label className="field">
      <span>{label}</span>
      <select value={list.some((device) => device.deviceId === chosen) ? chosen : ''} disabled={list.length === 0} onChange={(event) => onChoose(kind, event.target.value)} data-testid={`choose-${kind}`}>
        {!list.some((device) => device.deviceId === chosen) && <option value="">{list.length === 0 ? 'Unavailable' : 'Choose…'}</option>}
        {list.map((device, index) => (
          <option key={device.deviceId} value={device.deviceId}>
            {device.label || `${label} ${index + 1}`}
          </option>
        ))}
      </select>
    </label>
  );
}
