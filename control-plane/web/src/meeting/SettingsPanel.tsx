import { useState } from 'react';
import { useDevices } from '../media/useDevices';
import type { MeetingActions } from './model';
import { Panel } from './Panel';

interface Props {
  actions: Pick<MeetingActions, 'useDevice'>;
  onClose: () => void;
}

/** Changing camera or microphone in the middle of a meeting. */
export function SettingsPanel({ actions, onClose }: Props) {
  const devices = useDevices('meeting');
  return (
    <Panel title="Devices" testId="settings-panel" onClose={onClose}>
      <div className="settings">
        <Choice label="Microphone" list={devices.microphones} onChoose={(id) => void actions.useDevice('audioinput', id)} />
        <Choice label="Camera" list={devices.cameras} onChoose={(id) => void actions.useDevice('videoinput', id)} />
      </div>
    </Panel>
  );
}

function Choice({ label, list, onChoose }: { label: string; list: MediaDeviceInfo[]; onChoose: (id: string) => void }) {
  const [chosen, setChosen] = useState('');
  return (
    <label className="field">
      <span>{label}</span>
      <select
        value={chosen}
        disabled={list.length === 0}
        onChange={(event) => {
          setChosen(event.target.value);
          onChoose(event.target.value);
        }}
      >
        {chosen === '' && <option value="">{list.length === 0 ? 'None found' : 'As it is now'}</option>}
        {list.map((device, index) => (
          <option key={device.deviceId} value={device.deviceId}>
            {device.label || `${label} ${index + 1}`}
          </option>
        ))}
      </select>
    </label>
  );
}
