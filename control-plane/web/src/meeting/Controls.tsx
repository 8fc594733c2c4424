import { useEffect, type ReactNode } from 'react';
import { CameraIcon, CameraOffIcon, ChatIcon, LeaveIcon, MicIcon, MicOffIcon, PeopleIcon, SettingsIcon, ShareIcon } from '../ui/icons';
import type { MeetingActions, MeetingSnapshot } from './model';

export type PanelName = 'chat' | 'people' | 'settings';

interface Props {
  view: MeetingSnapshot;
  panel: PanelName | null;
  unread: number;
  onPanel: (name: PanelName) => void;
  actions: MeetingActions;
}

/** Phones have no screen to share: the button is left out where the browser cannot do it. */
const canShare = typeof navigator !== 'undefined' && navigator.mediaDevices !== undefined && 'getDisplayMedia' in navigator.mediaDevices;

export function Controls({ view, panel, unread, onPanel, actions }: Props) {
  const { micOn, cameraOn, sharing } = view;
  const flipMic = () => void actions.setMic(!micOn);
  const flipCamera = () => void actions.setCamera(!cameraOn);
  useShortcuts({ d: flipMic, e: flipCamera });
  const unreadWords = unread > 0 ? `, ${unread} unread` : '';
  return (
    <div className="controls" role="toolbar" aria-label="Meeting controls">
      <Control testId="control-mic" label={micOn ? 'Mute' : 'Unmute'} hint="Ctrl+D" caption="Mic" off={!micOn} pressed={micOn} onClick={flipMic}>
        {micOn ? <MicIcon /> : <MicOffIcon />}
      </Control>
      <Control testId="control-camera" label={cameraOn ? 'Turn camera off' : 'Turn camera on'} hint="Ctrl+E" caption="Camera" off={!cameraOn} pressed={cameraOn} onClick={flipCamera}>
        {cameraOn ? <CameraIcon /> : <CameraOffIcon />}
      </Control>
      {canShare && (
        <Control testId="control-share" label={sharing ? 'Stop sharing' : 'Share your screen'} caption="Share" active={sharing} pressed={sharing} onClick={() => void actions.setSharing(!sharing)}>
          <ShareIcon />
        </Control>
      )}
      <Control testId="control-chat" label={`Chat${unreadWords}`} caption="Chat" active={panel === 'chat'} expanded={panel === 'chat'} onClick={() => onPanel('chat')}>
        <ChatIcon />
        {unread > 0 && (
          <span className="badge" data-testid="unread">
            {unread > 99 ? '99+' : unread}
          </span>
        )}
      </Control>
      <Control testId="control-people" label={`Participants, ${view.people.length}`} caption="People" active={panel === 'people'} expanded={panel === 'people'} onClick={() => onPanel('people')}>
        <PeopleIcon />
        <span className="badge badge-quiet">{view.people.length}</span>
      </Control>
      <Control testId="control-settings" label="Devices" caption="Devices" active={panel === 'settings'} expanded={panel === 'settings'} onClick={() => onPanel('settings')}>
        <SettingsIcon />
      </Control>
      <Control testId="control-leave" label="Leave the meeting" caption="Leave" danger onClick={() => void actions.leave()}>
        <LeaveIcon />
      </Control>
    </div>
  );
}

interface ControlProps {
  testId: string;
  label: string;
  caption: string;
  hint?: string;
  off?: boolean;
  active?: boolean;
  danger?: boolean;
  pressed?: boolean;
  expanded?: boolean;
  onClick: () => void;
  children: ReactNode;
}

function Control({ testId, label, caption, hint, off, active, danger, pressed, expanded, onClick, children }: ControlProps) {
  const look = danger ? ' control-danger' : off ? ' control-off' : active ? ' control-active' : '';
  return (
    <button type="button" className={`control${look}`} aria-label={label} title={hint ? `${label} (${hint})` : label} aria-pressed={pressed} aria-expanded={expanded} data-testid={testId} onClick={onClick}>
      <span className="control-icon">{children}</span>
      <span className="control-caption" aria-hidden="true">
        {caption}
      </span>
    </button>
  );
}

/** Ctrl (or Command) with a letter: single letters would fire while somebody dictates or types. */
function useShortcuts(shortcuts: Record<string, () => void>): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.repeat) return;
      const run = shortcuts[event.key.toLowerCase()];
      if (!run) return;
      event.preventDefault();
      run();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  });
}
