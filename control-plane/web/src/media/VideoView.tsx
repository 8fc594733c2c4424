import { memo, useEffect, useRef, useState } from 'react';
import type { VideoHandle } from '../meeting/model';

interface Props {
  handle: VideoHandle;
  mirrored?: boolean;
  /** `cover` fills the box and cuts the rest off, unless too little of the picture would be left: a phone held upright is then seen whole. */
  fit?: 'cover' | 'contain';
  label: string;
  testId?: string;
}

/** Of a picture that covers its box at least this much is seen. */
const SEEN_MIN = 0.7;

/** Plays one track. The last picture of the one before stands until the next has brought one: a change of edge is not seen. */
export const VideoView = memo(function VideoView(props: Props) {
  const { handle } = props;
  const [pictured, setPictured] = useState(handle);
  const layers = pictured === handle ? [handle] : [pictured, handle];
  return layers.map((layer) => <Layer key={keyOf(layer)} {...props} handle={layer} onPicture={setPictured} />);
});

const keys = new WeakMap<VideoHandle, number>();
let nextKey = 1;

function keyOf(handle: VideoHandle): number {
  const key = keys.get(handle) ?? nextKey++;
  keys.set(handle, key);
  return key;
}

function Layer({ handle, mirrored = false, fit = 'cover', label, testId, onPicture }: Props & { onPicture: (handle: VideoHandle) => void }) {
  const element = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const video = element.current;
    if (!video) return;
    const seen = () => onPicture(handle);
    video.addEventListener('loadeddata', seen);
    handle.attach(video);
    return () => {
      video.removeEventListener('loadeddata', seen);
      handle.detach(video);
    };
  }, [handle, onPicture]);
  useEffect(() => {
    const video = element.current;
    if (!video || fit !== 'cover') return;
    const look = () => {
      if (!video.videoWidth || !video.clientWidth) return;
      const aspects = [video.videoWidth / video.videoHeight, video.clientWidth / video.clientHeight] as const;
      video.classList.toggle('video-whole', Math.min(...aspects) / Math.max(...aspects) < SEEN_MIN);
    };
    const sizes = new ResizeObserver(look);
    sizes.observe(video);
    video.addEventListener('resize', look);
    return () => {
      sizes.disconnect();
      video.removeEventListener('resize', look);
    };
  }, [fit]);
  return <video ref={element} className={`video video-${fit}${mirrored ? ' video-mirrored' : ''}`} data-testid={testId} aria-label={label} autoPlay playsInline muted disablePictureInPicture />;
}
