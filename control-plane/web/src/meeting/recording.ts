/** Recording, for the host: the control plane gives a token for it, the edge that carries the host begins and ends it. */
import type { JoinApi } from '../api/client';

/** What went wrong, in words for the host. */
export class RecordingError extends Error {}

export async function record(api: Pick<JoinApi, 'recordingToken'>, code: string, hostKey: string, edgeUrl: string, on: boolean): Promise<void> {
  const token = await api.recordingToken(code, hostKey);
  const url = `${edgeUrl.replace(/^ws/, 'http').replace(/\/+$/, '')}/api/v1/rooms/${encodeURIComponent(code)}/recording`;
  const answer = await fetch(url, { method: on ? 'PUT' : 'DELETE', headers: { authorization: `Bearer ${token}` }, cache: 'no-store' });
  if (answer.status === 501) throw new RecordingError('This server does not record meetings. Whoever runs it has to name a place for recordings.');
  if (!answer.ok) throw new RecordingError(on ? 'The recording could not be started. Try again.' : 'The recording could not be ended. Try again.');
}
