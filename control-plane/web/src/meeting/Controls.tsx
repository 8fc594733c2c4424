import type { ReactNode } from 'react';
import { CameraIcon, CameraOffIcon, ChatIcon, LeaveIcon, MicIcon, MicOffIcon, PeopleIcon, SettingsIcon, ShareIcon } from '../ui/icons';
import type { MeetingActions, MeetingSnapshot } from './model';
import { ReactMenu } from './ReactMenu';
import { SHORTCUTS, useShortcuts } from './shortcuts';

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
  const raised = view.people.some(({ isLocal, handSinceMs }) => isLocal && handSinceMs !== null);
  useShortcuts({ mic: flipMic, camera: flipCamera, hand: () => void actions.raiseHand(!raised), chat: () => onPanel('chat'), people: () => onPanel('people') });
  return (
    <footer className="controls" aria-label="Meeting controls">
      <Control testId="control-mic" caption={micOn ? 'Mute' : 'Unmute'} hint={SHORTCUTS.mic.keys} off={!micOn} onClick={flipMic}>
        {micOn ? <MicIcon /> : <MicOffIcon />}
      </Control>
      <Control testId="control-camera" caption={cameraOn ? 'Stop video' : 'Start video'} hint={SHORTCUTS.camera.keys} off={!cameraOn} onClick={flipCamera}>
        {cameraOn ? <CameraIcon /> : <CameraOffIcon />}
      </Control>
      {canShare && (
        <Control testId="control-share" caption={sharing ? 'Stop sharing' : 'Share screen'} active={sharing} onClick={() => void actions.setSharing(!sharing)}>
          <ShareIcon />
        </Control>
      )}
      <ReactMenu raised={raised} actions={actions} />
      <Control testId="control-chat" caption="Chat" badge={unread > 0 && <Badge testId="unread" count={unread} meaning="unread" />} active={panel === 'chat'} expanded={panel === 'chat'} onClick={() => onPanel('chat')}>
        <ChatIcon />
      </Control>
      <Control testId="control-people" caption="People" badge={<Badge quiet count={view.people.length} meaning="here" />} active={panel === 'people'} expanded={panel === 'people'} onClick={() => onPanel('people')}>
        <PeopleIcon />
      </Control>
      <Control testId="control-settings" caption="Settings" active={panel === 'settings'} expanded={panel === 'settings'} onClick={() => onPanel('settings')}>
        <SettingsIcon />
      </Control>
      <Control testId="control-leave" caption="Leave" danger onClick={() => void actions.leave()}>
        <LeaveIcon />
      </Control>
    </footer>
  );
}

interface ControlProps {
  testId: string;
  /** Also the button's name: what is seen is what is said to press it. */
  caption: string;
  hint?: string;
  badge?: ReactNode;
  off?: boolean;
  active?: boolean;
  danger?: boolean;
  expanded?: boolean;
  onClick: () => void;
  children: ReactNode;
}

function Control({ testId, caption, hint, badge, off, active, danger, expanded, onClick, children }: ControlProps) {
  const look = danger ? ' control-danger' : off ? ' control-off' : active ? ' control-active' : '';
  return (
    <button type="button" className={`control${look}`} title={hint && `${caption} (${hint})`} aria-expanded={expanded} data-testid={testId} onClick={onClick}>
      <span className="control-icon">{children}</span>
      <span className="control-caption">{caption}</span>
      {badge}
    </button>
  );
}

function Badge({ count, meaning, quiet, testId }: { count: number; meaning: string; quiet?: boolean; testId?: string }) {
  return (
    <>
      <span className={quiet ? 'badge badge-quiet' : 'badge'} data-testid={testId}>
        {count > 99 ? '99+' : count}
      </span>
      <span className="unseen">{meaning}</span>
    </>
  );
}
