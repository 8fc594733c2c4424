/** What can go wrong between the app and the join API, and the words a person is shown for it. */

export type Problem =
  | 'wrong_passcode'
  | 'not_found'
  | 'full'
  | 'ended'
  | 'rate_limited'
  | 'unavailable'
  | 'unreachable'
  | 'bad_answer'
  | 'rejected';

export class ApiError extends Error {
  constructor(
    readonly problem: Problem,
    readonly status: number,
    /** The server's own sentence; empty when it sent none. */
    readonly detail: string,
    readonly retryAfterS?: number,
  ) {
    super(detail || problem);
    this.name = 'ApiError';
  }

  static fromResponse(status: number, body: Record<string, unknown>): ApiError {
    const words = body.detail ?? body.message;
    const detail = typeof words === 'string' ? words : '';
    const seconds = Number(body.retry_after_s);
    const wait = Number.isFinite(seconds) && seconds > 0 ? Math.ceil(seconds) : undefined;
    return new ApiError(problemOf(status, body.code), status, detail, wait);
  }

  /** True when trying the same thing again in a moment can succeed. */
  get transient(): boolean {
    return this.problem === 'unreachable' || this.problem === 'unavailable' || this.problem === 'rate_limited' || this.problem === 'bad_answer';
  }
}

const BY_CODE: Record<string, Problem> = {
  wrong_passcode: 'wrong_passcode',
  not_found: 'not_found',
  full: 'full',
  ended: 'ended',
  rate_limited: 'rate_limited',
};

const BY_STATUS: Record<number, Problem> = { 403: 'wrong_passcode', 404: 'not_found', 409: 'full', 410: 'ended', 429: 'rate_limited' };

function problemOf(status: number, code: unknown): Problem {
  const named = typeof code === 'string' ? BY_CODE[code] : undefined;
  if (named) return named;
  // A 403 with a code we do not know is not about the passcode: do not send anybody guessing.
  if (status === 403 && typeof code === 'string') return 'rejected';
  return BY_STATUS[status] ?? (status >= 500 ? 'unavailable' : 'rejected');
}

/** One sentence for a form: what happened, and what to do about it. */
export function sentence(error: unknown): string {
  if (!(error instanceof ApiError)) return 'Something went wrong on this page. Please try again.';
  switch (error.problem) {
    case 'wrong_passcode':
      return 'That passcode is not right. Check it with the person who invited you.';
    case 'not_found':
      return 'There is no meeting with this code. Check it with the person who invited you.';
    case 'full':
      return 'This meeting is full. Ask the host to make room, then try again.';
    case 'ended':
      return 'This meeting has ended.';
    case 'rate_limited':
      return error.retryAfterS ? `Too many tries. Wait ${error.retryAfterS} seconds, then try again.` : 'Too many tries. Wait a minute, then try again.';
    case 'unavailable':
    case 'bad_answer':
      return 'Meridian can’t answer right now. Please try again in a moment.';
    case 'unreachable':
      return 'Meridian can’t be reached. Check your internet connection.';
    case 'rejected':
      return error.detail || 'The server refused this request.';
  }
}
