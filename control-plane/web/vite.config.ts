import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// Where `vite dev` finds the join API while somebody works on the app: a running control plane or tests/browser/mock.mjs.
const api = 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [react()],
  server: { proxy: { '/api': api } },
  build: {
    // story.html is a development page only: the bundle starts from index.html alone.
    rolldownOptions: { input: 'index.html' },
    target: 'es2022',
    // livekit-client is one lazy chunk of about 550 kB that only the lobby and the meeting load.
    chunkSizeWarningLimit: 700,
  },
});
