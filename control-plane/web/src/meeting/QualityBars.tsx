import type { Quality } from './model';

const BARS: Record<Quality, number> = { good: 3, fair: 2, poor: 1, lost: 0, unknown: 0 };
const WORDS: Record<Quality, string> = { good: 'Good connection', fair: 'Fair connection', poor: 'Weak connection', lost: 'Connection lost', unknown: 'Connection not measured yet' };

export function QualityBars({ quality }: { quality: Quality }) {
  return (
    <svg className={`quality quality-${quality}`} width="16" height="14" viewBox="0 0 16 14" role="img" aria-label={WORDS[quality]} data-testid="quality" data-quality={quality}>
      <title>{WORDS[quality]}</title>
      {[5, 9, 13].map((height, index) => (
        <rect key={height} x={index * 5.5 + 0.5} y={13.5 - height} width="4" height={height} rx="1" className={index < BARS[quality] ? 'on' : 'off'} />
      ))}
    </svg>
  );
}
