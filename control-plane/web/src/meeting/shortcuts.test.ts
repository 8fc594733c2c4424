import { expect, test } from 'vitest';
import { shortcutOf } from './shortcuts';

const press = (code: string, held: Partial<Record<'ctrlKey' | 'metaKey' | 'altKey' | 'shiftKey' | 'repeat', boolean>> = {}) => ({ code, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, repeat: false, ...held });

test.each([
  [press('KeyD', { ctrlKey: true }), 'mic'],
  [press('KeyE', { metaKey: true }), 'camera'],
  [press('KeyH', { altKey: true }), 'hand'],
  [press('KeyD'), null],
  [press('KeyH'), null],
  [press('KeyD', { ctrlKey: true, shiftKey: true }), null],
  [press('KeyD', { ctrlKey: true, repeat: true }), null],
  [press('KeyH', { ctrlKey: true, altKey: true }), null],
  [press('KeyD', { altKey: true }), null],
])('%o is %s', (pressed, shortcut) => {
  expect(shortcutOf(pressed)).toBe(shortcut);
});
