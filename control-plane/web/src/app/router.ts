/** Three routes need no router library: `/`, `/m/<code>`, and everything else. The query string travels along (`?from=fra`). */
import { useSyncExternalStore } from 'react';
import { parseMeetingCode } from '../api/codes';
import { RELAYS, type Relay } from '../meeting/ice';

export type Route = { page: 'landing' } | { page: 'meeting'; code: string } | { page: 'unknown' };

export function routeOf(pathname: string): Route {
  if (pathname === '/' || pathname === '/index.html') return { page: 'landing' };
  const code = /^\/m\/([^/]+)\/?$/.exec(pathname)?.[1];
  const parsed = code ? parseMeetingCode(safeDecode(code)) : null;
  return parsed ? { page: 'meeting', code: parsed } : { page: 'unknown' };
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

const CHANGED = 'meridian:route';

export function navigate(path: string): void {
  history.pushState(null, '', path + location.search);
  dispatchEvent(new Event(CHANGED));
}

function subscribe(notify: () => void): () => void {
  addEventListener('popstate', notify);
  addEventListener(CHANGED, notify);
  return () => {
    removeEventListener('popstate', notify);
    removeEventListener(CHANGED, notify);
  };
}

export function usePathname(): string {
  return useSyncExternalStore(subscribe, () => location.pathname);
}

/**
 * Query parameters the app knows. `from` places the caller (demo); `capture=360` lowers the camera's resolution on weak machines; `relay=udp`,
 * `tcp` or `tls` sends media through TURN only and by that transport, to see what a firewall would leave (support).
 */
export function pageOptions(search = location.search): { from: string | undefined; captureHeight: number; relay: Relay | undefined } {
  const query = new URLSearchParams(search);
  const from = query.get('from')?.trim().slice(0, 32) || undefined;
  const height = Number(query.get('capture'));
  const relay = RELAYS.find((one) => one === query.get('relay'));
  return { from, relay, captureHeight: [180, 360, 540, 720, 1080].includes(height) ? height : 720 };
}

export function meetingLink(code: string): string {
  return `${location.origin}/m/${code}`;
}
