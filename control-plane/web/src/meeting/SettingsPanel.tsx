import { chooseTheme, THEMES, useTheme, type Theme } from '../app/theme';
import { DevicePicker } from '../media/DevicePicker';
import { useDevices } from '../media/useDevices';
import type { MeetingActions, MeetingSnapshot } from './model';
import { Panel } from './Panel';
import { SHORTCUTS } from './shortcuts';

interface Props {
  actions: Pick<MeetingActions, 'useDevice'>;
  current: MeetingSnapshot['devices'];
  onClose: () => void;
}

/** Microphone, camera and speaker; light or dark; and which keys do what. */
export function SettingsPanel({ actions, current, onClose }: Props) {
  const devices = useDevices('meeting');
  return (
    <Panel title="Settings" testId="settings-panel" onClose={onClose}>
      <div className="settings">
        <DevicePicker devices={devices} current={current} onChoose={(kind, id) => void actions.useDevice(kind, id)} />
        <Appearance />
        <section>
          <h3>Keyboard shortcuts</h3>
          <dl className="shortcuts">
            {Object.values(SHORTCUTS).map(({ keys, does }) => (
              <div key={keys}>
                <dt>{does}</dt>
                <dd>
                  <kbd>{keys}</kbd>
                </dd>
              </div>
            ))}
          </dl>
        </section>
      </div>
    </Panel>
  );
}

const THEME_WORDS: Record<Theme, string> = { system: 'As the system', light: 'Light', dark: 'Dark' };

function Appearance() {
  const chosen = useTheme();
  return (
    <fieldset className="appearance">
      <legend>Appearance</legend>
      {THEMES.map((theme) => (
        <label key={theme}>
          <input type="radio" name="theme" checked={theme === chosen} onChange={() => chooseTheme(theme)} data-testid={`theme-${theme}`} />
          {THEME_WORDS[theme]}
        </label>
      ))}
    </fieldset>
  );
}
