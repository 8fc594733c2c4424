/** Line icons, drawn on a 24-unit square in the current colour. Decorative: the control that holds one carries the label. */
import type { ReactNode } from 'react';

function icon(children: ReactNode) {
  return function Icon({ size = 22 }: { size?: number }) {
    return (
      <svg width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.75" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
        {children}
      </svg>
    );
  };
}

const microphone = (
  <>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
  </>
);
const slash = <path d="M4 4l16 16" />;
const camera = (
  <>
    <rect x="3" y="6" width="12.5" height="12" rx="2.5" />
    <path d="M15.5 10.5 21 7.5v9l-5.5-3" />
  </>
);

export const MicIcon = icon(microphone);
export const MicOffIcon = icon(<>{microphone}{slash}</>);
export const CameraIcon = icon(camera);
export const CameraOffIcon = icon(<>{camera}{slash}</>);
export const ShareIcon = icon(<><rect x="3" y="4.5" width="18" height="12" rx="2" /><path d="M12 13.5V8m-2.5 2.3L12 7.8l2.5 2.5M8.5 20h7" /></>);
export const ChatIcon = icon(<path d="M5 5h14a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-6.5L8 20.5V17H5a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2z" />);
export const PeopleIcon = icon(<><circle cx="9" cy="8.5" r="3.25" /><path d="M3 19c.4-3.2 2.8-5 6-5s5.6 1.8 6 5M15.5 5.600a3 3 0 0 1 0 5.800M17.5 14.400c2 .6 3.2 2.2 3.5 4.6" /></>);
export const LeaveIcon = icon(<path d="M3.5 13.500c4.8-4.3 12.2-4.3 17 0l-2 2.6-3.7-1.500v-2.400a10 10 0 0 0-5.6 0v2.400l-3.7 1.500z" />);
export const SettingsIcon = icon(<><path d="M4 7h9M17 7h3M4 17h3M11 17h9" /><circle cx="15" cy="7" r="2" /><circle cx="9" cy="17" r="2" /></>);
export const HandIcon = icon(<path d="M8 12.500V6a1.500 1.500 0 0 1 3 0v5-6.500a1.500 1.500 0 0 1 3 0V11 6a1.500 1.500 0 0 1 3 0v8a6.500 6.500 0 0 1-6.500 6.500c-2.600 0-4-1.200-5.300-3.300L3.300 14a1.500 1.500 0 0 1 2.500-1.700L8 15" />);
export const CloseIcon = icon(<path d="M6 6l12 12M18 6L6 18" />);
export const CopyIcon = icon(<><rect x="8.5" y="8.5" width="11" height="11" rx="2" /><path d="M15.5 8.500V6a1.5 1.5 0 0 0-1.5-1.500H6A1.5 1.5 0 0 0 4.5 6v8A1.5 1.5 0 0 0 6 15.500h2.5" /></>);
export const CheckIcon = icon(<path d="M5 12.500l4.5 4.500L19 7.5" />);
export const SendIcon = icon(<path d="M4 12l16-7.5-5.5 15.5-3-6.500zM11.5 13.500L20 4.5" />);
export const NextIcon = icon(<path d="M9.5 5.5 16 12l-6.5 6.5" />);
export const PreviousIcon = icon(<path d="M14.5 5.5 8 12l6.5 6.5" />);
export const GlobeIcon = icon(<><circle cx="12" cy="12" r="8.5" /><ellipse cx="12" cy="12" rx="3.6" ry="8.5" /><path d="M3.5 12h17" /></>);
export const SoundIcon = icon(<path d="M4 9.500v5h3.500L12 18.500v-13L7.5 9.500zM15.5 9a4 4 0 0 1 0 6M18 6.500a8 8 0 0 1 0 11" />);
export const WarningIcon = icon(<path d="M12 4 2.8 19.500h18.400zM12 10v4.500M12 17.200v.1" />);
