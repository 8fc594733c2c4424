import { createRoot } from 'react-dom/client';
import { App } from './app/App';
import { applyTheme } from './app/theme';
import './styles/base.css';
import './styles/pages.css';
import './styles/lobby.css';
import './styles/tiles.css';
import './styles/meeting.css';
import './styles/panels.css';

applyTheme();
const root = document.getElementById('root');
if (root) createRoot(root).render(<App />);
