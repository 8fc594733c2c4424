import { VideoView } from '../media/VideoView';
import { pageSize, seat } from './layout';
import type { Person } from './model';
import { Tile } from './Tile';
import { useSize } from './useSize';

/** The strip beside a shared screen: tiles of a fixed size, the people who speak first. */
const STRIP_TILE = { width: 168, height: 100 };
const STRIP_TILE_SMALL = { width: 128, height: 84 };

export function Stage({ presenter, people }: { presenter: Person; people: Person[] }) {
  const [strip, size] = useSize<HTMLUListElement>();
  const vertical = size.height > size.width;
  const tile = vertical ? STRIP_TILE : STRIP_TILE_SMALL;
  const fits = Math.max(1, Math.floor((vertical ? size.height / (tile.height + 8) : size.width / (tile.width + 8)) || 1));
  const seated = seat(people, Math.min(fits, pageSize(people.length, { width: 1e4, height: 1e4 })));
  const hidden = seated.length - fits;
  const shown = hidden > 0 ? seated.slice(0, Math.max(1, fits - 1)) : seated;

  return (
    <div className="stage" data-testid="stage">
      <figure className="stage-screen">
        {presenter.screen && <VideoView handle={presenter.screen} fit="contain" label={`${presenter.name}’s screen`} testId="screen-video" />}
        <figcaption>{presenter.isLocal ? 'You are sharing your screen' : `${presenter.name} is sharing`}</figcaption>
      </figure>
      <ul className="strip" ref={strip}>
        {shown.map((person) => (
          <li key={person.identity} style={tile}>
            <Tile person={person} />
          </li>
        ))}
        {people.length > shown.length && (
          <li className="strip-more" style={{ ...tile, ...(vertical && { height: 36 }) }}>
            and {people.length - shown.length} more
          </li>
        )}
      </ul>
    </div>
  );
}
