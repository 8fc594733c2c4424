/**
 * A device's name for a person: browsers append USB ids, and prefix the one the system would take; the name comes first here, as a narrow field shows
 * no more.
 */
export function readableLabel(device: Pick<MediaDeviceInfo, 'deviceId' | 'label'>, fallback: string): string {
  const name = device.label
    .replace(/\s*\([0-9a-f]{4}:[0-9a-f]{4}\)\s*$/i, '')
    .replace(/^(Default|Communications) - /, '')
    .replace(/_/g, ' ')
    .trim();
  const readable = name || fallback;
  if (device.deviceId === 'default') return name && name !== 'Default' ? `${readable} (system default)` : 'System default';
  return readable;
}
