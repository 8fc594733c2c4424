/** The join API of the control plane (edges serve the same). Everything the server says is checked here, so the rest of the app meets typed values only. */
import type { Measurement, ProbeTarget } from '../meeting/probes';
import { ApiError } from './errors';

export interface Meeting {
  code: string;
  title: string;
  passcodeRequired: boolean;
  state: string;
}

export interface NewMeeting {
  title?: string;
  passcode?: string;
  maxParticipants?: number;
}

export interface EdgeAddress {
  id: string;
  region: string;
  url: string;
}

export interface JoinRequest {
  name: string;
  passcode?: string | undefined;
  /** Demo only: stands in for the caller's place on the globe. */
  from?: string | undefined;
  /** The token of the session being continued: the server gives back the identity it names. */
  previousToken?: string | undefined;
  /** Ids of edges that this client has just failed to reach. */
  avoid?: string[];
  /** Round trips this client has measured. */
  probes?: Measurement[];
}

export interface JoinAnswer {
  edge: EdgeAddress;
  alternates: EdgeAddress[];
  iceServers: RTCIceServer[];
  token: string;
  identity: string;
  room: string;
  reasons: string[];
}

/** A meeting that was just made, with the key that makes its holder the host. */
export interface NewlyMade extends Meeting {
  hostKey: string;
}

export interface JoinApi {
  create(meeting: NewMeeting): Promise<NewlyMade>;
  meeting(code: string, signal?: AbortSignal): Promise<Meeting>;
  /** Regions worth measuring before a join; empty if there is nothing to choose between. */
  probes(signal?: AbortSignal): Promise<ProbeTarget[]>;
  /** For the host: begins and ends the recording at an edge. */
  recordingToken(code: string, hostKey: string): Promise<string>;
  join(code: string, request: JoinRequest, signal?: AbortSignal): Promise<JoinAnswer>;
}

const REQUEST_TIMEOUT_MS = 10_000;

export function httpJoinApi(base = '/api/v1'): JoinApi {
  const meetingPath = (code: string) => `${base}/meetings/${encodeURIComponent(code)}`;
  return {
    async create(meeting) {
      const body = { title: meeting.title, passcode: meeting.passcode, max_participants: meeting.maxParticipants };
      const made = await request('POST', `${base}/meetings`, body);
      return { ...readMeeting(made), hostKey: text(made.host_key) };
    },
    async meeting(code, signal) {
      return readMeeting(await request('GET', meetingPath(code), undefined, signal));
    },
    async probes(signal) {
      const answer = await request('GET', `${base}/probes`, undefined, signal, 'default');
      return list(answer.regions).map(readProbeTarget).filter((target) => target !== null);
    },
    async recordingToken(code, hostKey) {
      return text((await request('POST', `${meetingPath(code)}/recording-token`, undefined, undefined, 'no-store', hostKey)).token);
    },
    async join(code, join, signal) {
      const probes = join.probes?.length ? join.probes.map(({ region, rttMs }) => ({ region, rtt_ms: Math.round(rttMs * 10) / 10 })) : undefined;
      const body = { name: join.name, passcode: join.passcode, from: join.from, previous_token: join.previousToken, avoid: join.avoid, probes };
      return readJoinAnswer(await request('POST', `${meetingPath(code)}/join`, body, signal));
    },
  };
}

async function request(method: string, url: string, body?: object, signal?: AbortSignal, cache: RequestCache = 'no-store', bearer?: string): Promise<Fields> {
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  let response: Response;
  try {
    response = await fetch(url, {
      method,
      headers: { ...(body && { 'content-type': 'application/json' }), ...(bearer && { authorization: `Bearer ${bearer}` }) },
      body: body ? JSON.stringify(body) : null,
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      cache,
    });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new ApiError('unreachable', 0, '');
  }
  const answer = fields(await response.json().catch(() => null));
  if (!response.ok) throw ApiError.fromResponse(response.status, answer);
  return answer;
}

type Fields = Record<string, unknown>;

function fields(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function readMeeting(answer: Fields): Meeting {
  return {
    code: text(answer.code),
    title: text(answer.title),
    passcodeRequired: answer.passcode_required === true,
    state: text(answer.state),
  };
}

function readEdge(value: unknown): EdgeAddress | null {
  const edge = fields(value);
  const url = text(edge.url);
  return url ? { id: text(edge.id), region: text(edge.region), url } : null;
}

function readProbeTarget(value: unknown): ProbeTarget | null {
  const target = fields(value);
  const [region, url] = [text(target.region), text(target.url)];
  return region && /^https?:\/\//.test(url) ? { region, url } : null;
}

/** A reason is a sentence, alone or with the numbers behind it. Of edges that were not chosen only the total is worth a person's time. */
function readReason(value: unknown, chosen: string): string {
  const reason = fields(value);
  const elsewhere = text(reason.edge) !== '' && text(reason.edge) !== chosen;
  if (elsewhere && text(reason.kind) !== 'score') return '';
  return text(value) || text(reason.text);
}

function readIceServer(value: unknown): RTCIceServer | null {
  const server = fields(value);
  const urls = list(server.urls).map(text).filter(Boolean);
  if (urls.length === 0) return null;
  return { urls, username: text(server.username), credential: text(server.credential) };
}

export function readJoinAnswer(answer: Fields): JoinAnswer {
  const edge = readEdge(answer.edge);
  const token = text(answer.token);
  if (!edge || !token) throw new ApiError('bad_answer', 200, '');
  return {
    edge,
    alternates: list(answer.alternates).map(readEdge).filter((e) => e !== null),
    iceServers: list(answer.ice_servers).map(readIceServer).filter((s) => s !== null),
    token,
    identity: text(answer.identity),
    room: text(answer.room),
    reasons: list(answer.reasons).map((reason) => readReason(reason, edge.id)).filter(Boolean),
  };
}
