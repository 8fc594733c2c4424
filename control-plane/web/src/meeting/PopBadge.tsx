import { useEffect, useRef, useState } from 'react';
import { GlobeIcon } from '../ui/icons';
import type { Placement } from './model';

/** Which point of presence carries me, how far it is, and on a click: why this one. */
export function PopBadge({ placement, rttMs }: { placement: Placement | null; rttMs: number | null }) {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    const outside = (event: PointerEvent) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      setOpen(false);
      root.current?.querySelector('button')?.focus();
    };
    addEventListener('pointerdown', outside);
    addEventListener('keydown', escape, true);
    return () => {
      removeEventListener('pointerdown', outside);
      removeEventListener('keydown', escape, true);
    };
  }, [open]);
  if (!placement) return null;

  const name = placement.region || placement.edgeId;
  const latency = rttMs === null ? '' : formatRtt(rttMs);
  return (
    <div className="pop" ref={root}>
      <button
        type="button"
        className="chip"
        aria-expanded={open}
        aria-controls="pop-why"
        onClick={() => setOpen(!open)}
        data-testid="pop-badge"
        data-pop={placement.region}
        data-edge={placement.edgeId}
        data-rtt={rttMs ?? ''}
      >
        <GlobeIcon size={16} />
        <span className="unseen">Connected through</span>
        <span className="pop-name">{name}</span>
        {latency && <span className="pop-rtt">{latency}</span>}
        <span className="unseen">away. Why here?</span>
      </button>
      {open && (
        <div className="popover" id="pop-why" role="dialog" aria-label="Why this point of presence" data-testid="pop-why">
          <h2>Why here</h2>
          {placement.reasons.length > 0 ? (
            <ul>
              {placement.reasons.map((reason) => (
                <li key={reason}>{reason}</li>
              ))}
            </ul>
          ) : (
            <p>It was the best point of presence for you when you joined.</p>
          )}
          <dl>
            <dt>Edge</dt>
            <dd>{placement.edgeId || name}</dd>
            <dt>Round trip</dt>
            <dd>{latency || 'being measured'}</dd>
            <dt>If it fails</dt>
            <dd>{placement.alternates.length > 0 ? placement.alternates.join(', ') : 'no other edge known'}</dd>
          </dl>
        </div>
      )}
    </div>
  );
}

export function formatRtt(ms: number): string {
  return ms < 1 ? '< 1 ms' : `${Math.round(ms)} ms`;
}
