import type { ReactNode } from 'react';
import { CloseIcon } from '../ui/icons';

export function Panel({ title, testId, onClose, children }: { title: string; testId: string; onClose: () => void; children: ReactNode }) {
  return (
    <aside className="panel" aria-label={title} data-testid={testId}>
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
