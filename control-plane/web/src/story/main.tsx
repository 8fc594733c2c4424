/**
 * Development page only (`vite dev`, /story.html): the meeting screen fed with made-up people, so that every state can be looked at.
 * Query: people=12, cameras=8, screen=1, panel handled by clicks, phase=rejoining, end handled by the app itself.
 */
import { createRoot } from 'react-dom/client';
import { applyTheme } from '../app/theme';
import { MeetingScreen } from '../meeting/MeetingScreen';
import { fakeMeeting } from './fakeMeeting';
import '../styles/base.css';
import '../styles/pages.css';
import '../styles/lobby.css';
import '../styles/tiles.css';
import '../styles/meeting.css';
import '../styles/panels.css';

applyTheme();
const root = document.getElementById('root');
if (root) createRoot(root).render(<MeetingScreen source={fakeMeeting(new URLSearchParams(location.search))} />);
