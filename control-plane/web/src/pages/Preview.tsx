import { explain, type DeviceKind, type DeviceProblem } from '../media/problems';
import { LevelMeter } from '../media/LevelMeter';
import type { LocalMedia } from '../media/useLocalMedia';
import { VideoView } from '../media/VideoView';
import { Avatar } from '../meeting/Avatar';
import { CameraIcon, CameraOffIcon, MicIcon, MicOffIcon } from '../ui/icons';

export function Preview({ media, name }: { media: LocalMedia; name: string }) {
  const { camera, microphone } = media;
  const problems = problemsOf(media);
  return (
    <div className="preview">
      <div className="preview-stage" data-testid="preview" data-camera={camera.status} data-microphone={microphone.status}>
        {camera.status === 'on' ? (
          <VideoView handle={camera.track} mirrored label="Your camera" testId="preview-video" />
        ) : (
          <div className="preview-empty">
            <Avatar name={name || '?'} size={96} />
            <p>{camera.status === 'starting' ? 'Starting your camera…' : camera.status === 'off' ? 'Your camera is off' : 'No picture'}</p>
          </div>
        )}
        <div className="preview-controls">
          <ToggleButton kind="microphone" on={microphone.status === 'on'} waiting={microphone.status === 'starting'} onToggle={() => media.toggle('microphone')} />
          <ToggleButton kind="camera" on={camera.status === 'on'} waiting={camera.status === 'starting'} onToggle={() => media.toggle('camera')} />
        </div>
      </div>
      <LevelMeter track={microphone.status === 'on' ? microphone.track.mediaStreamTrack : null} />
      <div role="status">
        {problems.map(({ problem, kinds }) => {
          const { title, advice } = explain(problem, kinds);
          return (
            <div key={title} className="notice-box" data-testid="device-problem" data-problem={problem} data-kinds={kinds.join(' ')}>
              <div>
                <strong>{title}</strong>
                <p>{advice}</p>
              </div>
              {problem !== 'insecure' && (
                <button type="button" className="button button-small" onClick={media.retry} data-testid="device-retry">
                  Try again
                </button>
              )}
            </div>
          );
        })}
      </div>
    </div>
  );
}

function ToggleButton({ kind, on, waiting, onToggle }: { kind: DeviceKind; on: boolean; waiting: boolean; onToggle: () => void }) {
  const [On, Off] = kind === 'camera' ? [CameraIcon, CameraOffIcon] : [MicIcon, MicOffIcon];
  return (
    <button type="button" className={`round ${on ? '' : 'round-off'}`} aria-pressed={on} aria-label={`Turn ${kind} ${on ? 'off' : 'on'}`} disabled={waiting} onClick={onToggle} data-testid={`preview-${kind}`}>
      {on ? <On /> : <Off />}
    </button>
  );
}

/** The same trouble with both devices is told once. */
function problemsOf({ camera, microphone }: LocalMedia): { problem: DeviceProblem; kinds: DeviceKind[] }[] {
  const found: { problem: DeviceProblem; kinds: DeviceKind[] }[] = [];
  if (camera.status === 'problem') found.push({ problem: camera.problem, kinds: ['camera'] });
  if (microphone.status === 'problem') {
    const same = found.find((entry) => entry.problem === microphone.problem);
    if (same) same.kinds.push('microphone');
    else found.push({ problem: microphone.problem, kinds: ['microphone'] });
  }
  return found;
}
