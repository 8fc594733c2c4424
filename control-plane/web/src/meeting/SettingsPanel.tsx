import { DevicePicker } from '../media/DevicePicker';
import { useDevices } from '../media/useDevices';
import type { MeetingActions, MeetingSnapshot } from './model';
import { Panel } from './Panel';

interface Props {
  actions: Pick<MeetingActions, 'useDevice'>;
  current: MeetingSnapshot['devices'];
  onClose: () => void;
}

/** Changing microphone, camera or speaker in the middle of a meeting. */
export function SettingsPanel({ actions, current, onClose }: Props) {
  const devices = useDevices('meeting');
  return (
    <Panel title="Devices" testId="settings-panel" onClose={onClose}>
      <DevicePicker devices={devices} current={current} onChoose={(kind, id) => void actions.useDevice(kind, id)} />
    </Panel>
  );
}
