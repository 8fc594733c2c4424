import { useEffect, useRef, type ReactNode } from 'react';
import { CloseIcon } from '../ui/icons';

/** Takes the focus when it opens; whoever opened it gets it back (MeetingScreen). A panel with a field of its own may pass the focus on. */
export function Panel({ title, testId, onClose, children }: { title: string; testId: string; onClose: () => void; children: ReactNode }) {
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    if (!panel.current?.contains(document.activeElement)) panel.current?.focus();
  }, []);
  return (
    <aside className="panel" aria-label={title} tabIndex={-1} ref={panel} data-testid={testId}>
      <header className="panel-head">
        <h2>{title}</h2>
        <button type="button" className="round round-small round-plain" aria-label={`Close ${title.toLowerCase()}`} onClick={onClose} data-testid="panel-close">
          <CloseIcon size={20} />
        </button>
      </header>
      {children}
    </aside>
  );
}
