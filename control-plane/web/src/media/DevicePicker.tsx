import { readableLabel } from './labels';
import type { Devices } from './useDevices';

export const KINDS = [
  { kind: 'audioinput', of: 'microphones', label: 'Microphone', testId: 'choose-microphone' },
  { kind: 'videoinput', of: 'cameras', label: 'Camera', testId: 'choose-camera' },
  { kind: 'audiooutput', of: 'speakers', label: 'Speaker', testId: 'choose-speaker' },
] as const;

interface Props {
  devices: Devices;
  /** The devices in use. Where none is, the first is named: it is what switching on would take. */
  current: Record<MediaDeviceKind, string>;
  onChoose: (kind: MediaDeviceKind, deviceId: string) => void;
}

/** Which microphone, camera and, where the browser can choose it, speaker. */
export function DevicePicker({ devices, current, onChoose }: Props) {
  return (
    <div className="devices">
      {KINDS.filter(({ kind }) => kind !== 'audiooutput' || devices.speakers.length > 0).map(({ kind, of, label, testId }) => (
        <Choice key={kind} label={label} testId={testId} list={devices[of]} current={current[kind]} onChoose={(id) => onChoose(kind, id)} />
      ))}
    </div>
  );
}

interface ChoiceProps {
  label: string;
  testId: string;
  list: MediaDeviceInfo[];
  current: string;
  onChoose: (deviceId: string) => void;
}

function Choice({ label, testId, list, current, onChoose }: ChoiceProps) {
  const shown = list.find((device) => device.deviceId === current) ?? list[0];
  return (
    <label className="field">
      <span>{label}</span>
      <select value={shown?.deviceId ?? ''} disabled={list.length === 0} onChange={(event) => onChoose(event.target.value)} data-testid={testId}>
        {!shown && <option value="">{`No ${label.toLowerCase()} found`}</option>}
        {list.map((device, index) => (
          <option key={device.deviceId} value={device.deviceId}>
            {readableLabel(device, `${label} ${index + 1}`)}
          </option>
        ))}
      </select>
    </label>
  );
}
