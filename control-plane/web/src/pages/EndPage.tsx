import { navigate } from '../app/router';
import type { EndReason } from '../meeting/model';
import { MessagePage } from './MessagePage';

const WORDS: Record<EndReason, { title: string; text: string; again?: string }> = {
  left: { title: 'You left the meeting', text: 'It goes on for the others. You can come back while it lasts.', again: 'Rejoin' },
  removed: { title: 'You were removed from the meeting', text: 'A host took you out of this meeting. If that was a mistake, ask them to let you in again.' },
  ended: { title: 'This meeting has ended', text: 'It was ended for everyone. You can start a new one at any time.' },
  duplicate: { title: 'You joined from another place', text: 'This meeting is open in another window or on another device, so this window let go.', again: 'Use this window instead' },
  dropped: { title: 'The connection dropped', text: 'We kept trying for a minute and reached no server. Check your internet connection, then come back in.', again: 'Try again' },
  full: { title: 'This meeting is full', text: 'It has reached the number of people it was set up for. Ask the host to make room, then try again.', again: 'Try again' },
  not_found: { title: 'There is no such meeting', text: 'The link or code does not lead to a meeting. Check it with the person who invited you.' },
  refused: { title: 'You can’t join this meeting', text: 'The server refused the connection. Ask the host for a new link.', again: 'Try again' },
};

export function EndPage({ reason, onAgain }: { reason: EndReason; onAgain: () => void }) {
  const { title, text, again } = WORDS[reason];
  const home = { label: 'Go to the start page', run: () => navigate('/'), primary: !again, testId: 'end-home' };
  return <MessagePage testId={`end-${reason}`} title={title} text={text} actions={again ? [{ label: again, run: onAgain, primary: true, testId: 'end-again' }, home] : [home]} />;
}
