import { Component, lazy, Suspense, type ReactNode } from 'react';
import { Landing } from '../pages/Landing';
import { MessagePage } from '../pages/MessagePage';
import { httpJoinApi } from '../api/client';
import { navigate, routeOf, usePathname } from './router';

/** The lobby brings livekit-client with it; the landing page is shown without waiting for that. */
const MeetingPage = lazy(() => import('../pages/MeetingPage'));

const api = httpJoinApi();

export function App() {
  const route = routeOf(usePathname());
  return (
    <Guard>
      <Suspense fallback={<main className="page-wait" aria-busy="true" />}>
        {route.page === 'landing' && <Landing api={api} />}
        {route.page === 'meeting' && <MeetingPage key={route.code} api={api} code={route.code} />}
        {route.page === 'unknown' && (
          <MessagePage
            testId="page-unknown"
            title="This link leads nowhere"
            text="This address is not a meeting. Check the link with the person who invited you, or enter the meeting’s code on the start page."
            actions={[{ label: 'Go to the start page', primary: true, run: () => navigate('/') }]}
          />
        )}
      </Suspense>
    </Guard>
  );
}

/** A fault in the page shows a way out instead of a blank screen. */
class Guard extends Component<{ children: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  override render() {
    if (!this.state.failed) return this.props.children;
    return <MessagePage testId="page-fault" title="This page stopped working" text="Reload it to come back. If you were in a meeting, it goes on." actions={[{ label: 'Reload', primary: true, run: () => location.reload() }]} />;
  }
}
