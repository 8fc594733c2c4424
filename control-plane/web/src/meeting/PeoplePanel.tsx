import { meetingLink } from '../app/router';
import { CheckIcon, CopyIcon, HandIcon, MicIcon, MicOffIcon } from '../ui/icons';
import { useCopy } from '../ui/useCopy';
import { Avatar } from './Avatar';
import { seat } from './layout';
import type { Person } from './model';
import { Panel } from './Panel';
import { QualityBars } from './QualityBars';

export function PeoplePanel({ people, code, onClose }: { people: Person[]; code: string; onClose: () => void }) {
  const [copied, copy] = useCopy(meetingLink(code));
  return (
    <Panel title="Participants" testId="people-panel" onClose={onClose}>
      <button type="button" className="button panel-invite" onClick={copy}>
        {copied ? <CheckIcon size={17} /> : <CopyIcon size={17} />}
        {copied ? 'Link copied' : 'Copy invitation link'}
      </button>
      <ul className="people">
        {byHand(people).map((person) => (
          <li key={person.identity} className="person" data-testid="person" data-identity={person.identity} data-pop={person.pop}>
            <Avatar name={person.name} size={34} />
            <span className="person-name">{person.isLocal ? `${person.name} (you)` : person.name}</span>
            {person.handSinceMs !== null && (
              <span className="person-hand" role="img" aria-label="Hand raised">
                <HandIcon size={17} />
              </span>
            )}
            {person.pop && (
              <span className="person-pop" title={`On the point of presence ${person.pop}`}>
                {person.pop}
              </span>
            )}
            <QualityBars quality={person.quality} />
            <span className={person.micOn ? 'person-mic' : 'person-mic person-mic-off'} role="img" aria-label={person.micOn ? 'Microphone on' : 'Muted'}>
              {person.micOn ? <MicIcon size={17} /> : <MicOffIcon size={17} />}
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

/** Raised hands first, in the order in which they went up. */
export function byHand(people: readonly Person[]): Person[] {
  const since = ({ handSinceMs }: Person) => handSinceMs ?? Number.MAX_VALUE;
  return seat(people, people.length).sort((a, b) => since(a) - since(b));
}
