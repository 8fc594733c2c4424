import { memo, useEffect, useRef } from 'react';
import type { VideoHandle } from '../meeting/model';

interface Props {
  handle: VideoHandle;
  mirrored?: boolean;
  fit?: 'cover' | 'contain';
  label: string;
  testId?: string;
}

/** Plays one track. The element stays while its track is replaced, so that a change of edge leaves the last picture standing. */
export const VideoView = memo(function VideoView({ handle, mirrored = false, fit = 'cover', label, testId }: Props) {
  const element = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const video = element.current;
    if (!video) return;
    handle.attach(video);
    return () => void handle.detach(video);
  }, [handle]);
  return <video ref={element} className={`video video-${fit}${mirrored ? ' video-mirrored' : ''}`} data-testid={testId} aria-label={label} autoPlay playsInline muted disablePictureInPicture />;
});
