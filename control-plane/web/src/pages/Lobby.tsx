/** Before the meeting: see yourself, hear that you are heard, say who you are. */
import { useState, type FormEvent } from 'react';
import { sentence } from '../api/errors';
import type { JoinApi, Meeting } from '../api/client';
import { meetingLink, pageOptions } from '../app/router';
import { DevicePicker } from '../media/DevicePicker';
import { useDevices } from '../media/useDevices';
import { useLocalMedia } from '../media/useLocalMedia';
import type { EndReason } from '../meeting/model';
import type { Measurement } from '../meeting/probes';
import { makeRoom } from '../meeting/room';
import { MeetingSession } from '../meeting/session';
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
  const starting = media.camera.status === 'starting' || media.microphone.status === 'starting';

  const join = async (event: FormEvent) => {
    event.preventDefault();
    const trimmed = name.trim();
    if (!trimmed) return setError('Enter your name, so that others know who you are.');
    if (meeting.passcodeRequired && !passcode) return setError('Enter the passcode of this meeting.');
    setBusy(true);
    setError('');
    remember(trimmed);
    const session = new MeetingSession({ api, makeRoom: (handOver) => makeRoom(captureHeight, handOver), code: meeting.code, title: meeting.title, name: trimmed, passcode: passcode || undefined, from, relay, probes });
    try {
      await session.join(media.take());
      onJoined(session);
    } catch (cause) {
      media.giveBack();
      setBusy(false);
      const end = endOfError(cause);
      if (end) onRefused(end);
      else setError(sentence(cause));
    }
  };

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
            camera={media.camera.status === 'on' ? media.camera.track.mediaStreamTrack : null}
            microphone={media.microphone.status === 'on' ? media.microphone.track.mediaStreamTrack : null}
            onChoose={media.choose}
          />
        </section>
        <form className="lobby-form" onSubmit={(event) => void join(event)} noValidate>
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
          <button type="submit" className="button button-primary button-large" disabled={busy || starting} data-testid="join-meeting">
            {busy ? 'Joining…' : starting ? 'Starting your camera…' : 'Join the meeting'}
          </button>
          <p className="form-error" role="alert" data-testid="join-error">
            {error}
          </p>
        </form>
      </main>
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
