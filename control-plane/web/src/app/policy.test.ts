import { expect, test } from 'vitest';
import { watchPolicy } from './policy';

test('a refused connection means that the page is older than the mesh, a refused picture does not', () => {
  const page = new EventTarget();
  const outgrown = watchPolicy(page);
  page.dispatchEvent(Object.assign(new Event('securitypolicyviolation'), { effectiveDirective: 'img-src' }));
  expect(outgrown()).toBe(false);
  page.dispatchEvent(Object.assign(new Event('securitypolicyviolation'), { effectiveDirective: 'connect-src' }));
  expect(outgrown()).toBe(true);
});
