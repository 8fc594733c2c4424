import { memo, useEffect, useRef } from 'react';
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

/** Plays one track. The element stays while its track is replaced, so that a change of edge leaves the last picture standing. */
export const VideoView = memo(function VideoView({ handle, mirrored = false, fit = 'cover', label, testId }: Props) {
  const element = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const video = element.current;
    if (!video) return;
    handle.attach(video);
    return () => void handle.detach(video);
  }, [handle]);
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
});
