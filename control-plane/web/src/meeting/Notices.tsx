import { useEffect, useState } from 'react';
import { meetingLink } from '../app/router';
import { CheckIcon, CloseIcon, CopyIcon, SoundIcon, WarningIcon } from '../ui/icons';
import { useCopy } from '../ui/useCopy';
import type { Notice, Phase } from './model';

/** A socket that is replaced within this time is nobody's business: pictures and sound went on. */
const RESUME_QUIET_MS = 600;

export function Banner({ phase }: { phase: Phase }) {
  const [slow, setSlow] = useState(false);
  useEffect(() => {
    setSlow(false);
    if (phase !== 'resuming') return;
    const timer = setTimeout(() => setSlow(true), RESUME_QUIET_MS);
    return () => clearTimeout(timer);
  }, [phase]);
  const shown = phase === 'rejoining' || (phase === 'resuming' && slow);
  return (
    <div role="status" aria-live="polite">
      {shown && (
        <div className="banner" data-testid="banner-rejoining">
          <span className="spinner" aria-hidden="true" />
          Connection lost, rejoining…
        </div>
      )}
    </div>
  );
}

/**
 * One line at the upper edge of the pictures, where no name is: the latest, but a warning stays until it is dismissed or over. The others are
 * read out all the same.
 */
export function Notices({ notices, onDismiss }: { notices: Notice[]; onDismiss: (id: number) => void }) {
  const shown = notices.filter(({ tone }) => tone === 'warning').at(-1) ?? notices.at(-1);
  return (
    <div className="notices">
      <div className="unseen" role="log" aria-label="What has happened">
        {notices.map(({ id, text }) => (
          <p key={id}>{text}</p>
        ))}
      </div>
      {shown && (
        <div className={`notice notice-${shown.tone}`} data-testid="notice">
          {shown.tone === 'warning' && <WarningIcon size={16} />}
          <span>{shown.text}</span>
          <button type="button" className="notice-close" aria-label="Dismiss" onClick={() => onDismiss(shown.id)}>
            <CloseIcon size={15} />
          </button>
        </div>
      )}
    </div>
  );
}

export function SoundPrompt({ onAllow }: { onAllow: () => void }) {
  return (
    <div className="sound-prompt" role="alert">
      <p>Your browser is holding the sound back.</p>
      <button type="button" className="button button-primary button-small" onClick={onAllow} data-testid="allow-sound">
        <SoundIcon size={17} />
        Hear the meeting
      </button>
    </div>
  );
}

export function InviteCard({ code }: { code: string }) {
  const [copied, copy] = useCopy(meetingLink(code));
  return (
    <div className="invite-card" data-testid="invite-card">
      <p>You are the only one here. Send the link to whoever should come.</p>
      <button type="button" className="button button-primary button-small" onClick={copy}>
        {copied ? <CheckIcon size={17} /> : <CopyIcon size={17} />}
        {copied ? 'Link copied' : 'Copy link'}
      </button>
    </div>
  );
}
