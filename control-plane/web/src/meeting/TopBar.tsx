import { meetingLink } from '../app/router';
import { CheckIcon, CopyIcon } from '../ui/icons';
import { useCopy } from '../ui/useCopy';
import type { MeetingActions, MeetingSnapshot } from './model';
import { PopBadge } from './PopBadge';

interface Props {
  view: MeetingSnapshot;
  actions: Pick<MeetingActions, 'record'>;
}

export function TopBar({ view, actions }: Props) {
  const [copied, copy] = useCopy(meetingLink(view.code));
  return (
    <header className="topbar">
      <h1 className="topbar-title">{view.title || 'Meeting'}</h1>
      <button type="button" className="chip code" onClick={copy} data-testid="meeting-code" data-code={view.code}>
        <span className="chip-code">{view.code}</span>
        <span className="unseen" role="status">
          {copied ? 'Link copied' : 'Copy the link'}
        </span>
        {copied ? <CheckIcon size={15} /> : <CopyIcon size={15} />}
      </button>
      <span className="topbar-status" role="status">
        {view.recording && (
          <span className="recording" data-testid="recording">
            Recording
          </span>
        )}
      </span>
      {view.mayRecord && (
        <button type="button" className="chip" onClick={() => void actions.record(!view.recording)} data-testid="control-record">
          {view.recording ? 'Stop' : 'Record'}
          <span className="unseen">{view.recording ? 'the recording' : 'the meeting'}</span>
        </button>
      )}
      <span className="topbar-space" />
      <PopBadge placement={view.placement} rttMs={view.rttMs} />
    </header>
  );
}
