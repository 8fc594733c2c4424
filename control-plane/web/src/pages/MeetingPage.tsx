/** One meeting from its link to its end: look it up, lobby, meeting, end page. */
import { useCallback, useEffect, useState } from 'react';
import { ApiError, sentence } from '../api/errors';
import type { JoinApi, Meeting } from '../api/client';
import { policyIsOutgrown } from '../app/policy';
import { navigate, pageOptions } from '../app/router';
import type { EndReason } from '../meeting/model';
import type { MeetingSession } from '../meeting/session';
import { MeetingScreen } from '../meeting/MeetingScreen';
import { announce } from '../meeting/tabs';
import { useProbes } from '../meeting/useProbes';
import { useSnapshot } from '../meeting/useSnapshot';
import { EndPage } from './EndPage';
import { Lobby } from './Lobby';
import { MessagePage } from './MessagePage';

type Step = { at: 'looking' } | { at: 'lobby'; meeting: Meeting } | { at: 'meeting'; meeting: Meeting; session: MeetingSession } | { at: 'end'; reason: EndReason } | { at: 'unreachable'; text: string };

declare global {
  interface Window {
    /** For tests and for the curious in the console. */
    __meridian?: { readonly room: MeetingSession['room'] };
  }
}

export default function MeetingPage({ api, code }: { api: JoinApi; code: string }) {
  const [step, setStep] = useState<Step>({ at: 'looking' });
  const probes = useProbes(api, pageOptions().from);

  const lookUp = useCallback(
    async (signal?: AbortSignal) => {
      setStep({ at: 'looking' });
      try {
        const meeting = await api.meeting(code, signal);
        setStep(meeting.state === 'ended' ? { at: 'end', reason: 'ended' } : { at: 'lobby', meeting: { ...meeting, code } });
      } catch (error) {
        if (signal?.aborted) return;
        const end = endOfError(error);
        setStep(end ? { at: 'end', reason: end } : { at: 'unreachable', text: sentence(error) });
      }
    },
    [api, code],
  );

  useEffect(() => {
    const leaving = new AbortController();
    void lookUp(leaving.signal);
    return () => leaving.abort();
  }, [lookUp]);

  useEffect(() => {
    const title = step.at === 'lobby' || step.at === 'meeting' ? step.meeting.title : '';
    document.title = title ? `${title} · Meridian` : 'Meridian';
  }, [step]);

  switch (step.at) {
    case 'looking':
      return <main className="page-wait" aria-busy="true" data-testid="page-looking" />;
    case 'lobby':
      return (
        <Lobby
          api={api}
          meeting={step.meeting}
          probes={probes}
          onJoined={(session) => setStep({ at: 'meeting', meeting: step.meeting, session })}
          onRefused={(reason) => setStep({ at: 'end', reason })}
        />
      );
    case 'meeting':
      return <Live session={step.session} onEnd={(reason) => setStep({ at: 'end', reason })} />;
    case 'end':
      return <EndPage reason={step.reason} onAgain={() => (policyIsOutgrown() ? location.reload() : void lookUp())} />;
    case 'unreachable':
      return (
        <MessagePage
          testId="page-unreachable"
          title="The meeting can’t be reached"
          text={step.text}
          actions={[
            { label: 'Try again', primary: true, run: () => void lookUp() },
            { label: 'Go to the start page', run: () => navigate('/') },
          ]}
        />
      );
  }
}

/** Refusals that leave nothing to correct in the lobby. */
export function endOfError(error: unknown): EndReason | null {
  if (!(error instanceof ApiError)) return null;
  const { problem } = error;
  return problem === 'not_found' || problem === 'full' || problem === 'ended' ? problem : null;
}

function Live({ session, onEnd }: { session: MeetingSession; onEnd: (reason: EndReason) => void }) {
  const { end } = useSnapshot(session);
  useEffect(() => {
    window.__meridian = {
      get room() {
        return session.room;
      },
    };
    return () => {
      delete window.__meridian;
      // Going back in the browser leaves the meeting, as closing the tab does.
      void session.actions.leave();
    };
  }, [session]);
  useEffect(() => announce(session.stay()), [session]);
  useEffect(() => {
    if (end) onEnd(end);
  }, [end, onEnd]);
  return <MeetingScreen source={session} />;
}
