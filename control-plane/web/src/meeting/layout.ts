/** The grid's arithmetic: how large tiles are, how many fit on a page, who sits where. */

export interface Size {
  width: number;
  height: number;
}

export interface GridPlan {
  columns: number;
  rows: number;
  tile: Size;
}

export interface GridLimits {
  gap: number;
  /** Width over height. Cameras are cropped between these two: a few people are seen whole, a crowd gives its sides for size. */
  aspectMin: number;
  aspectMinCrowd: number;
  aspectMax: number;
}

export const LIMITS: GridLimits = { gap: 8, aspectMin: 1.6, aspectMinCrowd: 4 / 3, aspectMax: 16 / 9 };
const CROWD = 7;

/** The arrangement of `count` equal tiles in `area` that shows the most picture. */
export function planGrid(count: number, area: Size, limits: GridLimits = LIMITS): GridPlan {
  let best: GridPlan = { columns: 1, rows: Math.max(count, 1), tile: { width: 0, height: 0 } };
  let bestScore = -1;
  for (let columns = 1; columns <= Math.max(count, 1); columns++) {
    const rows = Math.ceil(Math.max(count, 1) / columns);
    const tile = fitTile((area.width - limits.gap * (columns - 1)) / columns, (area.height - limits.gap * (rows - 1)) / rows, count, limits);
    const score = visiblePicture(tile) * Math.max(count, 1);
    if (score > bestScore) {
      best = { columns, rows, tile };
      bestScore = score;
    }
  }
  return best;
}

function fitTile(cellWidth: number, cellHeight: number, count: number, limits: GridLimits): Size {
  const aspectMin = count < CROWD ? limits.aspectMin : limits.aspectMinCrowd;
  const width = Math.max(0, Math.min(cellWidth, cellHeight * limits.aspectMax));
  const height = Math.max(0, Math.min(cellHeight, width / aspectMin));
  return { width: Math.floor(width), height: Math.floor(height) };
}

/** Area of a 16:9 picture that is seen when it covers the tile, in units of the tile: narrow tiles cut a picture's sides off. */
function visiblePicture({ width, height }: Size): number {
  if (height === 0) return 0;
  const shown = Math.min(1, width / height / (16 / 9));
  return width * height * (0.5 + 0.5 * shown);
}

/** Tiles narrower than this no longer show a face. */
export function tileWidthMin(area: Size): number {
  return area.width < 600 ? 104 : 120;
}

export const PAGE_MAX = 50;

/** How many tiles go on one page: as many as stay legible, at least one, at most 50. */
export function pageSize(count: number, area: Size, limits: GridLimits = LIMITS): number {
  const min = tileWidthMin(area);
  for (let size = Math.min(Math.max(count, 1), PAGE_MAX); size > 1; size--) {
    const { tile } = planGrid(size, area, limits);
    if (tile.width >= min && tile.height >= min * 0.56) return size;
  }
  return 1;
}

export interface Seat {
  identity: string;
  isLocal: boolean;
  joinedAtMs: number;
  lastSpokeAtMs: number;
}

/**
 * Who sits where: oneself first, others in order of arrival. On more than one page, people who spoke lately are moved to the first page in place of
 * those there who have been silent longest, so that the others keep their seats.
 */
export function seat<T extends Seat>(people: readonly T[], perPage: number): T[] {
  const byArrival = [...people].sort((a, b) => Number(b.isLocal) - Number(a.isLocal) || a.joinedAtMs - b.joinedAtMs || a.identity.localeCompare(b.identity));
  if (byArrival.length <= perPage) return byArrival;
  const first = byArrival.slice(0, perPage);
  const later = byArrival.slice(perPage);
  const callers = later.filter((p) => p.lastSpokeAtMs > 0).sort((a, b) => b.lastSpokeAtMs - a.lastSpokeAtMs);
  for (const caller of callers) {
    const quietest = first.filter((p) => !p.isLocal).reduce<T | null>((q, p) => (q === null || p.lastSpokeAtMs < q.lastSpokeAtMs ? p : q), null);
    if (!quietest || quietest.lastSpokeAtMs >= caller.lastSpokeAtMs) break;
    first[first.indexOf(quietest)] = caller;
    later[later.indexOf(caller)] = quietest;
  }
  return [...first, ...later];
}

/** Beside a shared screen: whoever shares, then whoever spoke last, oneself at the end. */
export function stripOrder<T extends Seat>(people: readonly T[], presenter: string): T[] {
  const rank = (p: T) => (p.identity === presenter ? 0 : p.isLocal ? 2 : 1);
  return [...people].sort((a, b) => rank(a) - rank(b) || b.lastSpokeAtMs - a.lastSpokeAtMs || a.joinedAtMs - b.joinedAtMs);
}
