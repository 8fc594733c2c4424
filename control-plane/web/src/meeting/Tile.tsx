import { memo } from 'react';
import { VideoView } from '../media/VideoView';
import { HandIcon, MicOffIcon } from '../ui/icons';
import { Avatar } from './Avatar';
import type { Person, Quality } from './model';
import { QualityBars } from './QualityBars';
import { REACTION_WORDS } from './ReactMenu';

export const Tile = memo(TileBody, (a, b) => sameOnScreen(a.person, b.person));

function TileBody({ person }: { person: Person }) {
  const troubled = person.quality === 'poor' || person.quality === 'lost';
  return (
    <div
      className={`tile${person.speaking ? ' tile-speaking' : ''}`}
      data-testid="tile"
      data-identity={person.identity}
      data-local={person.isLocal}
      data-pop={person.pop}
      data-speaking={person.speaking}
      data-mic={person.micOn}
      role="group"
      aria-label={describe(person)}
    >
      {/* Under the video too: seen until its first frame arrives. */}
      <Avatar name={person.name} />
      {person.camera && <VideoView handle={person.camera} mirrored={person.mirrored} label={`${person.name}’s camera`} testId="tile-video" />}
      <div className="tile-label">
        {!person.micOn && (
          <span className="tile-muted">
            <MicOffIcon size={15} />
          </span>
        )}
        <span className="tile-name">{person.isLocal ? `${person.name} (you)` : person.name}</span>
        {person.pop && <span className="tile-pop">{person.pop}</span>}
      </div>
      {person.handSinceMs !== null && (
        <div className="tile-hand" data-testid="tile-hand">
          <HandIcon size={18} />
        </div>
      )}
      {person.reaction && (
        <div key={person.reaction} className="tile-reaction" data-testid="tile-reaction" aria-hidden="true">
          {person.reaction}
        </div>
      )}
      {troubled && (
        <div className="tile-quality">
          <QualityBars quality={person.quality} />
        </div>
      )}
    </div>
  );
}

const QUALITY_WORDS: Record<Quality, string> = { good: '', fair: '', poor: ', weak connection', lost: ', connection lost', unknown: '' };

function describe(person: Person): string {
  return `${person.name}${person.isLocal ? ' (you)' : ''}${person.micOn ? '' : ', muted'}${person.camera ? '' : ', camera off'}${person.handSinceMs === null ? '' : ', hand raised'}${person.reaction ? `, ${REACTION_WORDS[person.reaction].toLowerCase()}` : ''}${QUALITY_WORDS[person.quality]}`;
}

/** Snapshots are rebuilt often; a tile is drawn again only for what can be seen on it. */
function sameOnScreen(a: Person, b: Person): boolean {
  return (
    a.identity === b.identity && a.name === b.name && a.isLocal === b.isLocal && a.micOn === b.micOn && a.speaking === b.speaking &&
    a.quality === b.quality && a.pop === b.pop && a.handSinceMs === b.handSinceMs && a.reaction === b.reaction && a.camera === b.camera && a.mirrored === b.mirrored
  );
}
