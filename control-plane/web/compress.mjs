// Leaves a `.br` and a `.gz` beside each built file that gains by it: the control plane serves them as they are (src/http/web.rs).
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';

const DIST = join(import.meta.dirname, 'dist');

for (const entry of readdirSync(DIST, { recursive: true, withFileTypes: true })) {
  const file = join(entry.parentPath, entry.name);
  if (!entry.isFile() || !/\.(js|css|html|svg)$/.test(file)) continue;
  const bytes = readFileSync(file);
  // Both take their best by default but gzip.
  for (const [ending, small] of [['br', brotliCompressSync(bytes)], ['gz', gzipSync(bytes, { level: 9 })]]) {
    if (small.length < bytes.length) writeFileSync(`${file}.${ending}`, small);
  }
}
