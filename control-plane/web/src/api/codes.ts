/** Meeting codes look like `abc-defg-hij`: three groups of letters, typed by people from a screen or over the phone. */
const CODE = /^[a-z]{3}-[a-z]{4}-[a-z]{3}$/;

export function isMeetingCode(text: string): boolean {
  return CODE.test(text);
}

/** Reads a code out of whatever somebody pasted: the code with or without dashes, in capitals, or a whole link. Null when there is none. */
export function parseMeetingCode(input: string): string | null {
  const text = input.trim().toLowerCase();
  const fromLink = /\/m\/([a-z-]+)(?:[/?#]|$)/.exec(text)?.[1];
  const letters = (fromLink ?? text).replace(/[\s-]/g, '');
  if (!/^[a-z]{10}$/.test(letters)) return null;
  return `${letters.slice(0, 3)}-${letters.slice(3, 7)}-${letters.slice(7)}`;
}
