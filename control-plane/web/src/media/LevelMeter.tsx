/** A row of bars that rise with the voice. Drawn by writing one CSS variable, so that React does not render sixteen times a second. */
import { useEffect, useRef } from 'react';

const STEP_MS = 60;

export function LevelMeter({ track }: { track: MediaStreamTrack | null }) {
  const meter = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = meter.current;
    if (!track || !element) return;
    const context = new AudioContext();
    const source = context.createMediaStreamSource(new MediaStream([track]));
    const analyser = context.createAnalyser();
    analyser.fftSize = 512;
    source.connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    let shown = 0;
    const timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const level = loudness(samples);
      shown = Math.max(level, shown * 0.75);
      element.style.setProperty('--level', shown.toFixed(3));
      element.dataset.level = shown.toFixed(2);
    }, STEP_MS);
    return () => {
      clearInterval(timer);
      element.style.setProperty('--level', '0');
      void context.close();
    };
  }, [track]);
  return <div ref={meter} className="level" data-testid="level-meter" role="img" aria-label={track ? 'Microphone level' : 'Microphone is off'} data-level="0" />;
}

/** 0 at -60 dB and below, 1 at -10 dB and above: speech fills the meter, breathing does not. */
function loudness(samples: Float32Array): number {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  const decibels = 10 * Math.log10(sum / samples.length + 1e-12);
  return Math.min(1, Math.max(0, (decibels + 60) / 50));
}
