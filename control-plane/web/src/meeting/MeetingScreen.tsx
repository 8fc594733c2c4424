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
import { SharingBar, Stage } from './Stage';
import { TopBar } from './TopBar';
import { useSnapshot } from './useSnapshot';

export function MeetingScreen({ source }: { source: MeetingSource }) {
  const view = useSnapshot(source);
  const { actions } = source;
  const [panel, setPanel] = useState<PanelName | null>(null);
  const [draft, setDraft] = useState('');
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

  const [wanted, setWanted] = useState<string | null>(null);
  const presenters = presentersOf(view.people);
  const presenter = presenters.find(({ identity }) => identity === wanted) ?? presenters[0];
  return (
    <div className="meeting" data-testid="meeting" data-phase={view.phase} data-people={view.people.length}>
      <TopBar view={view} actions={actions} />
      <div className={`meeting-middle${panel ? ' has-panel' : ''}`}>
        <main className="meeting-stage" aria-label="Participants">
          {view.sharing && <SharingBar onStop={() => void actions.setSharing(false)} />}
          <div className="meeting-pictures">
            <Notices notices={view.notices} onDismiss={actions.dismiss} />
            {presenter ? <Stage presenter={presenter} presenters={presenters} people={view.people} onChoose={setWanted} /> : <Grid people={view.people} />}
          </div>
          {view.people.length === 1 && view.phase === 'connected' && !view.sharing && <InviteCard code={view.code} />}
        </main>
        {panel === 'chat' && <ChatPanel lines={view.chat} draft={draft} onDraft={setDraft} actions={actions} onClose={close} />}
        {panel === 'people' && <PeoplePanel people={view.people} code={view.code} onClose={close} />}
        {panel === 'settings' && <SettingsPanel actions={actions} current={view.devices} onClose={close} />}
      </div>
      <Controls view={view} panel={panel} unread={unread} onPanel={toggle} actions={actions} />
      <div className="overlays">
        <Banner phase={view.phase} />
        {view.soundBlocked && <SoundPrompt onAllow={() => void actions.allowSound()} />}
      </div>
      <AudioSink sources={view.audio} />
    </div>
  );
}

/** Whose screens can be looked at, in the order in which they came to the meeting. One's own is not among them: it would show itself in itself. */
export function presentersOf(people: readonly Person[]): Person[] {
  return people.filter((person) => person.screen && !person.isLocal);
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
