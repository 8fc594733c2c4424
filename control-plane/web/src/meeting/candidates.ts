/** Which edge to try next, and with which token. */
import type { EdgeAddress, JoinAnswer } from '../api/client';

export interface Candidate {
  edge: EdgeAddress;
  token: string;
}

/** Seconds before its expiry at which a token is no longer worth presenting. */
const TOKEN_MARGIN_S = 10;

/**
 * Edges in the order to try: the fresh answer's first, then alternates already known, the edge that was just lost at the very end.
 * A token for the same identity is preferred over one that would make the person somebody new.
 */
export function candidates(fresh: JoinAnswer | null, known: JoinAnswer | null, lostUrl: string | null, nowMs: number): Candidate[] {
  const keptToken = known && !tokenExpired(known.token, nowMs) ? known.token : null;
  const sameIdentity = fresh !== null && (known === null || fresh.identity === known.identity);
  const token = fresh && (sameIdentity || !keptToken) ? fresh.token : keptToken;
  if (!token) return [];
  const edges = [fresh, known].flatMap((answer) => (answer ? [answer.edge, ...answer.alternates] : []));
  const unique = [...new Map(edges.map((edge) => [edge.url, edge])).values()];
  const ordered = [...unique.filter((edge) => edge.url !== lostUrl), ...unique.filter((edge) => edge.url === lostUrl)];
  return ordered.map((edge) => ({ edge, token }));
}

/** Unreadable tokens count as valid: the edge decides, this only saves a pointless try. */
export function tokenExpired(token: string, nowMs: number): boolean {
  try {
    const payload = (token.split('.')[1] ?? '').replace(/-/g, '+').replace(/_/g, '/');
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === 'number' && exp - TOKEN_MARGIN_S < nowMs / 1000;
  } catch {
    return false;
  }
}
