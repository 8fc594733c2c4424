import { VideoView } from '../media/VideoView';
import { LIMITS, stripOrder, type Size } from './layout';
import type { Person } from './model';
import { Tile } from './Tile';
import { useSize } from './useSize';

/** The strip beside a shared screen holds tiles of one size: a column on wide windows, a row on narrow ones. */
const COLUMN_TILE: Size = { width: 168, height: 100 };
const ROW_TILE: Size = { width: 106, height: 84 };

export function Stage({ presenter, people }: { presenter: Person; people: Person[] }) {
  const [strip, size] = useSize<HTMLUListElement>();
  const column = size.height > size.width;
  const tile = column ? COLUMN_TILE : ROW_TILE;
  const fits = Math.max(1, Math.floor(column ? (size.height + LIMITS.gap) / (tile.height + LIMITS.gap) : (size.width + LIMITS.gap) / (tile.width + LIMITS.gap)));
  // The place of the last tile goes to the note that there are more.
  const shown = people.length > fits ? stripOrder(people, presenter.identity).slice(0, Math.max(1, fits - 1)) : stripOrder(people, presenter.identity);
  const more = people.length - shown.length;

  return (
    <div className="stage" data-testid="stage">
      <figure className="stage-screen">
        {presenter.screen && <VideoView handle={presenter.screen} fit="contain" label={`${presenter.name}’s screen`} testId="screen-video" />}
        <figcaption>{presenter.isLocal ? 'You are sharing your screen' : `${presenter.name} is sharing`}</figcaption>
      </figure>
      <ul className="strip" ref={strip}>
        {size.width > 0 &&
          shown.map((person) => (
            <li key={person.identity} style={tile}>
              <Tile person={person} />
            </li>
          ))}
        {more > 0 && (
          <li className="strip-more" style={column ? { height: 36 } : tile}>
            and {more} more
          </li>
        )}
      </ul>
    </div>
  );
}
