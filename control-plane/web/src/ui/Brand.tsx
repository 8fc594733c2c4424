import { navigate } from '../app/router';

export function Brand() {
  return (
    <a
      className="brand"
      href="/"
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey) return;
        event.preventDefault();
        navigate('/');
      }}
    >
      <svg width="26" height="26" viewBox="0 0 32 32" fill="none" stroke="currentColor" strokeWidth="2" aria-hidden="true">
        <circle cx="16" cy="16" r="13" />
        <ellipse cx="16" cy="16" rx="5.5" ry="13" />
        <path d="M3 16h26" />
      </svg>
      Meridian
    </a>
  );
}
