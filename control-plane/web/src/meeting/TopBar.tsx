import { meetingLink } from '../app/router';
import { CheckIcon, CopyIcon } from '../ui/icons';
import { useCopy } from '../ui/useCopy';
import type { MeetingSnapshot } from './model';
import { PopBadge } from './PopBadge';

export function TopBar({ view }: { view: MeetingSnapshot }) {
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
      <span role="status">
        {view.recording && (
          <span className="recording" data-testid="recording">
            Recording
          </span>
        )}
      </span>
      <span className="topbar-space" />
      <PopBadge placement={view.placement} rttMs={view.rttMs} />
    </header>
  );
}
