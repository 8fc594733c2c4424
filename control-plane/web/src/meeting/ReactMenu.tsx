import { useEffect, useRef, useState } from 'react';
import { HandIcon } from '../ui/icons';
import type { MeetingActions } from './model';
import { REACTIONS, type Reaction } from './signals';

/** What is read out in place of a picture. */
export const REACTION_WORDS: Record<Reaction, string> = { '👍': 'Thumbs up', '👏': 'Applause', '❤️': 'Heart', '😂': 'Laughing', '😮': 'Surprised', '🎉': 'Party' };

interface Props {
  raised: boolean;
  actions: Pick<MeetingActions, 'raiseHand' | 'react'>;
}

/** The button that opens what can be said without a word. */
export function ReactMenu({ raised, actions }: Props) {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    root.current?.querySelector<HTMLElement>('.reactions button')?.focus();
    const outside = (event: PointerEvent) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      setOpen(false);
      root.current?.querySelector<HTMLElement>('.control')?.focus();
    };
    addEventListener('pointerdown', outside);
    addEventListener('keydown', escape, true);
    return () => {
      removeEventListener('pointerdown', outside);
      removeEventListener('keydown', escape, true);
    };
  }, [open]);
  return (
    <div className="react" ref={root}>
      <button type="button" className={`control${raised ? ' control-active' : ''}`} aria-expanded={open} onClick={() => setOpen(!open)} data-testid="control-react">
        <span className="control-icon">
          <HandIcon />
        </span>
        <span className="control-caption">React</span>
      </button>
      {open && (
        <div className="reactions" role="group" aria-label="Reactions">
          <button type="button" className="button button-small" aria-pressed={raised} onClick={() => (void actions.raiseHand(!raised), setOpen(false))} data-testid="raise-hand">
            {raised ? 'Lower hand' : 'Raise hand'}
          </button>
          {REACTIONS.map((reaction) => (
            <button key={reaction} type="button" className="reaction" aria-label={REACTION_WORDS[reaction]} onClick={() => (void actions.react(reaction), setOpen(false))} data-testid="reaction">
              {reaction}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
