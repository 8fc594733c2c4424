import { expect, test, vi } from 'vitest';
import { announce, OtherTab, type Channel } from './tabs';

/** A BroadcastChannel whose words arrive at once. */
function hub(): () => Channel {
  const all = new Set<Channel>();
  return () => {
    const channel: Channel = {
      onmessage: null,
      postMessage: (word) => all.forEach((other) => other !== channel && other.onmessage?.({ data: structuredClone(word) } as MessageEvent)),
      close: () => void all.delete(channel),
    };
    all.add(channel);
    return channel;
  };
}

test('a tab before the meeting hears of the stay in another, whichever was first, and when it ends', () => {
  const open = hub();
  const early = vi.fn();
  new OtherTab('abc', early, open);
  expect(early).not.toHaveBeenCalled();
  const leave = announce({ code: 'abc', name: 'Ana', handOver: () => null }, open);
  expect(early).toHaveBeenLastCalledWith('Ana');
  const late = vi.fn();
  new OtherTab('abc', late, open);
  expect(late).toHaveBeenLastCalledWith('Ana');
  const elsewhere = vi.fn();
  new OtherTab('xyz', elsewhere, open);
  expect(elsewhere, 'another meeting').not.toHaveBeenCalled();
  leave();
  expect(late).toHaveBeenLastCalledWith(null);
});

test('the call is moved with the other tab’s token', async () => {
  const open = hub();
  announce({ code: 'abc', name: 'Ana', handOver: () => 'token' }, open);
  await expect(new OtherTab('abc', () => undefined, open).takeOver()).resolves.toBe('token');
});

test('a tab that does not answer is not waited for', async () => {
  vi.useFakeTimers();
  const token = new OtherTab('abc', () => undefined, hub()).takeOver();
  await vi.advanceTimersByTimeAsync(2_000);
  await expect(token).resolves.toBeNull();
  vi.useRealTimers();
});
