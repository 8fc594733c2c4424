/** Keys that work anywhere in the meeting. With Ctrl (or Command) or Alt: single letters would fire while somebody dictates or types. */
import { useEffect } from 'react';

export const SHORTCUTS = {
  mic: { keys: 'Ctrl+D', code: 'KeyD', modifier: 'ctrl', does: 'Mute or unmute' },
  camera: { keys: 'Ctrl+E', code: 'KeyE', modifier: 'ctrl', does: 'Start or stop video' },
  hand: { keys: 'Alt+H', code: 'KeyH', modifier: 'alt', does: 'Raise or lower your hand' },
  chat: { keys: 'Alt+C', code: 'KeyC', modifier: 'alt', does: 'Open or close the chat' },
  people: { keys: 'Alt+P', code: 'KeyP', modifier: 'alt', does: 'Open or close the list of people' },
} as const;

export type Shortcut = keyof typeof SHORTCUTS;

type Press = Pick<KeyboardEvent, 'code' | 'ctrlKey' | 'metaKey' | 'altKey' | 'shiftKey' | 'repeat'>;

/** Which one a press is. By the key's place, as Alt with a letter writes another character on some keyboards. */
export function shortcutOf(press: Press): Shortcut | null {
  if (press.shiftKey || press.repeat) return null;
  const ctrl = press.ctrlKey || press.metaKey;
  // Both together are AltGr, which writes.
  const modifier = ctrl && !press.altKey ? 'ctrl' : press.altKey && !ctrl ? 'alt' : null;
  const found = Object.entries(SHORTCUTS).find(([, one]) => one.code === press.code && one.modifier === modifier);
  return (found?.[0] as Shortcut | undefined) ?? null;
}

export function useShortcuts(run: Record<Shortcut, () => void>): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const shortcut = shortcutOf(event);
      if (!shortcut) return;
      event.preventDefault();
      run[shortcut]();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  });
}
