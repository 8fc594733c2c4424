/** Initials on a tone of the person's own, the same on everybody's screen. */
export function Avatar({ name, size }: { name: string; size?: number }) {
  return (
    <span className="avatar" style={{ '--hue': hueOf(name), ...(size && { '--avatar': `${size}px` }) } as React.CSSProperties} aria-hidden="true">
      {initials(name)}
    </span>
  );
}

export function initials(name: string): string {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const first = [...(words[0] ?? '')][0] ?? '?';
  const last = words.length > 1 ? ([...(words.at(-1) ?? '')][0] ?? '') : '';
  return (first + last).toUpperCase();
}

function hueOf(name: string): number {
  let hash = 7;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) % 3600;
  return hash / 10;
}
