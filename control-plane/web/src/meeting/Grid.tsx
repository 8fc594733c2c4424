import { useState } from 'react';
import { NextIcon, PreviousIcon } from '../ui/icons';
import { LIMITS, pageSize, planGrid, seat } from './layout';
import type { Person } from './model';
import { Tile } from './Tile';
import { useSize } from './useSize';

const PAGER_HEIGHT = 48;

export function Grid({ people }: { people: Person[] }) {
  const [area, size] = useSize<HTMLDivElement>();
  const [wanted, setPage] = useState(0);
  const perPageAlone = pageSize(people.length, size);
  const paged = people.length > perPageAlone;
  // The pager takes its height from the tiles, so that it covers nobody.
  const room = paged ? { width: size.width, height: size.height - PAGER_HEIGHT } : size;
  const perPage = paged ? pageSize(people.length, room) : perPageAlone;
  const pages = Math.max(1, Math.ceil(people.length / perPage));
  const page = Math.min(wanted, pages - 1);
  const shown = seat(people, perPage).slice(page * perPage, (page + 1) * perPage);
  // The last page keeps the tile size of the full ones.
  const plan = planGrid(paged ? perPage : shown.length, room);
  const rowWidth = plan.columns * plan.tile.width + (plan.columns - 1) * LIMITS.gap;

  return (
    <div className="grid-area" ref={area} style={{ paddingBottom: paged ? PAGER_HEIGHT : 0 }}>
      {size.width > 0 && (
        <ul className="grid" style={{ width: rowWidth, gap: LIMITS.gap }} data-testid="grid" data-columns={plan.columns}>
          {shown.map((person) => (
            <li key={person.identity} style={{ width: plan.tile.width, height: plan.tile.height }}>
              <Tile person={person} />
            </li>
          ))}
        </ul>
      )}
      {paged && (
        <nav className="pager" aria-label="Pages of people">
          <button type="button" className="round round-small" aria-label="Previous page" disabled={page === 0} onClick={() => setPage(page - 1)} data-testid="page-previous">
            <PreviousIcon size={18} />
          </button>
          <span aria-live="polite">
            {page + 1} of {pages}
          </span>
          <button type="button" className="round round-small" aria-label="Next page" disabled={page === pages - 1} onClick={() => setPage(page + 1)} data-testid="page-next">
            <NextIcon size={18} />
          </button>
        </nav>
      )}
    </div>
  );
}
