/** Before the meeting: see yourself, hear that you are heard, say who you are. */
import { useState, type FormEvent } from 'react';
import { sentence } from '../api/errors';
import type { JoinApi, Meeting } from '../api/client';
import { hostKeyOf } from '../app/hosting';
import { policyIsOutgrown } from '../app/policy';
import { meetingLink, pageOptions } from '../app/router';
import { mediaChoices, rememberMedia } from '../media/choices';
import { DevicePicker } from '../media/DevicePicker';
import { useDevices } from '../media/useDevices';
import { useLocalMedia, type LocalMedia } from '../media/useLocalMedia';
import type { EndReason } from '../meeting/model';
import type { Measurement } from '../meeting/probes';
import { makeRoom } from '../meeting/room';
import { MeetingSession } from '../meeting/session';
import { useOtherTab } from '../meeting/useOtherTab';
import { Brand } from '../ui/Brand';
import { CheckIcon, CopyIcon } from '../ui/icons';
import { useCopy } from '../ui/useCopy';
import { endOfError } from './MeetingPage';
import { Preview } from './Preview';

const NAME_KEY = 'meridian.name';
const NAME_MAX = 60;

interface Props {
  api: JoinApi;
  meeting: Meeting;
  probes: () => Measurement[];
  onJoined: (session: MeetingSession) => void;
  onRefused: (reason: EndReason) => void;
}

export function Lobby({ api, meeting, probes, onJoined, onRefused }: Props) {
  const { from, relay, captureHeight } = pageOptions();
  const media = useLocalMedia(true, captureHeight);
  const devices = useDevices(`${media.camera.status} ${media.microphone.status}`);
  const [name, setName] = useState(rememberedName);
  const [passcode, setPasscode] = useState('');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const [speakerId, setSpeaker] = useState(() => mediaChoices().speakerId);
  const other = useOtherTab(meeting.code);
  const starting = media.camera.status === 'starting' || media.microphone.status === 'starting';

  /** `continued`: the token of the stay in another tab. */
  const join = async (continued?: string) => {
    const trimmed = name.trim() || (continued ? (other.name ?? '') : '');
    if (!trimmed) return setError('Enter your name, so that others know who you are.');
    // The other tab's token stands for the passcode.
    if (meeting.passcodeRequired && !passcode && !continued) return setError('Enter the passcode of this meeting.');
    setBusy(true);
    setError('');
    remember(trimmed);
    const session = new MeetingSession({ api, makeRoom: (handOver) => makeRoom(captureHeight, handOver), code: meeting.code, title: meeting.title, name: trimmed, passcode: passcode || undefined, from, relay, continued, hostKey: hostKeyOf(meeting.code), probes });
    try {
      await session.join(media.take());
      onJoined(session);
    } catch (cause) {
      // The edges are newer than this page: it comes back with their addresses, and with the name that was entered.
      if (policyIsOutgrown()) return location.reload();
      media.giveBack();
      setBusy(false);
      const end = endOfError(cause);
      if (end) onRefused(end);
      else setError(sentence(cause));
    }
  };

  const moveHere = async () => {
    setBusy(true);
    const token = await other.takeOver();
    setBusy(false);
    await join(token ?? undefined);
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void join();
  };
  const choose = (kind: MediaDeviceKind, id: string) => {
    if (kind !== 'audiooutput') return media.choose(kind === 'videoinput' ? 'camera' : 'microphone', id);
    setSpeaker(id);
    rememberMedia({ speakerId: id });
  };
  const chosen = mediaChoices();
  const inUse = (state: LocalMedia['camera'] | LocalMedia['microphone'], fallback: string) => (state.status === 'on' && state.track.mediaStreamTrack.getSettings().deviceId) || fallback;

  return (
    <div className="lobby">
      <header className="page-head">
        <Brand />
      </header>
      <main className="lobby-body">
        <section className="lobby-preview" aria-label="Preview">
          <Preview media={media} name={name} />
          <DevicePicker
            devices={devices}
            current={{ audioinput: inUse(media.microphone, chosen.microphoneId), videoinput: inUse(media.camera, chosen.cameraId), audiooutput: speakerId || 'default' }}
            onChoose={choose}
          />
        </section>
        <form className="lobby-form" onSubmit={submit} noValidate>
          <h1>{meeting.title || 'Ready to join?'}</h1>
          <InviteLine code={meeting.code} />
          <label className="field">
            <span>Your name</span>
            <input value={name} onChange={(event) => setName(event.target.value)} maxLength={NAME_MAX} autoComplete="name" autoFocus enterKeyHint="go" data-testid="name-input" />
          </label>
          {meeting.passcodeRequired && (
            <label className="field">
              <span>Passcode</span>
              <input value={passcode} onChange={(event) => setPasscode(event.target.value)} maxLength={64} autoComplete="off" type="password" enterKeyHint="go" data-testid="passcode-input" />
            </label>
          )}
          {other.name !== null && <OtherTabNotice name={other.name} disabled={busy || starting} onMove={() => void moveHere()} />}
          <button type="submit" className={`button button-large${other.name === null ? ' button-primary' : ''}`} disabled={busy || starting} data-testid="join-meeting">
            {busy ? 'Joining…' : starting ? 'Starting your camera…' : other.name === null ? 'Join the meeting' : 'Join as another person'}
          </button>
          <p className="form-error" role="alert" data-testid="join-error">
            {error}
          </p>
        </form>
      </main>
    </div>
  );
}

/** Two tabs would be two people with two open microphones, and the room would howl. */
function OtherTabNotice({ name, disabled, onMove }: { name: string; disabled: boolean; onMove: () => void }) {
  return (
    <div className="notice-box notice-box-tall" role="status" data-testid="other-tab">
      <div>
        <strong>You are in this meeting already</strong>
        <p>Another tab of this browser has joined as {name}. Move the call here and that tab lets go of it.</p>
      </div>
      <button type="button" className="button button-primary" disabled={disabled} onClick={onMove} data-testid="move-here">
        Move the call here
      </button>
    </div>
  );
}

function InviteLine({ code }: { code: string }) {
  const [copied, copy] = useCopy(meetingLink(code));
  return (
    <p className="invite-line">
      <span className="code" data-testid="lobby-code">
        {code}
      </span>
      <button type="button" className="link-button" onClick={copy} data-testid="copy-link">
        {copied ? <CheckIcon size={16} /> : <CopyIcon size={16} />}
        {copied ? 'Link copied' : 'Copy link'}
      </button>
    </p>
  );
}

function rememberedName(): string {
  try {
    return localStorage.getItem(NAME_KEY) ?? '';
  } catch {
    return '';
  }
}

function remember(name: string): void {
  try {
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // Private windows may refuse: the name is asked for again next time.
  }
}
