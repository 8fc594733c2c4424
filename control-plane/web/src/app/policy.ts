/**
 * A page may connect to the edges that were known when it was loaded (Content-Security-Policy, src/http/policy.rs). One that has been open for
 * longer than the mesh has had its edges must be loaded again before it reaches the new ones.
 */
interface Violation extends Event {
  effectiveDirective?: string;
}

/** Watches from now on; the function says whether a connection has been refused by the page's own policy. */
export function watchPolicy(page: EventTarget): () => boolean {
  let outgrown = false;
  page.addEventListener('securitypolicyviolation', ({ effectiveDirective }: Violation) => {
    if (effectiveDirective === 'connect-src') outgrown = true;
  });
  return () => outgrown;
}

export const policyIsOutgrown = typeof document === 'undefined' ? () => false : watchPolicy(document);
