import { useEffect, useLayoutEffect, useRef, type FormEvent, type KeyboardEvent } from 'react';
import { SendIcon } from '../ui/icons';
import { CHAT_TEXT_MAX } from './chat';
import type { ChatLine, MeetingActions } from './model';
import { Panel } from './Panel';

interface Props {
  lines: ChatLine[];
  /** What has been written and not sent: kept while the panel is closed. */
  draft: string;
  onDraft: (text: string) => void;
  actions: Pick<MeetingActions, 'sendChat' | 'retryChat'>;
  onClose: () => void;
}

export function ChatPanel({ lines, draft, onDraft, actions, onClose }: Props) {
  return (
    <Panel title="Chat" testId="chat-panel" onClose={onClose}>
      <Lines lines={lines} onRetry={(id) => void actions.retryChat(id)} />
      <Composer text={draft} onText={onDraft} onSend={(text) => void actions.sendChat(text)} />
    </Panel>
  );
}

/** Follows the newest line while the reader is at the bottom; somebody reading back is left alone. */
function Lines({ lines, onRetry }: { lines: ChatLine[]; onRetry: (id: string) => void }) {
  const list = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  useLayoutEffect(() => {
    const element = list.current;
    if (element && following.current) element.scrollTop = element.scrollHeight;
  }, [lines]);
  return (
    <div
      className="chat-lines"
      ref={list}
      role="log"
      aria-live="polite"
      tabIndex={0}
      aria-label="Messages"
      onScroll={({ currentTarget: el }) => (following.current = el.scrollHeight - el.scrollTop - el.clientHeight < 40)}
    >
      {lines.length === 0 && <p className="chat-empty">No messages yet. What is written here is seen by everyone in the meeting.</p>}
      {lines.length > 0 && (
        <ol>
          {lines.map((line, index) => (
            <Line key={line.id} line={line} headed={!continues(lines[index - 1], line)} onRetry={onRetry} />
          ))}
        </ol>
      )}
    </div>
  );
}

function Line({ line, headed, onRetry }: { line: ChatLine; headed: boolean; onRetry: (id: string) => void }) {
  return (
    <li className={`chat-line${line.own ? ' chat-own' : ''}`} data-testid="chat-line" data-own={line.own} data-state={line.state}>
      {headed && (
        <p className="chat-from">
          <strong>{line.own ? 'You' : line.name}</strong>
          <time dateTime={new Date(line.atMs).toISOString()}>{clock(line.atMs)}</time>
        </p>
      )}
      <p className="chat-text">{line.text}</p>
      {line.state === 'sending' && <p className="chat-pending">Sending…</p>}
      {line.state === 'failed' && (
        <p className="chat-failed">
          Nobody has confirmed this.{' '}
          <button type="button" className="link-button" onClick={() => onRetry(line.id)}>
            Try again
          </button>
        </p>
      )}
    </li>
  );
}

function Composer({ text, onText, onSend }: { text: string; onText: (text: string) => void; onSend: (text: string) => void }) {
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => field.current?.focus(), []);
  const send = () => {
    if (!text.trim()) return;
    onSend(text);
    onText('');
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <form
      className="composer"
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={field}
        value={text}
        onChange={(event) => onText(event.target.value)}
        onKeyDown={onKey}
        maxLength={CHAT_TEXT_MAX}
        rows={1}
        placeholder="Message everyone"
        aria-label="Message everyone"
        enterKeyHint="send"
        data-testid="chat-input"
      />
      <button type="submit" className="round round-small round-accent" aria-label="Send" disabled={!text.trim()} data-testid="chat-send">
        <SendIcon size={18} />
      </button>
    </form>
  );
}

/** A line of the same person within two minutes needs no heading of its own. */
function continues(before: ChatLine | undefined, line: ChatLine): boolean {
  return before !== undefined && before.own === line.own && before.from === line.from && line.atMs - before.atMs < 120_000;
}

function clock(atMs: number): string {
  return new Date(atMs).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}
