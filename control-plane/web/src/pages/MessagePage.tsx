import type { ReactNode } from 'react';
import { Brand } from '../ui/Brand';
import { Meridians } from '../ui/Meridians';

export interface PageAction {
  label: string;
  run: () => void;
  primary?: boolean;
  testId?: string;
}

interface Props {
  title: string;
  text: string;
  actions: PageAction[];
  testId: string;
  children?: ReactNode;
}

/** Every page that only says something: the meeting is over, the link is wrong, the connection dropped. */
export function MessagePage({ title, text, actions, testId, children }: Props) {
  return (
    <div className="page">
      <header className="page-head">
        <Brand />
      </header>
      <main className="message" data-testid={testId}>
        <h1 tabIndex={-1} ref={(heading) => heading?.focus({ preventScroll: true })}>
          {title}
        </h1>
        <p>{text}</p>
        {children}
        <div className="actions">
          {actions.map((action) => (
            <button key={action.label} type="button" className={action.primary ? 'button button-primary' : 'button'} data-testid={action.testId} onClick={action.run}>
              {action.label}
            </button>
          ))}
        </div>
      </main>
      <Meridians />
    </div>
  );
}
