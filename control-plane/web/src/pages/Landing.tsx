import { useState, type FormEvent } from 'react';
import type { JoinApi, NewMeeting } from '../api/client';
import { parseMeetingCode } from '../api/codes';
import { sentence } from '../api/errors';
import { rememberHosting } from '../app/hosting';
import { navigate } from '../app/router';
import { Brand } from '../ui/Brand';
import { Meridians } from '../ui/Meridians';

export function Landing({ api }: { api: JoinApi }) {
  return (
    <div className="page">
      <header className="page-head">
        <Brand />
      </header>
      <main className="landing">
        <h1>Video meetings that start close to everyone</h1>
        <p className="lead">Each person connects to a server in their own region, and Meridian carries the meeting between continents.</p>
        <StartMeeting api={api} />
        <JoinByCode />
        <p className="fine">Nothing to install. Works in any current browser.</p>
      </main>
      <Meridians />
    </div>
  );
}

function StartMeeting({ api }: { api: JoinApi }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const start = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setBusy(true);
    setError('');
    try {
      const meeting = await api.create(readOptions(new FormData(event.currentTarget)));
      rememberHosting(meeting.code, meeting.hostKey);
      navigate(`/m/${meeting.code}`);
    } catch (cause) {
      setError(sentence(cause));
      setBusy(false);
    }
  };
  return (
    <form className="start" onSubmit={(event) => void start(event)}>
      <button type="submit" className="button button-primary button-large" data-testid="start-meeting" disabled={busy}>
        {busy ? 'Starting…' : 'Start a meeting'}
      </button>
      <details className="options" data-testid="meeting-options">
        <summary>Options</summary>
        <div className="options-body">
          <label className="field">
            <span>Title</span>
            <input name="title" maxLength={100} placeholder="Weekly review" data-testid="option-title" autoComplete="off" />
          </label>
          <label className="field">
            <span>Passcode</span>
            <input name="passcode" maxLength={64} data-testid="option-passcode" autoComplete="off" />
          </label>
          <label className="field">
            <span>People at most</span>
            <input name="limit" type="number" inputMode="numeric" min={2} max={1000} data-testid="option-limit" />
          </label>
        </div>
      </details>
      <p className="form-error" role="alert" data-testid="start-error">
        {error}
      </p>
    </form>
  );
}

function readOptions(form: FormData): NewMeeting {
  const text = (name: string) => String(form.get(name) ?? '').trim();
  const limit = Number(text('limit'));
  return {
    ...(text('title') && { title: text('title') }),
    ...(text('passcode') && { passcode: text('passcode') }),
    ...(limit >= 2 && { maxParticipants: limit }),
  };
}

function JoinByCode() {
  const [text, setText] = useState('');
  const [error, setError] = useState('');
  const join = (event: FormEvent) => {
    event.preventDefault();
    const code = parseMeetingCode(text);
    if (code) navigate(`/m/${code}`);
    else setError(text.trim() ? 'A code looks like abc-defg-hij. You can also paste the whole link.' : 'Enter the code of the meeting.');
  };
  return (
    <form className="join-code" onSubmit={join} noValidate>
      <label htmlFor="code">Have a code?</label>
      <div className="join-row">
        <input
          id="code"
          className="code-input"
          placeholder="abc-defg-hij"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            setError('');
          }}
          autoComplete="off"
          autoCapitalize="none"
          spellCheck={false}
          enterKeyHint="go"
          maxLength={200}
          aria-describedby="code-error"
          aria-invalid={error !== ''}
          data-testid="code-input"
        />
        <button type="submit" className="button" data-testid="join-by-code">
          Join
        </button>
      </div>
      <p id="code-error" className="form-error" role="alert" data-testid="code-error">
        {error}
      </p>
    </form>
  );
}
