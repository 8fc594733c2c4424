import { VideoView } from '../media/VideoView';
import { LIMITS, stripOrder, type Size } from './layout';
import type { Person } from './model';
import { Tile } from './Tile';
import { useSize } from './useSize';

/** The strip beside a shared screen holds tiles of one size: a column on wide windows, a row on narrow ones. */
const COLUMN_TILE: Size = { width: 168, height: 100 };
const ROW_TILE: Size = { width: 106, height: 84 };

interface Props {
  presenter: Person;
  /** Everybody whose screen can be seen, the presenter among them. */
  presenters: Person[];
  people: Person[];
  onChoose: (identity: string) => void;
}

export function Stage({ presenter, presenters, people, onChoose }: Props) {
  const [strip, size] = useSize<HTMLUListElement>();
  const column = size.height > size.width;
  const tile = column ? COLUMN_TILE : ROW_TILE;
  const fits = Math.max(1, Math.floor(column ? (size.height + LIMITS.gap) / (tile.height + LIMITS.gap) : (size.width + LIMITS.gap) / (tile.width + LIMITS.gap)));
  // The place of the last tile goes to the note that there are more.
  const shown = people.length > fits ? stripOrder(people, presenter.identity).slice(0, Math.max(1, fits - 1)) : stripOrder(people, presenter.identity);
  const more = people.length - shown.length;

  return (
    <div className="stage" data-testid="stage" data-presenter={presenter.identity}>
      <div className="stage-main">
        <figure className="stage-screen">
          {presenter.screen && <VideoView handle={presenter.screen} fit="contain" label={`${presenter.name}’s screen`} testId="screen-video" />}
          <figcaption>{presenter.name} is sharing</figcaption>
        </figure>
        {presenters.length > 1 && <ScreenSwitch presenters={presenters} chosen={presenter.identity} onChoose={onChoose} />}
      </div>
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

function ScreenSwitch({ presenters, chosen, onChoose }: { presenters: Person[]; chosen: string; onChoose: (identity: string) => void }) {
  return (
    <div className="screen-switch" role="group" aria-label="Shared screens">
      {presenters.map(({ identity, name }) => (
        <button key={identity} type="button" className="chip" aria-pressed={identity === chosen} onClick={() => onChoose(identity)} data-testid="screen-choice" data-identity={identity}>
          <span className="screen-choice-name">{name}</span>
        </button>
      ))}
    </div>
  );
}

/** What the sharer sees in place of the own screen, which would show itself in itself without end. */
export function SharingBar({ onStop }: { onStop: () => void }) {
  return (
    <div className="sharing-bar" role="status" data-testid="sharing-bar">
      <p>You are sharing your screen. Everyone else sees it.</p>
      <button type="button" className="button button-small" onClick={onStop}>
        Stop sharing
      </button>
    </div>
  );
}
