import { memo, useEffect, useRef } from 'react';
import type { AudioSource, VideoHandle } from './model';

/** Plays everybody's sound, whoever is visible. */
export const AudioSink = memo(function AudioSink({ sources }: { sources: AudioSource[] }) {
  return (
    <div hidden>
      {sources.map((source) => (
        <Sound key={source.key} handle={source.handle} />
      ))}
    </div>
  );
});

function Sound({ handle }: { handle: VideoHandle }) {
  const element = useRef<HTMLAudioElement>(null);
  useEffect(() => {
    const audio = element.current;
    if (!audio) return;
    handle.attach(audio);
    return () => void handle.detach(audio);
  }, [handle]);
  return <audio ref={element} autoPlay data-testid="remote-audio" />;
}
