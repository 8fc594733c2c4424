/** The meeting itself. Everything it shows comes from one snapshot; everything it does goes through the source's actions. */
import { useCallback, useEffect, useRef, useState } from 'react';
import { AudioSink } from './AudioSink';
import { ChatPanel } from './ChatPanel';
import { Controls, type PanelName } from './Controls';
import { Grid } from './Grid';
import type { MeetingSource, Person } from './model';
import { Banner, InviteCard, Notices, SoundPrompt } from './Notices';
import { PeoplePanel } from './PeoplePanel';
import { SettingsPanel } from './SettingsPanel';
import { Stage } from './Stage';
import { TopBar } from './TopBar';
import { useSnapshot } from './useSnapshot';

export function MeetingScreen({ source }: { source: MeetingSource }) {
  const view = useSnapshot(source);
  const { actions } = source;
  const [panel, setPanel] = useState<PanelName | null>(null);
  const unread = useUnread(view.chat, panel === 'chat');
  const opener = useRef<HTMLElement | null>(null);

  const toggle = (name: PanelName) => {
    opener.current = document.activeElement as HTMLElement | null;
    setPanel(panel === name ? null : name);
  };
  const close = useCallback(() => {
    setPanel(null);
    opener.current?.focus();
  }, []);
  useEscape(panel !== null, close);

  const presenter = pickPresenter(view.people);
  return (
    <div className="meeting" data-testid="meeting" data-phase={view.phase} data-people={view.people.length}>
      <TopBar view={view} />
      <div className={`meeting-middle${panel ? ' has-panel' : ''}`}>
        <main className="meeting-stage" aria-label="Participants">
          {presenter ? <Stage presenter={presenter} people={view.people} /> : <Grid people={view.people} />}
          {view.people.length === 1 && view.phase === 'connected' && !presenter && <InviteCard code={view.code} />}
        </main>
        {panel === 'chat' && <ChatPanel lines={view.chat} actions={actions} onClose={close} />}
        {panel === 'people' && <PeoplePanel people={view.people} code={view.code} onClose={close} />}
        {panel === 'settings' && <SettingsPanel actions={actions} onClose={close} />}
      </div>
      <Controls view={view} panel={panel} unread={unread} onPanel={toggle} actions={actions} />
      <div className="overlays">
        <Banner phase={view.phase} />
        {view.soundBlocked && <SoundPrompt onAllow={() => void actions.allowSound()} />}
      </div>
      <Notices notices={view.notices} onDismiss={actions.dismiss} />
      <AudioSink sources={view.audio} />
    </div>
  );
}

/** Somebody else's screen before one's own; among others, the person who came first keeps the stage. */
export function pickPresenter(people: readonly Person[]): Person | null {
  const sharing = people.filter((person) => person.screen);
  return sharing.find((person) => !person.isLocal) ?? sharing[0] ?? null;
}

/** Other people's lines that came in while the chat was closed. */
function useUnread(lines: readonly { id: string; own: boolean }[], open: boolean): number {
  const [seen, setSeen] = useState<ReadonlySet<string>>(() => new Set(lines.map((line) => line.id)));
  useEffect(() => {
    if (open) setSeen(new Set(lines.map((line) => line.id)));
  }, [open, lines]);
  return open ? 0 : lines.filter((line) => !line.own && !seen.has(line.id)).length;
}

function useEscape(active: boolean, close: () => void): void {
  useEffect(() => {
    if (!active) return;
    const onKey = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && !event.defaultPrevented) close();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [active, close]);
}
