/** Which ICE servers a connection uses. */
import type { EdgeAddress, JoinAnswer } from '../api/client';

/** Ways to a TURN server, by what a firewall has to let through. */
export const RELAYS = ['udp', 'tcp', 'tls'] as const;
export type Relay = (typeof RELAYS)[number];

/**
 * The configuration of the peer connection to `edge`; undefined leaves it to what the edge itself says, which is right for an alternate: the
 * answer's servers are those near the edge it chose first.
 */
export function rtcConfigFor(answer: JoinAnswer, edge: EdgeAddress, relay: Relay | undefined): RTCConfiguration | undefined {
  if (relay) return { iceServers: answer.iceServers.map((server) => only(server, relay)).filter((server) => server.urls.length > 0), iceTransportPolicy: 'relay' };
  return answer.iceServers.length && edge.id === answer.edge.id ? { iceServers: answer.iceServers } : undefined;
}

function only(server: RTCIceServer, relay: Relay): RTCIceServer & { urls: string[] } {
  return { ...server, urls: [server.urls].flat().filter((url) => relayOf(url) === relay) };
}

/** RFC 7065: UDP unless the URL says otherwise, TLS over TCP. */
function relayOf(url: string): Relay | undefined {
  if (url.startsWith('turns:')) return 'tls';
  if (!url.startsWith('turn:')) return undefined;
  return url.endsWith('?transport=tcp') ? 'tcp' : 'udp';
}
