import { useLayoutEffect, useRef, useState, type RefObject } from 'react';
import type { Size } from './layout';

export function useSize<T extends HTMLElement>(): [RefObject<T | null>, Size] {
  const element = useRef<T>(null);
  const [size, setSize] = useState<Size>({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const measured = element.current;
    if (!measured) return;
    const read = () => setSize({ width: measured.clientWidth, height: measured.clientHeight });
    read();
    const observer = new ResizeObserver(read);
    observer.observe(measured);
    return () => observer.disconnect();
  }, []);
  return [element, size];
}
